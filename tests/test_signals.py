"""No state of start or stop in which a signal is not heeded, and no error that nobody hears of."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import structlog

from agentd.bus import Bus, Opening
from agentd.bus.bus_thread import BusThread
from agentd.clock import SystemClock
from agentd.errors import AgentdError, StorageError
from agentd.paths import discover
from agentd.process.jobs import Jobs, in_thread
from agentd.process.lock import LockFile
from agentd.process.stop import Cancel
from agentd.supervisor.home_files import HomeFiles
from tests.supervised import DEADLINE_S, FILE, Daemon, daemon, wait_for


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as one:
        yield one


def ended(one: Daemon) -> tuple[int, str]:
    """Its exit code, and what it said to the person who started it."""
    assert one.process is not None
    _, said = one.process.communicate(timeout=DEADLINE_S)
    return one.process.returncode, said


def real(home: Path) -> Daemon:
    """The daemon as users start it, but for its terminal."""
    one = Daemon(home)
    one.process = subprocess.Popen(
        [sys.executable, "-m", "agentd", "run"],
        env=one.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return one


# --- a database that cannot be opened


@pytest.mark.parametrize(
    ("version", "script"),
    [
        (2, "CREATE TABLE x (a)"),
        (0, "CREATE TABLE outbox (id INTEGER PRIMARY KEY, recipient TEXT)"),
        (7, "CREATE TABLE outbox (a); CREATE TABLE cursors (a)"),
        (-3, "CREATE TABLE y (a)"),
    ],
)
def test_another_programs_database_is_one_error(
    supervisor: Daemon, version: int, script: str
) -> None:
    """Exit 78: only a person can mend it. The file is as it was, and `status` says why."""
    supervisor.paths.create()
    with contextlib.closing(apsw.Connection(str(supervisor.paths.database))) as db:
        db.execute(script)
        db.pragma("user_version", version)
    before = supervisor.paths.database.read_bytes()
    supervisor.start(wait=False)
    code, said = ended(supervisor)
    assert code == 78
    assert said.count("is no database of agentd") == 1 and "Traceback" not in said
    assert supervisor.paths.database.read_bytes() == before
    failure = json.loads((supervisor.paths.run / "failed.json").read_bytes())
    assert "is no database of agentd" in failure["what"]


def test_a_home_that_is_not_utf8_is_one_error(tmp_path: Path) -> None:
    """Before anything is written there, in words that every terminal can show."""
    home = os.fsencode(tmp_path) + b"/caf\xe9"
    done = subprocess.run(
        [sys.executable, "-m", "agentd", "run"],
        env={**os.environb, b"AGENTD_HOME": home},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 78
    assert "is not UTF-8" in done.stderr and "\\xe9" in done.stderr
    assert "Traceback" not in done.stderr and not os.path.exists(home)  # noqa: PTH110 - bytes


def test_what_the_database_thread_raises_reaches_who_opens_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is: who waits for it would wait for ever."""

    class Strange(BaseException):
        pass

    def broken(*_: object, **__: object) -> None:
        raise Strange

    monkeypatch.setattr("agentd.bus.bus_thread.Bus", broken)
    paths = discover({"AGENTD_HOME": str(tmp_path)})

    async def run() -> None:
        thread = BusThread(paths, SystemClock(), Opening())
        with pytest.raises(Strange):
            await thread.open()
        await thread.closed()

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))


