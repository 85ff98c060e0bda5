"""Rows that a person's SQL put there: read, refused by a rule, or a dead letter; never a crash."""

import json
from pathlib import Path

import apsw
import pytest

from agentd.bus import Bus, schema, sql
from agentd.cli import main
from agentd.config.agent import Limits
from agentd.config.daemon import RetentionConfig
from agentd.errors import AgentdError, RowRefused, SessionFailed
from agentd.events import Lane, NewEvent
from agentd.paths import discover
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.states import DeadReason
from agentd.storage.retention import Retention
from agentd.testing import ManualClock

BEFORE = 7  # the schema's last version without rules
READER = Lane("reader", False, ("note.*",))
DIRECT = Lane("reader", True)

# As SQL writes them: every type, the limits, and bytes that are no text.
ODD = (
    *("NULL", "0", "-1", "7", "1.5", "9e999", "-9e999", "9223372036854775807"),
    *("-9223372036854775808", "''", "' '", "'abc'", "'12abc'", "'yesterday'", "char(0)"),
    *("'a' || char(0) || 'b'", "x''", "x'00'", "x'ff'", "zeroblob(9000)", "CAST(x'ff' AS TEXT)"),
    *("CAST(x'c328' AS TEXT)", "CAST(x'00ff' AS TEXT)", "'\u202e\x1b[2J'", "jsonb('{}')"),
    *("strftime('%s', 'now')", "datetime('now')", "'0001-01-01T00:00:00+14:00'", "'9999-12-31'"),
    *("'2026-02-31T00:00:00Z'", "'2026-W01-1'", "hex(zeroblob(300))", "hex(zeroblob(9000))"),
    *("'{}'", "'[]'", "'[1]'", "'{a: 1}'", """'{"a": NaN}'""", """'{"a": 1e999}'"""),
    *(
        """'{"a": 1, "a": 2}'""",
        """'{"a": "\\ud800"}'""",
        "'{\"a\": ' || hex(zeroblob(3000)) || '}'",
    ),
    *("'{\"a\": ' || replace(hex(zeroblob(3000)), '0', '9') || '}'", "'{\"a\": -0.0}'"),
    "'{\"a\":' || replace(hex(zeroblob(450)), '0', '[') || replace(hex(zeroblob(450)), '0', ']')"
    " || '}'",
    "replace(hex(zeroblob(5000)), '0', '{\"a\":')",
    "json_object('a', hex(zeroblob(600000)))",
    "json_object('a', CAST(x'ff' AS TEXT))",
)
RIGHT = {"agent": "'person'", "event_type": "'note.added'", "payload": "'{}'"}
COLUMNS = (
    *("id", "agent", "event_type", "payload", "created_at", "target", "priority", "cause_id"),
    *("depth", "dedup_key"),
)
READS = (
    *(("events",), ("events", "--json"), ("events", "--type", "note.*"), ("dead",)),
    *(("dead", "--json"), ("sessions",), ("sessions", "--json"), ("status",), ("status", "--json")),
    *(("events", "--agent", "person", "--since-id", "0"), ("replay", "--all")),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    discover().database.parent.mkdir(parents=True, exist_ok=True)
    return tmp_path


def attempt(db: apsw.Connection, statement: str) -> bool:
    """Run it as a person would; return whether SQLite took it."""
    try:
        db.execute(statement)
    except (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError):
        return False
    return True


def insert(db: apsw.Connection, column: str, value: str, **more: str) -> bool:
    row = {**RIGHT, **more, column: value}
    return attempt(db, f"INSERT INTO outbox ({', '.join(row)}) VALUES ({', '.join(row.values())})")


def drain(bus: Bus, *lanes: Lane) -> list[int]:
    """Take everything that waits; return the ids of what could be read."""
    found = []
    for lane in lanes:
        while (event := bus.next(lane)) is not None:
            json.dumps(dict(event.payload), ensure_ascii=False, allow_nan=False).encode()
            assert event.created_at.utcoffset() is not None
            found.append(event.id)
            bus.step(lane, event)
    return found


def read_all(home: Path) -> None:
    """Every command that reads the database shows it, without a traceback."""
    paths = discover()
    letters = [letter.id for letter in Bus(paths.database).dead.list(limit=1000)]
    shows = [("dead", "show", *map(str, letters))] if letters else []
    for words in (*READS, *shows):
        assert main(words) in (0, 1, 3), words


@pytest.mark.parametrize("column", COLUMNS)
def test_any_value_in_any_column_of_the_outbox(
    column: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read, refused, or a dead letter with its reason; the next event is read after it."""
    path = discover().database
    bus = Bus(path)
    bus.accept("reader", "v", subscribe=READER.subscribe, start="beginning")
    taken = 0
    for value in ODD:
        for target in ({"target": "'reader'"}, {}):
            taken += insert(bus.db.connection, column, value, **target)
    events = {row[0] for row in bus.db.run("SELECT id FROM outbox")}
    assert len(events) == taken
    read_all(home)  # before anybody buries them
    good = bus.publish("fetch", NewEvent("note.added"))
    read = drain(bus, DIRECT, READER)
    assert good in read, "writing and reading go on"
    letters = bus.dead.list(limit=1000)
    assert all(letter.reason is DeadReason.INVALID and letter.error for letter in letters)
    unseen = events - set(read) - {letter.event_id for letter in letters}
    if column not in ("target", "event_type", "agent"):  # those say whom an event is for
        assert not unseen
    read_all(home)
    assert main(["prune"]) == 0
    for letter in bus.dead.list(limit=1000):  # again an event, or one clear error
        try:
            bus.dead.retry(letter.id)
        except AgentdError as error:
            assert error.hint
    drain(bus, DIRECT, READER)
    while Retention(bus, RetentionConfig(database_bytes=1_000_000)).step() is not None:
        pass
    assert "Traceback" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", "strftime('%s', 'now')"),
        ("id", "0"),
        ("id", "9223372036854775807"),
        ("payload", "jsonb('{}')"),
        ("depth", "9223372036854775807"),
        ("cause_id", "'it'"),
        ("target", "x'00'"),
    ],
)
def test_a_rule_says_what_belongs_there(column: str, value: str, tmp_path: Path) -> None:
    """The person who writes the row reads at once what is wrong with it."""
    bus = Bus(tmp_path / "a.db")
    with pytest.raises(RowRefused, match=f"{column} is "):
        bus.db.run(_with(column, value))
    assert bus.publish("person", NewEvent("a.b")) == 1


def _with(column: str, value: str) -> str:
    row = {**RIGHT, column: value}
    return f"INSERT INTO outbox ({', '.join(row)}) VALUES ({', '.join(row.values())})"


def test_an_id_is_not_changed(tmp_path: Path) -> None:
    """At the highest id that there is nothing could be written any more."""
    bus = Bus(tmp_path / "a.db")
    bus.publish("person", NewEvent("a.b"))
    with pytest.raises(RowRefused):
        bus.db.run("UPDATE outbox SET id = 9223372036854775807")
    bus.db.run(_with("id", str(2**53)))  # the highest that may be given by hand
    assert bus.publish("person", NewEvent("a.b")) == 2**53 + 1


@pytest.mark.parametrize(
    "form", ["datetime('now')", "'2026-01-31 12:00'", "'2026-01-31T13:00:00+01:00'"]
)
def test_a_time_in_another_form_is_read(form: str, tmp_path: Path) -> None:
    """What SQLite's own functions write is UTC."""
    bus = Bus(tmp_path / "a.db")
    bus.db.run(_with("created_at", form))
    (event,) = bus.events.list()
    ((wanted,),) = bus.db.run("SELECT unixepoch(created_at) FROM outbox")
    assert event.created_at.timestamp() == wanted


@pytest.mark.parametrize("column", COLUMNS)
def test_odd_rows_of_before_the_rules_are_kept(column: str, home: Path) -> None:
    """They stay where they fit, or are dead letters; nothing is lost, and ids go on."""
    path = discover().database
    db = apsw.Connection(str(path))
    for migrate in schema.MIGRATIONS[:BEFORE]:
        migrate(db)
    db.pragma("user_version", BEFORE)
    taken = sum(insert(db, column, value) for value in ODD)
    db.close()
    bus = Bus(path)
    ((there,),) = bus.db.run("SELECT count(*) FROM outbox")
    letters = bus.dead.list(limit=1000)
    assert there + len(letters) == taken
    assert all(letter.reason is DeadReason.INVALID and letter.error for letter in letters)
    assert bus.db.run(sql.INTEGRITY_CHECK) == [("ok",)]
    bus.accept("reader", "v", subscribe=READER.subscribe, start="beginning")
    good = bus.publish("fetch", NewEvent("note.added"))
    assert good in drain(bus, READER)
    read_all(home)


def test_seconds_of_before_the_rules_become_a_time(tmp_path: Path) -> None:
    """`strftime('%s')` was a likely thing to write."""
    path = tmp_path / "a.db"
    db = apsw.Connection(str(path))
    for migrate in schema.MIGRATIONS[:BEFORE]:
        migrate(db)
    db.pragma("user_version", BEFORE)
    db.execute(_with("created_at", "'1767225600'"))
    db.execute("INSERT INTO cursors VALUES ('reader', '12abc'), ('reader/direct', -4)")
    db.execute("INSERT INTO facts VALUES ('reader', x'00', '1', '2026'), ('a', 'k', '2', 1.5)")
    db.execute("UPDATE sqlite_sequence SET seq = 9223372036854775807")
    db.close()
    bus = Bus(path)
    assert bus.events.list()[0].created_at.isoformat() == "2026-01-01T00:00:00+00:00"
    cursors = bus.db.run("SELECT consumer, last_seen_id FROM cursors ORDER BY 1")
    assert cursors == [("reader", 12), ("reader/direct", 0)]
    assert (bus.facts.of("a"), bus.facts.of("reader")) == ({"k": 2}, {})
    assert len(bus.db.run("SELECT row FROM odd_rows")) == 1
    assert bus.publish("person", NewEvent("a.b")) == 13


OTHERS = {
    "cursors": ("consumer", "last_seen_id"),
    "agents": ("name", "version", "subscribe", "paused", "accepted_at", "removed_at"),
    "facts": ("agent", "key", "value", "updated_at"),
    "schedules": ("agent", "schedule", "last_due", "last_event_id", "fired"),
    "dead_letters": (
        *("id", "agent", "reason", "error", "session_id", "dead_at", "event_id", "producer"),
        *("event_type", "payload", "created_at", "target", "priority", "cause_id", "depth"),
    ),
}


@pytest.mark.parametrize(("table", "column"), [(t, c) for t in OTHERS for c in OTHERS[t]])
def test_any_value_in_another_table(
    table: str, column: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command ends in a traceback, and agents go on reading."""
    bus = Bus(discover().database, clock=ManualClock())
    bus.accept("reader", "v", subscribe=READER.subscribe, start="beginning")
    event = bus.events.get(bus.publish("fetch", NewEvent("note.old")) or 0)
    assert event is not None
    bus.facts.remember("reader", {"k": 1})
    bus.schedules.note("reader", "1h", event.created_at)
    for value in ODD:
        bus.dead.add("reader", DeadReason.FAILED, "why", event)
        attempt(
            bus.db.connection,
            f"UPDATE {table} SET {column} = {value} WHERE rowid = (SELECT max(rowid) FROM {table})"
            if table not in ("facts", "schedules")
            else f"UPDATE {table} SET {column} = {value}",
        )
        good = bus.publish("fetch", NewEvent("note.added"))
        bus.lanes.open(READER)
        found = drain(bus, READER)
        assert good in found or column in ("removed_at", *OTHERS["cursors"])
        for agent in ("reader", "fetch"):
            try:
                bus.facts.of(agent)
            except SessionFailed as error:
                assert error.hint
        bus.schedules.last_run("reader", "1h")
        assert all(agent.name for agent in bus.agents.list())
        bus.lanes.slowest()
        while Retention(bus, RetentionConfig()).step() is not None:
            pass
    read_all(home)
    assert main(["prune"]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_cursor_that_stands_beyond_all_events_is_set_back(tmp_path: Path) -> None:
    """Else its agent would read nothing any more, without a word."""
    bus = Bus(tmp_path / "a.db")
    bus.accept("reader", "v", subscribe=READER.subscribe)
    bus.db.run("UPDATE cursors SET last_seen_id = 9223372036854775807")
    assert bus.next(READER) is None
    good = bus.publish("fetch", NewEvent("note.added"))
    assert drain(bus, READER) == [good]


def test_what_cannot_be_read_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where nobody subscribes to it, so that no letter is ever written."""
    bus = Bus(discover().database)
    bus.db.run(_with("created_at", "'yesterday'"))
    assert main(["events"]) == 0
    assert "event 1 cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sessions SET started_at = 5, ended_at = 'x', outcome = '{', error = x'00'",
        "UPDATE sessions SET started_at = '', basis = '[', event = '{'",
        "UPDATE steps SET payload = '{', ts = 5, basis = '[1]'",
        "INSERT INTO breakers VALUES ('reader', 1, 'x', 'y', 3, 1, 5)",
        "UPDATE deliveries SET next_at = 'soon', attempts = 9",
    ],
)
def test_odd_rows_of_sessions_end_in_no_traceback(
    change: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is asked to write there, but a person may."""
    bus = Bus(discover().database)
    bus.accept("reader", "v", subscribe=READER.subscribe, start="beginning")
    bus.publish("fetch", NewEvent("note.added"))
    event = bus.next(READER)
    assert event is not None
    sessions = Sessions(bus)
    session = sessions.begin(READER, event, "v", Limits.model_validate({}))
    assert isinstance(session, Session)
    sessions.journal.record_opening(session, "note.added", {}, trusted=True)
    bus.db.run(change)
    read_all(home)
    assert main(["sessions", "show", "1"]) in (0, 1)
    assert main(["status", "reader"]) == 3
    assert main(["prune"]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())
