"""Copies of the database, and what is saved of a damaged one."""

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentd.agent import Result
from agentd.bus import Bus
from agentd.config.agent import Limits
from agentd.errors import DamagedDatabase, StorageError, UsageError
from agentd.events import Lane, NewEvent
from agentd.sessions.session import Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason, SessionState
from agentd.storage import copies
from agentd.storage.health import sound
from agentd.storage.repair import repair
from agentd.testing import ManualClock
from agentd.whole import PARTIAL

READER = Lane("reader", False, ("repo.*",))
LIMITS = Limits.model_validate({"sessions_per_hour": 100_000})
TABLES = ("outbox", "cursors", "agents", "dead_letters", "sessions", "deliveries", "steps", "facts")
PAGE = 4096


def fill(path: Path) -> None:
    """Write a database with something in every table; its last session is still running."""
    bus = Bus(path, clock=ManualClock())
    for name in ("reader", "slow", "third"):
        bus.accept(name, "v1", subscribe=READER.subscribe, start="beginning")
        bus.facts.remember(name, {f"key{n}": "x" * 100 for n in range(20)})
    for n in range(300):
        text = "x" * (9000 if n % 50 == 0 else 200)  # some need pages of their own
        bus.publish("fetch", NewEvent("repo.changed", {"n": n, "text": text}))
    sessions = Sessions(bus)
    for _ in range(150):
        session = begin(bus, sessions)
        for number in range(3):
            sessions.journal.record(
                session, Step(StepKind.DECISION, "Tool", {"n": number}, idempotent=False)
            )
            sessions.journal.record_result(
                session, "tool", Result({"text": "y" * 100}, trusted=False)
            )
        sessions.closing.close(session, outcome={"n": session.id})
    event = bus.events.get(5)
    assert event is not None
    for n in range(40):
        bus.dead.add("reader", DeadReason.FAILED, f"boom {n}", event)
    bus.db.run("DELETE FROM outbox WHERE id % 7 = 0 AND id < 100")
    running = begin(bus, sessions)
    sessions.journal.record(running, Step(StepKind.DECISION, "Tool", {}, idempotent=False))
    bus.db.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    bus.close()


def begin(bus: Bus, sessions: Sessions) -> Session:
    event = bus.next(READER)
    assert event is not None
    session = sessions.begin(READER, event, "v1", LIMITS)
    assert isinstance(session, Session)
    sessions.journal.record_opening(session, event.event_type, {"text": "x"}, trusted=False)
    return session


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "agentd.db"
    fill(path)
    return path


def rows(path: Path) -> dict[str, set[Any]]:
    db = apsw.Connection(str(path))
    try:
        return {table: set(db.execute(f"SELECT * FROM {table}").fetchall()) for table in TABLES}
    finally:
        db.close()


def damaged(whole: Path, folder: Path, *pages: int, zero: bool = False) -> Path:
    """Copy the database with some pages overwritten."""
    path = folder / "agentd.db"
    data = bytearray(whole.read_bytes())
    for page in pages:
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE) if zero else os.urandom(PAGE)
    path.write_bytes(data)
    return path


def lists_of_tables(path: Path) -> set[int]:
    """Return the pages without which no table can be found."""
    db = apsw.Connection(str(path))
    try:
        found = db.execute("SELECT pageno - 1 FROM dbstat WHERE name = 'sqlite_schema'").fetchall()
        return {int(str(page)) for (page,) in found}
    finally:
        db.close()


