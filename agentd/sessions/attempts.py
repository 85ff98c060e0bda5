"""What was tried on each lane's event: counted before the work, so that a crash counts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.clock import Clock, iso, parse_iso
from agentd.events import Event, Lane

IN_A_ROW_MAX = 5  # attempts that record nothing: its worker dies of this event
TOTAL_MAX = 20  # attempts of one event, whatever they recorded
BACKOFF_FIRST_S = 1.0  # after the first failure; doubles
BLOCK_MAX_S = 60.0  # all backoffs of one event together


@dataclass(frozen=True)
class Tried:
    """What was tried on one event so far. A session's failure is no lost attempt."""

    in_a_row: int = 0  # attempts since a step was last recorded
    total: int = 0
    failures: int = 0
    blocked_s: float = 0.0  # all backoffs together
    next_at: str | None = None  # not to be tried before

    @property
    def crashes(self) -> str | None:
        """Say why it is not to be tried again, or None."""
        if self.in_a_row >= IN_A_ROW_MAX:
            return f"the worker died in {self.in_a_row} attempts in a row without recording a step"
        return f"was tried {self.total} times" if self.total >= TOTAL_MAX else None


class Attempts:
    """The attempts at each lane's current event. `jitter` returns numbers in [0, 1)."""

    def __init__(self, db: Database, clock: Clock, jitter: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock
        self._jitter = jitter

    def of(self, lane: Lane, event: Event) -> Tried:
        """Return what was tried on the lane's event."""
        rows = self._db.run(sql.DELIVERY, (lane.consumer, event.id))
        return Tried(*rows[0]) if rows else Tried()

    def count(self, lane: Lane, event: Event) -> None:
        """Count an attempt that is about to begin."""
        tried = self.of(lane, event)
        self._set(lane, event, replace(tried, in_a_row=tried.in_a_row + 1, total=tried.total + 1))

    def progressed(self, lane: Lane, event: Event) -> None:
        """Start the count in a row anew: a step was recorded."""
        self._db.run(sql.RESET_ATTEMPTS, (lane.consumer, event.id))

    def refund(self, lane: Lane, event: Event) -> None:
        """Take an attempt back."""
        self._db.run(sql.REFUND_ATTEMPT, (lane.consumer, event.id))

    def wait_s(self, tried: Tried) -> float:
        """Return how long the lane still waits after a failure; 0 or less: not at all."""
        if tried.next_at is None:
            return 0.0
        left = (parse_iso(tried.next_at) - self._clock.now()).total_seconds()
        return left if left <= BLOCK_MAX_S else 0.0  # more: the wall clock was set back meanwhile

    def failed(self, lane: Lane, event: Event, tried: Tried, sessions_max: int) -> float:
        """Count a failed session; return the wait in seconds before the next one.

        The waits double, with jitter; those that are left share what is left of BLOCK_MAX_S.
        """
        failures = tried.failures + 1
        doubled = BACKOFF_FIRST_S * 2 ** (failures - 1)
        share = (BLOCK_MAX_S - tried.blocked_s) / max(1, sessions_max - failures)
        wait_s = float(min(doubled, share) * (0.5 + 0.5 * self._jitter()))
        counted = replace(
            tried,
            in_a_row=0,  # it failed in order: its worker did not die of it
            failures=failures,
            blocked_s=tried.blocked_s + wait_s,
            next_at=iso(self._clock.now() + timedelta(seconds=wait_s)),
        )
        self._set(lane, event, counted)
        return wait_s

    def _set(self, lane: Lane, event: Event, tried: Tried) -> None:
        counts = (tried.in_a_row, tried.total, tried.failures, tried.blocked_s, tried.next_at)
        self._db.run(sql.SET_DELIVERY, (lane.consumer, event.id, *counts))
