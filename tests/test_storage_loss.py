"""What happens to the whole when its database goes: deleted, replaced, damaged.

The daemon, its workers and commands are the real ones; only the model is a double.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from agentd.bus import Bus
from agentd.errors import StorageError
from agentd.events import NewEvent
from agentd.process.lock import LockFile
from agentd.storage.database_files import files_stay
from agentd.storage.health import holders
from tests.commandline import agentd
from tests.livehome import Home, a_home
from tests.supervised import suspend

PAGE = 4096


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with a_home(tmp_path / "home") as home:
        yield home


# --- files that go


def test_a_deleted_database_is_put_back(home: Home) -> None:
    """What was acknowledged lives in the open file: it is saved before it goes for good."""
    home.start()
    sent = [int(home.send().stdout.split()[1]) for _ in range(3)]
    home.until(lambda: home.answered() == sent, "all is answered")
    last = home.rows("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
    home.paths.database.unlink()
    code, said = home.ended()
    assert code == 75
    assert "removed or replaced" in said and "put back" in said and "Traceback" not in said
    shown = agentd(home.root, "status")
    assert shown.returncode == 3 and "put back" in shown.stdout
    assert home.answered() == sent
    assert home.rows("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'") >= last
    assert [p.name for p in home.paths.database.parent.glob("*.db*")] == ["agentd.db"]
    home.start()
    again = int(home.send().stdout.split()[1])
    home.until(lambda: home.answered() == [*sent, again], "it goes on, and repeats nothing")
    home.stop()


def test_a_replaced_database_stays_and_the_old_one_is_kept(home: Home) -> None:
    """A copy moved over it is what a person wants; the old log must not be replayed into it."""
    home.start()
    assert home.send().returncode == 0
    home.until(lambda: len(home.answered()) == 1, "it is answered")
    copy = home.root / "other.db"
    assert agentd(home.root, "backup", str(copy)).returncode == 0
    for _ in range(3):
        home.send("later")
    home.until(lambda: len(home.answered()) == 4, "all is answered")
    copy.replace(home.paths.database)
    code, said = home.ended()
    assert code == 75 and "rescued" in said
    (rescued,) = home.paths.database.parent.glob("agentd.db.rescued-*")
    with contextlib.closing(apsw.Connection(str(rescued))) as db:
        count = "SELECT count(*) FROM outbox WHERE event_type = 'greeting.written'"
        assert db.execute(count).fetchall() == [(4,)]
    assert len(home.answered()) == 1
    assert home.rows("PRAGMA integrity_check") == [("ok",)]
    home.start()
    home.send("again")
    home.until(lambda: len(home.answered()) == 2, "it goes on from the copy")
    assert home.rows("PRAGMA integrity_check") == [("ok",)]
    home.stop()


def emptied(path: Path) -> None:
    path.unlink()
    path.touch()


def moved_away(path: Path) -> None:
    (path.parent / "away").mkdir()
    path.rename(path.parent / "away" / path.name)


def copied_over(path: Path) -> None:
    path.with_suffix(".copy").write_bytes(path.read_bytes())
    path.with_suffix(".copy").replace(path)


WAYS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "replaced": emptied,
    "moved": moved_away,
    "copied": copied_over,
}
LOST: dict[str, tuple[tuple[str, ...], Callable[[Path], object]]] = {
    **{f"index {way}": (("-shm",), WAYS[way]) for way in ("removed", "replaced", "moved")},
    **{f"log {way}": (("-wal",), lose) for way, lose in WAYS.items()},
    "log and index removed": (("-wal", "-shm"), Path.unlink),
    "all removed": (("", "-wal", "-shm"), Path.unlink),
    "file moved": (("",), moved_away),
    "folder removed": (("",), lambda path: shutil.rmtree(path.parent)),
}


@pytest.mark.parametrize("lost", LOST)
def test_whatever_of_the_database_goes_nothing_acknowledged_is_lost(home: Home, lost: str) -> None:
    """Its log and its index are as much of it as its file; and who is refused can tell."""
    ends, lose = LOST[lost]
    home.start()
    sent = [int(home.send().stdout.split()[1])]
    home.until(lambda: home.answered() == sent, "it is answered")
    for end in ends:
        lose(home.paths.database.with_name(home.paths.database.name + end))
    refused = home.send()
    if refused.returncode == 0:
        sent.append(int(refused.stdout.split()[1]))
    else:
        assert refused.returncode == 1 and "removed or replaced" in refused.stderr
    code, said = home.ended()
    assert code == 75 and "Traceback" not in said
    assert f"agentd.db{ends[0]}: this file was removed or replaced" in said and "put back" in said
    looked = agentd(home.root, "doctor", "--json")
    told = {f["name"]: f for f in json.loads(looked.stdout)["findings"]}
    assert "removed or replaced" in told["daemon"]["what"]
    assert [p.name for p in home.paths.database.parent.glob("*.db*")] == ["agentd.db"]
    assert home.rows("PRAGMA integrity_check") == [("ok",)]
    kept = [row[0] for row in home.rows("SELECT id FROM outbox WHERE event_type = 'note.added'")]
    assert kept == sent
    home.start()
    sent.append(int(home.send().stdout.split()[1]))
    home.until(lambda: home.answered() == sent, "it goes on, and repeats nothing")
    home.stop()


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
def test_who_comes_before_the_daemon_noticed_is_told(home: Home, end: str) -> None:
    """It would see less than there is; what it wrote would be lost, and damage what is there."""
    home.start()
    assert home.process is not None
    suspend(home.process.pid)
    try:
        home.paths.database.with_name(f"agentd.db{end}").unlink()
        before = sorted(home.paths.database.parent.glob("*.db*"))
        for words in (("send", "note.added", "{}"), ("trigger", "hello"), ("events",), ("backup",)):
            done = agentd(home.root, *words)
            assert done.returncode == 1, words
            assert f"agentd.db{end}: this file was removed or replaced" in done.stderr
        looked = agentd(home.root, "doctor", "--json")
        told = {f["name"]: f for f in json.loads(looked.stdout)["findings"]}
        assert "removed or replaced" in told["database"]["what"]
        assert sorted(home.paths.database.parent.glob("*.db*")) == before, "nobody made one"
    finally:
        os.kill(home.process.pid, signal.SIGCONT)
    assert home.ended()[0] == 75


def test_what_went_just_before_a_stop_is_saved(home: Home) -> None:
    """A stop does not wait for the next look."""
    home.start()
    sent = [int(home.send().stdout.split()[1])]
    home.until(lambda: home.answered() == sent, "it is answered")
    assert home.process is not None
    suspend(home.process.pid)
    home.paths.database.with_name("agentd.db-wal").unlink()
    home.process.terminate()
    os.kill(home.process.pid, signal.SIGCONT)
    code, said = home.ended()
    assert code == 75 and "put back" in said
    assert home.answered() == sent


def test_files_of_an_earlier_run_are_nobodys(home: Home) -> None:
    """After a kill the lock still names them, and who opens the database last removes them."""
    home.start()
    assert home.process is not None
    home.process.kill()
    home.ended()
    home.until(lambda: not holders(home.paths.database).open, "its workers are gone, too")
    for _ in range(2):
        assert home.send().returncode == 0
    home.start()
    home.until(lambda: len(home.answered()) == 2, "all is answered")
    home.stop()
    assert home.send().returncode == 0


def test_a_lock_that_was_made_again_names_the_files(home: Home) -> None:
    """Else a cleaner of temporary folders would take the protection away."""
    home.start()
    home.paths.lock.unlink()
    home.until(LockFile(home.paths.lock).held, "it is there again")
    assert home.send().returncode == 0
    assert home.process is not None
    suspend(home.process.pid)
    home.paths.database.with_name("agentd.db-shm").unlink()
    assert home.send().returncode == 1
    os.kill(home.process.pid, signal.SIGCONT)
    assert home.ended()[0] == 75


def test_what_was_committed_into_files_that_went_is_not_acknowledged(tmp_path: Path) -> None:
    """A command may have waited for the lock while somebody removed them."""
    database = tmp_path / "agentd.db"
    bus = Bus(database)
    with files_stay(bus):
        bus.publish("person", NewEvent("note.added", {}))
    with pytest.raises(StorageError, match="removed or replaced") as error, files_stay(bus):
        bus.publish("person", NewEvent("note.added", {}))
        database.with_name("agentd.db-shm").unlink()
    assert "may be lost" in error.value.hint
    bus.close()


# --- damage


def damage(database: Path, event_id: int) -> None:
    """Overwrite the page that holds an event's row, as a failing disk does."""
    with contextlib.closing(apsw.Connection(str(database))) as db:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    data = bytearray(database.read_bytes())
    place = data.index(f"mark {event_id}".encode()) // PAGE * PAGE
    data[place : place + PAGE] = os.urandom(PAGE)
    database.write_bytes(data)


