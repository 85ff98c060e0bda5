"""Sessions: durable, resumed after a cut, tried again after a failure, parked for a person.

A session found RUNNING when its lane's worker begins was *cut* (kill, stop, model server gone) and
goes on where it was; one that *failed* is tried again from the start, as a new session.
"""

import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta

from agentd.bus import Bus, sql
from agentd.clock import EPOCH, iso, moment_or
from agentd.config.agent import Limits
from agentd.errors import AgentdError, Stopped
from agentd.events import ANSWER, Event, Lane, only_persons
from agentd.process.crash import Crash
from agentd.sessions.archive import Archive, StoredSession
from agentd.sessions.asked import Asked, asked_by
from agentd.sessions.attempts import Attempts
from agentd.sessions.breaker import Breaker
from agentd.sessions.closing import Closing
from agentd.sessions.journal import Journal
from agentd.sessions.session import Dead, Session, Wait, asked_by_person
from agentd.sessions.steps import Step, StepKind, event_from_json, event_json
from agentd.states import DeadReason, SessionState

HOUR = timedelta(hours=1)
VERIFY_S = 5.0  # until somebody is asked again who could not say whether a person wrote it
# Says why an event is not what only a person may write (`only_persons`), None where it is. Raises
# AgentdError where that cannot be told now.
Verify = Callable[[Event], str | None]


def nobody(event: Event) -> str | None:
    """Stand for a `Verify` where nobody can tell: nothing is believed."""
    return "only a person answers, and nobody here can tell who wrote it"


