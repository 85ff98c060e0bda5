"""Wake-ups: one byte to a reader's datagram socket after a commit.

The cursor poll stays the truth; a lost wake-up costs only delay (0.35 ms against the poll's
seconds), so nothing here may block or fail a caller.
"""

import contextlib
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


class Ear:
    """A reader's ear: a bound datagram socket to wait on."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = socket_path(folder, name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()  # a dead worker's; a living one holds the lock on its name
            self._socket.bind(str(self.path))
            self._inode = self.path.stat().st_ino
        except OSError as error:
            self._socket.close()
            raise StorageError(
                f"cannot make the wake-up socket: {error}",
                where=str(self.path),
                hint="make its folder writable, and its path shorter than 104 bytes",
            ) from error

    @property
    def in_place(self) -> bool:
        """Whether a ring still reaches it; somebody may have removed its file."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

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
            self.path.unlink(missing_ok=True)


class Bell:
    """Rings readers. Never blocks, never fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

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

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
