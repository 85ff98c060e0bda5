"""A web site for tests: pages by their path, from a server that knows what is new."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Pages by path: the content's type, and its bytes. Each has a tag that changes with it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.answered: list[tuple[str, int]] = []

    def url(self, path: str, kind: str, body: bytes | str) -> str:
        """Put a page there, or another in its place; return its URL."""
        self.pages[path] = kind, body.encode() if isinstance(body, str) else body
        return f"http://{self.host}{path}"


@contextmanager
def site() -> Iterator[Site]:
    """Serve a site on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = there.pages.get(self.path, ("", b""))
            tag = f'"{hash(body)}"'
            status = 404 if not kind else 304 if self.headers["If-None-Match"] == tag else 200
            there.answered.append((self.path, status))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("ETag", tag)
            body = body if status == 200 else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.daemon_threads = True
        there = Site(f"127.0.0.1:{served.server_port}")
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield there
        finally:
            served.shutdown()
