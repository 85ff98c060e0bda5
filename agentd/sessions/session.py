"""A session as it is worked on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentd.agent import Label
from agentd.config.agent import Limits
from agentd.errors import LostLane
from agentd.events import LATER, PERSON, Event, Lane
from agentd.sessions.steps import STAGES, Step, StepKind
from agentd.states import DeadReason, Priority, SessionState

# In an outcome, where the agent has no such field of its own: why Done was the only decision left.
# What it says is then no result of the model's.
FORCED = "forced"


@dataclass
class Session:
    """A session in progress. `steps` are those recorded so far, earlier attempts included."""

    id: int
    agent: str
    lane: Lane
    event: Event  # what it answers
    delivery: Event  # what the lane delivered: the same event, or a person's answer
    version: str  # the code_hash it runs on; the folder's hash is in `basis`
    attempt: int  # a fencing token, 1 at first: whoever has a lower one has lost the session
    resumed: bool
    started_at: datetime
    limits: Limits
    spent_s: float = 0.0  # active seconds of earlier attempts
    state: SessionState = SessionState.RUNNING
    question: str | None = None  # what it is parked on
    # What a person answered, if this attempt's event is that, and proved to be so.
    answer: Mapping[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    settled_seq: int = 0  # parking published what these steps staged
    settled_effect: bool = False
    began: float = 0.0  # monotonic
    progressed: bool = False  # this attempt recorded a step
    recovered: bool = False  # its end closed its agent's breaker
    unwritten: list[Step] = field(default_factory=list)  # they go with what is next
    # What a replay needs besides the steps: configuration, facts, model. Written with the opening.
    basis: dict[str, Any] = field(default_factory=dict)
    counted: list[int] = field(default_factory=list)  # tokens, for the next step's `counts`
    scored: list[Mapping[str, Any]] = field(default_factory=list)  # for its `scored`

    @property
    def priority(self) -> Priority:
        """Class of its calls at the model server."""
        return self.delivery.priority

    @property
    def turns(self) -> int:
        """Decisions so far."""
        return sum(step.kind is StepKind.DECISION for step in self.steps)

    @property
    def results(self) -> Sequence[Mapping[str, Any]]:
        """What its decisions came to, of a question's the decision itself."""
        return results_of(self.steps)

    @property
    def sets_later(self) -> int:
        """Events of the agent's own that its end will set."""
        staged = self.steps[self.settled_seq :]
        return sum(event.event_type == LATER for step in staged for event in step.publish)

    @property
    def trusted(self) -> bool:
        """Whether nobody else's words stand in what it has read so far.

        A person's event, and a schedule's, is trusted whatever the agent's log makes of it.
        """
        mine = self.event.agent == PERSON or self.event.event_type.startswith("schedule.")
        return all(step.trusted or (mine and step.kind is StepKind.OPENING) for step in self.steps)

    @property
    def labels(self) -> Mapping[str, Label]:
        """What stands in the text fields of its last decision, with what is known of labels."""
        last = next((s for s in reversed(self.steps) if s.kind is StepKind.DECISION), None)
        return (
            {}
            if last is None
            else {
                name: Label.recorded(value, last.labels.get(name, {}))
                for name, value in last.payload.items()
                if isinstance(value, str)
            }
        )

    @property
    def partial(self) -> bool:
        """Whether something happened that must not happen twice."""
        return self.settled_effect or any(step.had_effect for step in self.steps)

    @property
    def unfinished(self) -> Step | None:
        """The recorded decision that came to no result yet; a question's needs none."""
        beside = STAGES | {StepKind.NOTE}
        steps = (s for s in reversed(self.steps) if s.kind not in beside and s.about is None)
        last = next(steps, None)
        return last if last is not None and last.kind is StepKind.DECISION else None

    @property
    def stage(self) -> StepKind | None:
        """How far the last decision is: not asked yet, asked, granted, started, with a result."""
        return next((s.kind for s in reversed(self.steps) if s.kind is not StepKind.NOTE), None)

    @property
    def interrupted(self) -> str | None:
        """The decision that was cut off in the middle and must not be carried out twice."""
        unfinished = self.unfinished
        if unfinished is None or unfinished.repeatable:
            return None
        begun = self.stage is StepKind.STARTED or not unfinished.asks
        return unfinished.type if begun else None


def results_of(steps: Sequence[Step]) -> list[Mapping[str, Any]]:
    """Return what decisions came to, of a question's the decision itself."""
    found = [s for s in steps if s.kind is StepKind.RESULT or s.about is not None]
    return [step.value if step.about is None else _answer(step) for step in found]


def _answer(step: Step) -> dict[str, Any]:
    """Return a question's decision, with its unsure labels."""
    unsure = sorted(key for key, about in step.labels.items() if about.get("unsure"))
    return {**step.payload, "unsure": unsure}


@dataclass(frozen=True)
class Wait:
    """Not now: try the lane's event again after `seconds`. `why` is a stable name."""

    seconds: float
    why: str  # "backoff", "cut_off", "breaker", "sessions_per_hour", "verify"


@dataclass(frozen=True)
class Dead:
    """The event became a dead letter; the lane is stepped."""

    letter_id: int
    reason: DeadReason
    error: str
    session_id: int | None


def asked_by_person(lane: Lane, event: Event) -> bool:
    """Say whether a person asked for it: no agent may be called `person`."""
    return lane.direct and event.agent == PERSON


def lost(session: Session) -> LostLane:
    """Return the error of a worker whose session somebody else took up."""
    return LostLane(
        "somebody else took this session up",
        where=f"session {session.id}",
        hint="is a second worker of this name alive?",
    )
