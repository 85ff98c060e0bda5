"""The files that a database is made of while it is open: itself, its log, the log's index.

Where one of them lost its name, who opens the database next gets another file of that name, and
SQLite does not notice: the two overwrite what the other has committed. So the supervisor names its
files in the home's lock, and all others compare before they write and after.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentd.bus import Bus, Opening
from agentd.clock import Clock
from agentd.errors import StorageError
from agentd.paths import Paths
from agentd.process.lock import LockFile

NAMED = "database"  # in the lock's record

Files = dict[str, str]  # by name, which file that is; "" where there is none


def wal_of(database: Path) -> Path:
    """Return the write-ahead log beside a database."""
    return database.with_name(f"{database.name}-wal")


def shm_of(database: Path) -> Path:
    """Return the log's index beside a database."""
    return database.with_name(f"{database.name}-shm")


def files_of(database: Path) -> Files:
    """Return which files the database is made of now."""
    return {path.name: _which(path) for path in (database, wal_of(database), shm_of(database))}


def moved(database: Path, files: Files) -> Path | None:
    """Return the first of these files that has lost its name, None while all are in place."""
    paths = (database.with_name(name) for name in files)
    return next((path for path in paths if not in_place(path, files)), None)


def in_place(path: Path, files: Files) -> bool:
    """Whether this name still leads to that file; also where that cannot be seen now."""
    try:
        return files[path.name] != "" and files[path.name] == _which(path)
    except OSError:
        return True


def open_bus(paths: Paths, opening: Opening, clock: Clock | None = None) -> Bus:
    """Open the home's bus, if it is the one that the daemon has open.

    Raises:
        StorageError: it is not, or as for `Bus`.
    """
    check(paths)  # first: what opens it may make a file anew
    bus = Bus(paths.database, clock=clock, wake=paths.wake, opening=opening)
    try:
        check(paths)
    except StorageError:
        bus.close()
        raise
    return bus


def check(paths: Paths) -> None:
    """Make sure that who opens the database now opens the files that a running daemon has open.

    Raises:
        StorageError: one was removed or replaced.
    """
    lock = LockFile(paths.lock)
    named = _named(lock)
    gone = moved(paths.database, named)
    # Read again: a supervisor that stops in order first takes the names back.
    if gone is not None and lock.held() and _named(lock) == named:
        raise removed(gone, "agentd saves what it held and ends: start it again, then try again")


@contextmanager
def files_stay(bus: Bus) -> Iterator[None]:
    """What is committed inside lies in files that still have their names, so it will be kept.

    Raises:
        StorageError: it may be lost.
    """
    files = files_of(bus.db.path)
    yield
    if (gone := moved(bus.db.path, files)) is not None:
        raise removed(gone, "this may be lost: look whether it was done before you do it again")


def removed(path: Path, hint: str) -> StorageError:
    """Return the error of a file that went from under us."""
    what = "this file was removed or replaced while agentd ran"
    return StorageError(what, where=str(path), hint=hint)


def _named(lock: LockFile) -> Files:
    found = lock.holder().get(NAMED)
    return found if isinstance(found, dict) else {}


def _which(path: Path) -> str:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{status.st_dev}:{status.st_ino}"
