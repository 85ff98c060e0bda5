"""What happens to the whole while the storage does not work: full, read-only, locked.

Real faults: a small disk of its own, other processes that hold locks. The daemon, its workers and
commands are the real ones; only the model is a double.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus
from agentd.events import NewEvent
from agentd.testing import wait_for
from tests.commandline import agentd
from tests.livehome import DEADLINE_S, a_home
from tests.supervised import LOOK_VARIABLE, Daemon, daemon

HOLD = """
import apsw, sys
db = apsw.Connection(sys.argv[1])
db.execute(sys.argv[2])
db.execute("SELECT count(*) FROM outbox").fetchall()
print("holds", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small disk of its own, where this user may mount one."""
    folder = Path(tempfile.mkdtemp(prefix="agentd-disk-"))  # short: sockets lie there, too
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,nr_inodes=3000", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip("this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def fill(folder: Path, name: str = "filler") -> Path:
    """Take all the space that is left; return the file that has it."""
    path = folder / name
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(fd, b"x" * 4096):
            pass
    os.close(fd)
    return path


def use_up_names(folder: Path) -> Path:
    """Make files until none can be made; return the folder that has them."""
    many = folder / "many"
    many.mkdir()
    with contextlib.suppress(OSError):
        for number in range(10_000):
            (many / str(number)).touch()
    return many


@contextlib.contextmanager
def held(database: Path, statement: str) -> Iterator[int]:
    """Another process that holds the database; yield its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database), statement],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stdout.readline() == "holds\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Daemon]:
    """A supervisor with fake children that looks at its database all the time."""
    with daemon(tmp_path, {LOOK_VARIABLE: "0.2"}) as one:
        yield one


