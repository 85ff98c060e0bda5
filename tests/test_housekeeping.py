"""What the supervisor does besides: it prunes, cleans up after others, and takes any flood."""

import asyncio
import contextlib
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from agentd.bus import Bus
from agentd.config.agent import Permissions
from agentd.config.daemon import DaemonConfig
from agentd.errors import DamagedDatabase, Stopped, StorageError
from agentd.events import NewEvent
from agentd.logs import logger
from agentd.paths import Paths, discover
from agentd.process.heart import Heart
from agentd.process.stop import Stop
from agentd.storage.storage_retry import StorageRetry
from agentd.supervisor.housekeeping import TRUST_S, Housekeeping, sweep
from agentd.testing import ManualClock, wait_for
from agentd.tools.toolbox import Toolbox
from agentd.worker.runner import use_scratch
from tests.supervised import LOOK_VARIABLE, QUICK, Daemon, daemon

DEADLINE_S = 30.0


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Daemon]:
    """A supervisor with fake children that looks at its database all the time."""
    with daemon(tmp_path, {LOOK_VARIABLE: "0.2"}) as one:
        yield one


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    return paths


def count(one: Daemon, query: str) -> int:
    with contextlib.closing(Bus(one.paths.database)) as bus:
        return int(bus.db.run(query)[0][0])


# --- its connection


def test_a_stop_while_it_opens_the_database_leaves_no_connection(paths: Paths) -> None:
    """Else the last one to close is not the last, and the log is not written back."""
    Bus(paths.database).close()

    async def stopped_at_once() -> None:
        log = logger.get_logger()
        one = Housekeeping(paths, DaemonConfig(), lambda *_: None, log=log, clock=ManualClock())
        running = asyncio.ensure_future(one.run())
        await asyncio.sleep(0)  # it begins to open
        running.cancel()
        await asyncio.wait({running})
        await asyncio.wait_for(one.closed(), DEADLINE_S)

    before = set(threading.enumerate())
    asyncio.run(stopped_at_once())
    wait_for(lambda: set(threading.enumerate()) <= before, what="its thread ends")


# --- pruning


def test_the_size_limit_holds_while_it_runs(supervisor: Daemon) -> None:
    """Oldest first; what a paused agent had not read is in the dead letters, and announced."""
    supervisor.configure(f"{QUICK}[retention]\ndatabase_bytes = 2000000\n")
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    bus = Bus(supervisor.paths.database)
    bus.accept("slow", "v", subscribe=["note.added"], start="beginning")
    bus.agents.set_paused("slow", True)
    for _ in range(60):
        bus.outbox.publish_many(
            "x", [NewEvent("note.added", {"text": "x" * 5000}) for _ in range(10)]
        )
    bus.close()

    def bounded() -> bool:
        storage = supervisor.status()["storage"]
        return bool(storage["database_bytes"] and count(supervisor, LIVE) < 2_000_000)

    wait_for(bounded, seconds=DEADLINE_S, what="it shrinks")

    def told() -> int:  # each round tells of its own
        return sum(event["events"] for event in supervisor.events("agent.expired"))

    wait_for(lambda: told() > 100, seconds=DEADLINE_S)
    assert supervisor.events("agent.expired")[0]["agent"] == "slow"
    assert count(supervisor, "SELECT count(*) FROM dead_letters") > 0
    assert supervisor.log("retention.pruned")
    assert supervisor.agent("one")["state"] == "RUNNING"
    wait_for(lambda: supervisor.status()["storage"]["problem"] is None, seconds=DEADLINE_S)


