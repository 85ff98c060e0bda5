"""Configuration files as strict Pydantic models: the daemon's and one per agent.

Unknown keys are errors. Every problem names file, line where TOML gives one, key and next step.
"""

import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from agentd import lean
from agentd.durations import Duration, written
from agentd.errors import ConfigError, shown
from agentd.toml_file import read_toml, unreadable, validate

AGENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
RESERVED_NAMES = frozenset({"agentd", "person", "model"})  # producers that are not agents
SUBSCRIPTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*)?")
MODEL_PORT = 24363  # AGEND on a telephone's keys; nobody else's at IANA, and no ephemeral one
POLL_MAX = timedelta(minutes=10)
AGE_MIN = timedelta(hours=1)  # of retention: `sessions_per_hour` counts what began in the last hour


def _age(value: timedelta) -> timedelta:
    if value < AGE_MIN:
        raise ValueError(f"at least {written(AGE_MIN)}")
    return value


Age = Annotated[Duration, AfterValidator(_age)]

# At its first model Pydantic imports this to look for plugins (1.4 MB); workers have none.
with lean.later("importlib.metadata"):

    class Strict(BaseModel):
        """Base of all configuration: unknown keys are errors, values never change."""

        model_config = ConfigDict(extra="forbid", frozen=True)


class Schedule(Strict):
    """Base of both kinds."""

    @property
    def name(self) -> str:
        """Its key in the `schedules` table, as "every 15m": another text is another schedule."""
        return " ".join(*self.model_dump(mode="json").items())


class Every(Schedule):
    """A schedule by interval, anchored to the last due time."""

    every: Duration = Field(description='Interval, e.g. "15m".')


class Cron(Schedule):
    """A schedule by crontab, in local time."""

    cron: str = Field(description='Five crontab fields, local time, e.g. "0 9 * * 1-5".')

    @field_validator("cron")
    @classmethod
    def _parses(cls, value: str) -> str:
        from agentd.crontab import Crontab  # only where a cron is written

        Crontab(value)
        return value


class Limits(Strict):
    """Guards around one agent's sessions."""

    turns: int = Field(8, ge=1, le=200, description="Decisions in one session, Done included.")
    deadline: Duration = Field(
        timedelta(minutes=10), description="Wall-clock limit of one session's active time."
    )
    no_progress: Duration = Field(
        timedelta(minutes=3), description="A turn that records nothing for this long is ended."
    )
    context_share: float = Field(
        0.4, gt=0, le=1, description="Share of the model's window that the prompt may fill."
    )
    result_tokens: int = Field(
        1000, ge=16, description="Tokens of one tool result; the rest is cut, visibly."
    )
    decision_tokens: int = Field(
        256, ge=16, le=8192, description="Tokens that one decision may take."
    )
    sessions_per_hour: int = Field(60, ge=1, description="Sessions that may begin in an hour.")
    attempts: int = Field(
        3, ge=1, le=20, description="Sessions tried for one event before it is a dead letter."
    )


class Permissions(Strict):
    """What an agent's tools may touch. Nothing is allowed unless listed."""

    read: tuple[str, ...] = Field((), description="Folders and files that may be read.")
    write: tuple[str, ...] = Field((), description="Folders and files that may be written.")
    net: tuple[str, ...] = Field((), description='Hosts to fetch from, "host" or "host:port".')
    run: tuple[str, ...] = Field(
        (), description="Programs that may be run, by name or path, with all your rights."
    )


