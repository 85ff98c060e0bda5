"""A replay's own bus: it holds one event, and each step that is recorded on it is compared."""

from dataclasses import replace
from functools import partial

from agentd.bus import Bus, sql
from agentd.bus.json_text import compact
from agentd.clock import iso
from agentd.errors import RecordingError, RowRefused
from agentd.events import Event, Lane
from agentd.replay.playback import Playback
from agentd.sessions.attempts import Attempts
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind


def seed(bus: Bus, agent: str, event: Event, session_id: int) -> None:
    """Put one event before an agent; the session that answers it is to have this id.

    Raises:
        RecordingError: no outbox takes such an event.
    """
    with bus.transaction():
        bus.db.run(sql.SEED_SESSION, (session_id - 1,))
        row = (
            *(event.id, event.agent, event.event_type, compact(dict(event.payload))),
            *(iso(event.created_at), event.target, event.priority.value),
            *(event.cause_id, event.depth, event.dedup_key),
        )
        try:
            bus.db.run(sql.SEED_EVENT, row)
        except RowRefused as error:
            raise RecordingError(f"its event can stand in no outbox: {error.what}") from error
        for direct in (True, False):
            bus.db.run(sql.CREATE_CURSOR, (Lane(agent, direct).consumer, event.id - 1))


def compared_sessions(bus: Bus, playback: Playback) -> Sessions:
    """Return the sessions of a replay's own bus: every step is compared with the recorded one."""
    return Sessions(
        bus,
        jitter=lambda: 0.0,
        journal=partial(_ComparedJournal, playback),
        verify=lambda answer: None,  # it is the recorded one
    )


class _ComparedJournal(Journal):
    """Compares every step with the recorded one."""

    def __init__(self, playback: Playback, bus: Bus, attempts: Attempts) -> None:
        super().__init__(bus, attempts)
        self._playback = playback

    def record(self, session: Session, step: Step, *, later: bool = False) -> Step:
        """Record a step; see `Journal.record`.

        Raises:
            Diverged: it is not the recorded one.
            Cut: the recorded session was cut off before it.
        """
        self._playback.check_cut()
        words = self._playback.own_words(step.kind, step.payload)
        step = super().record(session, replace(step, payload=words), later=later)
        decisions = (s.type for s in reversed(session.steps) if s.kind is StepKind.DECISION)
        self._playback.compare(step, next(decisions, "nothing"))
        return step
