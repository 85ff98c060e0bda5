"""An older version's database moves into a folder of its own: whole, whatever comes in between."""

import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentd.bus import Bus
from agentd.commands.home import open_bus
from agentd.events import NewEvent
from agentd.paths import DATABASE, Paths, discover
from agentd.storage.own_folder import move_in
from tests.commandline import agentd
from tests.livehome import Home, a_home
from tests.supervised import daemon

NOW = datetime(2026, 1, 15, tzinfo=UTC)
STEPS_MAX = 40  # far above those of a move
CHANGES = ("os.link", "os.symlink", "os.rename", "os.remove", "os.mkdir")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = discover({"AGENTD_HOME": str(tmp_path)})
    found.create()
    return found


def older(path: Path, *texts: str) -> None:
    """Write a database as a process does that is killed: what is new stands in its log alone."""
    pid = os.fork()
    if pid == 0:
        bus = Bus(path)
        for text in texts:
            bus.publish("person", NewEvent("note.added", {"text": text}))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


def texts(path: Path) -> list[str]:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        query = "SELECT payload ->> 'text' FROM outbox WHERE event_type = 'note.added' ORDER BY id"
        return [str(text) for (text,) in db.execute(query).fetchall()]


def killed_at(step: int, paths: Paths) -> bool:
    """Move in a process that kills itself before its `step`th change; False: it came to its end."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def die(event: str, _: Any) -> None:
            nonlocal count
            count += event in CHANGES
            if count == step and event in CHANGES:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        move_in(paths, NOW)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


def test_nothing_is_lost_wherever_the_move_is_killed(tmp_path: Path) -> None:
    """And a person may write by the old name before the next start goes on with it."""
    for step in range(1, STEPS_MAX):
        paths = discover({"AGENTD_HOME": str(tmp_path / str(step))})
        paths.create()
        older(paths.database_link, "one", "two")
        was_killed = killed_at(step, paths)
        with contextlib.closing(sqlite3.connect(paths.database_link)) as db:
            insert = "INSERT INTO outbox (agent, event_type, payload) VALUES ('x', 'note.added', ?)"
            db.execute(insert, ('{"text": "three"}',))
            db.commit()
        move_in(paths, NOW)
        assert paths.database == paths.data / DATABASE and paths.database_link.is_symlink()
        assert texts(paths.database) == texts(paths.database_link) == ["one", "two", "three"], step
        assert [p.name for p in paths.data.glob("agentd.db*")] == ["agentd.db"]
        assert not list(paths.data.glob(".agentd-*"))
        if not was_killed:
            break
    assert 6 < step < STEPS_MAX - 1


@pytest.mark.parametrize("driver", ["sqlite3", "apsw"])
def test_the_old_name_goes_on_working(paths: Paths, driver: str) -> None:
    """SQLite puts its log beside the file itself, not beside the link, so both see one database."""
    move_in(paths, NOW)
    bus = Bus(paths.database)
    bus.publish("person", NewEvent("note.added", {"text": "one"}))
    connect: Any = sqlite3.connect if driver == "sqlite3" else apsw.Connection
    with contextlib.closing(connect(str(paths.database_link))) as db:
        found = db.execute("SELECT payload ->> 'text' FROM outbox").fetchall()
        assert found == [("one",)]
        insert = "INSERT INTO outbox (agent, event_type, payload) VALUES ('x', 'note.added', ?)"
        db.execute(insert, ('{"text": "two"}',))
        if driver == "sqlite3":
            db.commit()
        assert [event.payload["text"] for event in bus.events.list()] == ["one", "two"]
        assert {p.name for p in paths.database.parent.iterdir()} == {
            *("agentd.db", "agentd.db-wal", "agentd.db-shm")
        }
    bus.close()
    assert [p.name for p in paths.data.glob("agentd.db*")] == ["agentd.db"]


def test_who_has_it_open_loses_nothing(paths: Paths) -> None:
    """A person's own program may read and write it while the daemon starts."""
    older(paths.database_link, "one")
    theirs = apsw.Connection(str(paths.database_link))
    assert theirs.execute("SELECT count(*) FROM outbox").fetchall() == [(1,)]
    move_in(paths, NOW)
    bus = Bus(paths.database)
    bus.publish("person", NewEvent("note.added", {"text": "two"}))
    assert theirs.execute("SELECT count(*) FROM outbox").fetchall() == [(2,)]
    insert = "INSERT INTO outbox (agent, event_type, payload) VALUES ('x', 'note.added', ?)"
    theirs.execute(insert, ('{"text": "three"}',))
    assert len(bus.events.list()) == 3
    bus.close()
    theirs.close()
    assert texts(paths.database) == ["one", "two", "three"]


def test_what_a_person_put_in_the_links_place_is_used_and_the_other_kept(paths: Paths) -> None:
    """`mv copy.db agentd.db` is how one restored by hand."""
    move_in(paths, NOW)
    older(paths.database, "there")
    paths.database_link.unlink()
    older(paths.database_link, "put")
    for _ in range(2):
        move_in(paths, NOW)
        assert texts(paths.database) == ["put"]
        (kept,) = paths.database.parent.glob("agentd.db.replaced-*Z")
        assert texts(kept) == ["there"]


def test_a_persons_own_link_stays(paths: Paths, tmp_path: Path) -> None:
    """Somebody may keep it on another disk."""
    elsewhere = tmp_path / "elsewhere" / "big.db"
    elsewhere.parent.mkdir()
    paths.database_link.symlink_to(elsewhere)
    older(paths.database_link.resolve(), "one")
    move_in(paths, NOW)
    assert paths.database == paths.database_link and texts(paths.database) == ["one"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with a_home(tmp_path / "home") as home:
        yield home


def test_commands_find_it_before_the_daemon_has_moved_it(paths: Paths) -> None:
    """After an update the old daemon may still run, and its database lies where it lay."""
    older(paths.database_link, "one")
    with contextlib.closing(open_bus(paths)) as bus:
        assert [event.payload["text"] for event in bus.events.list()] == ["one"]
    assert not paths.database_link.is_symlink()
    assert "note.added" in agentd(paths.user, "events").stdout


def test_the_daemon_moves_it_and_goes_on(home: Home) -> None:
    """The old name leads to the new place, and `paths` prints where it is."""
    home.paths.create()
    older(home.paths.database_link, "Ada")
    home.start()
    sent = int(home.send().stdout.split()[1])
    home.until(lambda: home.answered() == [sent], "it is answered")
    assert texts(home.paths.database_link)[0] == "Ada"
    home.stop()
    printed = agentd(home.root, "paths", "database").stdout.strip()
    assert printed == str(home.root / DATABASE)


def test_what_cannot_be_moved_is_one_clear_error(tmp_path: Path) -> None:
    """It stays where it is, and works again once the reason is gone."""
    with daemon(tmp_path) as one:
        one.paths.create()
        older(one.paths.database_link, "one")
        (one.paths.data / "db").rmdir()
        (one.paths.data / "db").write_text("in the way")
        one.start(wait=False)
        assert one.process is not None
        _, said = one.process.communicate(timeout=20)
        assert one.process.returncode == 75 and "Traceback" not in said
        assert str(one.paths.data / "db") in said
        (one.paths.data / "db").unlink()
        one.start()
        assert texts(one.paths.database) == ["one"]
        assert one.stop() == 0
