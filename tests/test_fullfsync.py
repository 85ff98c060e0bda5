"""`bus.fullfsync`: whoever writes what others rely on opens the database as agentd.toml says."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentd.admission.admit import admit
from agentd.bus import Bus
from agentd.bus.outbox import Outbox
from agentd.cli import main
from agentd.clock import SystemClock
from agentd.config.daemon import load_daemon
from agentd.paths import Paths, discover
from agentd.process.heart import Heart
from agentd.process.lock import LockFile
from agentd.supervisor.argv import Commands
from agentd.supervisor.supervisor import Supervisor
from agentd.worker.worker import Worker
from tests.commandline import write_agent
from tests.supervised import remove_sockets

LOG: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])


@pytest.fixture(params=[True, False])
def wanted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def paths(tmp_path: Path, wanted: bool) -> Iterator[Paths]:
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    paths.create_private()
    paths.daemon_file.write_text(f"[bus]\nfullfsync = {str(wanted).lower()}\n")
    write_agent(tmp_path, "hello")
    bus = Bus(paths.database)
    bus.accept("hello", "v1")
    bus.close()
    yield paths
    remove_sockets(paths)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Put back what a worker does about signals."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def of(bus: Bus | Outbox) -> bool:
    return bool(bus.db.connection.pragma("fullfsync"))


@pytest.mark.usefixtures("handlers")
def test_a_worker(paths: Paths, wanted: bool) -> None:
    """Its answers are durable as configured; so are its schedule's events."""
    daemon = load_daemon(paths.daemon_file)
    worker = Worker(admit("hello", paths), paths, daemon, Heart(None), LOG)
    try:
        assert of(worker.bus) is wanted
        other = worker._open_bus()
        assert of(other) is wanted
        other.close()
    finally:
        worker.ear.close()
        worker.bus.close()


def test_a_supervisor(paths: Paths, wanted: bool) -> None:
    """It notes that agents are accepted, paused and removed."""
    daemon = load_daemon(paths.daemon_file)

    async def run() -> bool:
        lock = LockFile(paths.lock)
        records = Supervisor(paths, daemon, Commands(), SystemClock(), LOG, lock)._records
        await records.open()
        try:
            return await records._thread.call(of)
        finally:
            records.close()
            await records._thread.closed()

    assert asyncio.run(run()) is wanted


@pytest.mark.parametrize("words", [("send", "note.added", "{}"), ("trigger", "hello")])
def test_a_command_that_writes(
    paths: Paths, wanted: bool, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """What it acknowledges is as safe as what an agent publishes."""
    seen: list[bool] = []
    publish: Callable[..., Any] = Outbox.publish

    def watched(outbox: Outbox, *args: Any, **keys: Any) -> Any:
        seen.append(of(outbox))
        return publish(outbox, *args, **keys)

    monkeypatch.setattr(Outbox, "publish", watched)
    monkeypatch.setenv("AGENTD_HOME", str(paths.data))
    assert main(list(words)) == 0
    assert seen == [wanted]