# --- signals while it starts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("locked", ["fresh", "there"])
def test_a_start_that_waits_for_the_database_can_be_stopped(
    tmp_path: Path, number: signal.Signals, locked: str
) -> None:
    """SQLite waits 30 s for a lock, and a migration as long as it takes."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    if locked == "there":
        Bus(paths.database).close()
    with contextlib.closing(apsw.Connection(str(paths.database))) as db:
        if locked == "there":
            db.pragma("locking_mode", "exclusive")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("CREATE TABLE held (a)")
        one = real(tmp_path)
        wait_for(lambda: one.paths.token.exists(), "it is about to open the database")
        began = time.monotonic()
        assert one.process is not None
        one.process.send_signal(number)
        code, said = ended(one)
        assert time.monotonic() - began < 10
        assert code == 0 and "Traceback" not in said
        db.execute("ROLLBACK")


def test_signals_at_any_moment_of_the_start_end_it(tmp_path: Path) -> None:
    """Also two of them; in order or at once, but never with a traceback, and never not at all."""
    moments: list[Callable[[Daemon], Any]] = [
        lambda one: one.paths.run.exists(),
        lambda one: one.paths.lock.exists(),
        lambda one: one.paths.token.exists(),
        lambda one: one.paths.database.exists(),
        lambda one: one.paths.status_socket.exists(),
        lambda one: one.log("supervisor.started"),
    ]
    for turn, moment in enumerate(moments):
        one = real(tmp_path / str(turn))
        wait_for(lambda: moment(one), "the moment has come")  # noqa: B023
        assert one.process is not None
        one.process.send_signal(signal.SIGINT if turn % 2 else signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            one.process.send_signal(signal.SIGTERM)
        code, said = ended(one)
        assert code in (0, -signal.SIGTERM) and "Traceback" not in said, (turn, code, said)


def test_a_start_that_waits_for_a_child_of_before_can_be_stopped(tmp_path: Path) -> None:
    """It cannot be killed, for nobody wrote down who holds its lock: 5 s are waited."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    held = LockFile(paths.locks / "somebody.lock")
    assert held.acquire()
    one = real(tmp_path)
    wait_for(lambda: LockFile(paths.lock).holder(), "it has the home")
    began = time.monotonic()
    assert one.process is not None
    one.process.terminate()
    code, said = ended(one)
    assert time.monotonic() - began < 4
    assert code == 0 and "Traceback" not in said
    held.close()


def test_a_second_signal_ends_the_rescue_of_a_removed_database(tmp_path: Path) -> None:
    """A copy that never ends must not keep the daemon from its end."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()

    class Stuck:
        async def copy(self, _: Path) -> None:
            await asyncio.Event().wait()

        async def closed(self) -> None:
            await asyncio.Event().wait()

    async def run() -> StorageError:
        hurry = asyncio.Event()
        unused: Any = None
        stuck: Any = Stuck()
        files = HomeFiles(paths, LockFile(paths.lock), SystemClock(), unused)
        asyncio.get_running_loop().call_soon(hurry.set)
        return await asyncio.wait_for(files.rescue(stuck, stuck, hurry), DEADLINE_S)

    assert "a second signal came" in asyncio.run(run()).hint


def test_a_reload_that_is_asked_for_too_early_comes_later(supervisor: Daemon) -> None:
    """Not in the middle of the start, and not never."""
    supervisor.paths.create()
    Bus(supervisor.paths.database).close()
    with contextlib.closing(apsw.Connection(str(supervisor.paths.database))) as db:
        db.execute("BEGIN EXCLUSIVE")
        supervisor.start(wait=False)
        wait_for(lambda: supervisor.paths.token.exists(), "it is about to open the database")
        os.kill(supervisor.pid, signal.SIGHUP)
        db.execute("ROLLBACK")
    wait_for(lambda: supervisor.log("supervisor.reloading"), "it reloads")
    order = [line["event"] for line in supervisor.lines()]
    assert order.index("supervisor.started") < order.index("supervisor.reloading")
    assert supervisor.stop() == 0


# --- a terminal that is closed


def in_a_terminal(one: Daemon, *before: str) -> int:
    """Start it with a terminal of its own; return our end of that."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(one.paths.user)  # where `nohup` writes what is said
        os.execvpe(
            before[0] if before else sys.executable,
            [*before, sys.executable, str(FILE), "run"],
            one.environment,
        )
    wait_for(lambda: one_pid(one) == pid, "it answers")
    return terminal


def one_pid(one: Daemon) -> int | None:
    with contextlib.suppress(Exception):
        from agentd.supervisor.client import query

        return int(query(one.paths)["pid"])
    return None


def test_a_closed_terminal_ends_the_daemon_in_it(supervisor: Daemon) -> None:
    """Else it lives on where nobody sees it."""
    terminal = in_a_terminal(supervisor)
    pid = one_pid(supervisor)
    assert pid is not None
    os.close(terminal)
    _, status = wait_for(lambda: (found := os.waitpid(pid, os.WNOHANG))[0] and found, "it ends")
    assert os.waitstatus_to_exitcode(status) == 0
    assert supervisor.log("supervisor.stopped") and not supervisor.log("supervisor.reloading")