def ends_of_the_outbox(path: Path) -> set[int]:
    """Return the pages by which the outbox is entered, and its first and its last rows."""
    db = apsw.Connection(str(path))
    try:
        found = db.execute(
            "SELECT pageno - 1, pagetype FROM dbstat WHERE name = 'outbox' ORDER BY path"
        ).fetchall()
    finally:
        db.close()
    leaves = [int(str(page)) for page, kind in found if kind == "leaf"]
    return {leaves[0], leaves[-1]} | {int(str(page)) for page, kind in found if kind == "internal"}


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("part", range(4))
def test_any_page_may_be_damaged(whole: Path, tmp_path: Path, part: int, zero: bool) -> None:
    """Everything on the other pages is saved as it was; what is missing of events is listed."""
    before = rows(whole)
    pages = whole.stat().st_size // PAGE
    for page in range(1 + part, pages, 8):
        folder = tmp_path / str(page)
        folder.mkdir()
        path = damaged(whole, folder, page, zero=zero)
        try:
            done = repair(path, ManualClock())
        except DamagedDatabase:  # the list of tables itself
            assert page in lists_of_tables(whole), page
            continue
        assert page not in lists_of_tables(whole), "nothing is left, and it must not look mended"
        after = rows(path)
        for table in TABLES:
            # A doubtful session is given up, a lost cursor set anew, and nothing else is changed.
            if table not in ("sessions", "cursors", "dead_letters"):
                assert after[table] <= before[table], (page, table)
        lost = {row[0] for row in before["outbox"]} - {row[0] for row in after["outbox"]}
        told = {int(text.split()[0]) for text in done.missing.get("outbox", ())}
        assert lost == told, page
        gone = {row[0] for row in before["sessions"]} - {row[0] for row in after["sessions"]}
        assert gone == {int(text.split()[0]) for text in done.missing.get("sessions", ())}, page
        if not done.missing:
            assert len(after["steps"]) == len(before["steps"]), page
        bus = Bus(path, clock=ManualClock())
        assert bus.db.run("PRAGMA integrity_check") == [("ok",)]
        event_id = bus.publish("fetch", NewEvent("repo.changed"))
        assert event_id and event_id > 300, "no id is given again"
        assert {lane.consumer for lane, _ in bus.lanes.slowest()} >= {
            "reader",
            "reader/direct",
            "slow",
        }
        assert not bus.db.run("PRAGMA foreign_key_check")
        bus.close()
        assert done.kept.stat().st_size >= PAGE * (pages - 1)
        shutil.rmtree(folder)


def test_many_damaged_pages(whole: Path, tmp_path: Path) -> None:
    """A third of the file is gone: the ends are saved, and a sound database comes of it."""
    pages = whole.stat().st_size // PAGE
    spared = lists_of_tables(whole) | ends_of_the_outbox(whole)
    path = damaged(whole, tmp_path, *(set(range(21, pages, 3)) - spared))
    done = repair(path, ManualClock())
    after = rows(path)
    assert 0 < len(after["outbox"]) < 300 and done.missing["outbox"]
    assert after["outbox"] <= rows(whole)["outbox"] and sound(path)


def test_an_unfinished_session_that_lost_steps_is_given_up(tmp_path: Path) -> None:
    """What its tools did is not known any more: doing it again could do it twice."""
    path = tmp_path / "agentd.db"
    bus = Bus(path)
    bus.accept("reader", "v1", subscribe=READER.subscribe, start="beginning")
    bus.publish("fetch", NewEvent("repo.changed"))
    bus.publish("fetch", NewEvent("repo.changed"))
    sessions = Sessions(bus)
    session = begin(bus, sessions)
    sessions.journal.record(
        session, Step(StepKind.DECISION, "Send", {"mark": "lost step"}, idempotent=False)
    )
    bus.close()
    data = bytearray(path.read_bytes())
    place = data.index(b"lost step") // PAGE * PAGE
    data[place : place + PAGE] = bytes(PAGE)
    path.write_bytes(data)
    done = repair(path, ManualClock())
    assert done.missing["steps"] == [f"of session {session.id}"]
    bus = Bus(path)
    (letter,) = bus.dead.list()
    assert (letter.reason, letter.session_id) == (DeadReason.PARTIAL_EFFECTS, session.id)
    assert Sessions(bus).archive.list()[0].state is SessionState.FAILED
    event = bus.next(READER)
    assert event is not None and event.id == 2, "its lane goes on with the next event"


def test_text_that_is_none_is_damage(tmp_path: Path) -> None:
    """A page in the middle of a long text has no form that SQLite could check."""
    path = tmp_path / "agentd.db"
    bus = Bus(path)
    bus.accept("reader", "v1", subscribe=READER.subscribe, start="beginning")
    bus.publish("fetch", NewEvent("repo.changed", {"text": "long " * 3000}))
    bus.publish("fetch", NewEvent("repo.changed"))
    bus.close()
    data = bytearray(path.read_bytes())
    place = data.rindex(b"long long") // PAGE * PAGE
    data[place + 100 : place + 200] = b"\xff" * 100
    path.write_bytes(data)
    bus = Bus(path)
    with pytest.raises(DamagedDatabase, match="--repair"):
        bus.next(READER)
    bus.close()
    assert not sound(path)
    assert repair(path, ManualClock()).missing == {"outbox": ["1 (repo.changed)"]}
    bus = Bus(path)
    event = bus.next(READER)
    assert event is not None and event.id == 2 and sound(path)


def without_cursors(path: Path) -> None:
    """Damage the page that holds the cursors of a database that nobody has open."""
    db = apsw.Connection(str(path))
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    place = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'cursors'").fetchall()[0][0]
    db.close()
    assert isinstance(place, int)
    data = bytearray(path.read_bytes())
    data[(place - 1) * PAGE : place * PAGE] = os.urandom(PAGE)
    path.write_bytes(data)


