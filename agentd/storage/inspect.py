"""Looks into a database from outside: whether it is sound, and what the doctor wants to know."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw

from agentd.bus import schema, sql
from agentd.errors import DamagedDatabase, NewerDatabase, StorageError

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
    with _opened(path) as db:
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
        with _opened(path) as db:
            for (table,) in db.execute(sql.TABLES).fetchall():
                for _ in db.execute(f"SELECT * FROM {table}"):
                    pass
    except (DamagedDatabase, UnicodeDecodeError):
        return False
    return True


def newest_event(path: Path) -> str | None:
    """Return when the newest event was created; None where that cannot be told."""
    try:
        with _opened(path) as db:
            rows = db.execute(sql.NEWEST_EVENT).fetchall()
    except (StorageError, apsw.SQLError):
        return None
    return str(rows[0][0]) if rows else None


@contextmanager
def _opened(path: Path) -> Iterator[apsw.Connection]:
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        with closing(db):
            db.set_busy_timeout(BUSY_MS)
            yield db
    except schema.OPERATIONAL as error:
        raise schema.storage_error(error, path) from error
