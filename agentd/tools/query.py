"""A read-only query on a SQLite file: of a program that runs, or of anybody.

SQLite itself keeps it from writing, three times: the file is opened to be read, `query_only` is on,
and an authorizer refuses all but SELECT. What the file's own schema may do (views, virtual tables,
functions) is held to SQLite's rules for files of others: https://sqlite.org/security.html
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from agentd.errors import ToolError
from agentd.events import Result
from agentd.tools.base import TEXT_CHARACTERS, ToolCall, clean_line, cut_text
from agentd.tools.files import told
from agentd.tools.place import check_regular, folder_of, locate
from agentd.whole import read_start

SQL_CHARACTERS = 2_000
ROW_BYTES = 64_000_000  # of one row, which is in memory as a whole
ROWS = 50
CELL_CHARACTERS = 500
NAME_CHARACTERS = 100  # of a column or table
TABLES = 40  # named where a query names one that is not there
TIME_S = 5.0  # of one query
BUSY_MS = 1_000  # for a program that writes
STEPS = 1_000  # of SQLite's machine, between looks at the clock
BESIDE = ("-wal", "-shm", "-journal")
MISSING = "the newest changes may be missing: a program's log beside the file cannot be read"
ALLOWED = frozenset(
    (apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE)
)
# Of SQLite, its command line and common extensions: none is needed, most are not there at all.
FUNCTIONS = frozenset(
    {
        *("load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "fsdir"),
        *("randomblob", "zeroblob"),
    }
)
# What tells of tables; the other pragmas set something. The last one is full-text tables' own.
PRAGMAS = frozenset({"table_info", "table_xinfo", "table_list", "index_list", "data_version"})
LIMITS = {
    apsw.SQLITE_LIMIT_LENGTH: 1_000_000,  # of one text or row, in bytes
    apsw.SQLITE_LIMIT_SQL_LENGTH: 100_000,  # also of the file's own schema
    apsw.SQLITE_LIMIT_COLUMN: 500,
    apsw.SQLITE_LIMIT_EXPR_DEPTH: 100,
    apsw.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    apsw.SQLITE_LIMIT_VDBE_OP: 50_000,
    apsw.SQLITE_LIMIT_ATTACHED: 0,
    apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    apsw.SQLITE_LIMIT_TRIGGER_DEPTH: 10,
}


def query(call: ToolCall, path: str, sql: str) -> Result:
    """Give the columns and the first rows of one SELECT."""
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.readable, marks)
    with told(place):
        if not place.parts:
            raise ToolError("is a folder; name a file")
        name = place.parts[-1]
        with folder_of(place, place.parts[:-1], marks) as folder:
            check_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), marks)
            for end in BESIDE:  # SQLite opens them as well
                with suppress(FileNotFoundError):
                    check_regular(os.stat(name + end, dir_fd=folder, follow_symlinks=False), marks)
        value: dict[str, Any] = {"path": place.name}
        with _errors(call), _opened(call, place.path, value) as db:
            value |= _asked(db, sql)
    return Result(value, trusted=False)


@contextmanager
def _errors(call: ToolCall) -> Iterator[None]:
    try:
        yield
    except apsw.NotADBError as error:
        raise ToolError("is no SQLite file, or an encrypted one") from error
    except apsw.BusyError as error:
        raise ToolError("is being written by a program; ask again") from error
    except apsw.AuthError as error:
        raise ToolError("may only be asked by one SELECT") from error
    except apsw.InterruptError as error:
        call.check()
        raise ToolError(f"needed more than {TIME_S:g} s for that; ask for less") from error
    except apsw.Error as error:
        raise ToolError(f"does not answer: {clean_line(str(error), 300)}") from error


@contextmanager
def _opened(call: ToolCall, path: str, value: dict[str, Any]) -> Iterator[apsw.Connection]:
    """Open the file; without the log beside it where that cannot be read: `value` then says so.

    A log of write-ahead has an index beside it, which only a program that writes may make. Where
    there is no log, SQLite would make an empty one.
    """
    ahead, log = read_start(path, 20)[18:] == b"\2\2", 0
    with suppress(OSError):
        log = Path(path + BESIDE[0]).lstat().st_size
    db = _connection(path, "immutable=1" if ahead and not log else "readonly_shm=1")
    try:
        try:
            _confine(call, db)  # before anything is read: a schema may have no end
            db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
            if not ahead:
                raise ToolError("was left by a program in the middle of a change") from error
            value["note"] = MISSING
            db.close()
            db = _connection(path, "immutable=1")
            _confine(call, db)
        yield db
    finally:
        db.close()


def _connection(path: str, how: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOFOLLOW
    db = apsw.Connection(f"file:{quote(os.fsencode(path))}?mode=ro&{how}", flags=flags)
    db.set_busy_timeout(BUSY_MS)
    return db


def _confine(call: ToolCall, db: apsw.Connection) -> None:
    """Let nothing be done but to look, for a while."""
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    for which, most in LIMITS.items():
        db.limit(which, most)
    db.pragma("query_only", True)
    db.pragma("cell_size_check", True)
    db.pragma("mmap_size", 0)  # a file that is cut meanwhile would end this process
    until = time.monotonic() + min(TIME_S, call.left_s)
    db.set_progress_handler(lambda: call.cancel.stopped or time.monotonic() > until, STEPS)

    def allows(what: int, one: str | None, two: str | None, *_: str | None) -> int:
        fine = what in ALLOWED or (what == apsw.SQLITE_PRAGMA and one in PRAGMAS)
        if what == apsw.SQLITE_FUNCTION and str(two).lower() in FUNCTIONS:
            fine = False
        return apsw.SQLITE_OK if fine else apsw.SQLITE_DENY

    db.authorizer = allows


def _asked(db: apsw.Connection, sql: str) -> dict[str, Any]:
    columns: list[str] = []

    def begun(cursor: apsw.Cursor, *_: Any) -> bool:
        if columns:
            raise ToolError("may only be asked by one SELECT at a time")
        columns.extend(clean_line(c[0], NAME_CHARACTERS) for c in cursor.get_description())
        most = min(LIMITS[apsw.SQLITE_LIMIT_LENGTH], ROW_BYTES // max(1, len(columns)))
        db.limit(apsw.SQLITE_LIMIT_LENGTH, most)  # it is not for the whole of a result's row
        return True

    cursor = db.cursor()
    cursor.exec_trace = begun
    rows: list[list[Any]] = []
    size, more = 0, False
    try:
        for row in cursor.execute(sql):
            cells = [_cell(value) for value in row]
            size += sum(len(str(cell)) + 3 for cell in cells)
            if len(rows) == ROWS or (rows and size > TEXT_CHARACTERS):
                more = True
                break
            rows.append(cells)
    except ValueError as error:  # a NUL in it
        raise ToolError("may only be asked by one SELECT") from error
    except apsw.SQLError as error:
        raise ToolError(f"says {clean_line(str(error), 300)}; {_tables(db)}") from error
    if not columns:
        raise ToolError("may only be asked by one SELECT")
    found: dict[str, Any] = {"columns": columns, "rows": rows}
    return found | ({"more": "these are the first rows; ask for fewer, or count"} if more else {})


def _tables(db: apsw.Connection) -> str:
    names = db.execute(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') LIMIT ?", (TABLES,)
    ).fetchall()
    listed = ", ".join(clean_line(str(name), NAME_CHARACTERS) for (name,) in names)
    return f"its tables: {listed}; SELECT sql FROM sqlite_schema tells of their columns"


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return cut_text(value, CELL_CHARACTERS)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
