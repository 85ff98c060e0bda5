"""Connections with limits: how many, for how long, and how far ahead they may send."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentd.model_server.calls import Full
from agentd.model_server.http.answers import error_response
from agentd.model_server.http.callers import PEER, Header, Peer

# macOS allows a process 256 open files by default.
PLACES = 160  # connections of known callers; one more is answered 503 while all are in use
STRANGERS_MAX = 32  # connections that have not; beyond these the oldest are closed
CONNECTIONS_MAX = 200  # of both kinds; beyond these the oldest stranger is closed at once
OF_AN_AGENT_MAX = 8  # connections, besides all these; its worker needs one at a time
OF_AN_AGENT_IDLE_S = 5.0  # then one is closed: a worker uses none that rested for 4 s
SETTLE_S = 0.2  # for a new caller's head to be read, before strangers are counted
HEAD_S = 10.0  # from a request's first byte, or the connection's beginning, to its head's end
WRITE_S = 60.0  # a client that takes no byte of what is ready for it is given up
AHEAD_BYTES_MAX = 65_536  # sent behind a request that is still being answered


class Connection(H11Protocol):
    """A connection with limits. `sweep` is to be called about once a second.

    `knows` says whether a request's headers show the token; `agent`: whose link it came by.
    """

    connections: "set[Connection]"  # type: ignore[assignment]  # of this server, all of this class

    def __init__(
        self,
        *arguments: Any,
        knows: Callable[[Iterable[Header]], bool],
        agent: str | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._head_since: float | None = time.monotonic()  # None: no head is awaited
        self._since = time.monotonic()  # made; of a known caller: since its last answer ended
        self._unsent = 0
        self._unsent_since = 0.0
        self._knows = knows
        self._peer = Peer(agent, known=agent is not None)
        self._known = self._peer.known  # or its caller has shown the token
        self._inner, self.app = self.app, self._serve

    def connection_made(self, transport: Any) -> None:
        """Take the connection; where there are too many, the oldest stranger gives way."""
        super().connection_made(transport)
        if self._peer.agent is not None:
            if len(self._others(known=True)) >= OF_AN_AGENT_MAX:
                transport.abort()
            return
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            self._peer = Peer(known=True)
        strangers = self._others(known=False)
        if len(strangers) + len(self._others(known=True)) >= CONNECTIONS_MAX:
            (strangers or [self])[0].transport.abort()
        if len(strangers) >= STRANGERS_MAX:
            asyncio.get_running_loop().call_later(SETTLE_S, self._thin_out)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the last request: the two hold each other, with all that came for it.

        Five hundred closed connections waited for the garbage collector at a time.
        """
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # as before the first one
        self.app = _full

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
        if self._known:  # a stranger does not become younger by asking
            self._since = time.monotonic()
        super().on_response_complete()
        self._note_head()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade was asked for, which RFC 9110 (7.8) leaves to the server."""

    def sweep(self, now: float) -> None:
        """Give the connection up if it is held open for too long."""
        if self._head_since is not None and now - self._head_since > HEAD_S:
            self.transport.close()
        agents = self._peer.agent is not None
        if agents and self._idle and now - self._since > OF_AN_AGENT_IDLE_S:
            self.transport.close()
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > WRITE_S:
            self.transport.abort()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER] = self._peer
        if not self._known and (self._peer.known or self._knows(scope["headers"])):
            self._known = self._takes_place()
            if not self._known:
                await _full(scope, receive, send)
                return
        await self._inner(scope, receive, send)

    def _takes_place(self) -> bool:
        """Whether there is a place; the one unused for longest gives way."""
        known = self._others(known=True)
        if len(known) < PLACES:
            return True
        for other in known:
            if other._idle:
                other.transport.close()
                return True
        return False

    @property
    def _idle(self) -> bool:
        """Whether it waits between two requests."""
        done = self.cycle is None or self.cycle.response_complete
        return done and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _others(self, *, known: bool) -> "list[Connection]":
        """Return the other connections of one kind that are not being closed, oldest first.

        They are of the same agent, or as this one of none.
        """
        alike = (c for c in self.connections if c._peer.agent == self._peer.agent)
        found = (c for c in alike if c is not self and c._known is known)
        return sorted((c for c in found if not c.transport.is_closing()), key=lambda c: c._since)

    def _thin_out(self) -> None:
        """Close the oldest strangers of those that are too many."""
        strangers = self._others(known=False)
        for stranger in strangers[: max(0, len(strangers) - STRANGERS_MAX)]:
            stranger.transport.abort()

    def _note_head(self) -> None:
        """Begin to count where a head has begun, and end where it is complete."""
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None
        elif self._head_since is None and self.conn.trailing_data[0]:
            self._head_since = time.monotonic()


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request of a connection that is one too many."""
    error = Full("too many connections", retry_after_s=1, code="too_many_connections")
    await error_response(error, {"Connection": "close"})(scope, receive, send)
