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
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from agentd.net.wait import Waiter

# On Linux: acknowledge at once what has come, which it only does by itself on a new connection. A
# server that has not switched off Nagle's algorithm sends its next piece by that, else 40 ms later.
QUICKACK = getattr(socket, "TCP_QUICKACK", 0)
CONNECT_MIN_S = 0.01  # for an address, however little is left
T = TypeVar("T")


def look_up(host: str, port: int) -> list[str]:
    """Return the host's addresses. May take as long as the system likes.

    Raises:
        OSError, UnicodeError: it has none, or can have none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def look_up_in_time(host: str, port: int, waiter: Waiter) -> list[str]:
    """Return the host's addresses. A thread asks for them, and is left alone if it takes too long.

    Raises:
        Stopped, Passed: see `Waiter.left`.
        OSError, UnicodeError: see `look_up`.
    """
    found: list[str] = []
    failed: list[Exception] = []
    waiting, done = socket.socketpair()

    def ask() -> None:
        with done:  # its end wakes who waits
            try:
                found.extend(look_up(host, port))
            except Exception as error:  # handed to who waits
                failed.append(error)

    with waiting:
        threading.Thread(target=ask, name="look-up", daemon=True).start()
        waiter.until(waiting, select.POLLIN)
    if failed:
        raise failed[0]
    return found


@contextmanager
def connected(
    addresses: Sequence[str], port: int, waiter: Waiter, seconds: float | None = None
) -> "Iterator[ClientConnection]":
    """Yield a connection to the first address that answers within `seconds`.

    One that never answers leaves time for the others.

    Raises:
        Stopped: an orderly stop came.
        OSError: nobody answers there, or not in time.
    """
    connection = ClientConnection(_first(addresses, port, waiter, seconds), waiter)
    try:
        yield connection
    finally:
        connection.sock.close()


def _first(
    addresses: Sequence[str], port: int, waiter: Waiter, seconds: float | None
) -> socket.socket:
    problem: OSError = OSError(errno.EADDRNOTAVAIL, "no address")
    for number, address in enumerate(addresses):
        share = waiter.deadline.left() / (len(addresses) - number)
        given = share if seconds is None else min(seconds, share)
        try:
            return _connected(address, port, waiter, max(CONNECT_MIN_S, given))
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


class ClientConnection(io.RawIOBase):
    """A connected socket, plain or under TLS, as http.client reads from it and writes to it.

    Each raises Stopped, Passed (see `Waiter.left`) or, where the connection breaks, OSError.
    """

    def __init__(self, sock: socket.socket, waiter: Waiter) -> None:
        self.sock = sock
        self.waiter = waiter
        self._acknowledge = QUICKACK and sock.family != socket.AF_UNIX

    def encrypt(self, host: str) -> None:
        """Go on under TLS, with a certificate that this machine trusts for the host.

        Raises:
            ssl.SSLError: it has none. Besides what reading raises.
        """
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(
            self.sock, server_hostname=host, do_handshake_on_connect=False
        )
        self.sock = wrapped
        self._done(wrapped.do_handshake, select.POLLIN)

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fill the buffer with what has come, and return how much that is; 0 at the end."""
        size = self._done(partial(self.sock.recv_into, buffer), select.POLLIN)
        if self._acknowledge:
            self.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)
        return size

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._done(partial(self.sock.send, rest), select.POLLOUT) :]

    def makefile(self, *_mode: object) -> io.BufferedReader:
        """Return a reader of the bytes that come."""
        return io.BufferedReader(self)

    def close(self) -> None:
        """Do nothing: http.client closes before the body is read. `connected` closes."""

    def _done(self, step: Callable[[], T], event: int) -> T:
        """Return what a step gives once the other side lets it; it waits for `event`, or for TLS's.

        The deadline holds as well against a side that never lets us wait.
        """
        while True:
            self.waiter.left()
            try:
                return step()
            except ssl.SSLWantWriteError:
                self.waiter.until(self.sock, select.POLLOUT)
            except ssl.SSLWantReadError:
                self.waiter.until(self.sock, select.POLLIN)
            except BlockingIOError:
                self.waiter.until(self.sock, event)
