"""What of approvals must not stand in the database: what a person saw, and which yes was used.

Whoever writes to the database could else show one thing and have another one allowed, or let a yes
be obeyed again: by its old rows, or by an older copy as a whole. It is kept beside the key.
"""

from collections.abc import Iterable
from pathlib import Path

from agentd.errors import storage_errors
from agentd.paths import Paths
from agentd.whole import write_whole

SEEN, USED = "seen", "used"  # files of digests, one a line (`sessions.asked`)
USED_KEPT = 10_000  # the newest ones; an older yes has long expired


def note_seen(paths: Paths, asked: Iterable[str]) -> None:
    """Keep what a person is shown now, and nothing else.

    Raises:
        StorageError: it cannot be written.
    """
    _write(paths.keys / SEEN, asked)


def seen(paths: Paths) -> frozenset[str]:
    """Return what a person was shown last.

    Raises:
        StorageError: it cannot be read.
    """
    return frozenset(_read(paths.keys / SEEN))


def use(paths: Paths, asked: str) -> bool:
    """Note that the yes to this is used now; False: it was used before.

    Raises:
        StorageError: it cannot be noted, and so must not be used.
    """
    used = _read(paths.keys / USED)
    if asked in used:
        return False
    _write(paths.keys / USED, [*used, asked][-USED_KEPT:])
    return True


def _read(file: Path) -> list[str]:
    with storage_errors(file, "make it readable, or remove it"):
        return file.read_text().split() if file.exists() else []


def _write(file: Path, lines: Iterable[str]) -> None:
    with storage_errors(file, "make room, or make the folder writable"):
        write_whole(file, "".join(f"{line}\n" for line in lines))
