"""Bytes to a port, and what comes back: for requests that no HTTP client would send."""

import contextlib
import re
import socket
from collections.abc import Iterator

WAIT_S = 20.0


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Connect to the server on this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as sock:
        yield sock


def to_end(sock: socket.socket) -> bytes:
    """Return all that comes until the server closes; a reset ends it too."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            found += data
    return found


def one_reply(sock: socket.socket) -> bytes:
    """Return one response with a Content-Length; fewer bytes if the server closes."""
    found = b""
    while b"\r\n\r\n" not in found and (data := sock.recv(65536)):
        found += data
    head, _, body = found.partition(b"\r\n\r\n")
    lengths = re.findall(rb"content-length: *(\d+)", head.lower())
    length = int(lengths[0]) if lengths else 0
    while len(body) < length and (data := sock.recv(65536)):
        body += data
    return head + b"\r\n\r\n" + body


def status(reply: bytes) -> int:
    """Return a reply's status, or 0 where there was none."""
    parts = reply.split(b" ", 2)
    return int(parts[1]) if reply.startswith(b"HTTP/1.1 ") else 0


def ask(port: int, data: bytes) -> bytes:
    """Send and read to the end; what is sent should make the server close."""
    with connected(port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
        return to_end(sock)