LIVE = (
    "SELECT (page_count - freelist_count) * page_size"
    " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


def test_a_clock_is_trusted_after_a_while(paths: Paths) -> None:
    """Just started, just woken, just set: what is too old by such a clock may not be."""
    clock = ManualClock()
    house = Housekeeping(
        paths, DaemonConfig(), lambda *_: None, log=logger.get_logger(), clock=clock
    )
    assert not house._trusts_clock()
    for _ in range(20):
        clock.advance(TRUST_S / 10)
        trusted = house._trusts_clock()
    assert trusted
    clock.set(clock.now() + timedelta(days=60))
    assert not house._trusts_clock()
    clock.set(clock.now() - timedelta(days=60))
    clock.advance(TRUST_S / 2)
    assert not house._trusts_clock(), "set right again is a jump as well"
    clock.advance(TRUST_S)
    assert house._trusts_clock()


def test_nothing_is_too_old_by_a_clock_that_is_not_trusted(paths: Paths) -> None:
    """Just after a start and after a jump by months the events stay; then the old ones go."""
    clock = ManualClock()
    bus = Bus(paths.database, clock=clock)
    bus.publish("x", NewEvent("note.added"))
    clock.advance(60 * 86_400)
    house = Housekeeping(
        paths, DaemonConfig(), lambda *_: None, log=logger.get_logger(), clock=clock
    )

    def left() -> int:
        return len(bus.events.list())

    async def run() -> None:
        try:
            await house._round()
            assert left() == 1
            clock.advance(TRUST_S)
            await house._round()
            assert left() == 0
            bus.publish("x", NewEvent("note.added"))
            clock.set(clock.now() + timedelta(days=60))
            await house._round()
            assert left() == 1
        finally:
            await house.closed()
            bus.close()

    asyncio.run(run())


# --- what others leave behind


def test_versions_of_agents_that_are_gone_are_removed(paths: Paths) -> None:
    """Not those of a file that is not accepted yet, nor what is somebody else's."""
    for name, age_days in (("known", 9), ("gone", 9), ("new", 0)):
        folder = paths.versions / name / "hash"
        folder.mkdir(parents=True)
        stamp = time.time() - age_days * 86_400
        os.utime(folder.parent, (stamp, stamp))
        (paths.scratch / name / "agentd-1").mkdir(parents=True)
        paths.log(name).parent.mkdir()
    paths.log("new").touch()
    outside = paths.data / "outside"
    outside.mkdir()
    (paths.versions / "link").symlink_to(outside)
    half = [paths.versions / "known" / ".build-1", paths.data / ".prune-1"]
    for folder in half:
        folder.mkdir(parents=True)
        (folder / "file").touch()
        stamp = time.time() - 86_400
        os.utime(folder, (stamp, stamp))
    building = paths.versions / "known" / ".build-2"
    building.mkdir()
    sweep(paths, {"known"}, datetime.now(UTC), timedelta(days=1))
    assert not any(folder.exists() for folder in half) and building.exists()
    assert {p.name for p in paths.versions.iterdir()} == {"known", "new", "link"}
    assert {p.name for p in paths.scratch.iterdir()} == {"known"}
    assert {p.name for p in paths.logs.iterdir()} == {"known", "new"}, "an empty folder is no log"
    assert outside.is_dir()


def test_folders_stay_where_an_agent_may_be_accepted_at_this_moment(paths: Paths) -> None:
    """At a first start all are; the bus was asked before, and the folders may be older."""
    for name in ("new", "gone", "agentd.watcher"):
        paths.create_for(name)
    (paths.scratch / "new.hands").mkdir()
    (paths.agents_d / "new.toml").touch()
    sweep(paths, set(), datetime.now(UTC), timedelta(0))
    assert {p.name for p in paths.scratch.iterdir()} == {"new", "new.hands", "agentd.watcher"}
    assert {p.name for p in paths.logs.iterdir()} == {"new", "agentd.watcher"}
    assert {p.name for p in paths.own_folders.iterdir()} == {"new"}


def test_an_own_folder_goes_with_its_agent(paths: Paths) -> None:
    """Once the bus has forgotten it, there is no file of its name, and nothing in there is new."""
    for name, age_days in (("known", 9), ("gone", 9), ("file", 9), ("used", 0)):
        note = paths.own_folders / name / "sub" / "note.md"
        note.parent.mkdir(parents=True)
        note.touch()
        stamp = time.time() - age_days * 86_400
        for path in (note, note.parent, note.parent.parent):
            os.utime(path, (stamp, stamp))
    (paths.agents_d / "file.toml").touch()
    sweep(paths, {"known"}, datetime.now(UTC), timedelta(days=1))
    assert {p.name for p in paths.own_folders.iterdir()} == {"known", "file", "used"}


def test_a_start_clears_what_a_killed_daemon_left(supervisor: Daemon) -> None:
    """Locks of agents that are gone, and their tools' temporary files."""
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    (supervisor.paths.scratch / "two" / "agentd-1").mkdir(parents=True)
    (supervisor.paths.locks / "two.lock").touch()
    assert supervisor.process is not None
    supervisor.process.kill()
    supervisor.process.communicate()
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    assert [path.name for path in supervisor.paths.scratch.iterdir()] == ["one"]
    assert not (supervisor.paths.locks / "two.lock").exists()


def test_a_workers_temporary_files_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the data folder and emptied at its next start: what kill -9 leaves fills no disk."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = tmp_path / "tmp" / "one"
    left = folder / "agentd-left" / "deep"
    left.mkdir(parents=True)
    use_scratch(folder)
    assert list(folder.iterdir()) == []
    with tempfile.TemporaryDirectory() as own:
        assert Path(own).parent == folder


# --- floods


def test_a_flood_leaves_the_supervisor_responsive_and_small(supervisor: Daemon) -> None:
    """Megabytes a second from a child: status answers, memory and logs stay where they were."""
    supervisor.drop("calm")
    supervisor.start()
    supervisor.wait_state("calm", "RUNNING")
    process = psutil.Process(supervisor.pid)
    before = process.memory_info().rss
    supervisor.drop("one", "flood")
    supervisor.wait_state("one", "RUNNING")
    wait_for(lambda: supervisor.log("log.repeated"), seconds=DEADLINE_S, what="a count")
    waits = []
    for _ in range(30):
        began = time.monotonic()
        assert supervisor.status()["agents"]
        waits.append(time.monotonic() - began)
    assert sorted(waits)[len(waits) // 2] < 1.0
    (supervisor.paths.agents_d / "one.toml").unlink()
    wait_for(lambda: supervisor.log("child.output_lost"), seconds=DEADLINE_S)
    assert supervisor.log("child.output_lost")[-1]["bytes"] > 10_000_000
    assert len(supervisor.log("child.output")) < 20, "the same line again is only counted"
    assert process.memory_info().rss - before < 20_000_000
    assert sum(path.stat().st_size for path in supervisor.paths.logs.rglob("*.jsonl*")) < 100_000
    assert supervisor.agent("calm")["restarts"] == 0


def test_a_tools_output_is_capped_while_it_is_read() -> None:
    """A program that prints a gigabyte costs a few hundred kilobytes."""
    tools = Toolbox(Permissions(run=("head",)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    args = {"program": "head", "args": ["-c", "1000000000", "/dev/zero"]}
    result = tools.call("RunCommand", args)
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 50_000_000
    assert "cut" in str(result.value) and len(str(result.value)) < 1_000_000


# --- waiting for the storage


class Heartbeats(Heart):
    """Keeps what it was told to send."""

    def __init__(self) -> None:
        super().__init__(None)
        self.sent: list[str] = []

    def beat(self, promise_s: float, state: str = "idle", **more: object) -> None:
        self.sent.append(state)


@pytest.fixture
def stop() -> Iterator[Stop]:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield Stop()
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def failing(errors: list[Exception]) -> Callable[[], str]:
    def work() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    return work


def test_patience_waits_and_says_so(stop: Stop) -> None:
    """Each try beats, so that nobody takes it for a hang; then all is well again."""
    heart = Heartbeats()
    retry = StorageRetry(heart, stop, logger.get_logger(), 1.0)
    errors: list[Exception] = [StorageError("full"), StorageError("full")]
    assert retry(failing(errors)) == "done"
    assert heart.sent == ["waits", "waits", "idle"] and not retry.waiting


def test_patience_ends_with_a_stop_or_where_it_is_of_no_use(stop: Stop) -> None:
    """A damaged file is never waited for; an orderly stop does not wait for a full disk."""
    retry = StorageRetry(Heartbeats(), stop, logger.get_logger(), 1.0)
    with pytest.raises(DamagedDatabase):
        retry(failing([DamagedDatabase("broken")]))
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped):
        retry(failing([StorageError("full")] * 100))
