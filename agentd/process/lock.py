"""Locked files that say who holds them."""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from agentd.clock import Clock, iso
from agentd.process.until import until

LOOKS_S = 1.0  # for those who only look (`held`) to be done: each takes microseconds
LOOKS_STEP_S = 0.001  # flock has no wait with a deadline


class LockFile:
    """A locked file that records who holds it: JSON with pid, pgid and started.

    The descriptor that a child inherits cannot write: whose group is killed, if it will not die, is
    for who started it to say.

    The kernel drops the lock with its last holder, whatever killed it, so a held lock proves that
    the recorded process lives; a pid alone could be someone else's by now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1

    def acquire(self) -> bool:
        """Take the lock and clear the record. False: another process holds it.

        Who only looks whether it is held has a share of it for a moment, and is waited for: else
        `agentd status` could keep a daemon from starting, or end one that makes its lock again.

        Again, where somebody removed the file: the one that has its name now.

        Raises:
            OSError: the file cannot be opened.
        """
        fd = os.open(self.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _locked(fd):
            os.close(fd)
            return False
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.path, 0)
        self.close()
        self.fd = fd
        return True

    @property
    def in_place(self) -> bool:
        """Whether the file of this name is still the one that is locked."""
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.stat())
        except OSError:
            return False

    def held(self) -> bool:
        """Whether some process holds the lock; nothing is changed."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def record(self, pid: int, *, clock: Clock, **more: Any) -> None:
        """Write who holds the lock. On a full disk the record stays empty; the lock still holds."""
        record = {"pid": pid, "pgid": pid, "started": iso(clock.now()), **more}
        text = json.dumps(record).encode()
        with contextlib.suppress(OSError), self.path.open("r+b") as file:
            file.write(text)
            file.truncate()  # the record before may have been longer

    def holder(self) -> dict[str, Any]:
        """Return what the holder recorded, {} where nothing legible is."""
        try:
            found = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Close this process's handle. A child that inherited it holds the lock further."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _locked(fd: int) -> bool:
    """Lock an open file for ourselves alone; False: another has it so, or looks for too long."""
    for _ in until(LOOKS_S, LOOKS_STEP_S):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)  # else two that want it would wait for each other
    return False
