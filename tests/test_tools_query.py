"""Query: a SQLite file is asked, and nothing is written, whoever made the file and the query."""

import contextlib
import multiprocessing
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.tools import query
from agentd.tools.closed import Closed
from agentd.tools.toolbox import Toolbox


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    inside.mkdir()
    with made(inside / "a.db") as db:
        db.execute("CREATE TABLE book (title TEXT, year INT, cover BLOB)")
        db.execute("INSERT INTO book VALUES ('Emma', 1815, x'0102'), ('Ulysses', 1922, NULL)")
    return inside


@contextlib.contextmanager
def made(path: Path) -> Iterator[apsw.Connection]:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        yield db


def ask(folder: Path, sql: str, path: str = "a.db", **more: Any) -> dict[str, Any]:
    tools = Toolbox(Permissions(read=(str(folder),)), **more)
    result = tools.call("Query", {"path": path, "sql": sql})
    assert not result.trusted
    return dict(result.value)


def test_a_select_gives_columns_and_rows(folder: Path) -> None:
    """Blobs by their size; what is no number of JSON as a text; no row is no error."""
    value = ask(folder, "SELECT title, year AS y, cover FROM book ORDER BY year -- newest last")
    assert value["columns"] == ["title", "y", "cover"]
    assert value["rows"] == [["Emma", 1815, "<2 bytes>"], ["Ulysses", 1922, None]]
    assert ask(folder, "SELECT 9e999, 1.5")["rows"] == [["inf", 1.5]]
    none = ask(folder, "SELECT title FROM book WHERE year > 3000")
    assert (none["columns"], none["rows"]) == (["title"], [])
    assert ask(folder, "SELECT name FROM pragma_table_info('book')")["rows"][0] == ["title"]
    assert "CREATE TABLE book" in str(ask(folder, "SELECT sql FROM sqlite_schema")["rows"])


def test_what_comes_is_bounded(folder: Path) -> None:
    """Rows, cells, the whole result and the query itself; what is left out is told."""
    with made(folder / "a.db") as db:
        db.execute("CREATE TABLE many (n, text)")
        db.executemany("INSERT INTO many VALUES (?, ?)", [(n, "x" * 900) for n in range(500)])
    value = ask(folder, "SELECT n FROM many ORDER BY n")
    assert len(value["rows"]) == query.ROWS and "first rows" in value["more"]
    assert "more" not in ask(folder, f"SELECT n FROM many LIMIT {query.ROWS}")
    wide = ask(folder, "SELECT text FROM many")
    assert wide["rows"][0] == ["x" * 500 + "...[cut 400 characters]"] and len(str(wide)) < 18_000
    with pytest.raises(ToolError, match="at most 2000 characters"):
        ask(folder, "SELECT 1 " + " " * 2_000)
    with pytest.raises(ToolError, match="too big"):
        ask(folder, "SELECT printf('%.*c', 2000000, 'x')")
    with made(folder / "a.db") as db:
        db.execute("CREATE TABLE large AS SELECT printf('%.*c', 900000, 'x') AS x")
    assert len(ask(folder, "SELECT x, x FROM large")["rows"][0]) == 2
    with pytest.raises(ToolError, match="too big"):  # 450 MB
        ask(folder, f"SELECT {', '.join('x' * 500)} FROM large")


@pytest.mark.parametrize(
    "sql",
    [
        *("DELETE FROM book", "UPDATE book SET year = 1", "INSERT INTO book VALUES (1, 2, 3)"),
        *("DROP TABLE book", "CREATE TABLE t (x)", "CREATE TEMP TABLE t (x)", "VACUUM", "REINDEX"),
        *(
            "ATTACH '/tmp/x.db' AS x",
            "ATTACH ':memory:' AS x",
            "VACUUM INTO '/tmp/x.db'",
            "ANALYZE",
        ),
        *("PRAGMA user_version = 7", "PRAGMA journal_mode = DELETE", "PRAGMA query_only = 0"),
        *("PRAGMA writable_schema = 1", "SELECT * FROM pragma_wal_checkpoint", "PRAGMA optimize"),
        *("BEGIN IMMEDIATE", "SAVEPOINT x", "SELECT load_extension('/tmp/x.so')"),
        *("SELECT fts3_tokenizer('simple')", "SELECT readfile('/etc/passwd')"),
        *(
            "SELECT writefile('/tmp/x', 'y')",
            "SELECT hex(zeroblob(900000))",
            "SELECT randomblob(9)",
        ),
        *("SELECT 1; SELECT 2", "SELECT 1; DELETE FROM book", "", ";", "-- nothing", "EXPLAIN x"),
        *("WITH x AS (SELECT 1) DELETE FROM book", "REPLACE INTO book VALUES (1, 2, 3)", "\0", "'"),
        *("CREATE VIRTUAL TABLE f USING fts5(x)", "SELECT * FROM nothing", "SELECT \ud800"),
    ],
)
def test_nothing_but_one_select(folder: Path, sql: str) -> None:
    """Whatever else is asked is a refusal that a model can read, and changes not a byte."""
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
    with pytest.raises(ToolError):
        ask(folder, sql)
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()} == before


