"""What retention does to single rows: delete them, or give an unread event up."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agentd.bus import Bus, sql
from agentd.bus.dead import short_error
from agentd.clock import EPOCH, iso, moment_or
from agentd.events import Lane
from agentd.sessions.steps import event_from_json
from agentd.states import DeadReason

QUIET = timedelta(hours=1)  # a running session that recorded nothing for so long is not worked on
# The wall clock was ahead when this was written: its age says nothing, what stands around it does.
FUTURE = timedelta(hours=1)
ID_MAX = 2**63 - 1


@dataclass(frozen=True)
class Unfinished:
    """A session that is given up, with the event that it answers where it kept it."""

    id: int
    agent: str
    attempt: int
    event: str | None  # as JSON; None: it is the one that was delivered
    delivered_id: int


def give_up(bus: Bus, session: Unfinished, reason: DeadReason, error: str) -> None:
    """Fail a session unless somebody took it up, and bury its event."""
    ended = (iso(bus.clock.now()), short_error(error), session.id, session.attempt)
    bus.db.run(sql.GIVE_UP_SESSION, ended)
    if session.event is None:
        delivered = session.delivered_id
        bus.dead.add_row(session.agent, reason, error, delivered, session_id=session.id)
    else:
        event = event_from_json(session.event)
        bus.dead.add(session.agent, reason, error, event, session_id=session.id)


class Rows:
    """Deletes and expires, inside the caller's transaction; each returns how many went."""

    def __init__(self, bus: Bus) -> None:
        self.busy: set[str] = set()  # consumers whose session was found being worked on
        self._bus, self._db = bus, bus.db

    def passed_by_all(self) -> int:
        """Return the id up to which every lane has read."""
        lanes = self._bus.lanes.slowest()
        return lanes[0][1] if lanes else self._bus.events.last_id()

    def expire(
        self,
        lane: Lane,
        now: datetime,
        error: str,
        upto: int,
        rows: int,
        *,
        before: str | None = None,
    ) -> tuple[int, bool]:
        """Bury what a lane has not read, and say if that is all; (0, False): somebody is at it."""
        buried = 0
        for *found, since in self._db.run(sql.HELD_SINCE, (lane.consumer,)):
            session = Unfinished(*found)
            if now - QUIET < moment_or(since, EPOCH) <= now + FUTURE:
                self.busy.add(lane.consumer)
                return 0, False
            if session.delivered_id > upto:
                break
            # It was cut off and never taken up again: its agent is paused, parked or gone.
            give_up(self._bus, session, DeadReason.EXPIRED, error)
            self._bus.lanes.pass_over(lane, session.delivered_id)
            buried = 1
        more, done = self._bus.lanes.expire(lane, error, upto=upto, before=before, rows=rows)
        return buried + more, done

    def drop_events(self, upto: int, rows: int) -> int:
        """Drop the oldest events up to an id, and the words by which they are found."""
        dropped = self._db.change(sql.DELETE_EVENTS, (upto, rows))
        if dropped:
            self._db.run(sql.DROP_WORDS, (2 * rows,))  # also those of rows that a person deleted
        return dropped

    def old_sessions(self, before: datetime, now: datetime, rows: int) -> list[tuple[int, str]]:
        """Return the oldest sessions that rest, with when they came to rest."""
        return self._old(sql.SESSIONS_BEFORE, sql.SESSIONS_AFTER, before, now, rows)

    def sessions_ahead(self, now: datetime, rows: int) -> list[tuple[int, str]]:
        """Return sessions of a clock that was ahead, whatever stands around them."""
        return self._db.run(sql.SESSIONS_AFTER, (iso(now + FUTURE), ID_MAX, rows))

    def old_letters(self, before: datetime, now: datetime, rows: int) -> list[tuple[int, str, int]]:
        """Return the oldest dead letters, with their moment and size."""
        return self._old(sql.LETTERS_BEFORE, sql.LETTERS_AFTER, before, now, rows)

    def _old(
        self, earlier: str, later: str, before: datetime, now: datetime, rows: int
    ) -> list[Any]:
        """Return rows from before a moment; those of a clock that was ahead are as old as they."""
        old = self._db.run(earlier, (iso(before), rows))
        if not old:
            return []
        ahead = self._db.run(later, (iso(now + FUTURE), max(row[0] for row in old), rows))
        return [*ahead, *old][:rows]

    def drop_sessions(self, ids: Iterable[int], rows: int) -> tuple[int, int]:
        """Drop sessions at rest, and steps of one that is too long to go at once."""
        left, dropped = rows, 0
        for session_id in ids:
            left -= self._db.change(sql.DELETE_STEPS, (session_id, left))
            if left <= 0:
                break
            self._db.run(sql.DELETE_SESSION, (session_id,))
            left, dropped = left - 1, dropped + 1
            if left <= 0:
                break
        return dropped, rows - left
