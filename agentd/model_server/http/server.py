"""uvicorn, set up for this server."""

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterable, Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentd.model_server.calls import Refused
from agentd.model_server.http.answers import error_response
from agentd.model_server.http.callers import Header
from agentd.model_server.http.connection_limits import Connection

HEAD_BYTES_MAX = 32_768  # of a request line and headers, as h11 gives them
DRAIN_S = 1.0
DRAIN_BYTES_MAX = 64_000_000
IDLE_S = 30  # between two requests; longer than HTTP clients keep an idle connection for reuse
TICK_S = 1.0  # between two sweeps; uvicorn itself would look ten times a second whether to end
BACKLOG = 128  # asyncio accepts so many at a go, before it reads from any of them


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


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which end the process by the signal once more.

    It ends as soon as `should_exit` is set, from any thread.
    """

    _ends = False
    _wake: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start  # called once it listens
        self._local: asyncio.Server | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._on_start()

    async def listen(self, sock: socket.socket) -> None:
        """Accept from a Unix socket that only this user reaches, in the place of the last one."""
        if self._local is not None:
            self._local.close()
        loop = asyncio.get_running_loop()
        self._local = await loop.create_server(self._connection, sock=sock, backlog=BACKLOG)
        self.servers.append(self._local)

    async def adopt(self, sock: socket.socket, agent: str) -> None:
        """Serve a connected socket, whose requests are all this agent's."""
        make = functools.partial(self._connection, agent=agent)
        await asyncio.get_running_loop().connect_accepted_socket(make, sock)

    def _connection(self, **more: str) -> asyncio.Protocol:
        """Make a connection as uvicorn does for its own sockets."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            **more,
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    @property
    def should_exit(self) -> bool:
        """Whether it is to end."""
        return self._ends

    @should_exit.setter
    def should_exit(self, ends: bool) -> None:
        self._ends = ends
        if ends:
            self._wake()

    async def main_loop(self) -> None:
        """Look after the connections until it is to end."""
        ending, loop = asyncio.Event(), asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(ending.set)
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await ending.wait()
        self._wake = lambda: None

    async def on_tick(self, counter: int) -> bool:
        """Give up the connections that are held open for too long; True: the server must end."""
        now = time.monotonic()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.sweep(now)
        return await super().on_tick(counter)


def http_server(
    app: ASGIApp,
    *,
    knows: Callable[[Iterable[Header]], bool],
    stop_s: float,
    on_start: Callable[[], None] = lambda: None,
) -> HttpServer:
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
    return HttpServer(config, on_start)
