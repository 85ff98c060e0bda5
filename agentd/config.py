"""Configuration files as strict Pydantic models: the daemon's and one per agent.

Unknown keys are errors. Every problem names file, line where TOML gives one, key and next step.
"""

import json
import os
import re
import sys
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from agentd import lean
from agentd.errors import ConfigError

AGENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
RESERVED_NAMES = frozenset({"agentd", "person", "model"})  # producers that are not agents
SUBSCRIPTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*)?")
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # in milliseconds
DURATION_MAX = timedelta(days=3650)
POLL_MAX = timedelta(minutes=10)
M = TypeVar("M", bound=BaseModel)

CONFIG_BYTES_MAX = 256 * 1024  # a larger file is no configuration


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    match = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a duration as "30s", "15m", "2h" or "1d"')
    milliseconds = float(match[1]) * UNITS[match[2]]
    if not 1 <= milliseconds <= DURATION_MAX / timedelta(milliseconds=1):
        raise ValueError("must be longer than zero and at most ten years")
    return timedelta(milliseconds=round(milliseconds))


def duration_text(value: timedelta) -> str:
    """Render a duration the way configuration files write it."""
    milliseconds = value // timedelta(milliseconds=1)
    unit = max((u for u, size in UNITS.items() if milliseconds % size == 0), key=UNITS.__getitem__)
    return f"{milliseconds // UNITS[unit]}{unit}"


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(duration_text),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION.pattern}$"}),
]


# At its first model Pydantic imports this to look for plugins (1.4 MB); workers have none.
with lean.later("importlib.metadata"):

    class Strict(BaseModel):
        """Base of all configuration: unknown keys are errors, values never change."""

        model_config = ConfigDict(extra="forbid", frozen=True)


class Every(Strict):
    """A schedule by interval, anchored to the last due time."""

    every: Duration = Field(description='Interval, e.g. "15m".')


class Cron(Strict):
    """A schedule by crontab, in local time."""

    cron: str = Field(description='Five crontab fields, local time, e.g. "0 9 * * 1-5".')

    @field_validator("cron")
    @classmethod
    def _parses(cls, value: str) -> str:
        from apscheduler.triggers.cron import CronTrigger  # 40 ms: only where a cron is written

        try:
            CronTrigger.from_crontab(value)
        except ValueError as error:
            raise ValueError(f"not a crontab expression: {error}") from error
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
    run: tuple[str, ...] = Field((), description="Programs that may be run, by name or path.")


class AgentConfig(Strict):
    """One agent: config/agents.d/NAME.toml. The file's name is the agent's name."""

    agent: str = Field(
        pattern=AGENT_NAME.pattern,
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

    @model_validator(mode="before")
    @classmethod
    def _schedule_shape(cls, data: Any) -> Any:
        # A union of two models reports both models' errors; look at the key first, report one.
        schedule = data.get("schedule") if isinstance(data, dict) else None
        if isinstance(schedule, dict) and len(schedule.keys() & {"every", "cron"}) != 1:
            raise ValueError('schedule: give { every = "15m" } or { cron = "0 9 * * 1-5" }')
        if isinstance(schedule, dict):
            kind = Every if "every" in schedule else Cron
            return {**data, "schedule": kind.model_validate(schedule)}
        return data


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
    port: int = Field(0, ge=0, le=65535, description="Loopback port; 0 picks a free one.")
    call_deadline: Duration = Field(
        timedelta(minutes=2), description="Longest a call may take once the server admitted it."
    )
    queue: int = Field(64, ge=1, description="Calls that may wait; more are answered 503.")

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

    @field_validator("poll")
    @classmethod
    def _often(cls, value: timedelta) -> timedelta:
        if value > POLL_MAX:  # a worker says at each poll that it lives
            raise ValueError(f"at most {duration_text(POLL_MAX)}")
        return value


class DaemonConfig(Strict):
    """The daemon: config/agentd.toml. Every key has a default."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    logs: LogConfig = Field(default_factory=LogConfig)
    supervisor: SupervisorConfig = Field(default_factory=SupervisorConfig)
    bus: BusConfig = Field(default_factory=BusConfig)


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
        raise _unreadable(error, path) from error
    return _validate(DaemonConfig, read_toml(path), path)


def load_agent(path: Path) -> AgentConfig:
    """Read one agent's configuration.

    Raises:
        ConfigError: naming file, line or key, and the next step.
    """
    check_agent_name(path.stem, where=str(path))
    return _validate(AgentConfig, read_toml(path), path)


def check_agent_name(name: str, *, where: str = "") -> None:
    """Raise ConfigError unless `name` can name an agent."""
    if not AGENT_NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise ConfigError(
            f"{name!r} cannot name an agent",
            where=where,
            hint="use lower-case letters, digits and _, at most 48, a letter first; "
            f"not {', '.join(sorted(RESERVED_NAMES))}",
        )


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Never waits and never reads much, whatever a person put there.

    Raises:
        ConfigError: naming file, line where TOML gives one, and the next step.
    """
    try:
        if not path.is_file():
            raise ConfigError("not a file", where=str(path), hint="put a TOML file there")
        # A pipe or a device, even one that took the file's place just now, must not be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            data = file.read(CONFIG_BYTES_MAX + 1)
        if len(data) > CONFIG_BYTES_MAX:
            raise ConfigError(
                f"larger than {CONFIG_BYTES_MAX} bytes", where=str(path), hint="not a configuration"
            )
        return tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise _unreadable(error, path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=str(path), hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"is not valid TOML: {error}", where=str(path), hint="correct that line"
        ) from error
    except RecursionError as error:
        raise ConfigError("nests too deeply", where=str(path), hint="flatten it") from error


def _unreadable(error: OSError, path: Path) -> ConfigError:
    return ConfigError(
        f"cannot be read: {error.strerror}", where=str(path), hint="check its permissions"
    )


def _validate(model: type[M], data: dict[str, Any], path: Path) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise config_error(error, path, model=model) from error


def config_error(
    error: ValidationError, where: Path | str, prefix: str = "", *, model: type[BaseModel]
) -> ConfigError:
    """Turn Pydantic's report into one ConfigError that names every wrong key.

    `prefix` stands before each key, such as `params.` for an agent's own parameters of `model`.
    """
    lines, hint = [], "correct it"
    for item in error.errors():
        key = prefix + ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = ", ".join(_keys(model, item["loc"][:-1]))
            message = f"unknown key; there are {known}" if known else "unknown key"
            hint = "remove or correct it"
        lines.append(f"{key.rstrip('.')}: {message}" if key else message)
    return ConfigError("; ".join(lines), where=str(where), hint=hint)


def _keys(model: type[BaseModel], table: tuple[int | str, ...]) -> list[str]:
    """Return the keys of a table inside `model`, none where it is not one model's."""
    for part in table:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type):
            return []
        if not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return [field.alias or name for name, field in model.model_fields.items()]


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
