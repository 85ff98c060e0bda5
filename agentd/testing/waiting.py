"""Waiting for a condition, and a clock set by hand: no test sleeps."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

WAIT_S = 30.0  # a wait_for that is not met fails after this long; a loaded machine takes ten
POLL_S = 0.005


def wait_for(condition: Callable[[], Any], *, seconds: float = WAIT_S, what: str = "") -> Any:
    """Return the condition's first true value.

    Raises:
        AssertionError: it did not come true in `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        threading.Event().wait(POLL_S)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime = datetime(2026, 1, 15, 10, 30, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 1000.0

    def now(self) -> datetime:
        """Return the wall time, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the monotonic seconds."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set(self, now: datetime) -> None:
        """Set the wall clock alone, as a person or a time server does."""
        self._now = now