def test_a_lost_cursor_stands_behind_what_was_answered(whole: Path, tmp_path: Path) -> None:
    """At the end, what waits would never be read; at the beginning, all would be answered again."""
    path = tmp_path / "agentd.db"
    shutil.copy(whole, path)
    without_cursors(path)
    done = repair(path, ManualClock())
    assert done.missing["cursors"] == ["some"] and "the lane reader goes on after event 150" in (
        done.notes
    )
    bus = Bus(path)
    event = bus.next(READER)
    assert event is not None and event.id == 151


@pytest.mark.parametrize(
    "then", ["it waits", "it is tried again", "it is buried", "its letter is dropped"]
)
def test_an_event_that_failed_is_not_lost_with_its_cursor(tmp_path: Path, then: str) -> None:
    """It stands in the letters, or is still being worked on; never is it stepped over in silence.

    Nor tried again where it may have been given up: that could do something twice.
    """
    path, clock = tmp_path / "agentd.db", ManualClock()
    bus = Bus(path, clock=clock)
    bus.accept("reader", "v1", subscribe=READER.subscribe, start="beginning")
    bus.outbox.publish_many("fetch", [NewEvent("repo.changed") for _ in range(4)])
    sessions = Sessions(bus)
    sessions.closing.close(begin(bus, sessions))
    failed = begin(bus, sessions)
    assert isinstance(sessions.closing.fail(failed, "boom"), Wait)
    clock.advance(100)
    if then == "it is tried again":
        begin(bus, sessions)
    elif then != "it waits":
        failed = begin(bus, sessions)
        sessions.closing.fail(failed, "boom", reason=DeadReason.FAILED)
    if then == "its letter is dropped":
        bus.dead.drop(1)
    bus.close()
    without_cursors(path)
    repair(path, clock)
    bus = Bus(path, clock=clock)
    event = bus.next(READER)
    assert event is not None
    letters = [(letter.event_id, letter.session_id) for letter in bus.dead.list()]
    if then == "it is tried again":
        assert (event.id, letters) == (2, [])
        taken = Sessions(bus).begin(READER, event, "v1", LIMITS)
        assert isinstance(taken, Session) and taken.resumed
    else:
        assert (event.id, letters) == (3, [(2, failed.id)])
    bus.close()


def test_a_log_that_was_not_written_back_is_saved_too(tmp_path: Path) -> None:
    """The newest commits are in there."""
    path = tmp_path / "agentd.db"
    bus = Bus(path)
    bus.publish("fetch", NewEvent("repo.changed", {"n": 1}))
    copy = tmp_path / "copy" / "agentd.db"
    copy.parent.mkdir()
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")
    bus.close()
    done = repair(copy, ManualClock())
    assert done.rows["outbox"] == 1
    assert len(rows(copy)["outbox"]) == 1


def test_a_database_in_use_is_not_repaired(whole: Path, tmp_path: Path) -> None:
    """Who has it open would go on writing into the old file."""
    path = tmp_path / "agentd.db"
    shutil.copy(whole, path)
    bus = Bus(path)
    with pytest.raises(StorageError, match="locked"):
        repair(path, ManualClock())
    assert bus.publish("fetch", NewEvent("repo.changed"))
    assert sorted(p.name for p in tmp_path.glob("*repaired*")) == []
    bus.close()


def test_an_older_database_is_repaired_as_it_was(tmp_path: Path) -> None:
    """Its tables are those of its version; opening it brings them up to date as ever."""
    from agentd.bus import schema

    path = tmp_path / "agentd.db"
    db = apsw.Connection(str(path))
    schema.MIGRATIONS[0](db)
    db.pragma("user_version", 1)
    db.execute("INSERT INTO outbox (agent, event_type, payload) VALUES ('me', 'a.b', '{}')")
    db.close()
    with pytest.raises(apsw.SQLError):
        repair(path, ManualClock())


def test_a_backup_is_private_checked_and_taken_while_others_write(tmp_path: Path) -> None:
    """One snapshot with everything committed, the log included."""
    bus = Bus(tmp_path / "agentd.db")
    bus.publish("fetch", NewEvent("repo.changed", {"n": 1}))
    with bus.transaction():
        bus.publish("fetch", NewEvent("repo.changed", {"n": 2}))
        done = copies.backup(tmp_path / "agentd.db", tmp_path / "copy.db")
    assert done.last_event_id == 1
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    assert len(rows(done.path)["outbox"]) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.db"]


