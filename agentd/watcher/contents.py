"""What is in a file, as a fingerprint: the same content, the same fingerprint, whatever its name.

Of a file beyond WHOLE_BYTES only its size, beginning and end are read: a film is not worth a minute
of the disk, and what changes one without changing these three is no new file.
"""

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from agentd.watcher.look import File, stamp_of

WHOLE_BYTES = 16 * 1024 * 1024
EDGE_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
DIGITS = 32
FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def fingerprint(file: File, progress: Callable[[], None]) -> str | None:
    """Return a file's fingerprint; None while somebody writes it, or where it has just changed.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(file.path, FLAGS)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stamp_of(status) != file.stamp:
            return None
        if _is_written(descriptor):
            return None
        digest = hashlib.sha256(f"{status.st_size} ".encode())
        if status.st_size <= WHOLE_BYTES:
            _add(digest, descriptor, status.st_size, progress)
        else:
            _add(digest, descriptor, EDGE_BYTES, progress)
            os.lseek(descriptor, -EDGE_BYTES, os.SEEK_END)
            _add(digest, descriptor, EDGE_BYTES, progress)
        same = stamp_of(os.fstat(descriptor)) == file.stamp
        return digest.hexdigest()[:DIGITS] if same else None
    finally:
        os.close(descriptor)


def _add(
    digest: "hashlib._Hash", descriptor: int, limit: int, progress: Callable[[], None]
) -> None:
    while limit > 0 and (data := os.read(descriptor, min(limit, CHUNK_BYTES))):
        digest.update(data)
        limit -= len(data)
        progress()


def _is_written(descriptor: int) -> bool:
    """Whether somebody has the file open for writing, where the system tells.

    On Linux nobody gets a lease for reading then. It is given back at once: whoever opens the file
    meanwhile waits for that.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:  # another's file, or a file system without leases
        return False
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
