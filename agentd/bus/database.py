"""One connection with short transactions: what all parts of the bus and the sessions share.

What is SQLite's own stands here and in `schema`: a part that writes knows statements (`sql`) alone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import apsw

from agentd.bus import ours, schema, sql
from agentd.errors import DamagedDatabase, RowRefused

# What a rule of the tables refuses, or JSON that nests deeper than SQLite reads.
REFUSED = (apsw.ConstraintError, apsw.SQLError)

# A longer text goes on over other pages, which no checksum guards. In a shorter one what is no text
# was written so, by a person's hand: SQLite stores any bytes.
PAGE_BYTES = 4096


class Undecodable(DamagedDatabase):
    """A text that is none, but no damage; `Database.read` gives it as bytes."""


class Watcher:
    """Hears of transactions; of those inside another one, only the outermost counts."""

    def begun(self) -> None:
        """Nothing is written yet."""

    def committed(self) -> None:
        """All that it wrote is there for everybody."""

    def rolled_back(self) -> None:
        """Nothing of what it wrote is there."""


class Database:
    """A connection for one thread. Every SELECT is fetched at once, every transaction is short."""

    def __init__(self, path: Path, opening: schema.Opening = schema.OPENING) -> None:
        self.path = path
        self.connection = schema.connect(path, opening)
        self.read_only = opening.read_only
        self.watchers: list[Watcher] = []
        self._joined = Transaction(self)
        self._words: apsw.FTS5Tokenizer | None = None
        self._thread = threading.get_ident()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def watch(self, watcher: Watcher) -> None:
        """Tell a watcher of every transaction from now on; not from the middle of one."""
        assert not self.in_transaction
        self.watchers.append(watcher)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._joined.depth > 0

    def transaction(self) -> "Transaction":
        """Return a context manager: BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when it raises.

        A transaction inside another one joins it.
        """
        return self._joined

    def checkpoint(self) -> tuple[int, int]:
        """Write the log back into the file; return its pages and how many were written back.

        Fewer were where somebody still reads what they would overwrite. Nobody waits for it.

        Raises:
            DamagedDatabase, StorageError: as `run`.
        """
        with errors(self.path):
            return self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def version(self) -> int:
        """Return a number that is another one once another connection has committed something."""
        with errors(self.path):
            found = self.connection.pragma("data_version")
        assert isinstance(found, int)
        return found

    def one_file(self) -> None:
        """Write the log back and do without one, so that the file alone can be renamed."""
        with errors(self.path):
            self.connection.pragma("journal_mode", "delete")

    def run(self, statement: str, arguments: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """Run one statement and return all its rows.

        Raises:
            DamagedDatabase: the file is damaged.
            RowRefused: a rule of the tables, or a trigger, does not let it be written.
            StorageError: the file is full, locked or not writable.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError("a Bus belongs to the thread that opened it: open another one")
        try:
            # Fetched whole: an unfinished SELECT would pin the WAL, which then only grows.
            return self.connection.execute(statement, arguments).fetchall()
        except schema.OPERATIONAL as error:
            raise schema.storage_error(error, self.path) from error
        except REFUSED as error:
            if ours.LACKS.match(str(error)):
                raise ours.foreign(self.path, str(error)) from error
            raise RowRefused(
                f"the database refused the row: {error}",
                where=str(self.path),
                hint="did somebody add a trigger, a view or a rule to its tables?",
            ) from error
        except UnicodeDecodeError as error:
            kind = Undecodable if len(error.object) < PAGE_BYTES else DamagedDatabase
            raise kind(
                f"the database is damaged: it holds text that is none ({error.reason})",
                where=str(self.path),
                hint=schema.REPAIR_HINT,
            ) from error

    def read(
        self, statement: str, arguments: Sequence[Any] | dict[str, Any], columns: str
    ) -> list[Any]:
        """As `run`, for a SELECT of these columns; a text that is none comes as bytes."""
        try:
            return self.run(statement, arguments)
        except Undecodable:
            rows = self.run(sql.undecoded(statement, columns), arguments)
            return [tuple(_text(value) for value in row) for row in rows]

    def insert(self, statement: str, arguments: Sequence[Any]) -> int:
        """As `run`, for an INSERT of one row: return its id, 0 where nothing was written."""
        self.run(statement, arguments)
        return self.connection.last_insert_rowid() if self.connection.changes() else 0

    def change(self, statement: str, arguments: Sequence[Any]) -> int:
        """As `run`, for an INSERT, UPDATE or DELETE: return how many rows it was about."""
        self.run(statement, arguments)
        return self.connection.changes()

    def tokens(self, text: str) -> list[str]:
        """Return a text's words as the index of words has them: lower case, without accents."""
        if self._words is None:
            self._words = self.connection.fts5_tokenizer("unicode61", ["remove_diacritics", "2"])
        found = self._words(
            text.encode(),
            apsw.FTS5_TOKENIZE_QUERY,
            None,
            include_offsets=False,
            include_colocated=False,
        )
        return [str(word) for word in found]

    def strict_json(self, text: str) -> str:
        """Return JSON5, which the tables let pass, as JSON.

        Raises:
            ValueError: it is neither.
        """
        try:
            return str(self.run(sql.STRICT_JSON, (text,))[0][0])
        except RowRefused as error:
            raise ValueError(str(error.__cause__)) from error


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """Say what goes wrong with this file as an error of ours.

    Raises:
        DamagedDatabase, StorageError: something did.
    """
    try:
        yield
    except schema.OPERATIONAL as error:
        raise schema.storage_error(error, path) from error


def _text(value: Any) -> Any:
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


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
            for watcher in self._db.watchers:
                watcher.begun()
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
                for watcher in self._db.watchers:
                    watcher.rolled_back()
        if not self._doomed:
            for watcher in self._db.watchers:
                watcher.committed()
        elif kind is None:
            raise RuntimeError("a transaction inside this one failed; nothing was written")


class _Part(Protocol):
    """What has a database."""

    @property
    def db(self) -> Database: ...


P = ParamSpec("P")
Self = TypeVar("Self", bound=_Part)
T = TypeVar("T")


def atomic(method: Callable[Concatenate[Self, P], T]) -> Callable[Concatenate[Self, P], T]:
    """Make a method one transaction: all that it writes, or nothing.

    It reads all that it goes by inside, and what it keeps in memory a watcher takes back: after a
    transaction that failed it can run again.
    """

    @wraps(method)
    def run(self: Self, /, *args: P.args, **keys: P.kwargs) -> T:
        with self.db.transaction():
            return method(self, *args, **keys)

    return run