def test_a_wrong_name_is_answered_with_those_there(folder: Path) -> None:
    """So a small model finds its way."""
    with pytest.raises(ToolError, match="no such table: books; its tables: book;"):
        ask(folder, "SELECT * FROM books")
    with pytest.raises(ToolError, match="no such column: autor; its tables: book;"):
        ask(folder, "SELECT autor FROM book")


def test_a_long_query_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own time, and at once when its agent is stopped."""
    endless = (
        "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    )
    monkeypatch.setattr(query, "TIME_S", 0.1)
    with pytest.raises(ToolError, match=r"needed more than 0\.1 s"):
        ask(folder, endless)
    monkeypatch.setattr(query, "TIME_S", 60.0)
    tools = Toolbox(Permissions(read=(str(folder),)))
    threading.Timer(0.1, tools.close).start()
    with pytest.raises(Stopped):
        tools.call("Query", {"path": "a.db", "sql": endless})


def test_only_listed_files_that_are_databases(folder: Path) -> None:
    """Neither by a link, nor agentd's own, nor by what lies beside a file."""
    outside = folder.parent / "outside.db"
    with made(outside) as db:
        db.execute("CREATE TABLE t (x)")
    (folder / "link.db").symlink_to(outside)
    (folder / "text.db").write_text(
        "no database at all, but long enough to look like something" * 9
    )
    (folder / "empty.db").touch()
    os.mkfifo(folder / "pipe.db")
    for path, why in (
        ("link.db", "outside"),
        (str(outside), "outside"),
        ("text.db", "no SQLite file"),
        ("pipe.db", "no regular file"),
        ("none.db", "No such file"),
        (".", "is a folder"),
    ):
        with pytest.raises(ToolError, match=why):
            ask(folder, "SELECT 1 FROM t", path)
    own = Closed(own=(folder / "a.db",))
    with pytest.raises(PermissionRefused, match="agentd itself"):
        ask(folder, "SELECT 1", closed=own)
    os.link(folder / "a.db", folder / "hard.db")
    with pytest.raises(PermissionRefused, match="agentd itself"):
        ask(folder, "SELECT 1", "hard.db", closed=own)
    (folder / "empty.db-wal").symlink_to(outside)
    with pytest.raises(ToolError, match="no regular file"):
        ask(folder, "SELECT 1", "empty.db")


# --- files of programs that run


def writer(path: Path, mode: str, ready: Any, end: Any) -> None:
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", mode)
    db.execute("INSERT INTO book VALUES ('Dune', 1965, NULL)")
    db.execute("BEGIN IMMEDIATE; INSERT INTO book VALUES ('unfinished', 1, NULL)")
    ready.set()
    end.wait(60)


@pytest.mark.parametrize("mode", ["wal", "delete", "persist"])
def test_a_program_that_writes_is_not_in_the_way(folder: Path, mode: str) -> None:
    """What it has committed is seen, what not yet is not; a log that it leaves is read, too."""
    ready, end = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=writer, args=(folder / "a.db", mode, ready, end))
    process.start()
    try:
        assert ready.wait(30)
        value = ask(folder, "SELECT title FROM book ORDER BY year")
        assert value["rows"] == [["Emma"], ["Ulysses"], ["Dune"]] and "note" not in value
    finally:
        process.kill()
        process.join()
    if mode == "wal":
        value = ask(folder, "SELECT count(*) FROM book")
        assert (value["rows"], value.get("note")) == ([[3]], None), "nobody has it open now"


def test_a_log_that_cannot_be_read_is_told(folder: Path) -> None:
    """What is in the file is given, and what may be missing; nothing is made beside it."""
    path = folder / "a.db"
    db = apsw.Connection(str(path))
    db.pragma("journal_mode", "wal")
    db.wal_autocheckpoint(0)
    db.execute("INSERT INTO book VALUES ('Dune', 1965, NULL)")
    for name in ("a.db", "a.db-wal"):
        (folder / f"copy-{name}").write_bytes((folder / name).read_bytes())
    db.close()
    (folder / "copy-a.db-wal").rename(folder / "b.db-wal")
    (folder / "copy-a.db").rename(folder / "b.db")
    value = ask(folder, "SELECT count(*) FROM book", "b.db")
    assert value["rows"] == [[2]] and "newest changes may be missing" in value["note"]
    (folder / "b.db-wal").unlink()
    value = ask(folder, "SELECT count(*) FROM book", "b.db")
    assert value["rows"] == [[2]] and "note" not in value
    assert sorted(p.name for p in folder.iterdir()) == ["a.db", "b.db"]


