"""A connection that one exchange after another goes by, for as long as both sides keep it."""

import select
import time
from collections.abc import Callable, Mapping

from agentd.clock import SystemClock
from agentd.net.connection import ClientConnection
from agentd.net.exchange import BROKEN, Response, exchange
from agentd.net.wait import Deadline, Waiter

# Between two exchanges. Servers close what is not used for 5 s (uvicorn, Node, llama.cpp), and a
# request must not meet that.
IDLE_S = 4.0
TAIL_S = 0.005  # for the end of a reply, such as the last chunk's, where it is not there yet


class KeptConnection:
    """A connection of one caller at a time. `close` ends it and all that belongs to it."""

    def __init__(
        self, connection: ClientConnection, waiter: Waiter, close: Callable[[], None]
    ) -> None:
        self._connection, self._waiter, self.close = connection, waiter, close
        self._response: Response | None = None
        self._since = 0.0  # when it was left, by the wall clock: also a machine's sleep counts

    def exchange(
        self, method: str, host: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> Response:
        """Send a request and return the reply: see `exchange`."""
        self._response = exchange(self._connection, method, host, target, headers, body)
        return self._response

    def leave(self) -> bool:
        """Let it rest until the next exchange; False: the server said that there will be none."""
        self._since = time.time()
        return self._response is not None and self._response.keeps

    def resume(self, deadline: Deadline) -> bool:
        """Whether another exchange can go by it, in the time of `deadline`.

        So it is once the last reply is read to its end and nothing came behind it: no word, and not
        the connection's own end.

        Raises:
            Stopped: see `Waiter.left`.
        """
        if self._response is None or not 0 <= time.time() - self._since <= IDLE_S:
            return False
        self._connection.waiter = self._waiter.within(Deadline(SystemClock(), TAIL_S))
        try:
            if not self._response.ends_well() or self._waiter.ready(
                self._connection.sock, select.POLLIN, 0.0
            ):
                return False
        except BROKEN:
            return False
        self._connection.waiter = self._waiter.within(deadline)
        return True