class Sessions:
    """Opens and resumes the sessions of one bus.

    `journal` writes what one does as it goes, `closing` brings it to rest, `archive` is for those
    who read. `jitter` returns numbers in [0, 1); `journal` makes another journal than ours;
    `verify` tells a person's answers from forged ones.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        jitter: Callable[[], float] = random.random,
        journal: Callable[[Bus, Attempts], Journal] = Journal,
        verify: Verify = nobody,
    ) -> None:
        self._verify = verify
        self._bus = bus
        self._db = bus.db
        self._clock = bus.clock
        self._attempts = Attempts(bus.db, bus.clock, jitter)
        self._breaker = Breaker(bus.db, bus.clock, jitter)
        self.journal = journal(bus, self._attempts)
        self.closing = Closing(bus, self.journal, self._attempts, self._breaker)
        self.archive = Archive(bus)

    def crashed(self, agent: str, crash: Crash) -> bool:
        """Note how the worker before this one crashed; False: it was working on nothing."""
        return self._attempts.crashed(agent, crash)

    def begin(
        self, lane: Lane, event: Event, code_hash: str, limits: Limits
    ) -> Session | Wait | Dead:
        """Open or resume the session of the lane's next event, and count the attempt.

        `code_hash` is that of code and prompt: a cut session of another one is closed as failed
        and a new one begun. A `person.answer` resumes the session that it names: a question's
        answer is recorded as a result of type `person.answer`, a yes or no as a step of its own.
        An answer that no person gave is a dead letter.

        Raises:
            LostLane: somebody else steps this lane.
            Stopped: while somebody was asked whether a person gave it.
        """
        tried = self._attempts.of(lane, event)
        wait_s = self._attempts.wait_s(tried)
        if wait_s > 0:
            return Wait(wait_s, tried.why)
        try:  # before the transaction: who is asked reads the event's row, too
            forged = self._verify(event) if only_persons(event) else None
        except Stopped:
            raise
        except AgentdError:
            return Wait(VERIFY_S, "verify")
        with self._bus.transaction():
            self._bus.lanes.hold(lane)
            if forged is not None:
                return self.closing.bury(lane, event, None, DeadReason.INVALID, forged)
            last = self._last_session(lane, event, limits)
            # What a person asks for is tried all the same.
            asked = asked_by_person(lane, event)
            if tried.poison is not None:
                if not asked:
                    self.closing.note_failure(lane.agent, event, tried.last_crash or tried.poison)
                return self.closing.bury(lane, event, last, DeadReason.CRASHED, tried.poison)
            wait_s = 0.0 if asked else self._breaker.wait_s(lane.agent)
            if wait_s > 0:
                return Wait(wait_s, "breaker")
            if last is not None and last.state is SessionState.RUNNING:
                if last.version == code_hash:
                    return self._resume(last, lane, event)
                error = "the agent's code or prompt changed while it was cut off"
                if last.interrupted is not None:
                    error += f" in the middle of {last.interrupted}"
                if last.partial or last.interrupted is not None:
                    return self.closing.bury(lane, event, last, DeadReason.PARTIAL_EFFECTS, error)
                self.closing.drop(last, error)
                return self._open(lane, last.event, event, code_hash, limits)
            if lane.direct and event.event_type == ANSWER:
                return self._answered(lane, event, last, code_hash, limits)
            # A storm of events must not keep a person waiting.
            wait_s = 0.0 if asked else self._rate_wait_s(lane.agent, limits.sessions_per_hour)
            if wait_s > 0:
                return Wait(wait_s, "sessions_per_hour")
            return self._open(lane, event, event, code_hash, limits)

    def _last_session(self, lane: Lane, event: Event, limits: Limits) -> Session | None:
        """Return the lane's running session of this event; an answer's session in any state."""
        for row in map(StoredSession._make, self._db.run(sql.RUNNING_SESSION, (lane.consumer,))):
            session = self._load(row, lane, event, limits)
            if row.delivered_id == event.id:
                return session
            # Its event was settled without it: by hand, or by another worker of this name.
            self.closing.drop(session, "its event was settled elsewhere")
        if lane.direct and event.event_type == ANSWER:
            named = event.payload.get("session")
            if type(named) is int and abs(named) < 2**63:
                for row in map(StoredSession._make, self._db.run(sql.SESSION, (named,))):
                    if row.agent == lane.agent:
                        return self._load(row, lane, event, limits)
        return None

    def _answered(
        self, lane: Lane, event: Event, last: Session | None, code_hash: str, limits: Limits
    ) -> Session | Dead:
        error: str | None
        if last is None:
            error = "answers no session of this agent"
        elif last.state is SessionState.FAILED and last.delivery.id == event.id:
            # It failed after this very answer and is tried again from the start.
            return self._open(lane, last.event, event, code_hash, limits)
        elif last.state is not SessionState.PARKED:
            error = f"session {last.id} waits for no answer: it is {last.state.value}"
        elif (asked := asked_by(last.id, last.steps, last.question)) is None:
            error = f"session {last.id} asks nothing"
        elif (mistake := asked.mistake(event.payload)) is not None:
            error = mistake
        elif last.version == code_hash:
            return self._resume(last, lane, event, asked)
        else:
            error = "the agent's code or prompt changed while it waited for an answer"
            if last.partial:
                return self.closing.bury(lane, event, last, DeadReason.PARTIAL_EFFECTS, error)
            self.closing.drop(last, error)
            return self._open(lane, last.event, event, code_hash, limits)
        return self.closing.bury(lane, event, None, DeadReason.INVALID, error)

    def _open(
        self, lane: Lane, event: Event, delivery: Event, code_hash: str, limits: Limits
    ) -> Session:
        now = self._clock.now()
        kept = None if event.id == delivery.id else event_json(event)
        session_id = self._db.insert(
            sql.OPEN_SESSION,
            (
                *(lane.agent, lane.consumer, event.id, delivery.id, event.event_type),
                *(code_hash, iso(now), kept),
            ),
        )
        self._attempts.count(lane, delivery)
        return Session(
            session_id,
            lane.agent,
            lane,
            event,
            delivery,
            code_hash,
            attempt=1,
            resumed=False,
            started_at=now,
            limits=limits,
            began=self._clock.monotonic(),
        )

    def _resume(
        self, session: Session, lane: Lane, delivery: Event, asked: Asked | None = None
    ) -> Session:
        """Take a session up again: a cut one, or with the answer to what it `asked`."""
        self._db.run(sql.RESUME_SESSION, (session.id, lane.consumer, delivery.id))
        self._attempts.count(lane, delivery)
        session.delivery = delivery
        session.attempt += 1
        session.state = SessionState.RUNNING
        if delivery.event_type == ANSWER:
            session.answer = delivery.payload
        if asked is not None:
            self.journal.record(session, _answered_step(asked, delivery, self._clock.now()))
        return session

    def _load(self, row: StoredSession, lane: Lane, delivery: Event, limits: Limits) -> Session:
        recorded = list(self.archive.steps(row.id))
        event = delivery if row.event_id == delivery.id else self._event_of(row, delivery)
        return Session(
            row.id,
            row.agent,
            lane,
            event,
            delivery if row.delivered_id == delivery.id else event,
            row.version,
            attempt=row.attempt,
            resumed=True,
            started_at=moment_or(row.started_at, EPOCH),
            limits=limits,
            spent_s=recorded[-1].active_s if recorded else 0.0,
            state=SessionState(row.state),
            question=row.question,
            steps=recorded,
            settled_seq=row.settled_seq,
            settled_effect=bool(row.settled_effect),
            began=self._clock.monotonic(),
            basis=json.loads(row.basis) if row.basis else {},
        )

    def _event_of(self, row: StoredSession, delivery: Event) -> Event:
        if row.event is not None:
            return event_from_json(row.event)
        # Of a session at rest, which nobody works on, the event may be pruned by now.
        return self._bus.events.get(row.event_id) or delivery

    def _rate_wait_s(self, agent: str, per_hour: int) -> float:
        """Return the seconds until the agent may begin another session."""
        now = self._clock.now()
        rows = self._db.run(sql.NTH_NEWEST_START, (agent, iso(now), per_hour - 1))
        return (moment_or(rows[0][0], EPOCH) + HOUR - now).total_seconds() if rows else 0.0


def _answered_step(asked: Asked, answer: Event, now: datetime) -> Step:
    """Return the step that an answer makes."""
    if asked.expires is None:
        return Step(StepKind.RESULT, ANSWER, {"answer": answer.payload["answer"]})
    denied = asked.denied(answer.payload, now)
    kind = StepKind.GRANTED if denied is None else StepKind.DENIED
    return Step(kind, asked.tool, denied or {})
