"""One connection: uvicorn's HTTP protocol, with an end in time for every way of holding it open.

uvicorn ends an idle connection, but waits for ever for the rest of a request's head, and for a
client that reads nothing. It stops reading while a client sends further requests ahead, and then
does not see it hang up.
"""

import time
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentd.model_server.answers import error_body
from agentd.model_server.calls import Full

# macOS allows a process 256 open files by default.
SERVED_MAX = 160  # connections; further ones are answered 503
CONNECTIONS_MAX = 200  # further ones are closed at once
HEAD_S = 10.0  # from a request's first byte, or the connection's beginning, to its head's end
WRITE_S = 60.0  # a client that takes no byte of what is ready for it is given up
AHEAD_BYTES_MAX = 65_536  # sent behind a request that is still being answered


class Connection(H11Protocol):
    """A connection with limits. `sweep` is to be called about once a second."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_since: float | None = time.monotonic()  # None: no head is awaited
        self._unsent = 0
        self._unsent_since = 0.0

    def connection_made(self, transport: Any) -> None:
        """Take the connection, or turn it away where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
        elif len(self.connections) > SERVED_MAX:
            self.app = _full

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the last request: the two hold each other, with all that came for it.

        Five hundred closed connections waited for the garbage collector at a time.
        """
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # as before the first one

    def data_received(self, data: bytes) -> None:
        """Read on, also behind a request that is being answered: else no hang-up is seen."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._note_head()
        if self.flow.read_paused and self.conn.their_state is h11.DONE:
            if len(self.conn.trailing_data[0]) > AHEAD_BYTES_MAX:
                self.transport.abort()
            else:
                self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Go on with the next request, for which a new limit of time holds."""
        super().on_response_complete()
        self._note_head()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade was asked for, which RFC 9110 (7.8) leaves to the server."""

    def sweep(self, now: float) -> None:
        """Give the connection up if it is held open for too long."""
        if self._head_since is not None and now - self._head_since > HEAD_S:
            self.transport.close()
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > WRITE_S:
            self.transport.abort()

    def _note_head(self) -> None:
        """Begin to count where a head has begun, and end where it is complete."""
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None
        elif self._head_since is None and self.conn.trailing_data[0]:
            self._head_since = time.monotonic()


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request of a connection that is one too many."""
    error = Full("too many connections", retry_after_s=1, code="too_many_connections")
    headers = {"Retry-After": str(error.retry_after_s), "Connection": "close"}
    response = JSONResponse(error_body(error), status_code=error.status, headers=headers)
    await response(scope, receive, send)
