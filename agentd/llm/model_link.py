"""Connections to our own model server by no port: nobody else can wait at their other end."""

import select
import socket

from agentd.net.wait import Waiter

CONNECT_S = 5.0  # a server that lives takes a connection at once


class ModelLink:
    """A worker's own way in. Its other end has the model server, which knows whose it is."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)

    def connect(self, waiter: Waiter) -> socket.socket:
        """Return a new connection.

        After any error the link is closed, and so is it once nobody refers to it.

        Raises:
            OSError: the server is gone, or does not take it in time.
            Stopped, Passed: see `Waiter.left`.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:  # open until it is taken: macOS lost some that were closed in between
                socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
                _until(self._socket, select.POLLIN, waiter)
                if not self._socket.recv(1):
                    raise ConnectionResetError("the model server has ended")
            ours.setblocking(False)
            return ours
        except BaseException:
            ours.close()
            self._socket.close()
            raise

    def __del__(self) -> None:
        self._socket.close()


def by_path(path: str, waiter: Waiter) -> socket.socket:
    """Return a connection to the server's own socket.

    Raises:
        OSError: nobody answers there, or not in time.
        Stopped, Passed: see `Waiter.left`.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        sock.connect(path)
        return sock
    except BaseException:
        sock.close()
        raise


def _until(sock: socket.socket, event: int, waiter: Waiter) -> None:
    if not waiter.ready(sock, event, min(CONNECT_S, waiter.left())):
        raise TimeoutError("timed out")
