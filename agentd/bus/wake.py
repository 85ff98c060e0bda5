"""Wake-ups: one byte to a reader's datagram socket after a commit.

The cursor poll stays the truth; a lost wake-up costs only delay (0.35 ms against the poll's
seconds), so nothing here may block or fail a caller.
"""

import contextlib
import functools
import os
import select
import socket
from collections.abc import Iterable
from pathlib import Path

from agentd.errors import StorageError

BYTE = b"\1"
DRAIN_BYTES = 64  # more than one datagram holds


def socket_path(folder: Path, name: str) -> Path:
    """Return where the reader of this name listens."""
    return folder / f"{name}.sock"


def listening(folder: Path, name: str) -> socket.socket:
    """Return the socket on which this reader is woken, in the place of an earlier one.

    Raises:
        StorageError: it cannot be made.
    """
    path = socket_path(folder, name)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # a dead worker's; a living one holds the lock on its name
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise StorageError(
            f"cannot make the wake-up socket: {error}",
            where=str(path),
            hint="make its folder writable, and its path shorter than 104 bytes",
        ) from error
    return sock


class Ear:
    """A reader's ear: a bound datagram socket to wait on.

    `made`: by the supervisor, for a worker whose sandbox lets it make none.
    """

    def __init__(self, folder: Path, name: str, made: socket.socket | None = None) -> None:
        self.path = socket_path(folder, name)
        self._socket = listening(folder, name) if made is None else made
        self._socket.setblocking(False)
        self._inode = self._inode_now()

    def _inode_now(self) -> int | None:
        try:
            return self.path.stat().st_ino
        except OSError:
            return None

    @property
    def in_place(self) -> bool:
        """Whether a ring still reaches it; somebody may have removed its file."""
        return self._inode is not None and self._inode_now() == self._inode

    def fileno(self) -> int:
        """Return the socket's descriptor, for `select` and event loops."""
        return self._socket.fileno()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a wake-up, drain it, and say whether one came."""
        ready, _, _ = select.select([self._socket], [], [], max(0.0, timeout_s))
        return bool(ready) and self.drain()

    def drain(self) -> bool:
        """Take all wake-ups that came and say whether there was one. Never blocks."""
        came = False
        while True:
            try:
                self._socket.recv(DRAIN_BYTES)
            except BlockingIOError:
                return came
            came = True

    def close(self) -> None:
        """Close the socket and remove its file, unless a successor has put its own there."""
        self._socket.close()
        if self.in_place:
            with contextlib.suppress(OSError):  # in a sandbox: the next one there removes it
                self.path.unlink()


class Bell:
    """Rings readers. Never blocks, never fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        self._socket = _sender()

    def ring(self, names: Iterable[str]) -> None:
        """Send one byte to each reader."""
        for name in names:
            try:
                self._socket.sendto(BYTE, f"{self._folder}/{name}.sock")
            except OSError:
                # Nobody listens (ENOENT, ECONNREFUSED), or enough wake-ups wait there already
                # (ENOBUFS, EAGAIN). The event is committed by now: no error may reach its
                # publisher, and the reader's poll finds it.
                continue


@functools.cache
def _sender() -> socket.socket:
    """Return this process's one socket that rings: in its sandbox a worker can make no other."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
