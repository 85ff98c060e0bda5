"""uvicorn, set up for this server."""

import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

HEADER_BYTES_MAX = 32_768


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers, which end the process by the signal once more."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def http_server(app: ASGIApp, *, stop_s: float) -> uvicorn.Server:
    """Return a server for `serve(sockets=[...])`.

    Once `should_exit` is set it accepts nothing more and waits `stop_s`, less a second, for
    answers that are under way.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        ws="none",
        http="h11",
        timeout_graceful_shutdown=max(1, int(stop_s) - 1),
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
    )
    return _Http(config)
