"""Sessions: durable, resumed after a cut, tried again after a failure, parked for a person.

A session found RUNNING when its lane's worker begins was *cut* (kill, stop, model server gone) and
goes on where it was; one that *failed* is tried again from the start, as a new session.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from agentd.bus import Bus, sql
from agentd.bus.dead import short_error
from agentd.clock import iso, parse_iso
from agentd.config import Limits
from agentd.errors import UsageError
from agentd.events import PERSON, Event, Lane, NewEvent
from agentd.sessions import steps
from agentd.sessions.attempts import Attempts
from agentd.sessions.journal import Journal
from agentd.sessions.session import Dead, Session, SessionRow, Wait, lost, session_row
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason, SessionState

__all__ = ["Dead", "Session", "SessionRow", "Sessions", "Wait"]

HOUR = timedelta(hours=1)
ANSWER = "person.answer"  # {"session": id, "answer": ...}: resumes a parked session


class Sessions(Journal):
    """The sessions of one bus. `jitter` returns numbers in [0, 1)."""

    def __init__(self, bus: Bus, *, jitter: Callable[[], float] = random.random) -> None:
        super().__init__(bus, Attempts(bus.db, bus.clock, jitter))

    # --- beginning

    def begin(
        self, lane: Lane, event: Event, version: str, limits: Limits
    ) -> Session | Wait | Dead:
        """Open or resume the session of the lane's next event, and count the attempt.

        `version` is the hash of code and prompt: a cut session of another one is closed as failed
        and a new one begun. A `person.answer` resumes the session that it names, with the answer
        recorded as a result of type `person.answer`.

        Raises:
            LostLane: somebody else steps this lane.
        """
        tried = self._attempts.of(lane, event)
        wait_s = self._attempts.wait_s(tried)
        if wait_s > 0:
            return Wait(wait_s, "backoff")
        with self._bus.transaction():
            self._bus.hold(lane)
            last = self._last_session(lane, event, limits)
            if tried.crashes is not None:
                return self._bury(lane, event, last, DeadReason.CRASHED, tried.crashes)
            if last is not None and last.state is SessionState.RUNNING:
                if last.version == version:
                    return self._resume(last, lane, event)
                error = "the agent's code or prompt changed while it was cut off"
                if last.partial:
                    return self._bury(lane, event, last, DeadReason.PARTIAL_EFFECTS, error)
                self._rest(last, SessionState.FAILED, error=error)
                return self._open(lane, last.event, event, version, limits)
            if lane.direct and event.event_type == ANSWER:
                return self._answered(lane, event, last, version, limits)
            # A storm of events must not keep a person waiting; nobody else can be a `person`.
            asked = lane.direct and event.agent == PERSON
            wait_s = 0.0 if asked else self._rate_wait_s(lane.agent, limits.sessions_per_hour)
            if wait_s > 0:
                return Wait(wait_s, "sessions_per_hour")
            return self._open(lane, event, event, version, limits)

    def _last_session(self, lane: Lane, event: Event, limits: Limits) -> Session | None:
        """Return the lane's running session of this event; an answer's session in any state."""
        for row in self._db.run(sql.RUNNING_SESSION, (lane.consumer,)):
            session = self._load(row, lane, event, limits)
            if row[4] == event.id:
                return session
            # Its event was settled without it: by hand, or by another worker of this name.
            self._rest(session, SessionState.FAILED, error="its event was settled elsewhere")
        if lane.direct and event.event_type == ANSWER:
            named = event.payload.get("session")
            if type(named) is int and abs(named) < 2**63:
                for row in self._db.run(sql.SESSION, (named,)):
                    if row[1] == lane.agent:
                        return self._load(row, lane, event, limits)
        return None

    def _answered(
        self, lane: Lane, event: Event, last: Session | None, version: str, limits: Limits
    ) -> Session | Dead:
        if last is None:
            error = "answers no session of this agent"
        elif last.state is SessionState.FAILED and last.delivery.id == event.id:
            # It failed after this very answer and is tried again from the start.
            return self._open(lane, last.event, event, version, limits)
        elif last.state is not SessionState.PARKED:
            error = f"session {last.id} waits for no answer: it is {last.state.value}"
        elif event.agent != PERSON:
            error = f"comes from {event.agent}: only a person answers"
        elif "answer" not in event.payload:
            error = "has no `answer`"
        elif last.version == version:
            return self._resume(last, lane, event)
        elif last.partial:
            error = "the agent's code or prompt changed while it waited for an answer"
            return self._bury(lane, event, last, DeadReason.PARTIAL_EFFECTS, error)
        else:
            error = "the agent's code or prompt changed while it waited for an answer"
            self._rest(last, SessionState.FAILED, error=error)
            return self._open(lane, last.event, event, version, limits)
        return self._bury(lane, event, None, DeadReason.INVALID, error)

    def _open(
        self, lane: Lane, event: Event, delivery: Event, version: str, limits: Limits
    ) -> Session:
        now = self._clock.now()
        kept = None if event.id == delivery.id else steps.event_json(event)
        self._db.run(
            sql.OPEN_SESSION,
            (
                *(lane.agent, lane.consumer, event.id, delivery.id, event.event_type),
                *(version, iso(now), kept),
            ),
        )
        session_id = self._db.connection.last_insert_rowid()
        self._attempts.count(lane, delivery)
        return Session(
            session_id,
            lane.agent,
            lane,
            event,
            delivery,
            version,
            attempt=1,
            resumed=False,
            started_at=now,
            limits=limits,
            began=self._clock.monotonic(),
        )

    def _resume(self, session: Session, lane: Lane, delivery: Event) -> Session:
        was_parked = session.state is SessionState.PARKED
        self._db.run(sql.RESUME_SESSION, (session.id, lane.consumer, delivery.id))
        self._attempts.count(lane, delivery)
        session.delivery = delivery
        session.attempt += 1
        session.state = SessionState.RUNNING
        if was_parked:
            answer = {"answer": delivery.payload["answer"]}
            self.record(session, StepKind.RESULT, ANSWER, answer)
        return session

    def _load(self, row: Any, lane: Lane, delivery: Event, limits: Limits) -> Session:
        recorded = [steps.from_row(step) for step in self._db.run(sql.STEPS, (row[0],))]
        event = delivery if row[3] == delivery.id else self._event_of(row, delivery)
        return Session(
            row[0],
            row[1],
            lane,
            event,
            delivery if row[4] == delivery.id else event,
            row[6],
            attempt=row[8],
            resumed=True,
            started_at=parse_iso(row[9]),
            limits=limits,
            spent_s=recorded[-1].active_s if recorded else 0.0,
            state=SessionState(row[7]),
            steps=recorded,
            settled_seq=row[11],
            settled_effect=bool(row[12]),
            began=self._clock.monotonic(),
        )

    def _event_of(self, row: Any, delivery: Event) -> Event:
        if row[16] is not None:
            return steps.event_from_json(row[16])
        # Of a session at rest, which nobody works on, the event may be pruned by now.
        return self._bus.event(row[3]) or delivery

    # --- coming to rest

    def close(
        self,
        session: Session,
        *,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> Sequence[int | None]:
        """End the session: in one transaction publish, remember, and step the lane.

        What its steps staged comes first. Returns the new events' ids (see `Bus.publish`).

        Raises:
            EventRefused, SessionFailed, LostLane: nothing was written; the session still runs.
        """
        return self._settle(session, SessionState.ENDED, publish, remember, outcome=outcome)

    def park(
        self,
        session: Session,
        question: str,
        *,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
    ) -> Sequence[int | None]:
        """Let the session wait for a person's answer, and step the lane; else as `close`."""
        return self._settle(session, SessionState.PARKED, publish, remember, question=question)

    def _settle(
        self,
        session: Session,
        state: SessionState,
        publish: Sequence[NewEvent],
        remember: Mapping[str, Any] | None,
        *,
        question: str | None = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> Sequence[int | None]:
        staged = session.steps[session.settled_seq :]
        events = [*(event for step in staged for event in step.publish), *publish]
        facts: dict[str, Any] = {}
        for step in staged:
            facts.update(step.remember)
        facts.update(remember or {})
        effect = session.settled_effect or bool(events or facts)
        with self._bus.transaction():
            for step in session.unwritten:
                self._insert(session, step)
            self._rest(session, state, question=question, outcome=outcome, effect=effect)
            ids = self._bus.finish(
                session.lane,
                session.delivery,
                publish=events,
                remember=facts,
                cause=session.event,
            )
        session.unwritten.clear()
        session.state = state
        session.settled_seq, session.settled_effect = len(session.steps), effect
        return ids

    def fail(
        self, session: Session, error: str, *, reason: DeadReason | None = None
    ) -> Wait | Dead:
        """Close the session as failed: its event is tried again after a wait, or is given up.

        `reason` gives it up at once. Nothing that was staged is published.

        Raises:
            LostLane: somebody else took this session up, or stepped its lane.
        """
        lane, event = session.lane, session.delivery
        with self._bus.transaction():
            tried = self._attempts.of(lane, event)
            if reason is None and session.partial:
                reason = DeadReason.PARTIAL_EFFECTS
            if reason is None and tried.failures + 1 >= session.limits.attempts:
                reason = DeadReason.FAILED
            if reason is not None:
                return self._bury(lane, event, session, reason, error)
            self._rest(session, SessionState.FAILED, error=error)
            wait_s = self._attempts.failed(lane, event, tried, session.limits.attempts)
        session.state = SessionState.FAILED
        return Wait(wait_s, "backoff")

    def refund(self, session: Session) -> None:
        """Take the attempt back: an orderly stop, or no model server. The session stays cut."""
        with self._bus.transaction():
            for step in session.unwritten:
                self._insert(session, step)
            self._attempts.refund(session.lane, session.delivery)
        session.unwritten.clear()

    def _rest(
        self,
        session: Session,
        state: SessionState,
        *,
        question: str | None = None,
        outcome: Mapping[str, Any] | None = None,
        error: str | None = None,
        effect: bool = False,
    ) -> None:
        kept = steps.event_json(session.event) if state is SessionState.PARKED else None
        settled = len(session.steps) if error is None else session.settled_seq
        self._db.run(
            sql.CLOSE_SESSION,
            (
                *(
                    state.value,
                    iso(self._clock.now()),
                    settled,
                    int(effect or session.settled_effect),
                    question,
                ),
                None if outcome is None else steps.encode(outcome, "the outcome"),
                None if error is None else short_error(error),
                *(kept, session.id, session.attempt),
            ),
        )
        if self._db.connection.changes() != 1:
            raise lost(session)

    def _bury(
        self, lane: Lane, event: Event, session: Session | None, reason: DeadReason, error: str
    ) -> Dead:
        """Give the event up: close its session, write the letter, step the lane."""
        with self._bus.transaction():
            if session is not None and session.state in (SessionState.RUNNING, SessionState.PARKED):
                self._rest(session, SessionState.FAILED, error=error)
            session_id = None if session is None else session.id
            letter_id = self._bus.dead.add(
                lane.agent,
                reason,
                error,
                event if session is None else session.event,
                session_id=session_id,
            )
            self._bus.step(lane, event)
        if session is not None:
            session.state = SessionState.FAILED
        return Dead(letter_id, reason, error, session_id)

    # --- reading

    def _rate_wait_s(self, agent: str, per_hour: int) -> float:
        """Return the seconds until the agent may begin another session."""
        now = self._clock.now()
        rows = self._db.run(sql.NTH_NEWEST_START, (agent, iso(now), per_hour - 1))
        return (parse_iso(rows[0][0]) + HOUR - now).total_seconds() if rows else 0.0

    def list(
        self,
        *,
        agent: str | None = None,
        state: SessionState | None = None,
        limit: int = 50,
    ) -> Sequence[SessionRow]:
        """Return sessions, newest first."""
        given = (agent, None if state is None else state.value, None, limit)
        return [session_row(row) for row in self._db.run(sql.SESSIONS, given)]

    def show(self, session_id: int) -> tuple[SessionRow, Sequence[Step]]:
        """Return one session with its steps.

        Raises:
            UsageError: there is none with this id.
        """
        rows = self._db.run(sql.SESSIONS, (None, None, session_id, 1))
        if not rows:
            raise UsageError("no such session", where=str(session_id), hint="see `agentd sessions`")
        recorded = [steps.from_row(row) for row in self._db.run(sql.STEPS, (session_id,))]
        return session_row(rows[0]), recorded
