"""One agent's configuration: config/agents.d/NAME.toml."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from agentd.config.columns import COLUMNS_MAX, Column, check_column_name
from agentd.config.duration import Duration
from agentd.config.mail_account import Account
from agentd.config.permissions import Permissions as Permissions
from agentd.config.permissions import ServerPermissions as ServerPermissions
from agentd.config.secret_names import secret_names
from agentd.config.toml import Strict, read_toml, validate
from agentd.config.wakes import At, Batching, Moments, Patterns, Where, fitting
from agentd.config.wakes import Cron as Cron
from agentd.config.wakes import Every as Every
from agentd.config.wording import not_blank
from agentd.errors import ConfigError, shown

AGENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
TASK = "task"  # the module of agents without code of their own
RESERVED_NAMES = frozenset({"agentd", "person", "model"})  # producers that are not agents
SUBSCRIPTION = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*(\.\*)?")


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


class HeadSandbox(Strict):
    """The sandbox of the worker, in which an agent's own Python runs."""

    head: Literal["closed", "files"] = Field(
        "closed",
        description='"files": its own Python may open what [permissions] read and write list, too. '
        "Else it opens no file of yours, and has its tools for that.",
    )


class Labels(Strict):
    """How the values of fields that the agent declares as labels are taken."""

    calibrate: bool | None = Field(
        None,
        description="Take the model's bias off its labels; by default where `agentd eval` showed "
        "that the model gains by it.",
    )
    unsure_below: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A label is unsure where the probabilities of the two likeliest are less than "
        "this apart.",
    )


Verdict = Literal["allow", "ask", "deny"]


class Approve(Strict):
    """Which decisions a person has to say yes to: beside these keys, a verdict for each by name."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Verdict]

    expires: Duration = Field(
        timedelta(days=1), description="Time in which nobody's yes becomes a no."
    )
    i_accept_the_risk: bool = Field(
        False,
        description="true: what it reads of others may make it act, where a tool is allowed.",
    )

    @property
    def text(self) -> str:
        """What it says; "" where nothing is written: an update of agentd changes no hash then."""
        return self.model_dump_json(exclude_defaults=True).removeprefix("{}")

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What is written of decisions, by their classes."""
        return self.__pydantic_extra__


class AgentConfig(Strict):
    """One agent: config/agents.d/NAME.toml. The file's name is the agent's name."""

    agent: str = Field(
        json_schema_extra={"pattern": f"^{AGENT_NAME.pattern}$"},
        description='A module of agents/, or "task" for an agent made of configuration alone.',
    )
    done: Annotated[str, AfterValidator(not_blank)] = Field(
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
    where: Where = Field(
        default_factory=dict,
        description="Of what it subscribes to, only events whose payload holds this: "
        '{ repo = "~/proj" }; a list means any of its values. `~/` also means your home.',
    )
    batch: Batching | None = Field(
        None,
        description='Several events as one session: { within = "10m", most = 20 } waits until the '
        "first has waited so long, or so many have come; `most` is 20 unless it says otherwise.",
    )
    at: Moments = Field(
        (),
        description='One run at this moment, "2026-12-24T09:00", or at each of a list: local time, '
        'or with an offset as in "2026-12-24T09:00+01:00".',
    )
    watch: Patterns = Field(
        (),
        description='New files, as events `file.changed`: ["~/Downloads/*.pdf"]. The folder must '
        "be in [permissions] read.",
    )
    missed: Annotated[
        Literal["once", "skip"] | Duration,
        Field(
            description="What a missed run means, and a file that came while agentd did not run: "
            '"once", "skip", or run if at most this late.'
        ),
    ] = "once"
    priority: int = Field(
        5, ge=1, le=9, description="Within a class of events, 1 is served first by the model."
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="The agent's own parameters, checked by its module. `secret:NAME` names a "
        "secret.",
    )
    result: dict[str, Column] = Field(
        default_factory=dict,
        max_length=COLUMNS_MAX,
        description="What a result has of each row, by name; for agents of configuration alone.",
    )
    limits: Limits = Field(default_factory=Limits)
    permissions: Permissions = Field(default_factory=Permissions)
    sandbox: HeadSandbox = Field(default_factory=HeadSandbox)
    labels: Labels = Field(default_factory=Labels)
    approve: Approve = Field(default_factory=Approve)
    accounts: dict[str, Account] = Field(
        default_factory=dict,
        description="[accounts.NAME]: mail on servers, which `ReadMail` knows by NAME.",
    )

    @property
    def secrets(self) -> set[str]:
        """The names of the secrets that the agent is given."""
        accounts = [account.password for account in self.accounts.values()]
        return secret_names([self.params, accounts])

    @field_validator("subscribe")
    @classmethod
    def _types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not SUBSCRIPTION.fullmatch(item):
                raise ValueError(f'{item!r} is no event type; write "repo.changed" or "repo.*"')
        return value

    @field_validator("result")
    @classmethod
    def _column_names(cls, value: dict[str, Column]) -> dict[str, Column]:
        for name in value:
            check_column_name(name)
        return value

    @model_validator(mode="after")
    def _of_a_subscription(self) -> Self:
        for key in ("where", "batch"):
            if getattr(self, key) and not self.subscribe:
                raise ValueError(f"`{key}` is about `subscribe`, which lists nothing")
        return self

    @property
    def wakes(self) -> dict[str, Any]:
        """What wakes it, as people wrote it, for `status`."""
        written = {"at", "watch", "where", "batch", "missed"}
        document = self.model_dump(mode="json", include=written)
        return {**document, "schedule": self.schedule and self.schedule.name}

    @property
    def triggers(self) -> dict[str, Any]:
        """What `Bus.accept` is told of what wakes it, beside its subscription."""
        return {
            "where": fitting(self.where),
            "schedule": self.schedule and self.schedule.name,
            "at": [moment.name for moment in self.moments],
            "watch": [f"watch {pattern}" for pattern in self.watch],
        }

    @property
    def schedules(self) -> "list[Every | Cron | At]":
        """Its `schedule`, and each of `at`."""
        recurs = [] if self.schedule is None else [self.schedule]
        return [*recurs, *self.moments]

    @property
    def moments(self) -> list[At]:
        """Its `at`."""
        return [At(at=text) for text in self.at]

    @field_validator("params")
    @classmethod
    def _secrets(cls, value: dict[str, Any]) -> dict[str, Any]:
        secret_names(value)
        return value

    @field_validator("agent")
    @classmethod
    def _is_module(cls, value: str) -> str:
        if not AGENT_NAME.fullmatch(value):  # the whole of it: a path must not lead elsewhere
            raise ValueError(f'{value!r} cannot name a module; write "task", or another of agents/')
        return value

    @field_validator("accounts")
    @classmethod
    def _account_names(cls, value: dict[str, Account]) -> dict[str, Account]:
        for name in value:
            if not AGENT_NAME.fullmatch(name):
                raise ValueError(f"{name!r} names no account: lower-case letters, digits and _")
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
