"""uvicorn, set up for this server."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator

import uvicorn
from starlette.types import ASGIApp

from agentd.model_server.connection import Connection, Header
from agentd.model_server.guard import HEAD_BYTES_MAX, Guard

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
