"""Waits for the network that end at a deadline, and at a stop."""

import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

from agentd.errors import Stopped
from agentd.net.deadline import Deadline
from agentd.process.stop import Cancel

T = TypeVar("T")


class Waiter:
    """The waits of one exchange; each listens for the stop, too. A context manager."""

    def __init__(self, deadline: Deadline, cancel: Cancel) -> None:
        self.deadline = deadline
        self._cancel = cancel
        self._open = ExitStack()

    def __enter__(self) -> "Waiter":
        self._bell = self._open.enter_context(self._cancel.bell())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def left(self) -> float:
        """Return the seconds left for a wait that begins now.

        Raises:
            Stopped: an orderly stop came.
            Passed: the deadline has passed.
        """
        if self._cancel.stopped:
            raise Stopped("the exchange was stopped")
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
        if self._cancel.stopped:
            raise Stopped("the exchange was stopped")
        return bool(found)

    def until(self, sock: socket.socket, event: int) -> None:
        """Return when `event` has come, or an error.

        Raises:
            Stopped, Passed: see `left`.
        """
        while not self.ready(sock, event, self.left()):
            pass  # the deadline has passed, or this process was stopped: it knows which

    def result(self, function: Callable[[], T]) -> T:
        """Return what a call of the system answers that knows neither a stop nor a deadline.

        A thread of its own makes it, and is left alone when it takes too long.

        Raises:
            Stopped, Passed: see `left`. Besides what `function` raises.
        """
        answer: Future[T] = Future()
        waiting, done = socket.socketpair()

        def ask() -> None:
            with done:  # whose end wakes who waits
                try:
                    answer.set_result(function())
                except Exception as error:  # handed to who waits
                    answer.set_exception(error)

        with waiting:
            threading.Thread(target=ask, name="network", daemon=True).start()
            self.until(waiting, select.POLLIN)
        return answer.result(timeout=0)
