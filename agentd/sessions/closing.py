"""How sessions come to rest: ended, parked, failed, given up, or only cut off."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.bus import Bus, sql
from agentd.bus.dead import short_error
from agentd.clock import iso
from agentd.events import ASKED, DAEMON, Event, Lane, NewEvent
from agentd.sessions.asked import asked_by
from agentd.sessions.attempts import Attempts
from agentd.sessions.breaker import Breaker, Tripped
from agentd.sessions.journal import Journal
from agentd.sessions.session import Dead, Session, Wait, asked_by_person, lost
from agentd.sessions.steps import effects_document, encode, event_json
from agentd.states import DeadReason, SessionState


class Closing:
    """Brings sessions to rest, with what that means for their event and their agent."""

    def __init__(self, bus: Bus, journal: Journal, attempts: Attempts, breaker: Breaker) -> None:
        self._bus = bus
        self._db = bus.db
        self._journal = journal
        self._attempts = attempts
        self._breaker = breaker

    def close(
        self,
        session: Session,
        *,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
        outcome: Mapping[str, Any] | None = None,
        forced: str | None = None,
    ) -> Sequence[int | None]:
        """End the session: in one transaction publish, remember, and step the lane.

        `forced`: why Done was the only decision left. What its steps staged comes first. Returns
        the new events' ids (see `Bus.publish`).

        Raises:
            EventRefused, SessionFailed, LostLane: nothing was written; the session still runs.
        """
        return self._settle(
            session, SessionState.ENDED, publish, remember, outcome=outcome, forced=forced
        )

    def park(self, session: Session, question: str) -> Sequence[int | None]:
        """Let the session wait for a person's answer, say what it asks, and step the lane.

        Else as `close`; the id of `person.asked` comes last.
        """
        asked = asked_by(session.id, session.steps, question)
        say = () if asked is None else (NewEvent(ASKED, asked.document()),)
        return self._settle(session, SessionState.PARKED, (), None, question=question, say=say)

    def _settle(
        self,
        session: Session,
        state: SessionState,
        publish: Sequence[NewEvent],
        remember: Mapping[str, Any] | None,
        *,
        question: str | None = None,
        outcome: Mapping[str, Any] | None = None,
        forced: str | None = None,
        say: Sequence[NewEvent] = (),
    ) -> Sequence[int | None]:
        staged = session.steps[session.settled_seq :]
        events = [*(event for step in staged for event in step.publish), *publish]
        facts: dict[str, Any] = {}
        for step in staged:
            facts.update(step.remember)
        facts.update(remember or {})
        effect = session.settled_effect or bool(events or facts)
        basis = dict(session.basis)
        if basis:  # what the steps staged stands there
            now = effects_document([*publish, *say], remember or {})
            if session.scored:
                now["scored"] = session.scored
            basis["settled"] = [*basis.get("settled", ()), now]
        with self._bus.transaction():
            self._journal.note_basis(session, basis)
            self._journal.insert(session, session.unwritten)
            self._end(
                session, state, question=question, outcome=outcome, forced=forced, effect=effect
            )
            session.recovered = self._breaker.ended(session.agent)
            ids = self._bus.finish(
                session.lane,
                session.delivery,
                publish=events,
                remember=facts,
                cause=session.event,
            )
            ids += self._bus.outbox.publish_many(
                session.agent, say, cause=session.event, system=True
            )
        session.unwritten.clear()
        session.scored = []
        session.state, session.basis = state, basis
        session.settled_seq, session.settled_effect = len(session.steps), effect
        return ids

    def fail(
        self, session: Session, error: str, *, reason: DeadReason | None = None
    ) -> Wait | Dead:
        """Close the session as failed: its event is tried again after a wait, or is given up.

        `reason` gives it up at once. Nothing that was staged is published. Where it is the agent
        that fails and not the event, the event waits; see `agentd.sessions.breaker`.

        Raises:
            LostLane: somebody else took this session up, or stepped its lane.
        """
        with self._bus.transaction():
            outcome = self._fail(session, error, reason)
        session.state = SessionState.FAILED
        return outcome

    def _fail(self, session: Session, error: str, reason: DeadReason | None) -> Wait | Dead:
        lane, event = session.lane, session.delivery
        tried = self._attempts.of(lane, event)
        if reason is None and (session.partial or session.interrupted is not None):
            reason = DeadReason.PARTIAL_EFFECTS
        tripped = None
        if reason is not DeadReason.INVALID and not asked_by_person(lane, event):
            tripped = self.note_failure(session.agent, event, error)
        if reason is None and tripped is None and tried.failures + 1 >= session.limits.attempts:
            reason = DeadReason.FAILED
        if reason is not None:
            return self.bury(lane, event, session, reason, error)
        self.drop(session, error)
        if tripped is not None:
            self._attempts.refund(lane, event)
            return Wait(self._breaker.wait_s(lane.agent), "breaker")
        return Wait(self._attempts.failed(lane, event, tried, session.limits.attempts), "backoff")

    def note_failure(self, agent: str, event: Event, error: str) -> Tripped | None:
        """Note it against the agent; announce it when its breaker trips for the first time.

        Inside the caller's transaction.
        """
        tripped = self._breaker.failed(agent, event.id, error)
        if tripped is not None:
            self._tell(tripped)
        return tripped

    def rest(self, session: Session, error: str) -> Wait:
        """Take the attempt back and let the agent rest: what is wrong is no event's doing.

        The session stays cut, and goes on when it is tried again.
        """
        with self._bus.transaction():
            self.refund(session)
            self._tell(self._breaker.rest(session.agent, session.delivery.id, error))
        return Wait(self._breaker.wait_s(session.agent), "breaker")

    def _tell(self, tripped: Tripped) -> None:
        """Announce a breaker that tripped for the first time."""
        if tripped.pauses == 1:
            told = {"reason": tripped.reason, "until": iso(tripped.until)}
            parked = NewEvent("agent.parked", {"agent": tripped.agent, **told})
            self._bus.publish(DAEMON, parked, system=True)

    def refund(self, session: Session) -> None:
        """Take the attempt back: an orderly stop, or no model server. The session stays cut."""
        with self._bus.transaction():
            self._journal.insert(session, session.unwritten)
            self._attempts.refund(session.lane, session.delivery)
        session.unwritten.clear()

    def drop(self, session: Session, error: str) -> None:
        """End a session as failed, whatever becomes of its event."""
        self._end(session, SessionState.FAILED, error=error, effect=session.settled_effect)

    def _end(
        self,
        session: Session,
        state: SessionState,
        *,
        effect: bool,
        question: str | None = None,
        outcome: Mapping[str, Any] | None = None,
        forced: str | None = None,
        error: str | None = None,
    ) -> None:
        changed = self._db.change(
            sql.CLOSE_SESSION,
            (
                state.value,
                iso(self._bus.clock.now()),
                len(session.steps) if error is None else session.settled_seq,
                int(effect),
                question,
                None if outcome is None else encode(outcome, "the outcome"),
                forced,
                None if error is None else short_error(error),
                event_json(session.event) if state is SessionState.PARKED else None,
                session.id,
                session.attempt,
            ),
        )
        if changed != 1:
            raise lost(session)

    def bury(
        self, lane: Lane, event: Event, session: Session | None, reason: DeadReason, error: str
    ) -> Dead:
        """Give the event up: end its session, write the letter, step the lane."""
        with self._bus.transaction():
            if session is not None and session.state in (SessionState.RUNNING, SessionState.PARKED):
                self.drop(session, error)
            session_id = None if session is None else session.id
            letter_id = self._bus.dead.add(
                lane.agent,
                reason,
                error,
                event if session is None else session.event,
                session_id=session_id,
            )
            self._bus.step(lane, event)
        return Dead(letter_id, reason, error, session_id)
