"""The commands around the database's file: in every state that it can be in."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentd.bus import Bus, schema
from agentd.cli import main
from agentd.clock import SystemClock
from agentd.commands import home
from agentd.doctor import machine
from agentd.events import Lane, NewEvent
from agentd.paths import Paths, discover
from agentd.process.lock import LockFile
from agentd.states import DeadReason
from agentd.testing import FakeModelServer
from agentd.views import overview

Run = Callable[..., tuple[int, str, str]]
READING = [
    ("events",),
    ("sessions",),
    ("sessions", "show", "1"),
    ("dead",),
    ("dead", "show", "1"),
    ("prune", "--dry-run"),
    ("backup",),
]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    monkeypatch.setattr(home, "BUSY_MS", 200)
    monkeypatch.setattr(overview, "BUSY_MS", 200)
    return discover()


@pytest.fixture
def run(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command here and return its exit code, stdout and stderr."""

    def command(*words: str) -> tuple[int, str, str]:
        code = main(words)
        return code, *capsys.readouterr()

    return command


@pytest.fixture
def bus(paths: Paths) -> Bus:
    bus = Bus(paths.database)
    bus.accept("hello", "v1", subscribe=["note.*"], start="beginning")
    return bus


def one_error(found: tuple[int, str, str], code: int, *words: str) -> None:
    """One message, no traceback, the exit code, and what it must tell."""
    assert found[0] == code, found
    assert found[2].count("agentd: ") == 1 and "Traceback" not in found[2], found[2]
    for word in words:
        assert word in found[2], found[2]


# --- reading, in every state of the file


@pytest.mark.parametrize("words", READING)
def test_without_a_database(words: tuple[str, ...], run: Run, paths: Paths) -> None:
    """Nothing is created by looking; exit 3 says that the daemon was never there."""
    one_error(run(*words), 3, "there is no database yet")
    assert list(paths.data.iterdir()) == []


@pytest.mark.parametrize("words", READING)
def test_what_is_no_database(words: tuple[str, ...], run: Run, paths: Paths) -> None:
    """Named, with what to do, and left alone."""
    paths.create()
    paths.database.write_bytes(b"no database at all, but long enough" * 100)
    one_error(run(*words), 1, "agentd.db", "hint", "--restore")
    assert paths.database.read_bytes().startswith(b"no database at all")


@pytest.mark.parametrize("words", READING[:-1])  # a backup is a copy, whatever is in it
def test_a_newer_database(words: tuple[str, ...], run: Run, paths: Paths) -> None:
    """An old agentd does not touch what a new one wrote."""
    paths.create()
    connection = apsw.Connection(str(paths.database))
    connection.pragma("user_version", 999)
    connection.close()
    one_error(run(*words), 1, "newer agentd", "update agentd")


