"""The database's file as seen from outside: its size, its write-ahead log, who holds it.

Nothing here opens one of its files: closing a descriptor of them drops this process's own locks.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from agentd.bus import schema, sql
from agentd.bus.busy import wait_for_locks
from agentd.bus.database import errors
from agentd.bus.schema import JOURNAL_SIZE_LIMIT_BYTES
from agentd.errors import DamagedDatabase, NewerDatabase, StorageError
from agentd.storage.database_files import shm_of, wal_of

# The log is cut back to that after a burst; more than this beside it is a reader's doing.
WAL_MUCH_BYTES = JOURNAL_SIZE_LIMIT_BYTES + 16 * 1024 * 1024
FREE_LOW_BYTES = 20_000_000  # less free disk than this is worth a word before it runs out
LSOF_S = 10.0

# Bytes of the -shm file that SQLite locks (https://sqlite.org/walformat.html#locks).
LOCK_WRITE, LOCK_READ_FIRST, LOCK_READ_LAST = 120, 123, 127


@dataclass(frozen=True)
class Sizes:
    """Bytes on disk. `free` is what this user may still write there."""

    database: int
    wal: int
    free: int


def sizes(database: Path) -> Sizes:
    """Return the sizes of the database, its log, and the free disk beside them.

    Raises:
        OSError: the folder is not there.
    """
    return Sizes(_size(database), _size(wal_of(database)), shutil.disk_usage(database.parent).free)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True)
class Holders:
    """Processes that use the database now, by pid. Only Linux tells who reads and who writes."""

    open: frozenset[int] = frozenset()
    writing: frozenset[int] = frozenset()  # in a transaction that holds the write lock
    reading: frozenset[int] = field(default_factory=frozenset)  # in a transaction that reads


def holders(database: Path) -> Holders:
    """Return who has the database open, as far as this user may see it."""
    if sys.platform == "linux":
        writing, reading = _locks(shm_of(database))
        return Holders(_open_linux(database), writing, reading)
    return Holders(_open_lsof(database))


def _open_linux(database: Path) -> frozenset[int]:
    wanted = str(database.resolve())
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            links = list((process / "fd").iterdir())
        except OSError:
            continue  # another user's, or gone meanwhile
        for link in links:
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.removesuffix(" (deleted)") == wanted:
                found.add(int(process.name))
                break
    return frozenset(found)


def _open_lsof(database: Path) -> frozenset[int]:
    try:
        done = subprocess.run(
            ["lsof", "-t", "--", str(database)],
            capture_output=True,
            text=True,
            timeout=LSOF_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(int(word) for word in done.stdout.split() if word.isdigit())


def _locks(shm: Path) -> tuple[frozenset[int], frozenset[int]]:
    """Return who holds the write lock, and who holds a reader's mark: from /proc/locks."""
    writing, reading = set(), set()
    try:
        status = shm.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return frozenset(), frozenset()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        # 1: POSIX  ADVISORY  WRITE 4242 fd:00:131 120 120
        words = line.split()
        if len(words) < 8 or words[5] != place or not words[4].isdigit():
            continue
        first, last, pid = int(words[6]), words[7], int(words[4])
        end = int(last) if last.isdigit() else first
        if words[3] == "WRITE" and first <= LOCK_WRITE <= end:
            writing.add(pid)
        elif words[3] == "READ" and first <= LOCK_READ_LAST and end >= LOCK_READ_FIRST:
            reading.add(pid)
    return frozenset(writing), frozenset(reading)


def command_of(pid: int) -> str:
    """Return a process's command line for people, "" where it cannot be seen."""
    done = subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        timeout=LSOF_S,
        check=False,
    )
    return done.stdout.strip()


BUSY_MS = 5_000


def sqlite_version() -> str:
    """Return the version of the SQLite in us."""
    return apsw.sqlite_lib_version()


def wrongs(path: Path) -> list[str]:
    """Return what is wrong with the file and its indexes, at most some; [] for nothing.

    Raises:
        NewerDatabase: a newer agentd wrote it.
        DamagedDatabase: not even that can be told.
        StorageError: it cannot be looked at now; that says nothing about what it holds.
    """
    with opened(path) as db:
        version = db.pragma("user_version")
        if isinstance(version, int) and version > len(schema.MIGRATIONS):
            raise NewerDatabase("a newer agentd wrote it", where=str(path), hint="update agentd")
        found = [str(row[0]) for row in db.execute(sql.INTEGRITY_CHECK).fetchall()]
    return [] if found == ["ok"] else found


def sound(path: Path) -> bool:
    """Whether nothing is wrong, and all its text is text, which no check of SQLite's tells.

    Raises:
        NewerDatabase, StorageError: as `wrongs`.
    """
    try:
        if wrongs(path):
            return False
        with opened(path) as db:
            for (table,) in db.execute(sql.TABLES).fetchall():
                for _ in db.execute(f"SELECT * FROM {table}"):
                    pass
    except (DamagedDatabase, UnicodeDecodeError):
        return False
    return True


def newest_event(path: Path) -> str | None:
    """Return when the newest event was created; None where that cannot be told."""
    try:
        with opened(path) as db:
            rows = db.execute(sql.NEWEST_EVENT).fetchall()
    except (StorageError, apsw.SQLError):
        return None
    return str(rows[0][0]) if rows else None


@contextmanager
def opened(
    path: Path, *, busy_ms: int = BUSY_MS, flags: int = apsw.SQLITE_OPEN_READWRITE
) -> Iterator[apsw.Connection]:
    """Open a database that is there, as it is: nothing in it is brought up to date.

    Raises:
        DamagedDatabase, StorageError: it cannot be opened, or something goes wrong meanwhile.
    """
    with errors(path), closing(apsw.Connection(str(path), flags=flags)) as db:
        wait_for_locks(db, busy_ms)
        yield db
