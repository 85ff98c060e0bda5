"""The breaker: an agent whose events all fail alike stops trying them one by one.

Each event has its own attempts. But when one event after another fails in the same way, the events
are not to blame: a tool is broken, a key has expired, the model cannot do it. Then the agent rests,
its events wait, and after a growing pause one of them is tried: ended well, and all goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.bus.dead import short_error
from agentd.clock import EPOCH, Clock, iso, moment_or
from agentd.process.failure import signature

EVENTS_MAX = 3  # in a row that may fail alike; the last of them waits already
PAUSE_FIRST_S, PAUSE_MAX_S = 60.0, 3600.0  # before one is tried again; doubles
REST_S = 60.0  # at most, before a configuration that no event is to blame for is tried again


@dataclass(frozen=True)
class Tripped:
    """An agent's breaker: what fails, for how many events in a row, and until when it rests."""

    agent: str
    error: str  # of the last failure
    events: int
    pauses: int  # so far
    until: datetime

    @property
    def reason(self) -> str:
        """For people."""
        if not self.events:  # no event is to blame
            return self.error
        return f"{self.events} events in a row failed alike, the last: {self.error}"


class Breaker:
    """The breakers of one database. `jitter` returns numbers in [0, 1)."""

    def __init__(self, db: Database, clock: Clock, jitter: Callable[[], float]) -> None:
        self._db, self._clock, self._jitter = db, clock, jitter

    def wait_s(self, agent: str) -> float:
        """Return how long the agent still rests; 0 or less: not at all."""
        tripped = read(self._db, agent)
        if tripped is None:
            return 0.0
        left = (tripped.until - self._clock.now()).total_seconds()
        return left if left <= PAUSE_MAX_S else 0.0  # more: the wall clock was set back meanwhile

    def failed(self, agent: str, event_id: int, error: str) -> Tripped | None:
        """Note that an event failed; return the breaker if it trips, for the first time or again.

        Inside the transaction that closes the session.
        """
        kind = signature(error)
        events, pauses = 1, 0
        for last_event, before, _, count, paused, _ in self._db.run(sql.BREAKER, (agent,)):
            if before == kind:
                events, pauses = count + (last_event != event_id), paused
        text = short_error(error)
        if pauses == 0 and events < EVENTS_MAX:
            self._db.run(sql.SET_BREAKER, (agent, event_id, kind, text, events, 0, None))
            return None
        pause_s = min(PAUSE_FIRST_S * 2.0 ** min(pauses, 30), PAUSE_MAX_S)
        until = self._clock.now() + timedelta(seconds=pause_s * (0.5 + 0.5 * self._jitter()))
        self._db.run(sql.SET_BREAKER, (agent, event_id, kind, text, events, pauses + 1, iso(until)))
        return Tripped(agent, text, events, pauses + 1, until)

    def rest(self, agent: str, event_id: int, error: str) -> Tripped:
        """Let the agent rest for a while, whatever its events: something around it is wrong.

        Inside the caller's transaction.
        """
        kind, text, pauses = signature(error), short_error(error), 1
        for _, before, _, events, paused, _ in self._db.run(sql.BREAKER, (agent,)):
            if before == kind and not events:
                pauses = paused + 1
        until = self._clock.now() + timedelta(seconds=REST_S * (0.5 + 0.5 * self._jitter()))
        self._db.run(sql.SET_BREAKER, (agent, event_id, kind, text, 0, pauses, iso(until)))
        return Tripped(agent, text, 0, pauses, until)

    def ended(self, agent: str) -> bool:
        """Note that a session ended well; return whether the agent had been resting."""
        tripped = read(self._db, agent) is not None
        self._db.run(sql.DROP_BREAKER, (agent,))
        return tripped


def read(db: Database, agent: str) -> Tripped | None:
    """Return the agent's breaker if it has tripped, also while its one event is tried."""
    for _, _, error, events, pauses, until in db.run(sql.BREAKER, (agent,)):
        if pauses:
            return Tripped(agent, error, events, pauses, moment_or(until, EPOCH))
    return None
