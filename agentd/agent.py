"""What an agent is, for those who write one: params, a typed union of decisions, and a dispatch.

An agent module (agents/NAME.py) defines exactly one subclass of `Agent`; baml_src/NAME.baml
declares the union that its model call returns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from agentd.config.agent import Labels, Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.events import Event
from agentd.events import Result as Result
from agentd.process.stop import Cancel
from agentd.secret_rules import REDACTED

P = TypeVar("P", bound=BaseModel)


class NoParams(BaseModel):
    """For agents without parameters: any key is an error."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Choice:
    """A decision without a type of its own: the class's name and its fields.

    So come the decisions of an agent made of configuration alone, and of an MCP tool: then the
    fields are the tool's arguments, exactly as its server has them.
    """

    name: str
    args: Mapping[str, Any]

    def model_dump(self, **_options: Any) -> dict[str, Any]:
        """Return the fields, as a generated type's `model_dump(exclude={"tool"})` does."""
        return dict(self.args)


@dataclass(frozen=True)
class PlannedCall:
    """A step that an agent plans: the loop takes it as decided, and no model is asked.

    `name` is one of `Agent.plans`, a decision class of its own, or Done. It comes to `dispatch` or
    `finish` as a `Choice`.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A decision of one class that an agent plans to ask for; nothing is dispatched of it.

    The model sees its prompt and `about`, untrusted, and not the session's log: so a hundred of
    them are as cheap as the first, and none is led by the answers to others.
    """

    name: str
    about: Mapping[str, Any]


class Tools(Protocol):
    """The shared tools, bound to one agent's permissions.

    `cancel` passes an orderly stop on: what an agent's own code runs should end with it, too.
    """

    cancel: Cancel
    permissions: Permissions

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run the tool behind the decision class `name`.

        Raises:
            ToolError: it refused or failed in an expected way; the model is told.
        """
        ...


class Memory(Protocol):
    """An agent's remembered facts, as of the start of the session."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the JSON value remembered under `key`."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Give all keys."""
        ...


@dataclass(frozen=True)
class Label:
    """The value of a field that is declared as a label, and what it rests on.

    `probabilities` are those of all labels, without the model's bias where that is taken off; empty
    where the model server gives none. `margin` is the difference of the two highest, 0 to 1; None
    where there are none. `unsure`: it is below [labels] unsure_below.
    """

    value: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    margin: float | None = None
    unsure: bool = False

    @classmethod
    def recorded(cls, value: str, about: Mapping[str, Any]) -> "Label":
        """Return the label of a value, with what its step records about it."""
        known = {key: about[key] for key in ("probabilities", "margin", "unsure") if key in about}
        return cls(value, **known)


@dataclass(frozen=True)
class Scores:
    """How likely items are after heads: `values[h][i]` is log P(items[i] | heads[h]), in nats.

    It is summed over an item's tokens: compare one item after several heads, or what several items
    gain from one head over another.
    """

    heads: Sequence[str]
    items: Sequence[str]
    values: Sequence[Sequence[float]]
    model: str = ""

    def of(self, head: str) -> Sequence[float]:
        """Return the items' scores after a head, in the items' order."""
        return self.values[self.heads.index(head)]

    def gain(self, head: str, over: str) -> list[float]:
        """Return what makes each item likelier after `head` than after `over`, in nats."""
        return [one - other for one, other in zip(self.of(head), self.of(over), strict=True)]


Score = Callable[[Sequence[str], Sequence[str]], Scores]


def no_score(heads: Sequence[str], items: Sequence[str]) -> Scores:
    """Stand for `Kit.score` where no model can be asked."""
    raise ToolError("there is no model here that could score")


def or_error(read: Callable[[], Result]) -> Result:
    """Return what `read` gives; its ToolError as a result, where one source of several may fail.

    Raises:
        PermissionRefused: that is for a person to change.
    """
    try:
        return read()
    except PermissionRefused:
        raise
    except ToolError as error:
        return Result({"error": error.what}, trusted=False)


def hidden_secret(name: str) -> str:
    """Stand for `Kit.secret` where none is to be had: at a check, in a replay."""
    return REDACTED


@dataclass(frozen=True)
class Kit:
    """What the worker gives an agent: its tools, its memory, its generated BAML types.

    `types` holds the generated classes to `match` on; a `task` agent has none. `labels` is the
    table [labels] of its file.
    """

    name: str  # the agent's name: the stem of its configuration file
    done: str
    tools: Tools
    memory: Memory
    types: ModuleType | Any
    # score(heads, items): how likely each item is after each head. Recorded, so that a replay gives
    # the same. Raises ModelUnavailable, ModelError, Stopped.
    score: Score = no_score
    labels: Labels = field(default_factory=Labels)
    # secret(name): the value of a `secret:NAME` that stands in [params]; NAME, or that text. Where
    # it turns up in what the agent logs, raises, returns or publishes, it is hidden. Raises
    # ConfigError, Stopped.
    secret: Callable[[str], str] = hidden_secret