def storage(one: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = one.status().get("storage") or {}
    return found


# --- a full disk


def test_a_full_disk_is_waited_for_and_loses_nothing(disk: Path) -> None:
    """In the middle of a session: no restart, no attempt lost, and the answer comes once."""
    with a_home(disk / "home") as home:
        home.start()
        first = home.send()
        assert first.returncode == 0
        home.until(lambda: home.answered() == [int(first.stdout.split()[1])], "it is answered")
        pid = home.agent()["pid"]
        home.gate.clear()
        second = int(home.send().stdout.split()[1])
        home.until(lambda: len(home.model.requests) >= 2, "the model is asked")
        filler = fill(disk)
        home.gate.set()
        home.until(lambda: "full" in home.problem().get("what", ""), "the agent says why it waits")
        refused = home.send("x" * 100_000)
        assert refused.returncode == 1 and "full" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
        agent = home.agent()
        assert (agent["state"], agent["pid"], agent["restarts"]) == ("RUNNING", pid, 0)
        shown = agentd(home.root, "status")
        assert shown.returncode == 0 and "full" in shown.stdout
        filler.unlink()
        home.until(lambda: home.answered()[1:] == [second], "it is answered, once")
        home.until(lambda: not home.problem(), "the problem is over")
        assert home.rows("SELECT total_attempts FROM deliveries") == [(1,)], "waiting spends none"
        third = int(home.send().stdout.split()[1])
        home.until(lambda: home.answered()[2:] == [third], "it goes on")
        assert home.agent()["restarts"] == 0
        assert home.rows("SELECT count(*) FROM dead_letters") == [(0,)]
        assert home.rows("PRAGMA quick_check") == [("ok",)]
        home.stop()


def test_a_full_disk_parks_nobody(disk: Path) -> None:
    """Children that die meanwhile cannot be started for a while; that is no crash loop."""
    with daemon(disk / "home", {LOOK_VARIABLE: "0.2"}) as one:
        for name in ("a", "b", "c"):
            one.drop(name)
        one.start()
        pids = [one.wait_state(name, "RUNNING")["pid"] for name in ("a", "b", "c")]
        filler = fill(disk)
        wait_for(lambda: "full" in str(storage(one).get("problem")), seconds=DEADLINE_S)
        for path in one.paths.locks.iterdir():
            path.rename(disk / path.name)
        many = use_up_names(disk)  # a new lock cannot be made
        for pid in pids:
            os.kill(pid, 9)

        def tried() -> bool:
            agents = [one.agent(name) for name in ("a", "b", "c")]
            return all(agent["restarts"] > 4 for agent in agents)

        wait_for(tried, seconds=DEADLINE_S, what="more tries than crashes are allowed")
        assert {one.agent(name)["state"] for name in ("a", "b", "c")} <= {"BACKOFF", "STARTING"}
        filler.unlink()
        shutil.rmtree(many)
        for name in ("a", "b", "c"):
            one.wait_state(name, "RUNNING")
        wait_for(lambda: storage(one)["problem"] is None, seconds=DEADLINE_S)
        assert len(one.events("agent.started")) >= 6, "what was to be told is told in the end"


# --- a folder that cannot be written


def test_a_read_only_disk_is_one_error_until_it_is_writable(disk: Path) -> None:
    """The daemon says so and may be started again later; commands say so; nothing is lost."""
    with a_home(disk / "home") as home:
        home.start()
        sent = int(home.send().stdout.split()[1])
        home.until(home.answered, "it is answered")
        home.stop()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = agentd(home.root, "run")
        assert done.returncode == 75
        assert str(home.root) in done.stderr and "hint" in done.stderr
        read = agentd(home.root, "events")  # SQLite reads there only if its index was left
        assert '"Ada"' in read.stdout or ("writable" in read.stderr and read.returncode == 1)
        assert agentd(home.root, "status").returncode == 3
        for words in (("send", "note.added", "{}"), ("prune",), ("backup",)):
            done = agentd(home.root, *words)
            assert done.returncode == 1, (words, done.stdout)
            assert done.stderr.count("agentd: ") == 1 and "Traceback" not in done.stderr
            assert str(home.root) in done.stderr and "hint" in done.stderr, done.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        home.start()
        assert home.answered() == [sent]
        home.stop()


# --- locks


def test_a_lock_that_is_held_for_long_shows_and_passes(supervisor: Daemon) -> None:
    """`status` says so while it lasts; afterwards all is well by itself."""
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    wait_for(lambda: storage(supervisor).get("database_bytes"), seconds=DEADLINE_S)
    with held(supervisor.paths.database, "BEGIN IMMEDIATE") as pid:
        found = wait_for(lambda: storage(supervisor)["problem"], seconds=DEADLINE_S)
        assert "locked" in found["what"] and found["where"] == str(supervisor.paths.database)
        assert "agentd doctor" in found["hint"]
        told = agentd(supervisor.home, "doctor", "--json")
        findings = {f["name"]: f for f in json.loads(told.stdout)["findings"]}
        if sys.platform == "linux":
            assert str(pid) in findings["locks"]["what"]
            assert findings["locks"]["level"] == "problem" and told.returncode == 1
        assert supervisor.agent("one")["state"] == "RUNNING"
    wait_for(lambda: storage(supervisor)["problem"] is None, seconds=DEADLINE_S)


def test_a_stuck_reader_shows_and_the_log_shrinks_after_it(supervisor: Daemon) -> None:
    """Its snapshot keeps everything written since; a person has to end it, and learns which."""
    supervisor.start()
    database = supervisor.paths.database
    bus = Bus(database)
    wal = database.with_name("agentd.db-wal")
    with held(database, "BEGIN") as pid:
        for _ in range(100):
            bus.publish("tester", NewEvent("note.added", {"text": "x" * 900_000}))
        assert wal.stat().st_size > 80_000_000
        found = wait_for(lambda: storage(supervisor)["problem"], seconds=DEADLINE_S)
        assert "reads" in found["what"] and "agentd doctor" in found["hint"]
        if sys.platform == "linux":
            assert f"process {pid}" in agentd(supervisor.home, "doctor").stdout
    wait_for(lambda: storage(supervisor)["problem"] is None, seconds=DEADLINE_S)
    bus.publish("tester", NewEvent("note.added", {}))
    bus.publish("tester", NewEvent("note.added", {}))
    assert wal.stat().st_size <= 64 * 1024 * 1024
    bus.close()
