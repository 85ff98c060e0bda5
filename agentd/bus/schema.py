"""The database file: how it is opened, and brought up to date.

The file is never touched with plain `open()`: closing any descriptor of it would drop this
process's POSIX locks, which lost a committed row when it was tried.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import apsw

from agentd.bus import ours, sql
from agentd.bus.busy import wait_for_locks
from agentd.bus.migrations import MIGRATIONS as MIGRATIONS
from agentd.errors import DamagedDatabase, NewerDatabase, StorageError
from agentd.paths import DATABASE, private_folder

BUSY_TIMEOUT_MS = 30_000
WAL_RETRY_MS = 5
# 16 MB. A checkpoint waits for the disk, and so does the commit after it: at SQLite's own 1000 that
# was every 100th publish, and 3 ms instead of 0.1.
WAL_AUTOCHECKPOINT_PAGES = 4000
# Freed pages go back to the disk a few at a time; a plain VACUUM would hold the write lock for
# seconds. Can only be chosen before the first table, and costs about 2 % of a publish.
AUTO_VACUUM_INCREMENTAL = 2
JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024  # the WAL shrinks back to this after a burst
# What can go wrong with the file while running; anything else is a mistake of ours.
OPERATIONAL = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.ProtocolError,  # who locks the write-ahead log's index stands still
    apsw.FullError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.AuthError,
    apsw.NoMemError,
)
REPAIR_HINT = "stop agentd, then `agentd doctor --repair` saves what can be read"
DAMAGED = (apsw.CorruptError, apsw.NotADBError)  # trying again is of no use
_HINTS: dict[type[apsw.Error], str] = {
    apsw.BusyError: "another program holds its lock; `agentd doctor` says which",
    apsw.ProtocolError: "another program holds its lock; `agentd doctor` says which",
    apsw.FullError: "free some disk space",
    apsw.CorruptError: REPAIR_HINT,
    apsw.NotADBError: "stop agentd, then `agentd backup --restore FILE`; or move the file away",
    apsw.ReadOnlyError: "make the file and its folder writable",
    apsw.CantOpenError: "make the file and its folder exist and writable",
    apsw.IOError: "is the disk full, read-only or failing? see `df` and the system's log",
}


@dataclass(frozen=True)
class Opening:
    """How a database is opened."""

    # False: not where it is missing. A new file beside the write-ahead log of one that was deleted
    # a moment ago would confuse both.
    create: bool = True
    busy_ms: int = BUSY_TIMEOUT_MS  # how long a statement waits for a lock
    # True: a commit returns when the disk itself has it, so that a power failure takes nothing
    # back. False: it may take back the last commits, in order.
    full_sync: bool = False
    # True: nothing is written, not even what a reader of a write-ahead log may write. The tables
    # have to be there, and up to date.
    read_only: bool = False


OPENING = Opening()


def connect(path: Path, opening: Opening = OPENING) -> apsw.Connection:
    """Open the database, create it and its folder if needed, and bring its tables up to date.

    Raises:
        DamagedDatabase: it is damaged, or no database.
        NewerDatabase: a newer agentd wrote it. Nothing was changed.
        StorageError: it cannot be opened or is no database.
    """
    if path.parts[-2:] == Path(DATABASE).parts and path.is_symlink():
        # Workers write in that folder, and only there: who opens it may be none of them.
        raise StorageError("a link is in the database's place", where=str(path), hint="remove it")
    try:
        if opening.create and not opening.read_only:
            private_folder(path.parent)
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if opening.create else 0)
        if opening.read_only:
            flags = apsw.SQLITE_OPEN_READONLY
        db = apsw.Connection(str(path), flags=flags)
        try:
            wait_for_locks(db, opening.busy_ms)
            ours.check(db, path, len(MIGRATIONS))
            _check_version(db, path)
            if opening.read_only:
                _pragmas_of_a_reader(db)
                return db
            if _version(db) == 0:
                path.chmod(0o600)  # events are private; SQLite gives -wal and -shm the same mode
                db.pragma("auto_vacuum", AUTO_VACUUM_INCREMENTAL)
            _pragmas(db, opening)
            _migrate(db, path)
        except BaseException:
            db.close()
            raise
    except OPERATIONAL as error:
        raise storage_error(error, path) from error
    except apsw.SQLError as error:
        raise ours.foreign(path, str(error)) from error
    except OSError as error:
        hint = _HINTS[apsw.CantOpenError]
        raise StorageError(
            f"cannot be created: {error.strerror}", where=str(path), hint=hint
        ) from error
    return db


def storage_error(error: apsw.Error, path: Path | str) -> StorageError:
    """Say what went wrong with the file and what to do."""
    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")
    if isinstance(error, DAMAGED):
        return DamagedDatabase(f"the database is damaged: {error}", where=str(path), hint=hint)
    return StorageError(f"the database cannot be used: {error}", where=str(path), hint=hint)


def _pragmas(db: apsw.Connection, opening: Opening) -> None:
    # Entering WAL wants the file for itself, and SQLite does not always use the busy timeout for
    # that: 8 processes in a fresh home gave 5 % "database is locked".
    deadline = time.monotonic() + opening.busy_ms / 1000
    while db.pragma("journal_mode") != "wal":
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            apsw.sleep(WAL_RETRY_MS)
    db.pragma("synchronous", "FULL" if opening.full_sync else "NORMAL")
    # macOS: fsync alone leaves data in the disk's cache, in any order. A checkpoint is rare and
    # must not tear the file; a commit is frequent and waits only where asked to. No-ops elsewhere.
    db.pragma("checkpoint_fullfsync", True)
    db.pragma("fullfsync", opening.full_sync)
    db.pragma("foreign_keys", True)
    db.pragma("journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES)
    db.wal_autocheckpoint(WAL_AUTOCHECKPOINT_PAGES)
    _pragmas_of_a_reader(db)


def _pragmas_of_a_reader(db: apsw.Connection) -> None:
    db.pragma("temp_store", "MEMORY")  # a worker's sandbox has no folder for SQLite's own files
    # APSW's SQLite is built with STAT4: without this it compiles a statement anew whenever a value
    # compared with an indexed column changes, which is every call (21 us instead of 4 for `next`).
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _version(db: apsw.Connection) -> int:
    version = db.pragma("user_version")
    assert isinstance(version, int)
    return version


def _check_version(db: apsw.Connection, path: Path) -> None:
    version = _version(db)
    if version > len(MIGRATIONS):
        raise NewerDatabase(
            f"written by a newer agentd (schema {version}; this one knows {len(MIGRATIONS)})",
            where=str(path),
            hint="update agentd, or set AGENTD_HOME to another folder",
        )


def _migrate(db: apsw.Connection, path: Path) -> None:
    while _version(db) < len(MIGRATIONS):
        db.execute(sql.BEGIN)
        try:
            _check_version(db, path)
            version = _version(db)  # again, under the lock: another process may have been faster
            if version < len(MIGRATIONS):
                MIGRATIONS[version](db)
                db.pragma("user_version", version + 1)
            db.execute(sql.COMMIT)
        except BaseException:
            if db.in_transaction:
                db.execute(sql.ROLLBACK)
            raise
