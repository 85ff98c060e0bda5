"""How far a replay has come in its recording, and what time it is there."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agentd.guards import REPEATED
from agentd.recordings.recording import Recording
from agentd.replay.difference import Difference, Diverged, comparable, comparable_step
from agentd.sessions.steps import Step, StepKind
from agentd.transcript import NOTE

MONOTONIC_S = 1000.0  # where the replay's monotonic clock begins


class Cut(Exception):
    """Here the recorded session was cut off, and resumed by another attempt."""


class Playback:
    """The recorded steps, one after the other, for one replay. Also the replay's clock."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.done = 0  # steps replayed so far
        self.attempt = 1
        self.decided = False  # the next decision's call has come back
        self._held: float | None = 0.0  # active seconds, while no step is under way

    @property
    def turn(self) -> int:
        """Decisions so far."""
        steps = self.recording.steps[: self.done]
        return sum(step.kind is StepKind.DECISION for step in steps)

    @property
    def next_step(self) -> Step | None:
        """The recorded step that comes next, in whichever attempt."""
        steps = self.recording.steps
        return steps[self.done] if self.done < len(steps) else None

    def check_cut(self) -> None:
        """Raise Cut where the recorded session's attempt ended."""
        if self.next_step is not None and self.next_step.attempt > self.attempt:
            raise Cut

    def diverged(self, what: str, recorded: Any, now: Any) -> Diverged:
        """Return the difference at this turn as what is to be raised."""
        step = self.next_step
        turn = self.turn + (step is not None and step.kind is StepKind.DECISION)
        return Diverged(Difference(turn, what, comparable(recorded), comparable(now)))

    def compare(self, step: Step, of: str) -> None:
        """Compare a new step with the recorded one; `of` is the decision that a result is of.

        Raises:
            Diverged: it is another one.
        """
        expected = self.next_step
        # A note is written with the step after it: never, where the call in between failed.
        failed = self.recording.head.session.error is not None
        if expected is None and step.kind is StepKind.NOTE and failed:
            return
        now = comparable_step(step)
        if expected is None:
            raise self.diverged(f"{step.kind.value} beyond the recorded end", "", now)
        recorded = comparable_step(expected)
        if now != recorded:
            after = f" of {of}" if step.kind is StepKind.RESULT else ""
            raise self.diverged(f"{step.kind.value}{after}", recorded, now)
        self.done += 1
        self.decided = False

    def own_words(self, kind: StepKind, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what agentd itself says to the model as it was recorded.

        Another agentd may use other words; what it lets the model decide is compared.
        """
        step = self.next_step
        if step is None or step.kind is not kind:
            return payload
        note = kind is StepKind.NOTE and step.type == NOTE
        repeat = payload.keys() == step.payload.keys() == {"error"}
        repeat = repeat and str(payload["error"]).endswith(REPEATED)
        return step.payload if note or repeat else payload

    # --- the clock

    def hold(self) -> None:
        """Let no time pass between two attempts."""
        self._held = self._active_s

    def release(self) -> None:
        """Let time pass as recorded."""
        self._held = None

    def now(self) -> datetime:
        """Return the wall time at which the next step was recorded."""
        if self._held is not None and not self.done:
            return self.recording.head.session.started_at
        return (self.next_step or self.recording.steps[-1]).ts

    def monotonic(self) -> float:
        """Return the session's active seconds then, from a fixed start; before a call, without it.

        So the guards see the deadline pass at the same turn.
        """
        if self._held is not None:
            return MONOTONIC_S + self._held
        step = self.next_step or self.recording.steps[-1]
        took = 0.0
        if step is self.next_step and step.kind is StepKind.DECISION and not self.decided:
            took = (step.duration_ms or 0.0) / 1000
        return MONOTONIC_S + max(self._active_s, step.active_s - took)

    @property
    def _active_s(self) -> float:
        """The session's active seconds at the last step that was replayed."""
        return self.recording.steps[self.done - 1].active_s if self.done else 0.0
