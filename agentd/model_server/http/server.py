"""uvicorn, set up for this server."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentd.model_server.calls import Full, Refused
from agentd.model_server.http.answers import error_response

HEAD_BYTES_MAX = 32_768  # of a request line and headers, as h11 gives them
DRAIN_S = 1.0
DRAIN_BYTES_MAX = 64_000_000


class Guard:
    """Refuses odd HTTP, and lets an early refusal arrive.

    A client that is still sending its body does not read an answer, and a connection closed with
    bytes unread loses it. So the rest of the body is read for a moment, and what does not end then
    loses its connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"])
        ended = b"transfer-encoding" not in headers and not int(headers.get(b"content-length", 0))

        async def tracked() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or not message.get("more_body", False)
            return message

        async def drain() -> None:
            total = 0
            while not ended and total < DRAIN_BYTES_MAX:
                total += len((await tracked()).get("body", b""))

        async def polite(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                if b"expect" not in headers:  # who waits for our leave to send has sent nothing
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(drain(), DRAIN_S)
                if not ended:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        refusal = _odd(scope, headers)
        if refusal is None:
            await self._app(scope, tracked, polite)
            return
        await error_response(refusal, {"Connection": "close"})(scope, tracked, polite)


def _odd(scope: Scope, headers: dict[bytes, bytes]) -> Refused | None:
    if scope["http_version"] not in ("1.0", "1.1"):
        return Refused("only HTTP/1.1 is spoken here", status=505, code="http_version")
    fields = sum(len(name) + len(value) for name, value in scope["headers"])
    if fields + len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_BYTES_MAX:
        # The parser's own limit holds only for a head that comes in several pieces.
        return Refused(
            f"a request's head may have {HEAD_BYTES_MAX} bytes", status=431, code="head_too_large"
        )
    if b"transfer-encoding" in headers and b"content-length" in headers:
        # Which of them a proxy would believe is anybody's guess: RFC 9112, 6.1.
        return Refused("both Transfer-Encoding and Content-Length", code="ambiguous_length")
    return None


# macOS allows a process 256 open files by default.
PLACES = 160  # connections that showed the token; one more is answered 503 while all are in use
STRANGERS_MAX = 32  # connections that have not; beyond these the oldest are closed
CONNECTIONS_MAX = 200  # of both kinds; beyond these the oldest stranger is closed at once
SETTLE_S = 0.2  # for a new caller's head to be read, before strangers are counted
HEAD_S = 10.0  # from a request's first byte, or the connection's beginning, to its head's end
WRITE_S = 60.0  # a client that takes no byte of what is ready for it is given up
AHEAD_BYTES_MAX = 65_536  # sent behind a request that is still being answered


Header = tuple[bytes, bytes]


class Connection(H11Protocol):
    """A connection with limits. `sweep` is to be called about once a second.

    `knows` says whether a request's headers show the token.
    """

    connections: "set[Connection]"  # type: ignore[assignment]  # of this server, all of this class

    def __init__(
        self, *arguments: Any, knows: Callable[[Iterable[Header]], bool], **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._head_since: float | None = time.monotonic()  # None: no head is awaited
        self._since = time.monotonic()  # made; of a known caller: since its last answer ended
        self._unsent = 0
        self._unsent_since = 0.0
        self._knows = knows
        self._known = False  # its caller has shown the token
        self._inner, self.app = self.app, self._serve

    def connection_made(self, transport: Any) -> None:
        """Take the connection; where there are too many, the oldest stranger gives way."""
        super().connection_made(transport)
        strangers = self._others(known=False)
        if len(self.connections) > CONNECTIONS_MAX:
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
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif now - self._unsent_since > WRITE_S:
            self.transport.abort()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._known and self._knows(scope["headers"]):
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
        """Return the other connections of one kind that are not being closed, oldest first."""
        found = (c for c in self.connections if c is not self and c._known is known)
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


IDLE_S = 30  # between two requests; longer than HTTP clients keep an idle connection for reuse
TICKS_PER_SWEEP = 10  # uvicorn ticks every 0.1 s
BACKLOG = 128  # asyncio accepts so many at a go, before it reads from any of them


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers, which end the process by the signal once more."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Give up the connections that are held open for too long; True: the server must end."""
        if counter % TICKS_PER_SWEEP == 0:
            now = time.monotonic()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.sweep(now)
        return await super().on_tick(counter)


def http_server(
    app: ASGIApp, *, knows: Callable[[Iterable[Header]], bool], stop_s: float
) -> uvicorn.Server:
    """Return a server for `serve(sockets=[...])`.

    `knows` says whether a request's headers show the token: its connection then has a place.
    Once `should_exit` is set it accepts nothing more and waits `stop_s`, less a second, for
    answers that are under way.
    """
    config = uvicorn.Config(
        Guard(app),
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        ws="none",
        http=functools.partial(Connection, knows=knows),  # type: ignore[arg-type]  # it makes one
        backlog=BACKLOG,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=max(1, int(stop_s) - 1),
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    return _Http(config)
