"""A session as it is worked on, and as people list it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentd.clock import EPOCH, moment_or
from agentd.config.agent import Limits
from agentd.errors import LostLane
from agentd.events import PERSON, Event, Lane
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason, Priority, SessionState

# In an outcome: why Done was the only decision left. What it says is then no result of the model's.
FORCED = "forced"


@dataclass
class Session:
    """A session in progress. `steps` are those recorded so far, earlier attempts included."""

    id: int
    agent: str
    lane: Lane
    event: Event  # what it answers
    delivery: Event  # what the lane delivered: the same event, or a person's answer
    version: str
    attempt: int  # a fencing token, 1 at first: whoever has a lower one has lost the session
    resumed: bool
    started_at: datetime
    limits: Limits
    spent_s: float = 0.0  # active seconds of earlier attempts
    state: SessionState = SessionState.RUNNING
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

    @property
    def priority(self) -> Priority:
        """Class of its calls at the model server."""
        return self.delivery.priority

    @property
    def partial(self) -> bool:
        """Whether something happened that must not happen twice."""
        return self.settled_effect or any(
            step.kind is StepKind.RESULT and not step.idempotent for step in self.steps
        )

    @property
    def interrupted(self) -> str | None:
        """The decision that was cut off in the middle and must not be carried out twice."""
        last = next((s for s in reversed(self.steps) if s.kind is not StepKind.NOTE), None)
        cut = last is not None and last.kind is StepKind.DECISION and not last.idempotent
        return last.type if last is not None and cut else None


@dataclass(frozen=True)
class Wait:
    """Not now: try the lane's event again after `seconds`. `why` is a stable name."""

    seconds: float
    why: str  # "backoff", "cut_off", "breaker" or "sessions_per_hour"


@dataclass(frozen=True)
class Dead:
    """The event became a dead letter; the lane is stepped."""

    letter_id: int
    reason: DeadReason
    error: str
    session_id: int | None


@dataclass(frozen=True)
class History:
    """All that is kept of a session. `event` is None where it was pruned."""

    row: "SessionRow"
    event: Event | None
    steps: Sequence[Step]
    basis: Mapping[str, Any]


@dataclass(frozen=True)
class SessionRow:
    """A session as people list it."""

    id: int
    agent: str
    event_id: int
    event_type: str
    version: str
    state: SessionState
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    question: str | None
    outcome: Any
    error: str | None
    turns: int
    prompt_tokens: int
    completion_tokens: int

    @property
    def forced(self) -> str | None:
        """Why Done was the only decision left, None where the model chose it."""
        return self.outcome.get(FORCED) if isinstance(self.outcome, dict) else None

    @property
    def shown_state(self) -> str:
        """The state as people read it."""
        return f"{self.state.value}, forced ({self.forced})" if self.forced else self.state.value


def asked_by_person(lane: Lane, event: Event) -> bool:
    """Say whether a person asked for it; nobody else can be a `person`."""
    return lane.direct and event.agent == PERSON


def lost(session: Session) -> LostLane:
    """Return the error of a worker whose session somebody else took up."""
    return LostLane(
        "somebody else took this session up",
        where=f"session {session.id}",
        hint="is a second worker of this name alive?",
    )


def session_row(row: Any) -> SessionRow:
    """Read a row of `sql.SESSIONS`."""
    fields = (
        *row[:5],
        SessionState(row[5]),
        row[6],
        moment_or(row[7], EPOCH),
        moment_or(row[8], EPOCH) if row[8] else None,
        row[9],
        _outcome(row[10]) if row[10] else None,
        *row[11:],
    )
    return SessionRow(*fields)


def _outcome(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return str(text)  # by a person's SQL
