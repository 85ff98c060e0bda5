"""Connections: each wait on one gets what is left of the deadline, and a stop ends it.

So a server that drips single bytes cannot outlast the deadline, and TLS is shut down by nobody
else's thread.
"""

import errno
import io
import os
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TypeVar

from agentd.net.wait import Waiter

CONNECT_MIN_S = 0.01  # for an address, however little is left
T = TypeVar("T")


def look_up(host: str, port: int) -> list[str]:
    """Return the host's addresses. May take as long as the system likes: see `Waiter.result`.

    Raises:
        OSError, UnicodeError: it has none, or can have none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def connect(
    addresses: Sequence[str], port: int, waiter: Waiter, seconds: float | None = None
) -> "ClientConnection":
    """Return a connection to the first address that answers within `seconds`.

    One that never answers leaves time for the others.

    Raises:
        Stopped: an orderly stop came.
        OSError: nobody answers there, or not in time.
    """
    problem: OSError = OSError(errno.EADDRNOTAVAIL, "no address")
    for number, address in enumerate(addresses):
        share = waiter.deadline.left() / (len(addresses) - number)
        given = share if seconds is None else min(seconds, share)
        try:
            return ClientConnection(
                _connected(address, port, waiter, max(CONNECT_MIN_S, given)), waiter
            )
        except OSError as error:
            problem = error
    raise problem


def _connected(address: str, port: int, waiter: Waiter, seconds: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect((address, port))
        if not waiter.ready(sock, select.POLLOUT, seconds):
            raise TimeoutError("timed out")
        if problem := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(problem, os.strerror(problem))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class ClientConnection:
    """A connected socket, plain or under TLS. What http.client needs of one; a context manager."""

    def __init__(self, sock: socket.socket, waiter: Waiter) -> None:
        self._sock = sock
        self._waiter = waiter

    def encrypt(self, host: str) -> None:
        """Go on under TLS, with a certificate that this machine trusts for the host.

        Raises:
            ssl.SSLError: it has none.
            Stopped, Passed, OSError: see `receive`.
        """
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(
            self._sock, server_hostname=host, do_handshake_on_connect=False
        )
        self._sock = wrapped
        self._done(wrapped.do_handshake, select.POLLIN)

    def receive(self, buffer: "bytearray | memoryview") -> int:
        """Fill the buffer with what has come, and return how much that is; 0 at the end.

        Raises:
            Stopped: an orderly stop came.
            Passed: the deadline has passed.
            OSError: the connection broke.
        """
        return self._done(partial(self._sock.recv_into, buffer), select.POLLIN)

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises as `receive` does."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._done(partial(self._sock.send, rest), select.POLLOUT) :]

    def _done(self, step: Callable[[], T], event: int) -> T:
        """Return what a step gives once the other side lets it; it waits for `event`, or for TLS's.

        The deadline holds as well against a side that never lets us wait.
        """
        while True:
            self._waiter.left()
            try:
                return step()
            except ssl.SSLWantWriteError:
                self._waiter.until(self._sock, select.POLLOUT)
            except ssl.SSLWantReadError:
                self._waiter.until(self._sock, select.POLLIN)
            except BlockingIOError:
                self._waiter.until(self._sock, event)

    def makefile(self, *_mode: object) -> io.BufferedReader:
        """Return a reader of the bytes that come."""
        return io.BufferedReader(_Raw(self))

    def close(self) -> None:
        """Do nothing: http.client closes before the body is read. The block's end closes."""

    def __enter__(self) -> "ClientConnection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sock.close()


class _Raw(io.RawIOBase):
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        return self._connection.receive(buffer)
