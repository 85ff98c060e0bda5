"""Whole copies of the database: written beside their place, checked, renamed into it.

`VACUUM INTO` reads one snapshot while others write; copying the file would miss what is still in
the write-ahead log, and SQLite's backup API starts anew at every write and never ends.
"""

import contextlib
import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw

from agentd.bus import schema, sql
from agentd.bus.database import Database, errors
from agentd.clock import Clock
from agentd.config.odd_files import no_file
from agentd.errors import DamagedDatabase, StorageError, UsageError, storage_errors
from agentd.storage.database_files import shm_of, wal_of
from agentd.storage.health import opened
from agentd.whole import PARTIAL, put_in_place

PARTIAL_OLD_S = 3600.0  # what is older was left by a process that was killed
EXCLUSIVE_MS = 2_000  # for others to be done with a database that is to be replaced
STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Copy:
    """A copy that was written and checked."""

    path: Path
    bytes: int
    last_event_id: int


def backup(database: Path, target: Path, *, force: bool = False) -> Copy:
    """Copy the database to `target` while others use it; check the copy before it gets that name.

    Raises:
        UsageError: `target` exists, and `force` was not given.
        DamagedDatabase: the database, and so the copy, is damaged.
        StorageError: there is no database, or the copy cannot be written.
    """
    if target.exists() and not force:
        raise UsageError("is there already", where=str(target), hint="choose another, or --force")
    try:
        with opened(database, busy_ms=schema.BUSY_TIMEOUT_MS) as source:
            return copy(source, target, force=force)
    except FileExistsError as error:
        raise UsageError("is there already", where=str(target), hint="or --force") from error


def copy(source: apsw.Connection, target: Path, *, force: bool = False) -> Copy:
    """Copy an open database to `target`; see `backup`.

    Raises:
        FileExistsError: `target` exists, and `force` was not given.
        DamagedDatabase, StorageError: as `backup`.
    """
    _sweep(target)
    sizes: list[Any] = source.execute(sql.SIZE).fetchall()
    need = (sizes[0][0] - sizes[0][1]) * sizes[0][2]
    partial = target.with_name(f".{target.name}.{os.getpid()}{PARTIAL}")
    try:
        free = shutil.disk_usage(target.parent).free
        if free < need:
            raise StorageError(
                f"needs {need // 1_000_000} MB of disk, {free // 1_000_000} MB are free",
                where=str(target),
                hint="make room, or name a file on another disk",
            )
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # it is private
        with errors(partial):
            source.execute(sql.COPY, (str(partial),)).fetchall()
        last_event_id = check(partial)
        size = partial.stat().st_size
        put_in_place(partial, target, new=not force)
        return Copy(target, size, last_event_id)
    except FileExistsError:
        raise
    except OSError as error:
        raise StorageError(
            f"the copy cannot be written: {error.strerror}",
            where=str(target),
            hint="name a file in a folder that is there and writable",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def restore(file: Path, database: Path, clock: Clock) -> tuple[Copy, Path | None]:
    """Put what a copy holds in the database's place; return it, and where the old one is now.

    Ids that were given since are not given again, where the old one can still tell. The home's
    lock must be held, as for a repair.

    Raises:
        UsageError: there is no such file.
        DamagedDatabase: the copy is damaged, or none of ours; nothing was changed.
        NewerDatabase: a newer agentd wrote the copy; nothing was changed.
        StorageError: the database is in use, or the disk is full.
    """
    if not file.is_file():
        raise UsageError(no_file(file), where=str(file))
    check(file)
    new = stamped(database, "restored", clock.now())
    kept = stamped(database, "replaced", clock.now()) if database.exists() else None
    try:
        with opened(file, busy_ms=0, flags=apsw.SQLITE_OPEN_READONLY) as source:
            copied = copy(source, new)
        if kept is None:
            _adopt(new, {})
            replace(database, new, None)
            return Copy(database, copied.bytes, copied.last_event_id), None
        try:
            with alone(database) as old:
                _adopt(new, _counts(old))
                replace(database, new, kept)
        except DamagedDatabase:  # that is why it is restored
            _adopt(new, {})
            replace(database, new, kept)
        return Copy(database, copied.bytes, copied.last_event_id), kept
    finally:
        new.unlink(missing_ok=True)


def _counts(db: apsw.Connection) -> dict[str, int]:
    """Return the highest id that each table ever gave."""
    rows: list[Any] = db.execute(sql.COUNTS).fetchall()
    return {name: int(last) for name, last in rows}


def _adopt(new: Path, counts: dict[str, int]) -> None:
    """Bring a copy up to date, and let its ids go on after the old ones."""
    with contextlib.closing(Database(new)) as db:
        for table, last in counts.items():
            db.run(sql.START_COUNT, (table, table))
            db.run(sql.RAISE_COUNT, (last, table))
        db.one_file()


def check(path: Path) -> int:
    """Check a database that nobody writes, and return the highest id of its events.

    Raises:
        DamagedDatabase: it is damaged, or none of ours.
    """
    with opened(path, busy_ms=0, flags=apsw.SQLITE_OPEN_READONLY) as db:
        verdict = db.execute(sql.QUICK_CHECK).fetchall()
        if verdict != [("ok",)]:
            raise DamagedDatabase(f"this copy is damaged: {verdict[0][0]}", where=str(path))
        try:
            found: list[Any] = db.execute(sql.LAST_ID).fetchall()
        except apsw.SQLError as error:
            raise DamagedDatabase("is no database of agentd", where=str(path)) from error
    return int(found[0][0]) if found else 0


@contextmanager
def alone(database: Path) -> Iterator[apsw.Connection]:
    """Hold a database that nobody else has open, its log written back into the file.

    Raises:
        DamagedDatabase: not even its first page can be read.
        StorageError: somebody else has it open.
    """
    with opened(database, busy_ms=EXCLUSIVE_MS) as db:
        db.pragma("locking_mode", "exclusive")
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        yield db


def replace(database: Path, new: Path, kept: Path | None) -> None:
    """Put `new` in the database's place; what was there, if anything, stays as `kept`.

    Only while `alone` holds it, or where it cannot be opened at all. At every instant the place
    holds the old one or the new one.

    Raises:
        StorageError: a file cannot be renamed.
    """
    with storage_errors(database, str(new), "cannot be put in its place"):
        if kept is not None:
            for old, name in ((database, kept), (wal_of(database), wal_of(kept))):
                if old.exists() and old.stat().st_size:
                    name.hardlink_to(old)
        # A log that was left lying here would be replayed into the new file.
        wal_of(database).unlink(missing_ok=True)
        shm_of(database).unlink(missing_ok=True)
        put_in_place(new, database)


def stamped(path: Path, what: str, now: datetime) -> Path:
    """Return the path with a word and a moment, and a number where that is taken."""
    name = f"{path.name}.{what}-{now.strftime(STAMP)}"
    found, number = path.with_name(name), 1
    while found.exists():
        number += 1
        found = path.with_name(f"{name}-{number}")
    return found


def _sweep(target: Path) -> None:
    """Remove what copies of this name left that were killed."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*{PARTIAL}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > PARTIAL_OLD_S:
                left.unlink()