class AgentConfig(Strict):
    """One agent: config/agents.d/NAME.toml. The file's name is the agent's name."""

    agent: str = Field(
        json_schema_extra={"pattern": f"^{AGENT_NAME.pattern}$"},
        description='A module of agents/, or "task" for an agent made of configuration alone.',
    )
    done: str = Field(
        min_length=8,
        max_length=1000,
        description="What done looks like, written before it starts. The prompt carries it.",
    )
    description: str = Field("", max_length=400, description="For people; the model never sees it.")
    enabled: bool = Field(True, description="false: the file is checked, and nothing is started.")
    start: Literal["now", "beginning"] = Field(
        "now", description="Where a new agent's cursor starts on the bus."
    )
    subscribe: tuple[str, ...] = Field(
        (), description='Event types, exact ("repo.changed") or a prefix ("repo.*").'
    )
    schedule: Every | Cron | None = Field(
        None, description='{ every = "15m" } or { cron = "0 9 * * 1-5" }.'
    )
    missed: Annotated[
        Literal["once", "skip"] | Duration,
        Field(description='What a missed run means: "once", "skip", or run if at most this late.'),
    ] = "once"
    priority: int = Field(
        5, ge=1, le=9, description="Within a class of events, 1 is served first by the model."
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="The agent's own parameters, checked by its module."
    )
    limits: Limits = Field(default_factory=Limits)
    permissions: Permissions = Field(default_factory=Permissions)

    @field_validator("subscribe")
    @classmethod
    def _types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not SUBSCRIPTION.fullmatch(item):
                raise ValueError(f'{item!r} is no event type; write "repo.changed" or "repo.*"')
        return value

    @field_validator("agent")
    @classmethod
    def _is_module(cls, value: str) -> str:
        if not AGENT_NAME.fullmatch(value):  # the whole of it: a path must not lead elsewhere
            raise ValueError(f'{value!r} cannot name a module; write "task", or another of agents/')
        return value

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule_shape(cls, value: Any) -> Any:
        # A union of two models reports both models' errors; look at the key first, report one.
        if value is None or isinstance(value, Every | Cron):
            return value
        if not isinstance(value, dict) or len(value.keys() & {"every", "cron"}) != 1:
            raise ValueError('give { every = "15m" } or { cron = "0 9 * * 1-5" }')
        return (Every if "every" in value else Cron).model_validate(value)

    @field_validator("missed", mode="wrap")
    @classmethod
    def _missed(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError:  # of both members of the union
            raise ValueError('write "once", "skip", or how late it may be, as "30m"') from None


class ModelConfig(Strict):
    """Which model serves the agents, and how to reach it."""

    name: str = Field(
        "smollm2-135m", description="A bundled model, a Hugging Face name, or a local folder."
    )
    url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server to use instead of our own."
    )
    api_key_file: Path | None = Field(
        None, description="File that holds the external server's key (mode 0600)."
    )
    context_window: int | None = Field(
        None, ge=256, description="Tokens of the window; needed where an external server won't say."
    )
    port: int = Field(
        MODEL_PORT,
        ge=0,
        le=65535,
        description="Loopback port; 0 picks a free one, and so does the default where it is taken.",
    )
    call_deadline: Duration = Field(
        timedelta(minutes=2), description="Longest a call may take once the server admitted it."
    )
    queue: int = Field(64, ge=1, description="Calls that may wait; more are answered 503.")
    cache_bytes: int | None = Field(
        None, ge=1_000_000, description="Ceiling of the prompt caches; default 1/8 of the memory."
    )
    saved_cache_bytes: int = Field(
        100_000_000,
        ge=0,
        description="Ceiling of the prompt caches kept on disk over a restart; 0 keeps none.",
    )
    unload_after: Duration | None = Field(
        None, description="Idle time after which the model leaves memory; default never."
    )

    @property
    def fixed_port(self) -> bool:
        """Whether a person chose the port: then no other one will do."""
        return self.port != 0 and "port" in self.model_fields_set

    @property
    def named(self) -> bool:
        """Whether a person named the model: the default names one of our own."""
        return "name" in self.model_fields_set

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError('write it as "http://127.0.0.1:8080/v1"')
            if parts.username or parts.password:
                raise ValueError("no secrets in a URL: use api_key_file")
        return value


