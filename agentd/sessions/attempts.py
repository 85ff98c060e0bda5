"""What was tried on each lane's event: counted before the work, judged by how it ended.

An attempt is written down before its work starts, with the process that makes it. Then

* it records a step: the counts in a row start anew;
* or it is taken back: an orderly stop, or no model server;
* or its process ends by its own doing, by a crash, an exit or a hang. The supervisor saw that and
  tells the next worker, which marks the attempt as a crash. Some of those are a dead letter;
* or nothing is known of its end: somebody killed it, or the machine went down. However often, that
  makes no dead letter. But from the third in a row on each next one waits longer: a process that
  the system kills again and again for its memory looks just so.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.clock import EPOCH, Clock, iso, moment_or
from agentd.events import Event, Lane
from agentd.process.crash import Crash

CRASHES_IN_A_ROW_MAX = 5  # since a step was last recorded: its worker dies of this event
CRASHES_MAX = 20  # of one event, whatever was recorded in between
BACKOFF_FIRST_S = 1.0  # after the first failure; doubles
BLOCK_MAX_S = 60.0  # all backoffs of one event together
CUT_FREE = 3  # attempts in a row that may leave nothing before the next one has to wait
CUT_FIRST_S, CUT_MAX_S = 1.0, 300.0  # that wait; doubles


@dataclass(frozen=True)
class Tried:
    """What was tried on one event so far.

    A failed session counts in `failures`, not in `in_a_row`.
    """

    in_a_row: int = 0  # attempts since a step was last recorded
    total: int = 0
    failures: int = 0
    blocked_s: float = 0.0  # all backoffs together
    next_at: str | None = None  # not to be tried before
    crashes: int = 0  # of its worker, since a step was last recorded
    crashes_total: int = 0
    last_crash: str | None = None

    @property
    def poison(self) -> str | None:
        """Say why it is not to be tried again, or None."""
        if self.crashes >= CRASHES_IN_A_ROW_MAX:
            times = f"{self.crashes} times in a row without recording a step"
        elif self.crashes_total >= CRASHES_MAX:
            times = f"{self.crashes_total} times"
        else:
            return None
        return f"the worker died of it {times}, the last: {self.last_crash}"

    @property
    def why(self) -> str:
        """What `next_at` is for: a failure's backoff, or attempts that were cut off."""
        return "cut_off" if self.in_a_row >= CUT_FREE else "backoff"


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
        """Count an attempt of this process that is about to begin."""
        tried = self.of(lane, event)
        in_a_row, next_at = tried.in_a_row + 1, None
        if in_a_row >= CUT_FREE:
            doubled = CUT_FIRST_S * 2.0 ** min(in_a_row - CUT_FREE, 30)
            next_at = self._after(min(doubled, CUT_MAX_S) * (0.5 + 0.5 * self._jitter()))
        counted = replace(tried, in_a_row=in_a_row, total=tried.total + 1, next_at=next_at)
        self._set(lane, event, counted, os.getpid())

    def crashed(self, agent: str, crash: Crash) -> bool:
        """Mark the attempt that the crashed process was making; False: it was making none."""
        lanes = (Lane(agent, direct=True).consumer, Lane(agent, direct=False).consumer)
        return self._db.change(sql.CRASHED_ATTEMPT, (crash.why, crash.pid, *lanes)) > 0

    def progressed(self, lane: Lane, event: Event) -> None:
        """Start the counts in a row anew: a step was recorded."""
        self._db.run(sql.RESET_ATTEMPTS, (lane.consumer, event.id))

    def refund(self, lane: Lane, event: Event) -> None:
        """Take an attempt back."""
        self._db.run(sql.REFUND_ATTEMPT, (lane.consumer, event.id))

    def wait_s(self, tried: Tried) -> float:
        """Return how long the lane still waits; 0 or less: not at all."""
        if tried.next_at is None:
            return 0.0
        left = (moment_or(tried.next_at, EPOCH) - self._clock.now()).total_seconds()
        # More than was ever asked for: the wall clock was set back meanwhile.
        return left if left <= max(BLOCK_MAX_S, CUT_MAX_S) else 0.0

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
            crashes=0,
            failures=failures,
            blocked_s=tried.blocked_s + wait_s,
            next_at=self._after(wait_s),
        )
        self._set(lane, event, counted, None)
        return wait_s

    def _after(self, seconds: float) -> str:
        return iso(self._clock.now() + timedelta(seconds=seconds))

    def _set(self, lane: Lane, event: Event, tried: Tried, pid: int | None) -> None:
        counts = (tried.in_a_row, tried.total, tried.failures, tried.blocked_s, tried.next_at)
        crashes = (tried.crashes, tried.crashes_total, tried.last_crash)
        self._db.run(sql.SET_DELIVERY, (lane.consumer, event.id, *counts, *crashes, pid))