def test_a_change_that_was_cut_off_is_told(folder: Path) -> None:
    """A journal of a program that was killed: only a program that may write can take it back."""
    path = folder / "a.db"
    with made(path) as db:
        db.pragma("cache_size", 1)
        db.execute("BEGIN; CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 900,)] * 200)
        copy = {name: (folder / name).read_bytes() for name in ("a.db", "a.db-journal")}
        db.execute("ROLLBACK")
    for name, data in copy.items():
        (folder / name).write_bytes(data)
    with pytest.raises(ToolError, match="in the middle of a change"):
        ask(folder, "SELECT 1 FROM book")
    assert (folder / "a.db").read_bytes() == copy["a.db"]


def test_a_file_in_use_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that keeps it to itself; the query waits for a moment, and no longer."""
    monkeypatch.setattr(query, "BUSY_MS", 50)
    with made(folder / "a.db") as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ToolError, match="ask again"):
            ask(folder, "SELECT 1 FROM book")


def test_a_hostile_file_does_nothing(folder: Path) -> None:
    """Views that call functions, full-text tables, texts that are none, a damaged page."""
    with made(folder / "evil.db") as db:
        db.execute("CREATE VIEW v AS SELECT load_extension('/tmp/x.so') AS x")
        db.execute("CREATE VIEW w AS SELECT * FROM v, v, v, v, v, v")
        db.execute("CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('a word')")
        db.execute("CREATE TABLE t (x); INSERT INTO t VALUES (CAST(x'ff61' AS TEXT))")
        db.execute("CREATE TABLE fat (x)")
        db.executemany("INSERT INTO fat VALUES (?)", [("x" * 500,)] * 100)
    assert ask(folder, "SELECT x FROM f WHERE f MATCH 'word'", "evil.db")["rows"] == [["a word"]]
    for sql in ("SELECT * FROM v", "SELECT * FROM w", "SELECT x FROM t"):
        with pytest.raises(ToolError):
            ask(folder, sql, "evil.db")
    data = bytearray((folder / "evil.db").read_bytes())
    for start in range(4096, len(data), 64):
        data[start] ^= 0xFF
    (folder / "evil.db").write_bytes(data)
    for sql in ("SELECT * FROM fat", "SELECT * FROM f", "SELECT count(*) FROM t"):
        with contextlib.suppress(ToolError):
            ask(folder, sql, "evil.db")


def test_a_query_starts_fast(folder: Path) -> None:
    """Nothing is imported or looked at that takes long."""
    ask(folder, "SELECT 1")
    began = time.process_time()
    for _ in range(10):
        ask(folder, "SELECT 1")
    assert time.process_time() - began < 1.0


def test_a_schema_without_end_ends_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be made whose few pages name each other so often that its schema has no end.

    https://www.sqlite.org/fileformat2.html: each inner page has 300 times the next one below it,
    18 deep; below all is one table, that is made where it is not there.
    """
    page, depth, children = 4096, 18, 300
    texts = (b"table", b"t", b"t", b"CREATE TABLE IF NOT EXISTS t(a)")
    kinds = bytes([6, *(13 + 2 * len(text) for text in texts[:3]), 1, 13 + 2 * len(texts[3])])
    record = kinds + b"".join(texts[:3]) + b"\3" + texts[3]
    cell = bytes([len(record), 1]) + record

    def inner(number: int) -> bytes:
        start = page - 5 * children
        head = struct.pack(">BHHHBI", 5, 0, children, start, 0, number + 1)
        places = b"".join(struct.pack(">H", start + 5 * n) for n in range(children))
        cells = struct.pack(">IB", number + 1, 1) * children
        top = b"SQLite format 3\0" + struct.pack(">HBBBBBB", page, 1, 1, 0, 64, 32, 32)
        top += struct.pack(">12I20xII", 1, depth + 1, 0, 0, 1, 4, 0, 0, 1, 0, 0, 0, 1, 3_040_000)
        begin = (top if number == 1 else b"") + head + places
        return begin.ljust(start, b"\0") + cells

    leaf = struct.pack(">BHHHBH", 13, 0, 1, page - len(cell), 0, page - len(cell))
    pages = [*map(inner, range(1, depth + 1)), leaf.ljust(page - len(cell), b"\0") + cell]
    (folder / "endless.db").write_bytes(b"".join(pages))
    monkeypatch.setattr(query, "TIME_S", 0.2)
    with pytest.raises(ToolError, match=r"more than 0\.2 s"):
        ask(folder, "SELECT 1", "endless.db")