class LogConfig(Strict):
    """Log files: one per process, rotated, bounded in total."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is written."
    )
    file_bytes: int = Field(5_000_000, ge=10_000, description="Size at which a file is rotated.")
    files: int = Field(3, ge=1, le=50, description="Rotated files kept per process.")
    total_bytes: int = Field(
        200_000_000, ge=1_000_000, description="Bytes of all log files together; oldest go first."
    )


class SupervisorConfig(Strict):
    """Restart and stop rules, the same for all child processes."""

    backoff_first: Duration = Field(timedelta(seconds=1), description="First wait after a crash.")
    backoff_max: Duration = Field(timedelta(minutes=1), description="Longest wait after a crash.")
    healthy_after: Duration = Field(
        timedelta(seconds=30), description="Up for this long: the crash count starts anew."
    )
    # More than sessions/attempts.py allows an event: the event that kills its worker is given up
    # before the agent is.
    crashes: int = Field(8, ge=1, description="Crashes in a row after which a child is parked.")
    stop_grace: Duration = Field(
        timedelta(seconds=5), description="From SIGTERM to SIGKILL of a child's process group."
    )


class BusConfig(Strict):
    """The bus."""

    poll: Duration = Field(
        timedelta(seconds=5), description="Safety net behind the wake-up sockets; at most 10m."
    )
    fullfsync: bool = Field(
        False, description="true: a commit waits for the disk itself, against power failures."
    )

    @field_validator("poll")
    @classmethod
    def _often(cls, value: timedelta) -> timedelta:
        if value > POLL_MAX:  # a worker says at each poll that it lives
            raise ValueError(f"at most {written(POLL_MAX)}")
        return value


class RetentionConfig(Strict):
    """What the database keeps. The oldest goes first, by age and beyond the size limit."""

    events: Age = Field(
        timedelta(days=30), description="Events; unread ones become dead letters then."
    )
    sessions: Age = Field(
        timedelta(days=30), description="Sessions; questions that nobody answered expire then."
    )
    dead_letters: Age = Field(timedelta(days=90), description="Dead letters.")
    removed: Age = Field(
        timedelta(days=30), description="What a removed agent remembered, and its versions."
    )
    database_bytes: int = Field(
        1_000_000_000, ge=1_000_000, description="Size limit; beyond it the oldest go at any age."
    )


class DaemonConfig(Strict):
    """The daemon: config/agentd.toml. Every key has a default."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    logs: LogConfig = Field(default_factory=LogConfig)
    supervisor: SupervisorConfig = Field(default_factory=SupervisorConfig)
    bus: BusConfig = Field(default_factory=BusConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)


def load_daemon(path: Path) -> DaemonConfig:
    """Read the daemon's configuration; a missing file gives the defaults.

    Raises:
        ConfigError: naming file, line or key, and the next step.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return DaemonConfig()
    except OSError as error:
        raise unreadable(error, path) from error
    return validate(DaemonConfig, read_toml(path), path)


def load_agent(path: Path) -> AgentConfig:
    """Read one agent's configuration.

    Raises:
        ConfigError: naming file, line or key, and the next step.
    """
    check_agent_name(path.stem, where=str(path))
    return validate_agent(read_toml(path), path)


def validate_agent(table: dict[str, Any], path: Path) -> AgentConfig:
    """Check the contents of an agent's file.

    Raises:
        ConfigError: naming file, key, and the next step.
    """
    return validate(AgentConfig, table, path)


def check_agent_name(name: str, *, where: str = "") -> None:
    """Raise ConfigError unless `name` can name an agent."""
    if not AGENT_NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigError(
            f"{shown(name)!r} cannot name an agent",
            where=where,
            hint="use lower-case letters, digits and _, at most 48, a letter first; "
            f"not {', '.join(sorted(RESERVED_NAMES))}",
        )


def schemas() -> dict[str, str]:
    """Return the JSON Schema files shipped beside the configuration, by file name.

    Editors use them (`#:schema ../agent.schema.json`). `python -m agentd.config DIR` writes them.
    """
    models: dict[str, type[BaseModel]] = {
        "agent.schema.json": AgentConfig,
        "agentd.schema.json": DaemonConfig,
    }
    return {
        name: json.dumps(model.model_json_schema(), indent=2) + "\n"
        for name, model in models.items()
    }


if __name__ == "__main__":
    for file_name, text in schemas().items():
        (Path(sys.argv[1]) / file_name).write_text(text)
