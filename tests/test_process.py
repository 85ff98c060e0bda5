"""Children that cannot outlive their parent, hang unnoticed, or run twice. Real processes."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from agentd.clock import SystemClock
from agentd.errors import AlreadyRunning, ConfigError
from agentd.process import environment
from agentd.process import lock as lock_module
from agentd.process.channel import Channel
from agentd.process.child import Child, child_side
from agentd.process.fork_orders import UNSEEN, Forked, ForkOrders, state_of
from agentd.process.heart import BEAT_BYTES_MAX, Heart
from agentd.process.lock import LockFile
from agentd.process.process_title import ROOM
from agentd.process.takeover import kill_group, take_over
from tests.supervised import DEADLINE_S, alive, suspend, threads, wait_for

CHILD = """
import os, signal, subprocess, sys, threading
from agentd.errors import ConfigError
from agentd.process.child import child_side
heart = child_side()
heart.beat(5, "idle", started=True)
"""
FOR_EVER = CHILD + "threading.Event().wait()\n"


SERVER = """
from agentd.process.fork_server import serve_forks
if (argv := serve_forks()) is not None:
    exec(argv[2], {"__name__": "__main__"})
"""


class Server:
    """Starts the children of these tests: a fork server, or none."""

    orders: ForkOrders | None = None


@contextlib.contextmanager
def fork_server(locks: Path) -> Iterator[tuple[Child, ForkOrders]]:
    locks.mkdir()
    argv = [sys.executable, "-c", SERVER, ROOM]
    child = Child.spawn("server", argv, locks, control=True)
    wait_beat(child)
    assert child.control is not None
    yield child, ForkOrders(Channel(child.control))
    end(child)


def spawn(locks: Path, code: str = FOR_EVER, name: str = "one") -> Child:
    locks.mkdir(exist_ok=True)
    argv = [sys.executable, "-c", code]
    if Server.orders is None:
        return Child.spawn(name, argv, locks)
    fork = partial(Server.orders.fork, argv, environment.for_child(), Path.cwd())
    return Child.begin(name, locks, fork)


def wait_beat(child: Child) -> dict[str, object]:
    select.select([child.heart_fd], [], [], DEADLINE_S)
    beats = child.beats()
    assert beats, child.read(child.output_fd)
    return beats[0]


@pytest.fixture(params=["spawned", "forked"])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where the locks are. What holds for a child does so for both ways in which one starts."""
    if request.param == "spawned":
        yield tmp_path / "locks"
        return
    with fork_server(tmp_path / "server") as (_, Server.orders):
        yield tmp_path / "locks"
        Server.orders = None


@pytest.fixture
def child(locks: Path) -> Iterator[Child]:
    one = spawn(locks)
    yield one
    end(one)


def end(child: Child) -> int:
    child.kill()
    code: int = wait_for(lambda: (child.poll() is not None) and [child.poll()], "it is dead")[0]
    child.close()
    return code


def test_a_beat_arrives_with_what_it_tells(child: Child) -> None:
    """The heartbeat carries the promise and what else the child says."""
    assert wait_beat(child) == {"promise_s": 5, "state": "idle", "started": True}


def test_the_child_leads_its_own_session_and_group(child: Child) -> None:
    """A Ctrl-C in the supervisor's terminal, or a kill of its group, does not reach it."""
    wait_beat(child)
    assert os.getpgid(child.pid) == child.pid == os.getsid(child.pid)


