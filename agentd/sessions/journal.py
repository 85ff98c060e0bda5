"""The journal: every decision and every result is written as it happens."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agentd.agent import Result
from agentd.bus import Bus, sql
from agentd.bus.database import Transaction
from agentd.sessions.attempts import Attempts
from agentd.sessions.session import Session, lost
from agentd.sessions.steps import Step, StepKind, encode


class Journal:
    """Records the steps of sessions. At most two commits a turn: the decision, then its result."""

    def __init__(self, bus: Bus, attempts: Attempts) -> None:
        self.clock = bus.clock
        self._bus = bus
        self._db = bus.db
        self._attempts = attempts

    def transaction(self) -> Transaction:
        """Return a context manager that writes several steps at once, or none of them."""
        return self._bus.transaction()

    def record(self, session: Session, step: Step, *, later: bool = False) -> Step:
        """Append a step, durably, and return it with its number, its times and its token counts.

        What comes `later` is written with the step after it.

        Raises:
            EventRefused: a staged event may not be published.
            SessionFailed: the payload is not JSON.
            LostLane: somebody else took this session up.
        """
        for event in step.publish:
            self._bus.outbox.check(session.agent, event)
        step = replace(
            step,
            seq=len(session.steps) + 1,
            ts=self.clock.now(),
            active_s=session.spent_s + self.clock.monotonic() - session.began,
            attempt=session.attempt,
            counts=tuple(session.counted),
            scored=tuple(session.scored),
        )
        session.counted.clear()
        session.scored.clear()
        if later:
            session.unwritten.append(step)
        else:
            self._write(session, [*session.unwritten, step])
        session.steps.append(step)
        return step

    def record_opening(
        self, session: Session, type: str, payload: Mapping[str, Any], *, trusted: bool
    ) -> Step:
        """Record what the session was opened with, and what it depends on; see `record`."""
        with self.transaction():
            self.note_basis(session, session.basis)
            return self.record(session, Step(StepKind.OPENING, type, payload, trusted))

    def note_basis(self, session: Session, basis: Mapping[str, Any]) -> None:
        """Write down what the session depends on, for a replay.

        Raises:
            SessionFailed: it is not JSON.
        """
        if basis:
            self._db.run(sql.SET_BASIS, (encode(basis, "the basis"), session.id))

    def record_result(
        self, session: Session, type: str, result: Result, whole: Mapping[str, Any] | None = None
    ) -> Step:
        """Record what the last decision came to; see `record`. `whole`: see `Step`.

        What had no effect does not stand in the way of another try, even if the decision is not
        idempotent. A question is written with the parking, in one transaction: a kill in between
        would leave it as if it had been answered.
        """
        decided = next((s for s in reversed(session.steps) if s.kind is StepKind.DECISION), None)
        step = Step(
            StepKind.RESULT,
            type,
            result.value,
            result.trusted,
            idempotent=not result.effect or decided is None or decided.repeatable,
            publish=tuple(result.publish),
            remember=result.remember,
            whole=whole,
        )
        return self.record(session, step, later=result.ask is not None)

    def record_note(self, session: Session, type: str, payload: Mapping[str, Any]) -> Step:
        """Note what a guard tells the model; it is written together with the next step."""
        return self.record(session, Step(StepKind.NOTE, type, payload), later=True)

    def _write(self, session: Session, new: list[Step]) -> None:
        if session.progressed and len(new) == 1:
            self.insert(session, new)
            return
        with self._bus.transaction():
            self.insert(session, new)
            self._attempts.progressed(session.lane, session.delivery)
        session.progressed = True
        session.unwritten.clear()

    def insert(self, session: Session, steps: Iterable[Step]) -> None:
        """Write the rows of recorded steps; several of them inside the caller's transaction.

        Raises:
            LostLane: somebody else took this session up.
        """
        for step in steps:
            row = (session.id, session.attempt, *step.row())
            if self._db.change(sql.RECORD_STEP, row) != 1:
                raise lost(session)