def test_a_damaged_page_stops_the_daemon_and_is_repaired(home: Home) -> None:
    """One permanent error; the old file is kept, what is missing is listed, and all goes on."""
    home.start()
    assert agentd(home.root, "pause", "hello").returncode == 0
    bus = Bus(home.paths.database)
    first = bus.events.last_id() + 1
    for n in range(first, first + 60):
        bus.publish("person", NewEvent("note.added", {"mark": f"mark {n} ", "x": "y" * 400}))
    last = bus.events.last_id()
    home.stop()
    assert bus.agents.set_paused("hello", False)
    bus.close()
    damage(home.paths.database, first + 30)
    inode = home.paths.database.stat().st_ino
    home.launch()
    code, said = home.ended()  # whoever meets the page first: the worker or the index of words
    assert code == 78
    assert "damaged" in said and "doctor --repair" in said and "Traceback" not in said
    shown = agentd(home.root, "status")
    assert shown.returncode == 3 and "damaged" in shown.stdout and "--repair" in shown.stdout
    assert home.paths.database.stat().st_ino == inode, "the file is left where it is"
    looked = agentd(home.root, "doctor", "--json")
    findings = {f["name"]: f for f in json.loads(looked.stdout)["findings"]}
    assert looked.returncode == 1 and findings["database"]["level"] == "problem"

    done = agentd(home.root, "doctor", "--repair", "--json")
    document = json.loads(done.stdout)
    repaired = document["repaired"]
    missing = [int(text.split()[0]) for text in repaired["missing"]["outbox"]]
    assert first + 30 in missing and len(missing) < 20
    kept = Path(repaired["kept"])
    assert kept.stat().st_ino == inode
    assert json.loads(kept.with_name(f"{kept.name}.json").read_text())["missing"]
    assert home.rows("PRAGMA integrity_check") == [("ok",)]
    home.start()
    wanted = [n for n in range(first, last + 1) if n not in missing]
    home.until(lambda: set(home.answered()) >= set(wanted[:3]), "it goes on")
    home.until(lambda: home.answered() == wanted, "every event that is left is answered, once")
    sent = int(home.send().stdout.split()[1])
    assert sent > last, "no id is given again"
    home.stop()


def test_what_is_no_database_is_permanent(home: Home) -> None:
    """Trying again is of no use: 78, and under launchd 0, so that it is not tried for ever."""
    home.paths.create()
    home.paths.database.write_bytes(b"no database at all, but long enough" * 100)
    done = agentd(home.root, "run")
    assert done.returncode == 78 and "--restore" in done.stderr
    assert agentd(home.root, "run", AGENTD_LAUNCHD="1").returncode == 0
    assert "no database at all" in home.paths.database.read_text()
    shown = agentd(home.root, "status", "--json")
    assert json.loads(shown.stdout)["failure"]["where"] == str(home.paths.database)
    repaired = agentd(home.root, "doctor", "--repair")
    assert repaired.returncode == 1 and "--restore" in repaired.stderr
