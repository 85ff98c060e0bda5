"""One connection with short transactions: what bus, dead letters and sessions share."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from agentd.bus import schema, sql


class Database:
    """A connection for one thread. Every SELECT is fetched at once, every transaction is short.

    `begun`, `committed` and `rolled_back` are called around the outermost transaction.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = schema.connect(path)
        self.begun: Callable[[], None] = _nothing
        self.committed: Callable[[], None] = _nothing
        self.rolled_back: Callable[[], None] = _nothing
        self._joined = Transaction(self)
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._joined.depth > 0

    def transaction(self) -> "Transaction":
        """Return a context manager: BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when it raises.

        A transaction inside another one joins it.
        """
        return self._joined

    def run(self, statement: str, arguments: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """Run one statement and return all its rows.

        Raises:
            StorageError: the file is full, locked, damaged or not writable.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("a Bus belongs to the thread that opened it: open another one")
        try:
            # Fetched whole: an unfinished SELECT would pin the WAL, which then only grows.
            return self.connection.execute(statement, arguments).fetchall()
        except schema.OPERATIONAL as error:
            raise schema.storage_error(error, self.path) from error


class Transaction:
    """A connection's transaction; entered again inside itself, it goes on."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._doomed = False
        self.depth = 0

    def __enter__(self) -> None:
        if self.depth == 0:
            self._doomed = False
            self._db.run(sql.BEGIN)
            self._db.begun()
        self.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.depth -= 1
        if kind is not None:
            self._doomed = True
        if self.depth:
            return
        try:
            if not self._doomed:
                self._db.run(sql.COMMIT)
        except BaseException:
            self._doomed = True
            raise
        finally:
            if self._doomed:
                # A full disk makes SQLite roll back by itself.
                if self._db.connection.in_transaction:
                    self._db.run(sql.ROLLBACK)
                self._db.rolled_back()
        if not self._doomed:
            self._db.committed()
        elif kind is None:
            raise RuntimeError("a transaction inside this one failed; nothing was written")


def _nothing() -> None:
    pass