def test_nohup_lets_it_live_on(supervisor: Daemon) -> None:
    """Who asks for that by `nohup` gets it: the signal is then a reload."""
    terminal = in_a_terminal(supervisor, "nohup")
    pid = one_pid(supervisor)
    assert pid is not None
    os.close(terminal)
    wait_for(lambda: supervisor.log("supervisor.reloading"), "it hears of it")
    assert one_pid(supervisor) == pid
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0], "it ends")


# --- what nobody waits for


class Boom(Exception):
    """A bug."""


def boom(*_: object) -> None:
    raise Boom("at last")


async def boom_later() -> None:
    raise Boom("at last")


def thread_of(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()


BUGS: dict[str, Callable[[Jobs], Any]] = {
    "task": lambda jobs: jobs.start(boom_later()),
    "last task": lambda jobs: jobs.start(boom_later(), last=True),
    "callback": lambda jobs: asyncio.get_running_loop().call_soon(boom),
    "timer": lambda jobs: asyncio.get_running_loop().call_later(0, boom),
    "thread": lambda jobs: thread_of(boom),
    "waited thread": lambda jobs: jobs.start(waits_for_a_thread()),
}


async def waits_for_a_thread() -> None:
    await in_thread(boom)


@pytest.mark.parametrize("where", BUGS)
def test_a_bug_in_the_background_is_told_with_its_traceback(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One clear error for people, and the traceback in the log."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    lines: list[dict[str, Any]] = []

    def note(_: object, __: str, entry: Any) -> Any:
        lines.append(dict(entry))
        raise structlog.DropEvent

    log: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[note])

    async def run() -> AgentdError:
        told: asyncio.Future[AgentdError] = asyncio.get_running_loop().create_future()
        jobs = Jobs(log, told.set_result)
        jobs.watch(asyncio.get_running_loop())
        BUGS[where](jobs)
        return await asyncio.wait_for(told, DEADLINE_S)

    error = asyncio.run(run())
    assert "Boom: at last" in error.what and error.hint
    assert [line["event"] for line in lines] == ["supervisor.broken"]
    assert isinstance(lines[0]["exc_info"], Boom)


def test_a_person_s_error_is_told_as_it_is() -> None:
    """No traceback for a full disk; and a connection that breaks off stops nobody."""
    told: list[AgentdError] = []
    log: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])

    async def run() -> None:
        jobs = Jobs(log, told.append)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(jobs._on_loop)

        async def full() -> None:
            raise StorageError("the disk is full")

        def broken_off() -> None:
            raise ConnectionResetError

        loop.call_soon(broken_off)
        await asyncio.wait({jobs.start(full())})
        await asyncio.sleep(0)

    asyncio.run(run())
    assert [error.what for error in told] == ["the disk is full"]


def test_every_one_hears_of_a_stop() -> None:
    """Also where what was told before raised: a call or a tool would go on to its deadline."""
    cancel, heard = Cancel(), list[int]()
    with cancel.watching(boom), cancel.watching(lambda: heard.append(1)), pytest.raises(Boom):
        cancel.stop()
    assert heard == [1] and cancel.stopped


def test_a_thread_that_breaks_ends_its_process() -> None:
    """What waits for a dead thread would hang until it is killed, and nobody would know why."""
    code = (
        "import threading\n"
        "from agentd.process.failure import end_with_threads\n"
        "end_with_threads(lambda error: print('told:', repr(error), flush=True))\n"
        "threading.Thread(target=lambda: 1 / 0).start()\n"
        "threading.Event().wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 1
    assert done.stdout.startswith("told: ZeroDivisionError")


def test_a_fault_of_our_own_stops_the_daemon_in_order(supervisor: Daemon) -> None:
    """Workers are stopped, the traceback is in the log, and one error stands on the terminal."""
    supervisor.environment["TEST_BREAK"] = "1"
    supervisor.drop("one")
    supervisor.start(wait=False)
    code, said = ended(supervisor)
    assert code == 1
    assert "a fault of agentd itself: RuntimeError: broken for a test" in said
    assert "Traceback" not in said
    assert "RuntimeError: broken" in supervisor.log("supervisor.broken")[0]["exception"]
    assert supervisor.log("supervisor.stopped")