class Agent(Generic[P]):
    """Base of every agent. Subclasses set the class variables and extend `dispatch`."""

    Params: ClassVar[type[BaseModel]] = NoParams
    # The BAML function of baml_src/NAME.baml that returns the typed union.
    function: ClassVar[str] = ""
    # Shared tools that the union names, by BAML class: their permissions are checked up front.
    uses: ClassVar[tuple[str, ...]] = ()
    # Event types it may publish, with the Pydantic model of each payload.
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {}
    # Event types it reads, with the model that their payload must fit; others come as they are.
    accepts: ClassVar[Mapping[str, type[BaseModel]]] = {}
    # Pydantic models that narrow the agent's own decision classes: lengths, ranges.
    # The mask enforces them as well.
    arguments: ClassVar[Mapping[str, type[BaseModel]]] = {}
    # Own decision classes whose handler may run again after it was cut off in the middle.
    idempotent: ClassVar[frozenset[str]] = frozenset()
    # Own decision classes whose handler changes nothing: it may always run again, a replay runs it
    # too. Of all others a replay takes the recorded result.
    reads: ClassVar[frozenset[str]] = frozenset()
    # Fields that differ from run to run, such as times: "DecisionClass.field" of a result,
    # "event.type.field" of a payload. A replay takes their recorded values.
    volatile: ClassVar[frozenset[str]] = frozenset()

    # Fields of own decision classes whose value is a label, as "Done.kind": enums of text at the
    # top of their class. The model's bias towards one of them is taken off.
    labels: ClassVar[frozenset[str]] = frozenset()
    # Whether its file may have a table [result]; `Params` then has it as the field `result`.
    takes_result: ClassVar[bool] = False

    # Set before `dispatch` and `finish`: what stands in the decision's text fields, by their names.
    labelled: Mapping[str, Label] = {}
    # Set before `finish`: why Done was the only decision left ("last turn", "time is up" ...), None
    # where the model chose it. Its words are then no result: `finish` decides what to publish.
    forced: str | None = None

    def __init__(self, params: P, kit: Kit) -> None:
        self.params = params
        self.kit = kit

    @classmethod
    def chosen(cls, params: P) -> tuple[str, ...] | None:
        """Return the union's classes where they depend on the params, `Done` included.

        Default None: the .baml file names them. Else its function returns a `@@dynamic` class
        named `Choice`; decisions arrive as `agentd.llm.decision.Choice`, a name with its fields.
        """
        return None

    @classmethod
    def plans(cls, params: P) -> tuple[str, ...]:
        """Return the tools that `planned` may call, in the union or not. They need permissions."""
        return ()

    @classmethod
    def labelling(cls, params: P) -> frozenset[str]:
        """Return what `labels` says, where it depends on the params."""
        return cls.labels

    @classmethod
    def narrowed(cls, params: P) -> Mapping[str, type[BaseModel]]:
        """Return what `arguments` says, where it depends on the params.

        It also gives a `@@dynamic` class of the .baml file its fields.
        """
        return cls.arguments

    @classmethod
    def published(cls, params: P) -> Mapping[str, type[BaseModel]]:
        """Return the event types that it may publish, with their payloads' models."""
        return cls.publishes

    @classmethod
    def folders(cls, params: P) -> Iterable[Path]:
        """Return the folders and files that its own code reads, by no tool of its union.

        They must be in [permissions] read, or the agent is not accepted.

        Raises:
            ToolError: they cannot be found out.
        """
        return ()

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Get to know the session, before all else; a resumed one comes with its results so far.

        An instance serves one attempt at one session. Must not raise over the payload: `opening`
        does that. Must have no effects: it runs again when the session is recorded or replayed.
        """

    def opening(self, event: Event) -> Result:
        """Return the session's first event as the model sees it. Default: the payload, untrusted.

        Must have no effects: it runs again when the session is recorded or replayed.

        Raises:
            EventRefused: the payload makes no sense to this agent; it becomes a dead letter.
        """
        return Result(dict(event.payload), trusted=False)

    def prompt_arguments(self) -> Mapping[str, Any]:
        """Return further arguments of the BAML function, besides `context` and `done`.

        They belong to the fixed part of the prompt: the same for every call of every session.
        """
        return {}

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | Question | None:
        """Return what comes next, where that is known without a model; None: the model decides.

        Asked before each decision, with the session's results so far: of a `PlannedCall` all that
        it came to, of a `Question` the decision's fields and, as `unsure`, its unsure labels. A
        call that fails ends the session as failed; a no of a person ends it. Must have no effects.

        Raises:
            EventRefused: the payload lacks what it needs; it becomes a dead letter.
            SessionFailed: what came so far is no use.
        """
        return None

    def candidates(self) -> Mapping[str, Sequence[str]]:
        """Return what may stand in text fields of decisions, by "Class.field", in this session.

        The mask allows nothing else there; of nothing, the empty text.
        """
        return {}

    def barred(self) -> frozenset[str]:
        """Return the decision classes that make no sense now; the mask leaves them out.

        Such as Done while something that `done` asks for is missing. The last turn takes no notice.
        """
        return frozenset()

    def label(self, name: str) -> Label:
        """Return the label in the decision's field `name`; for `dispatch` and `finish`.

        Raises:
            KeyError: the decision has no text there.
        """
        return self.labelled[name]

    def dispatch(self, decision: Any) -> Result:
        """Carry out one typed decision. Default: the shared tool of that name."""
        name = decision.name if isinstance(decision, Choice) else type(decision).__name__
        return self.kit.tools.call(name, decision.model_dump(mode="json", exclude={"tool"}))

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Turn `Done` into what is published and remembered. `results`: the session's tool results.

        `Result.value` is kept as the session's outcome, with `forced` where that is set and it has
        no such field itself. Must have no effects besides: it runs again when the session is
        recorded or replayed. What has effects is a decision's `dispatch`.
        """
        return Result(done.model_dump(mode="json", exclude={"tool"}))