@pytest.mark.parametrize("words", READING)
def test_a_database_that_somebody_keeps_to_himself(
    words: tuple[str, ...], run: Run, paths: Paths, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, one error that says so, and how to find who it is."""
    monkeypatch.setattr(schema, "BUSY_TIMEOUT_MS", 200)
    bus.close()
    owner = apsw.Connection(str(paths.database))
    owner.pragma("locking_mode", "exclusive")
    owner.execute("BEGIN EXCLUSIVE")
    one_error(run(*words), 1, "locked", "agentd doctor")
    owner.close()


@pytest.mark.parametrize("words", [("events",), ("sessions",), ("dead",), ("status",)])
def test_a_lock_that_somebody_writes_under_keeps_nobody_from_reading(
    words: tuple[str, ...], run: Run, bus: Bus
) -> None:
    """Only writers wait for each other."""
    with bus.transaction():
        bus.publish("fetch", NewEvent("note.added"))
        code, shown, error = run(*words)
        assert code in (0, 3) and error == "" and "locked" not in shown


@pytest.mark.parametrize("kind", ["no database", "newer", "locked"])
def test_status_says_what_is_wrong_and_shows_the_rest(
    kind: str, run: Run, paths: Paths, bus: Bus
) -> None:
    """It is what a person looks at first: never an error instead of an answer."""
    bus.close()
    owner = None
    if kind == "no database":
        paths.database.write_bytes(b"no database at all, but long enough" * 100)
    elif kind == "newer":
        connection = apsw.Connection(str(paths.database))
        connection.pragma("user_version", 999)
        connection.close()
    else:
        owner = apsw.Connection(str(paths.database))
        owner.pragma("locking_mode", "exclusive")
        owner.execute("BEGIN EXCLUSIVE")
    code, shown, error = run("status")
    assert code == 3 and error == ""
    assert "not running" in shown and "agentd.db" in shown and "hint" in shown
    code, text, _ = run("status", "--json")
    problem = json.loads(text)["storage"]["problem"]
    assert code == 3 and problem["where"] == str(paths.database) and problem["what"]
    if owner is not None:
        owner.close()


def test_status_tells_why_the_last_run_failed(run: Run, paths: Paths) -> None:
    """The daemon may have been started by launchd, where nobody saw what it said."""
    paths.config.mkdir(parents=True)
    paths.daemon_file.write_text("[modle]\n")
    assert run("run")[0] == 78
    code, shown, _ = run("status")
    assert code == 3 and "modle" in shown
    assert json.loads(run("status", "--json")[1])["failure"]["where"] == str(paths.daemon_file)


# --- backup


def test_backups_by_name_and_by_time(run: Run, paths: Paths, bus: Bus, tmp_path: Path) -> None:
    """Into the data folder, the newest kept; or to a file, never over another one."""
    bus.publish("fetch", NewEvent("note.added"))
    for _ in range(3):
        code, shown, error = run("backup", "--keep", "2")
        assert code == 0 and error == "" and "event 1" in shown
    assert len(list(paths.backups.iterdir())) == 2
    target = tmp_path / "mine.db"
    code, text, _ = run("backup", str(target), "--json")
    document = json.loads(text)
    assert code == 0 and document["path"] == str(target)
    assert document["last_event_id"] == 1 and document["bytes"] == target.stat().st_size
    one_error(run("backup", str(target)), 2, "there already")
    assert run("backup", str(target), "--force")[0] == 0
    assert main(["backup", str(target), "--keep", "2"]) == 2


def test_restoring_needs_the_daemon_stopped(
    run: Run, paths: Paths, bus: Bus, tmp_path: Path
) -> None:
    """It would go on writing into what is not there any more."""
    target = tmp_path / "mine.db"
    bus.publish("fetch", NewEvent("note.added", {"n": 1}))
    assert run("backup", str(target))[0] == 0
    bus.publish("fetch", NewEvent("note.added", {"n": 2}))
    bus.close()
    paths.create()
    lock = LockFile(paths.lock)
    assert lock.acquire()
    one_error(run("backup", "--restore", str(target)), 1, "is running", "agentd stop")
    lock.close()
    code, shown, _ = run("backup", "--restore", str(target))
    assert code == 0 and "kept as" in shown
    assert len(run("events", "--json")[1].splitlines()) == 1
    one_error(run("backup", "--restore", str(tmp_path / "none.db")), 2, "no such file")


# --- prune


def test_prune_says_what_it_removes_and_a_dry_run_removes_nothing(
    run: Run, paths: Paths, bus: Bus
) -> None:
    """The same numbers both times; what was unread is in the dead letters then."""
    old = "2020-01-01T00:00:00.000Z"
    for n in range(5):
        bus.publish("fetch", NewEvent("note.added", {"n": n}))
    bus.db.run("UPDATE outbox SET created_at = ?", (old,))
    bus.publish("fetch", NewEvent("note.added"))
    lane = Lane("hello", False, ("note.*",))
    for _ in range(3):
        event = bus.next(lane)
        assert event is not None
        bus.step(lane, event)
    dry = json.loads(run("prune", "--dry-run", "--json")[1])
    assert dry["expired"] == 2 and dry["removed"]["events"] == 5 and dry["dry_run"] is True
    assert len(bus.events.list()) == 6 and bus.dead.list() == []
    assert not list(paths.data.glob(".prune*"))
    code, shown, _ = run("prune")
    assert code == 0 and "2 unread events, now dead letters" in shown
    assert [event.id for event in bus.events.list()] == [6]
    assert {letter.reason for letter in bus.dead.list()} == {DeadReason.EXPIRED}
    assert "nothing is too old" in run("prune")[1]


# --- new


@pytest.mark.parametrize("code", [False, True])
def test_a_new_agent_passes_the_check_at_once(code: bool, run: Run, paths: Paths) -> None:
    """As it is written, and enabled; nothing is ever overwritten."""
    words = ("new", "word_count_2", *(("--code",) if code else ()))
    assert run(*words)[0] == 0
    file = paths.agents_d / "word_count_2.toml"
    file.write_text(file.read_text().replace("enabled = false", "enabled = true"))
    found, shown, _ = run("check")
    assert found == 0 and "word_count_2  ok\n" in shown, shown
    one_error(run(*words), 2, "there already")
    assert "enabled = true" in file.read_text()


@pytest.mark.parametrize("name", ["Upper", "a-b", "agentd", "../x", ""])
def test_a_name_that_is_none(name: str, run: Run, paths: Paths) -> None:
    """No file is written by that name."""
    code, _, error = run("new", name)
    assert code in (1, 2) and "Traceback" not in error
    assert not paths.agents_d.exists()


@pytest.mark.parametrize("name", ["repo_fetch", "clients", "tools"])
def test_our_files_are_not_hidden_by_a_new_agents(name: str, run: Run, paths: Paths) -> None:
    """A person's file would be used instead of the shipped one, by all agents even."""
    one_error(run("new", name, "--code"), 2, f"{name}.baml")
    assert not paths.baml_src.exists()


# --- doctor


def findings(run: Run, *words: str) -> tuple[int, dict[str, dict[str, Any]], dict[str, Any]]:
    code, text, _ = run("doctor", "--json", *words)
    document = json.loads(text)
    return code, {finding["name"]: finding for finding in document["findings"]}, document


def test_doctor_looks_at_everything_and_says_what_to_do(run: Run, paths: Paths, bus: Bus) -> None:
    """Each finding has a level, and each that is not ok has a hint; a problem exits 1."""
    code, found, document = findings(run)
    names = {"daemon", "configuration", "model", "database", "disk", "size", "wal", "logs", "locks"}
    names |= {"clock", "permissions", "descriptors", "sockets", "sqlite"}
    assert found.keys() >= names
    if sys.platform == "linux":
        assert "blas" in found
    assert code == 1 and document["ok"] is False, "there is no model here"
    assert found["model"]["level"] == "problem" and "model pull" in found["model"]["hint"]
    assert found["database"]["level"] == "ok"
    assert all(f["hint"] for f in document["findings"] if f["level"] != "ok")
    paths.config.mkdir(parents=True)
    with FakeModelServer(token="") as server:
        paths.daemon_file.write_text(f'[model]\nurl = "{server.url}"\n')
        code, found, document = findings(run)
        assert code == 0 and document["ok"] is True, document
        shown = run("doctor")[1]
    assert "SQLite" in shown and "ok " in shown


def test_doctor_finds_what_is_wrong(run: Run, paths: Paths, bus: Bus) -> None:
    """A wrong file, an event from the future, a database that others can read."""
    paths.create()
    paths.daemon_file.write_text("[modle]\n")
    bus.publish("fetch", NewEvent("note.added"))
    bus.db.run("UPDATE outbox SET created_at = '2999-01-01T00:00:00.000Z'")
    paths.database.chmod(0o644)
    paths.token.write_text("secret")
    paths.token.chmod(0o644)
    code, found, document = findings(run)
    assert code == 1
    assert "modle" in found["configuration"]["what"]
    assert found["clock"]["level"] == "warning"
    wrong = [f["what"] for f in document["findings"] if f["name"] == "permissions"]
    assert len(wrong) >= 2 and "secret" not in str(document)
    bus.close()
    code, found, document = findings(run, "--repair")
    assert found["permissions"]["level"] == "ok" and document["mended"]
    assert paths.database.stat().st_mode & 0o077 == paths.token.stat().st_mode & 0o077 == 0


def test_doctor_repairs_only_what_nobody_uses(run: Run, paths: Paths, bus: Bus) -> None:
    """A running daemon goes on writing into the old file."""
    paths.create()
    lock = LockFile(paths.lock)
    assert lock.acquire()
    lock.record(4242, clock=SystemClock())
    one_error(run("doctor", "--repair"), 1, "4242", "agentd stop")
    lock.close()


def test_doctor_leaves_a_sound_database_alone(run: Run, paths: Paths, bus: Bus) -> None:
    """And clears away what killed processes left."""
    bus.close()
    paths.create()
    left = paths.backups / ".agentd-1.db.77.partial"
    left.parent.mkdir()
    left.write_bytes(b"half")
    (paths.scratch / "hello" / "agentd-xyz").mkdir(parents=True)
    inode = paths.database.stat().st_ino
    _, _, document = findings(run, "--repair")
    assert document["repaired"] is None and len(document["mended"]) == 2
    assert not left.exists() and not paths.scratch.exists()
    assert paths.database.stat().st_ino == inode


@pytest.mark.parametrize(
    ("version", "wrong"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.54.1", False),
        ("unknown", False),
    ],
)
def test_which_sqlite_can_damage_the_file(version: str, wrong: bool) -> None:
    """3.7.0 to 3.51.2, when several connections write and checkpoint."""
    assert machine.affected(version) is wrong


def test_doctor_tells_of_the_tools_of_this_machine(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People use `sqlite3` on the same file; what it must not do is said, and is no warning."""
    tool = tmp_path / "bin" / "sqlite3"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 3.45.1 2024-01-30\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    _, _, document = findings(run)
    said = [f for f in document["findings"] if f["name"] == "sqlite-tools"]
    assert said[0]["level"] == "ok" and "3.45.1" in said[0]["what"]
    assert "write nothing" in said[0]["what"]
    tool.write_text("#!/bin/sh\necho 3.52.0\n")
    _, _, document = findings(run)
    said = [f for f in document["findings"] if f["name"] == "sqlite-tools"]
    assert "write" not in said[0]["what"]


def test_doctor_looks_at_the_prompt_caches(run: Run, paths: Paths) -> None:
    """They hold what private prompts said: how much, whose, and whether others can read it."""
    paths.create()
    paths.prompt_caches.write_bytes(b"x" * 2_000_000)
    paths.prompt_caches.chmod(0o644)
    _, _, document = findings(run)
    said = {f["name"]: f for f in document["findings"]}
    assert said["prompt-caches"]["level"] == "ok" and "2.0 MB" in said["prompt-caches"]["what"]
    assert str(paths.prompt_caches) in said["permissions"]["what"]
    paths.prompt_caches.chmod(0o600)
    paths.daemon_file.write_text("[model]\nsaved_cache_bytes = 0\n")
    _, _, document = findings(run)
    said = {f["name"]: f for f in document["findings"]}
    assert said["prompt-caches"]["level"] == "warning" and said["permissions"]["level"] == "ok"


def test_doctor_in_a_home_that_does_not_exist(tmp_path: Path) -> None:
    """It looks, and creates nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "doctor"],
        env={"AGENTD_HOME": str(tmp_path / "none"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "none").exists()
