"""How long an exchange may take."""

from agentd.clock import Clock

LATE_S = 2.0  # a wait that ends this late: this process was stopped meanwhile (SIGSTOP)


class Passed(TimeoutError):
    """The exchange's deadline has passed."""


class Deadline:
    """A moment on the monotonic clock that can be set anew."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self.restart(seconds)

    def restart(self, seconds: float) -> None:
        """Count `seconds` from now."""
        self._at = self._clock.monotonic() + seconds
        self._armed: tuple[float, float] | None = None

    def arm(self) -> float:
        """Return the seconds left for a wait that begins now.

        No wait takes longer than what was left when it began. If the last one did, this process was
        stopped in it, and the time counts anew: the other side may have answered long ago.

        Raises:
            Passed: there are none.
        """
        now = self._clock.monotonic()
        if self._armed is not None and now - self._armed[0] > self._armed[1] + LATE_S:
            self._at = now + self._armed[1]
        self._armed = (now, self._at - now)
        if self._armed[1] <= 0:
            raise Passed("timed out")
        return self._armed[1]

    def left(self) -> float:
        """Return the seconds left; negative when it has passed."""
        return self._at - self._clock.monotonic()
