"""Notices that this process stood still: stopped by a signal, or with the machine asleep.

Then its children most likely stood still, too, and nobody's promise counts from before.
"""

from agentd.clock import Clock

TICK_S = 1.0  # between two looks
SLACK_S = 1.0  # by which a look may be late on a loaded machine
RECENT_S = 3.0  # for so long after it woke, beats may still be on their way; below BEAT_GRACE_S


class Awake:
    """Measures the time between its looks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = clock.monotonic()
        self._slept_s, self._woke = 0.0, float("-inf")

    def look(self) -> float:
        """Return for how many seconds it stood still, if it woke just now; else 0."""
        now = self._clock.monotonic()
        gap, self._seen = now - self._seen, now
        if gap > TICK_S + SLACK_S:
            self._slept_s, self._woke = gap, now
        return self._slept_s if now - self._woke < RECENT_S else 0.0
