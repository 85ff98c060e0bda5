"""The daemon's own configuration: config/agentd.toml. Every key has a default."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from agentd.config.delivery import DeliverConfig
from agentd.config.duration import Duration, written
from agentd.config.mcp_servers import McpConfig, McpServerConfig, ServerName
from agentd.config.secret_names import WRITTEN, secret_name
from agentd.config.toml import Strict, read_toml, unreadable, validate

MODEL_PORT = 24363  # AGEND on a telephone's keys; nobody else's at IANA, and no ephemeral one
POLL_MAX = timedelta(minutes=10)
AGE_MIN = timedelta(hours=1)  # of retention: `sessions_per_hour` counts what began in the last hour


def _age(value: timedelta) -> timedelta:
    if value < AGE_MIN:
        raise ValueError(f"at least {written(AGE_MIN)}")
    return value


Age = Annotated[Duration, AfterValidator(_age)]


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
    api_key: str | None = Field(None, description='The external server\'s key, as "secret:NAME".')
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

    @field_validator("api_key")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and secret_name(value) is None:
            raise ValueError(f"no keys in this file: {WRITTEN}")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> "ModelConfig":
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("give api_key or api_key_file, not both")
        return self

    @field_validator("url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not _can_be_asked(parts):
                raise ValueError('write it as "http://127.0.0.1:8080/v1"')
            if parts.username or parts.password:
                raise ValueError("no secrets in a URL: use api_key_file")
        return value


def _can_be_asked(parts: SplitResult) -> bool:
    """Whether host and port are such that a connection can be tried at all."""
    try:
        return bool(parts.hostname and parts.hostname.encode("idna")) and parts.port != 0
    except ValueError:  # a port beyond 65535, an empty label, one of more than 63 characters
        return False


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
    workers: Literal["fork", "spawn"] | None = Field(
        None,
        description='How the agents\' processes start: "fork" from one that has imported what they '
        'need, or "spawn", each by itself, with 15 MB more. Default: "fork" on Linux.',
    )

    @property
    def forks(self) -> bool:
        """Whether workers are forked. On macOS only if a person says so: see process/fork_rules."""
        return (self.workers or ("fork" if sys.platform == "linux" else "spawn")) == "fork"


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
        timedelta(days=30),
        description="What a removed agent remembered, its own folder, and its versions.",
    )
    database_bytes: int = Field(
        1_000_000_000, ge=1_000_000, description="Size limit; beyond it the oldest go at any age."
    )


class SandboxConfig(Strict):
    """The sandbox around what acts for an agent."""

    level: Literal["require", "checks"] = Field(
        "require",
        description='"checks": where this system cannot keep all of a sandbox, go on with what it '
        "can, and the tools' own checks. Else such an agent rests, with the reason.",
    )

    @property
    def required(self) -> bool:
        """Whether nothing acts for an agent without a whole one."""
        return self.level == "require"


class UiConfig(Strict):
    """The page in a browser: `agentd ui`."""

    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Loopback port at which the page stays with the daemon; default: it is there "
        "while somebody looks, at any free port.",
    )


class DaemonConfig(Strict):
    """The daemon: config/agentd.toml. Every key has a default."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    logs: LogConfig = Field(default_factory=LogConfig)
    supervisor: SupervisorConfig = Field(default_factory=SupervisorConfig)
    bus: BusConfig = Field(default_factory=BusConfig)
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    sandbox: SandboxConfig = Field(default_factory=SandboxConfig)
    deliver: DeliverConfig = Field(default_factory=DeliverConfig)
    ui: UiConfig = Field(default_factory=UiConfig)
    mcp: dict[ServerName, McpConfig] = Field(
        default_factory=dict, description="MCP servers by name, each in a table [mcp.NAME]."
    )
    mcp_server: McpServerConfig = Field(default_factory=McpServerConfig)


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