def test_it_dies_when_its_parent_is_killed(locks: Path) -> None:
    """kill -9 of the supervisor leaves no orphan, not even a tool's child in the group."""
    locks.mkdir()
    code = FOR_EVER.replace("threading", "subprocess.Popen(['sleep', '600']); threading", 1)
    code = (
        CHILD
        + "p = subprocess.Popen(['sleep', '600'])\nprint(p.pid, flush=True)\n"
        + ("threading.Event().wait()\n")
    )
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, os, threading\nfrom pathlib import Path\n"
            "from agentd.process.child import Child\n"
            f"c = Child.spawn('one', [sys.executable, '-c', {code!r}], Path({str(locks)!r}))\n"
            "os.set_blocking(c.output_fd, True)\n"
            "print(c.pid, os.read(c.output_fd, 100).decode(), flush=True)\n"
            "threading.Event().wait()\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not any(map(alive, pids)), "child and grandchild are gone")


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_nothing_of_a_child_outlives_its_parent(locks: Path, how: signal.Signals) -> None:
    """Not when the child is stopped, nor what its tools started when it is killed just before."""
    code = CHILD + (
        "tool = subprocess.Popen(['sleep', '600'])\n"
        "heart.beat(5, 'idle', tool=tool.pid)\n"
        "threading.Event().wait()\n"
    )
    locks.mkdir()
    parent = (
        "import os, signal, sys, threading; from pathlib import Path\n"
        "from agentd.process.child import Child\n"
        f"child = Child.spawn('one', [sys.executable, '-c', {code!r}], Path({str(locks)!r}))\n"
        "found = {}\n"
        "while 'tool' not in found:\n"
        "    for beat in child.beats() or (): found = beat\n"
        f"os.kill(child.pid, {int(how)})\n"
        "print(child.pid, found['tool'], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    wait_for(lambda: not any(map(alive, pids)), "the group is gone")


def test_a_stopped_orphan_is_killed_before_its_successor_starts(locks: Path) -> None:
    """A SIGSTOPped worker reads no lifeline: its held lock betrays it. Never two copies."""
    first = spawn(locks)
    wait_beat(first)
    suspend(first.pid)
    second = spawn(locks)
    assert second.took_over == first.pid
    assert wait_for(lambda: first.poll() == -signal.SIGKILL)
    first.close()
    wait_beat(second)
    end(second)


def test_the_lock_is_held_from_before_the_child_starts(locks: Path) -> None:
    """There is no instant in which a child runs without its lock, however early it is killed."""
    child = spawn(locks)
    lock = LockFile(locks / "one.lock")
    assert not lock.acquire()
    assert lock.holder()["pid"] == lock.holder()["pgid"] == child.pid
    end(child)
    assert lock.acquire(), "its death frees the lock"
    lock.close()


def test_who_looks_keeps_nobody_from_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a moment when a daemon takes its home must not end that, nor kill the last group.

    One that never ends, of a process that is stopped, is not waited for longer than `LOOKS_S`.
    """
    lock = LockFile(tmp_path / "one.lock")
    lock.path.touch()
    looking = os.open(lock.path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(lock_module, "LOOKS_S", 0.01)
    assert not lock.acquire()
    monkeypatch.setattr(lock_module, "LOOKS_S", DEADLINE_S)
    threading.Timer(0.05, os.close, (looking,)).start()
    assert lock.acquire()
    assert not LockFile(lock.path).acquire(), "it is ours alone"
    lock.close()


def test_one_of_two_gets_the_lock_that_another_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both wait for who looks, and not for each other."""
    monkeypatch.setattr(lock_module, "LOOKS_S", DEADLINE_S)
    both = [LockFile(tmp_path / "one.lock") for _ in range(2)]
    both[0].path.touch()
    looking = os.open(both[0].path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, (looking,)).start()
    with ThreadPoolExecutor() as threads:
        got = list(threads.map(LockFile.acquire, both))
    assert sorted(got) == [False, True]
    both[got.index(True)].close()


def test_a_child_cannot_say_whose_group_is_killed(locks: Path) -> None:
    """What it inherits holds the lock and writes nothing: a successor kills the recorded group."""
    code = (
        "import os, sys\n"
        "fd = int(os.environ['AGENTD_LOCK_FD'])\n"
        "try:\n    os.pwrite(fd, b'{\"pgid\": 1234567}', 0)\n"
        "except OSError as error:\n    print(error.strerror, flush=True)\n" + FOR_EVER
    )
    child = spawn(locks, code)
    select.select([child.output_fd], [], [], DEADLINE_S)
    assert (child.read(child.output_fd) or b"").startswith(b"Bad file descriptor")
    assert LockFile(locks / "one.lock").holder()["pgid"] == child.pid
    end(child)


def test_a_tools_child_does_not_inherit_the_lock_or_the_pipes(locks: Path) -> None:
    """A tool's child that lives on must not look like the worker, nor hold its heartbeat open."""
    code = CHILD + (
        "p = subprocess.Popen(['sleep', '600'], close_fds=False, start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "assert not [k for k in os.environ if k.startswith('AGENTD_') and k.endswith('_FD')]\n"
    )
    child = spawn(locks, code)
    wait_for(lambda: child.poll() is not None)
    stray = int((child.read(child.output_fd) or b"0").split()[0])
    try:
        assert alive(stray)
        child.beats()
        assert child.beats() is None, "end of the heart's stream"
        lock, killed = take_over(locks / "one.lock")
        lock.close()
        assert killed is None
    finally:
        os.kill(stray, signal.SIGKILL)
        child.close()


def test_a_dead_child_leaves_no_socket_open(locks: Path) -> None:
    """Callers are refused from its death on, also before the supervisor has noticed it."""
    locks.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        server = [sys.executable, "-c", FOR_EVER]
        child = Child.spawn("one", server, locks, pass_fds=(listening.fileno(),))
    try:
        wait_beat(child)
        socket.create_connection(address).close()
        os.kill(child.pid, signal.SIGKILL)
        # The first thread is a zombie before the others are, which share its descriptors.
        wait_for(lambda: threads(child.pid) == ["Z"], "it is dead, and nobody has noticed")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    finally:
        end(child)


def test_a_held_lock_without_a_record_is_an_error(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom to kill is never guessed; the error names the file."""
    locks.mkdir()
    monkeypatch.setattr("agentd.process.takeover.TAKEOVER_S", 0.1)
    fd = os.open(locks / "one.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(AlreadyRunning) as caught:
        take_over(locks / "one.lock")
    assert caught.value.where == str(locks / "one.lock")
    os.close(fd)


def test_an_unheld_lock_kills_nobody(locks: Path) -> None:
    """The pid in a stale lock file may be someone else's by now."""
    locks.mkdir()
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    lock = LockFile(locks / "one.lock")
    lock.acquire()
    lock.record(bystander.pid, clock=SystemClock())
    lock.close()
    taken, killed = take_over(locks / "one.lock")
    taken.close()
    assert killed is None
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_stopped_child_is_told_from_a_hanging_one(child: Child) -> None:
    """And asking never takes an exit code away from who waits for it."""
    wait_beat(child)
    assert not child.suspended()
    for _ in range(2):
        os.kill(child.pid, signal.SIGSTOP)
        wait_for(child.suspended, "all its threads stand still")
        assert child.suspended(), "it still does"
        os.kill(child.pid, signal.SIGCONT)
        wait_for(lambda: not child.suspended(), "it goes on")
    suspend(child.pid)
    assert child.suspended()
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: not child.suspended(), "it is dead")
    assert wait_for(lambda: child.poll() == -signal.SIGKILL)
    assert not child.suspended()


def test_terminate_reaches_a_stopped_child(child: Child) -> None:
    """SIGTERM alone would wait until somebody continues it."""
    wait_beat(child)
    suspend(child.pid)
    child.terminate()
    assert wait_for(lambda: child.poll() == -signal.SIGTERM)


def test_what_a_dead_child_leaves_in_its_group_is_killed(locks: Path) -> None:
    """A tool's child must not go on working for a worker that is gone."""
    code = CHILD + "print(subprocess.Popen(['sleep', '600']).pid, flush=True)\n"
    child = spawn(locks, code)
    wait_for(lambda: child.poll() is not None)
    left = int((child.read(child.output_fd) or b"0").split()[0])
    wait_for(lambda: not alive(left), "the rest of the group is gone")
    child.close()


def test_the_last_reason_survives_the_process(locks: Path) -> None:
    """What a child says before it exits is still in the pipe afterwards."""
    child = spawn(locks, CHILD + "heart.problem(ConfigError('a', where='b', hint='c'))\n")
    wait_for(lambda: child.poll() is not None)
    assert (child.beats() or [])[-1] == {"problem": {"what": "a", "where": "b", "hint": "c"}}
    child.close()


def test_a_full_or_closed_heart_never_blocks_or_raises() -> None:
    """A supervisor that is behind or gone must not stop a worker in the middle of its work."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    heart = Heart(write)
    for number in range(20_000):
        heart.beat(5, "busy", number=number)
    os.close(read)
    heart.beat(5)
    os.close(write)


def test_a_huge_beat_is_cut_to_its_promise(locks: Path) -> None:
    """What a child tells is for people; the promise must arrive whatever it tells."""
    child = spawn(locks, CHILD + f"heart.beat(7, 'busy', text='x' * {BEAT_BYTES_MAX})\n")
    wait_for(lambda: child.poll() is not None)
    assert (child.beats() or [])[-1] == {"promise_s": 7, "state": "busy"}
    child.close()


def test_garbage_in_the_heart_is_skipped(locks: Path) -> None:
    """A torn line spoils neither the next one nor the supervisor."""
    code = CHILD + "os.write(heart._fd, b'{\"prom\\n[1]\\nnull\\n'); heart.beat(3)\n"
    child = spawn(locks, code)
    wait_for(lambda: child.poll() is not None)
    assert [beat["promise_s"] for beat in child.beats() or []] == [5, 3]
    child.close()


def test_without_a_supervisor_a_child_runs_by_hand() -> None:
    """`python -m agentd.worker NAME` in a terminal needs no pipes."""
    heart = child_side({})  # type: ignore[arg-type]
    heart.beat(5)
    heart.problem(ConfigError("a"))


def test_a_program_that_is_missing_leaks_nothing(locks: Path) -> None:
    """A failed start closes its pipes and frees the lock."""
    locks.mkdir()

    def open_files() -> int:
        return sum(1 for fd in range(256) if _is_open(fd))

    before = open_files()
    with pytest.raises(FileNotFoundError):
        Child.spawn("one", ["/nonexistent"], locks)
    assert open_files() == before
    lock, _ = take_over(locks / "one.lock")
    lock.close()


@pytest.mark.parametrize("guarded", [True, False])
def test_an_orphan_of_a_fork_server_leaves_nothing(tmp_path: Path, guarded: bool) -> None:
    """What its tools started dies with it, also where its guardian was killed as well."""
    code = FOR_EVER.replace("heart.beat", "subprocess.Popen(['sleep', '600']); heart.beat", 1)
    with fork_server(tmp_path / "server") as (server, Server.orders):
        child = spawn(tmp_path / "locks", code)
        Server.orders = None
        wait_beat(child)
        below = {one.name(): one for one in psutil.Process(child.pid).children()}
        server.kill()
        wait_for(lambda: server.poll() is not None, "the server is dead")
        if not guarded:
            below["sh"].kill()
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: state_of(child.pid) in ("", "Z"), "it is dead")
        assert below["sleep"].is_running()
        wait_for(lambda: child.poll() == UNSEEN, "its last thread is dead, too")
        wait_for(lambda: not alive(below["sleep"].pid), "nothing is left")
        child.close()


def test_the_number_of_a_dead_orphan_may_be_somebody_elses(tmp_path: Path) -> None:
    """Nobody held it for us: who has it by now is not killed."""
    ours, theirs = socket.socketpair()
    theirs.close()
    orders = ForkOrders(Channel(ours))
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    assert Forked(stranger.pid, orders, tmp_path / "dead.lock").poll() == UNSEEN
    orders.close()
    stranger.terminate()
    assert stranger.wait(DEADLINE_S) == -signal.SIGTERM


def test_a_dead_group_is_no_error() -> None:
    """Killing what is dead already is what a race looks like."""
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    assert not kill_group(process.pid)


def _is_open(fd: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(fd)
        return True
    return False
