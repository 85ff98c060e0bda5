"""Waits for the network that end at a deadline, and at a stop."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from agentd.clock import Clock
from agentd.errors import Stopped
from agentd.process.stop import Cancel

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


class Waiter:
    """The waits of one exchange. Each also listens to the bell, which rings at a stop."""

    def __init__(self, deadline: Deadline, cancel: Cancel, bell: socket.socket) -> None:
        self.deadline = deadline
        self._cancel = cancel
        self._bell = bell

    @classmethod
    @contextmanager
    def of(cls, deadline: Deadline, cancel: Cancel) -> "Iterator[Waiter]":
        """Yield one for an exchange."""
        with cancel.bell() as bell:
            yield cls(deadline, cancel, bell)

    def within(self, deadline: Deadline) -> "Waiter":
        """Return one for another exchange, with the same bell."""
        return Waiter(deadline, self._cancel, self._bell)

    def left(self) -> float:
        """Return the seconds left for a wait that begins now.

        Raises:
            Stopped: an orderly stop came.
            Passed: the deadline has passed.
        """
        self._check()
        return self.deadline.arm()

    def ready(self, sock: socket.socket, event: int, seconds: float) -> bool:
        """Whether `event` (select.POLLIN or POLLOUT) comes within the seconds, or an error.

        Raises:
            Stopped: an orderly stop came meanwhile.
        """
        poll = select.poll()
        poll.register(sock, event)
        poll.register(self._bell, select.POLLIN)
        found = poll.poll(max(0.0, seconds) * 1000)
        self._check()
        return bool(found)

    def until(self, sock: socket.socket, event: int) -> None:
        """Return when `event` has come, or an error.

        Raises:
            Stopped, Passed: see `left`.
        """
        while not self.ready(sock, event, self.left()):
            pass  # the deadline has passed, or this process was stopped: it knows which

    def _check(self) -> None:
        if self._cancel.stopped:
            raise Stopped("the exchange was stopped")
