"""The database file: opening it, its contract tables, and its migrations."""

import contextlib
import time
from pathlib import Path

import apsw
import pytest

from agentd.bus import Bus, schema
from agentd.errors import DamagedDatabase, NewerDatabase, StorageError
from agentd.events import NewEvent
from agentd.states import Exit


def test_the_outbox_and_cursors_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    """People's own queries rely on these names."""
    db = schema.connect(tmp_path / "a.db")
    columns = {
        table: [row[1] for row in db.execute(f"PRAGMA table_info({table})").fetchall()]
        for table in ("outbox", "cursors")
    }
    assert columns["outbox"] == [
        *("id", "agent", "event_type", "payload", "created_at", "target", "priority"),
        *("cause_id", "depth", "dedup_key"),
    ]
    assert columns["cursors"] == ["consumer", "last_seen_id"]


def test_a_row_inserted_by_hand_gets_an_utc_time_with_milliseconds(tmp_path: Path) -> None:
    """`sqlite3 agentd.db "INSERT ..."` is a way in like any other."""
    bus = Bus(tmp_path / "a.db")
    bus.db.run("INSERT INTO outbox (agent, event_type, payload) VALUES ('me', 'a.b', '{\"n\": 1}')")
    event = bus.events.list()[0]
    assert event.created_at.utcoffset() is not None
    text = bus.db.run("SELECT created_at FROM outbox")[0][0]
    assert len(text) == len("2026-01-15T10:30:00.000Z") and text.endswith("Z")


