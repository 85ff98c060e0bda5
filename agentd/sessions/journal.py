"""The journal: every decision and every result is written as it happens."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentd.bus import Bus, sql
from agentd.bus.database import Transaction
from agentd.events import NewEvent
from agentd.sessions.attempts import Attempts
from agentd.sessions.session import Session, lost
from agentd.sessions.steps import Step, StepKind, encode


class Journal:
    """Records the steps of sessions. At most two commits a turn: the decision, then its result."""

    def __init__(self, bus: Bus, attempts: Attempts) -> None:
        self._bus = bus
        self._db = bus.db
        self._clock = bus.clock
        self._attempts = attempts

    def transaction(self) -> Transaction:
        """Return a context manager that writes several steps at once, or none of them."""
        return self._bus.transaction()

    def record(
        self,
        session: Session,
        kind: StepKind,
        type: str,
        payload: Mapping[str, Any],
        *,
        trusted: bool = True,
        idempotent: bool = True,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        completion_tokens: int | None = None,
        duration_ms: float | None = None,
        raw: str | None = None,
        allowed: Iterable[str] | None = None,
        finish_reason: str = "stop",
        context_tokens: int | None = None,
        later: bool = False,
    ) -> Step:
        """Append a step, durably, and return it.

        A note is written with the step after it, and so is what comes `later`.

        Raises:
            EventRefused: a staged event may not be published.
            SessionFailed: the payload is not JSON.
            LostLane: somebody else took this session up.
        """
        for event in publish:
            self._bus.outbox.check(session.agent, event)
        step = Step(
            len(session.steps) + 1,
            kind,
            type,
            payload,
            self._clock.now(),
            trusted,
            idempotent,
            tuple(publish),
            remember or {},
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            duration_ms,
            raw,
            session.spent_s + self._clock.monotonic() - session.began,
            session.attempt,
            tuple(session.counted),
            None if allowed is None else tuple(sorted(allowed)),
            finish_reason,
            context_tokens,
        )
        session.counted.clear()
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
            return self.record(session, StepKind.OPENING, type, payload, trusted=trusted)

    def note_basis(self, session: Session, basis: Mapping[str, Any]) -> None:
        """Write down what the session depends on, for a replay.

        Raises:
            SessionFailed: it is not JSON.
        """
        if basis:
            self._db.run(sql.SET_BASIS, (encode(basis, "the basis"), session.id))

    def record_decision(
        self,
        session: Session,
        name: str,
        args: Mapping[str, Any],
        *,
        idempotent: bool,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        completion_tokens: int | None = None,
        duration_ms: float | None = None,
        raw: str | None = None,
        allowed: Iterable[str] | None = None,
        finish_reason: str = "stop",
        context_tokens: int | None = None,
    ) -> Step:
        """Record a decision before it is carried out; see `record`."""
        return self.record(
            session,
            StepKind.DECISION,
            name,
            args,
            idempotent=idempotent,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=completion_tokens,
            duration_ms=duration_ms,
            raw=raw,
            allowed=allowed,
            finish_reason=finish_reason,
            context_tokens=context_tokens,
        )

    def record_result(
        self,
        session: Session,
        type: str,
        payload: Mapping[str, Any],
        *,
        trusted: bool,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
        effect: bool = True,
        later: bool = False,
    ) -> Step:
        """Record what the last decision came to; see `record`.

        `effect=False`: it was refused and did nothing, so that the session may be tried again
        even if the decision is not idempotent. `later`: a question is written with the parking, in
        one transaction; else a kill in between would leave it as if it had been answered.
        """
        decisions = [step for step in session.steps if step.kind is StepKind.DECISION]
        return self.record(
            session,
            StepKind.RESULT,
            type,
            payload,
            trusted=trusted,
            idempotent=not effect or not decisions or decisions[-1].idempotent,
            publish=publish,
            remember=remember,
            later=later,
        )

    def record_note(self, session: Session, type: str, payload: Mapping[str, Any]) -> Step:
        """Note what a guard tells the model; it is written together with the next step."""
        return self.record(session, StepKind.NOTE, type, payload, later=True)

    def _write(self, session: Session, new: Sequence[Step]) -> None:
        if session.progressed and len(new) == 1:
            self._insert(session, new[0])
            return
        with self._bus.transaction():
            for step in new:
                self._insert(session, step)
            self._attempts.progressed(session.lane, session.delivery)
        session.progressed = True
        session.unwritten.clear()

    def _insert(self, session: Session, step: Step) -> None:
        self._db.run(sql.RECORD_STEP, (session.id, session.attempt, *step.row()))
        if self._db.connection.changes() != 1:
            raise lost(session)
