"""What keeps a session finite: turns, deadlines, and a ladder for identical decisions.

The loop asks before every turn what may be decided, and tells what was decided; the guards never
touch the loop's flow. They are rebuilt from the recorded steps when a session resumes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentd.clock import Clock
from agentd.config.agent import Limits
from agentd.llm.decision import DONE
from agentd.sessions.steps import Step, StepKind

# What agentd says to the model is an order, no statement: a small model with nothing to say gives
# the last statement that it read as its answer.
END_NOW = ": decide Done now"  # after the reason
REPEATED = "was decided before with the same arguments: look above, decide otherwise"
UNKNOWN = "only Done was allowed"  # why a Done was forced, where an older note does not say it
CUT_ANSWERS_MAX = 2  # answers in a session that ran out of tokens; then only Done


@dataclass(frozen=True)
class Turn:
    """What the next decision may be.

    `allowed` is None when every class of the union is; `note` is told to the model first.
    """

    allowed: frozenset[str] | None = None
    note: str | None = None

    @property
    def last(self) -> bool:
        """Whether only Done is left."""
        return self.allowed == frozenset({DONE})


@dataclass
class Guards:
    """One session's limits. `names` are the classes of the union."""

    limits: Limits
    names: frozenset[str]
    clock: Clock
    spent_s: float = 0.0  # active seconds of earlier attempts
    turns: int = 0
    _seen: dict[str, int] = field(default_factory=dict)
    _forbidden: str | None = None
    _closing: str | None = None  # why only Done is left
    _cut_answers: int = 0
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock.monotonic()

    @property
    def left_s(self) -> float:
        """Active seconds left before the session's deadline."""
        return self.limits.deadline.total_seconds() - self.active_s

    @property
    def active_s(self) -> float:
        """Seconds that the session has been worked on, earlier attempts included."""
        return self.spent_s + self.clock.monotonic() - self._started

    def resume(self, steps: Sequence[Step]) -> None:
        """Count what is recorded already; a repeat that was forbidden for a turn is so no more.

        What the agent planned costs no turn.
        """
        for step in steps:
            if step.planned or step.about is not None:
                continue
            if step.kind is StepKind.DECISION:
                self.next_turn()
                self.decided(step.type, step.payload)
            elif step.had_effect:
                self.changed()

    @property
    def closing(self) -> bool:
        """Whether only Done is left, whatever else is planned."""
        if self._closing is None and self.left_s <= 0:
            self._closing = "time is up"
        return self._closing is not None

    def next_turn(self) -> Turn:
        """Return what the next decision may be."""
        self.turns += 1
        if self._closing is None and self.turns >= self.limits.turns:
            self._closing = "last turn"
        if self.closing:
            return Turn(frozenset({DONE}), f"{self._closing}{END_NOW}")
        if self._forbidden is not None:
            name, self._forbidden = self._forbidden, None
            left = self.names - {name}
            order = END_NOW if left == {DONE} else ": decide otherwise"
            return Turn(left, f"{name} again and again{order}")
        return Turn()

    def leave_only_done(self, why: str) -> None:
        """Leave only Done from the next turn on."""
        self._closing = self._closing or why

    def decided(self, name: str, args: Mapping[str, Any]) -> str | None:
        """Count the decision; return what to tell the model instead of carrying it out, or None.

        The ladder: the first repeat is told, the second also forbids that class for one turn, the
        third leaves only Done.
        """
        key = f"{name} {json.dumps(args, sort_keys=True)}"
        repeats = self._seen.get(key, 0)
        self._seen[key] = repeats + 1
        if repeats == 0:
            return None
        if repeats == 2:
            self._forbidden = name
        elif repeats >= 3:
            self.leave_only_done("the same decision again and again")
        return f"{name} {REPEATED}"

    def changed(self) -> None:
        """An effect happened: deciding something a second time may now make sense."""
        self._seen.clear()

    def cut_answer(self) -> None:
        """Count an answer that ran out of tokens."""
        self._cut_answers += 1
        if self._cut_answers >= CUT_ANSWERS_MAX:
            self.leave_only_done("answers were too long")


def forced(steps: Sequence[Step], open_to: frozenset[str]) -> str | None:
    """Return why a session's Done, its last decision, was the only one left; None: it was chosen.

    `open_to` are the classes that the agent itself does not bar. Where Done alone is among them, it
    is the agent's own end.
    """
    done = next(step for step in reversed(steps) if step.kind is StepKind.DECISION)
    if done.allowed != (DONE,) or open_to <= {DONE}:
        return None
    notes = [step.payload for step in steps if step.kind is StepKind.NOTE and step.seq < done.seq]
    return str(notes[-1].get("text", "")).rpartition(END_NOW)[0] or UNKNOWN if notes else UNKNOWN