@pytest.mark.parametrize("payload", ["[1]", "7", "not json", '"text"', "null"])
def test_the_table_itself_refuses_a_payload_that_is_no_object(tmp_path: Path, payload: str) -> None:
    """Whatever program writes it."""
    db = schema.connect(tmp_path / "a.db")
    with pytest.raises((apsw.ConstraintError, apsw.SQLError)):
        db.execute(
            "INSERT INTO outbox (agent, event_type, payload) VALUES ('me', 'a.b', ?)", (payload,)
        )


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """An old agentd must not damage what a new one wrote."""
    path = tmp_path / "a.db"
    db = apsw.Connection(str(path))
    db.pragma("user_version", len(schema.MIGRATIONS) + 1)
    with pytest.raises(NewerDatabase) as caught:
        schema.connect(path)
    assert caught.value.exit_code is Exit.CONFIG
    assert str(path) in str(caught.value) and "hint" in str(caught.value)
    assert db.pragma("journal_mode") == "delete"
    assert db.execute("SELECT count(*) FROM sqlite_master").fetchall() == [(0,)]


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    """One clear error instead of a driver's traceback."""
    path = tmp_path / "a.db"
    path.write_text("these are not the bytes of a database, but quite a lot of them" * 20)
    with pytest.raises(StorageError, match=r"(?s)a\.db.*hint"):
        schema.connect(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The place and the next step, not only "unable to open"."""
    with pytest.raises(StorageError, match=r"(?s)nowhere/a\.db.*hint"):
        schema.connect(tmp_path / "nowhere" / "a.db", schema.Opening(create=False))
    (tmp_path / "nowhere").touch()
    with pytest.raises(StorageError, match=r"(?s)nowhere/a\.db.*hint"):
        schema.connect(tmp_path / "nowhere" / "a.db")


def test_a_database_of_the_first_version_is_migrated_with_its_rows(tmp_path: Path) -> None:
    """Migrations go forward from any version, and lose nothing."""
    path = tmp_path / "a.db"
    db = apsw.Connection(str(path))
    schema.MIGRATIONS[0](db)
    db.pragma("user_version", 1)
    db.execute("INSERT INTO outbox (agent, event_type, payload) VALUES ('me', 'a.b', '{}')")
    db.execute("INSERT INTO schedules VALUES ('me', 'every 1h', '2026-01-15T10:30:00.000Z', NULL)")
    db.close()
    bus = Bus(path)
    assert bus.db.connection.pragma("user_version") == len(schema.MIGRATIONS)
    assert [event.event_type for event in bus.events.list()] == ["a.b"]
    last = bus.schedules.last_run("me", "every 1h")
    assert last is not None
    run = NewEvent("schedule.fired", target="me", dedup_key="a run")
    assert bus.schedules.fire("me", "every 1h", last.due, run) == 2
    bus.db.run("DELETE FROM outbox")
    assert bus.schedules.fire("me", "every 1h", last.due, run) is None


def test_a_migration_that_fails_leaves_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a migration would never be finished."""

    def broken(db: apsw.Connection) -> None:
        db.execute("CREATE TABLE half (n)")
        db.execute("CREATE TABLE outbox (n)")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(DamagedDatabase, match="table outbox already exists"):
        schema.connect(tmp_path / "a.db")
    db = apsw.Connection(str(tmp_path / "a.db"))
    assert db.pragma("user_version") == len(schema.MIGRATIONS) - 1
    assert db.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []


def test_the_connection_is_set_up_for_many_processes(tmp_path: Path) -> None:
    """WAL, and a WAL file that shrinks again."""
    db = schema.connect(tmp_path / "a.db")
    assert db.pragma("journal_mode") == "wal"
    assert db.pragma("synchronous") == 1
    assert db.pragma("foreign_keys") == 1
    assert db.pragma("journal_size_limit") == schema.JOURNAL_SIZE_LIMIT_BYTES


def test_a_lock_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    """As long as it says, each time anew."""
    holder = schema.connect(tmp_path / "a.db")
    db = schema.connect(tmp_path / "a.db", schema.Opening(busy_ms=50))
    holder.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(apsw.BusyError):
            db.execute("BEGIN IMMEDIATE")
        assert time.monotonic() - began >= 0.05
    holder.execute("ROLLBACK")
    db.execute("BEGIN IMMEDIATE")


def test_full_sync_waits_for_the_disk_itself(tmp_path: Path) -> None:
    """Off, a power failure may take back the last commits; a checkpoint is always careful."""
    db = schema.connect(tmp_path / "a.db")
    assert (db.pragma("fullfsync"), db.pragma("checkpoint_fullfsync")) == (0, 1)
    db = schema.connect(tmp_path / "a.db", schema.Opening(full_sync=True))
    assert (db.pragma("synchronous"), db.pragma("fullfsync")) == (2, 1)


def test_a_database_is_not_created_where_it_was_deleted(tmp_path: Path) -> None:
    """A worker that starts a moment later would make an empty one beside the old one's log."""
    with pytest.raises(StorageError, match="hint"):
        schema.connect(tmp_path / "a.db", schema.Opening(create=False))
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_lock_holder_is_a_storage_error(tmp_path: Path) -> None:
    """SQLite gives up in its own words (SQLITE_PROTOCOL) after ten seconds; here at once."""

    def gives_up(*_statement: object) -> bool:
        raise apsw.ProtocolError("locking protocol")

    bus = Bus(tmp_path / "a.db")
    bus.db.connection.exec_trace = gives_up
    with pytest.raises(StorageError, match="locking protocol"):
        bus.events.list()


def test_a_full_disk_is_a_storage_error_and_writes_nothing(tmp_path: Path) -> None:
    """A command then says so, instead of a driver's traceback; half a transaction is none."""
    bus = Bus(tmp_path / "a.db")
    bus.accept("a", "v", start="beginning")
    pages = bus.db.connection.pragma("page_count")
    bus.db.connection.pragma("max_page_count", pages)
    with pytest.raises(StorageError, match="full"), bus.transaction():
        bus.publish("person", NewEvent("a.b", {"n": 1}))
        bus.publish("person", NewEvent("a.b", {"text": "x" * 50_000}))
    bus.db.connection.pragma("max_page_count", 1_000_000)
    assert bus.events.list() == []
    assert bus.publish("person", NewEvent("a.b", {"n": 1})) == 1


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Whatever it holds and whatever version it gives itself: one error, and not a byte changes."""
    outbox = "CREATE TABLE outbox (id INTEGER PRIMARY KEY, recipient TEXT)"
    cases: list[tuple[int, str]] = [
        (0, "CREATE TABLE x (a)"),
        (0, outbox),
        (0, "CREATE VIEW outbox AS SELECT 1 AS id"),
        (1, outbox),
        (2, "CREATE TABLE x (a)"),
        (2, f"{outbox}; CREATE TABLE cursors (a); CREATE TABLE sessions (a)"),
        (len(schema.MIGRATIONS), "CREATE TABLE x (a)"),
        (len(schema.MIGRATIONS) + 90, "CREATE TABLE x (a)"),
        (-1, outbox),
        (2, ""),
    ]
    for number, (version, script) in enumerate(cases):
        path = tmp_path / f"{number}.db"
        with contextlib.closing(apsw.Connection(str(path))) as db:
            db.execute(script)
            db.pragma("user_version", version)
        before = path.read_bytes(), path.stat().st_mode
        with pytest.raises(DamagedDatabase, match="is no database of agentd") as caught:
            schema.connect(path)
        assert caught.value.exit_code is Exit.CONFIG and caught.value.hint
        assert (path.read_bytes(), path.stat().st_mode) == before, (version, script)


def test_a_table_that_somebody_dropped_is_one_error(tmp_path: Path) -> None:
    """Not a fault of ours, with a traceback; also while we run."""
    bus = Bus(tmp_path / "a.db")
    bus.db.run("DROP TABLE facts")
    with pytest.raises(DamagedDatabase, match="no such table: facts"):
        bus.facts.of("me")
    bus.close()
    with pytest.raises(DamagedDatabase, match="lacks the table facts"):
        Bus(tmp_path / "a.db")