def test_a_backup_overwrites_only_what_it_is_told_to(whole: Path, tmp_path: Path) -> None:
    """And a failed one leaves the old copy as it was."""
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        copies.backup(whole, target)
    assert target.read_text() == "precious"
    copies.backup(whole, target, force=True)
    assert copies.check(target) == 300
    broken = damaged(whole, tmp_path, 30, 31, 32, 33)
    with pytest.raises(DamagedDatabase):
        copies.backup(broken, target, force=True)
    assert copies.check(target) == 300
    assert not list(tmp_path.glob(".copy*"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
@pytest.mark.parametrize("raced", [False, True])
def test_a_backup_onto_a_disk_without_links(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, raced: bool
) -> None:
    """Most USB disks; there as well it overwrites nothing that came meanwhile."""
    target = tmp_path / "copy.db"

    def no_links(*_: object, **__: object) -> None:
        if raced:
            target.write_text("somebody was faster")
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("agentd.whole.os.link", no_links)
    if raced:
        with pytest.raises(UsageError, match="there already"):
            copies.backup(whole, target)
        assert target.read_text() == "somebody was faster"
    else:
        copies.backup(whole, target)
        assert copies.check(target) == 300
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not list(tmp_path.glob(".copy*"))


def test_what_a_killed_backup_left_goes_with_the_next(whole: Path, tmp_path: Path) -> None:
    """Its half copy has another name, and is old by then."""
    left = tmp_path / f".copy.db.1{PARTIAL}"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    copies.backup(whole, tmp_path / "copy.db")
    assert not left.exists()


def test_a_backup_into_a_missing_folder_is_one_error(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="hint"):
        copies.backup(whole, tmp_path / "nowhere" / "copy.db")


def test_a_restored_copy_gives_no_id_again(whole: Path, tmp_path: Path) -> None:
    """What was given since the copy may stand in somebody's notes; the old file is kept."""
    path, copy = tmp_path / "agentd.db", tmp_path / "copy.db"
    shutil.copy(whole, path)
    copies.backup(path, copy)
    bus = Bus(path)
    bus.outbox.publish_many("fetch", [NewEvent("repo.changed") for _ in range(10)])
    bus.close()
    done, kept = copies.restore(copy, path, ManualClock())
    assert done.last_event_id == 300 and kept is not None
    assert len(rows(kept)["outbox"]) == len(rows(path)["outbox"]) + 10
    bus = Bus(path)
    assert bus.publish("fetch", NewEvent("repo.changed")) == 311
    bus.close()


def test_a_copy_is_restored_over_what_is_no_database(whole: Path, tmp_path: Path) -> None:
    """A log that lies there must not be replayed into the copy."""
    path = tmp_path / "agentd.db"
    path.write_bytes(b"nothing of a database" * 500)
    path.with_name("agentd.db-wal").write_bytes(b"a log of something else" * 500)
    _, kept = copies.restore(whole, path, ManualClock())
    assert kept is not None and kept.read_bytes().startswith(b"nothing of a database")
    assert rows(path) == rows(whole)


def test_a_log_that_was_left_lying_is_not_replayed_into_a_copy(whole: Path, tmp_path: Path) -> None:
    """Somebody deleted the database alone: its log would go on in whatever takes its place."""
    path = tmp_path / "agentd.db"
    shutil.copy(whole, path)
    bus = Bus(path)
    bus.outbox.publish_many(
        "fetch", [NewEvent("repo.changed", {"x": "y" * 3000}) for _ in range(50)]
    )
    log = path.with_name("agentd.db-wal").read_bytes()
    bus.close()
    path.unlink()
    path.with_name("agentd.db-wal").write_bytes(log)
    copies.restore(whole, path, ManualClock())
    assert rows(path) == rows(whole)


def test_a_damaged_copy_is_not_restored(whole: Path, tmp_path: Path) -> None:
    """The one in use stays, whatever it holds."""
    home = tmp_path / "home"
    home.mkdir()
    path = home / "agentd.db"
    shutil.copy(whole, path)
    broken = damaged(whole, tmp_path, 30, 31, 32, 33)
    with pytest.raises(DamagedDatabase):
        copies.restore(broken, path, ManualClock())
    assert [p.name for p in home.iterdir()] == ["agentd.db"]
    other = tmp_path / "other.db"
    db = apsw.Connection(str(other))
    db.execute("CREATE TABLE t (n)")
    db.close()
    with pytest.raises(DamagedDatabase, match="no database of agentd"):
        copies.restore(other, path, ManualClock())
