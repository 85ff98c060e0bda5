"""Workers that a server forks: killed, hung, crashed and left alone, as those that are spawned."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.clock import SystemClock
from agentd.process.channel import Channel
from agentd.supervisor.children import Reaper
from agentd.supervisor.worker_forks import Reports
from tests import test_supervisor as spawned
from tests.supervised import (
    DEADLINE_S,
    FORKS_VARIABLE,
    PARKED_VARIABLE,
    QUICK,
    READY_VARIABLE,
    Daemon,
    alive,
    daemon,
    suspend,
    wait_for,
)

THREAD = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path, {FORKS_VARIABLE: ""}) as one:
        yield one


def forks(supervisor: Daemon) -> int:
    """Return the fork server's pid, once it runs."""

    def running() -> int:
        document = supervisor.status().get("workers") or {}
        return int(document["pid"] or 0) if document.get("state") == "RUNNING" else 0

    return int(wait_for(running, "the fork server runs"))


def importing(tmp_path: Path, module: str, text: str) -> dict[str, str]:
    """Return the environment in which the server imports this module as well."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / f"{module}.py").write_text(text)
    return {"PYTHONPATH": str(folder), FORKS_VARIABLE: module}


def parent(pid: int) -> int:
    return psutil.Process(pid).ppid()


@pytest.mark.parametrize(
    "test",
    [
        spawned.test_a_killed_worker_comes_back,
        spawned.test_a_worker_that_is_killed_again_and_again_is_not_given_up,
        spawned.test_a_crash_is_told_to_the_next_worker_and_a_kill_is_not,
        spawned.test_a_stopped_worker_is_found_hung_and_replaced,
        spawned.test_a_flood_of_output_is_bounded_and_blocks_nobody,
        spawned.test_sigterm_stops_everything_and_exits_0,
        spawned.test_a_stubborn_worker_is_killed_within_the_limit,
        spawned.test_a_second_sigterm_kills_at_once,
        spawned.test_a_killed_supervisor_leaves_no_orphans,
        spawned.test_a_killed_supervisor_leaves_no_stopped_orphans,
        spawned.test_a_new_supervisor_kills_a_stopped_orphan_first,
        spawned.test_a_supervisor_can_be_a_child_itself,
    ],
    ids=lambda test: test.__name__,
)
def test_a_forked_worker_does_as_a_spawned_one(
    supervisor: Daemon, test: Callable[[Daemon], None]
) -> None:
    """What holds for a worker's death, its supervisor's and both is the same both ways."""
    test(supervisor)
    assert not supervisor.log("worker.not_forked")
    assert any(line["agent"] == "agentd.workers" for line in supervisor.log("worker.state"))


def test_its_parent_is_the_server_and_it_is_by_itself_else(supervisor: Daemon) -> None:
    """Its own session and group, its own command line, and nothing of the server's."""
    supervisor.drop("one")
    supervisor.start()
    pid = supervisor.wait_state("one", "RUNNING")["pid"]
    server = forks(supervisor)
    assert parent(pid) == server
    assert os.getpgid(pid) == os.getsid(pid) == pid
    assert [word for word in psutil.Process(pid).cmdline() if word][-3:-1] == ["worker", "one"]
    assert Path(psutil.Process(pid).cwd()) == supervisor.paths.data
    if not Path("/proc/self/fd").exists():
        return
    open_in = [set(map(os.readlink, Path(f"/proc/{one}/fd").iterdir())) for one in (pid, server)]
    shared = {name for name in open_in[0] & open_in[1] if not name.startswith("/dev/null")}
    assert not shared, "a worker could order and hear others"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_workers_outlive_their_server(supervisor: Daemon, how: signal.Signals) -> None:
    """They go on; what kills one then counts as a kill; and there is another server."""
    supervisor.drop("one")
    supervisor.drop("two")
    supervisor.start()
    pids = [supervisor.wait_state(name, "RUNNING")["pid"] for name in ("one", "two")]
    first = forks(supervisor)
    assert list(map(parent, pids)) == [first, first]
    os.kill(first, how)
    wait_for(lambda: forks(supervisor) != first, "there is another one")
    assert all(map(alive, pids))
    assert [supervisor.wait_state(name, "RUNNING")["pid"] for name in ("one", "two")] == pids
    os.kill(pids[0], signal.SIGSEGV)
    wait_for(lambda: supervisor.agent("one").get("pid") not in (None, pids[0]), "a new process")
    agent = supervisor.wait_state("one", "RUNNING")
    assert (agent["crashes"], agent["restarts"]) == (0, 1)
    assert parent(agent["pid"]) == forks(supervisor)
    assert supervisor.stop() == 0
    wait_for(lambda: not any(map(alive, pids)), "the orphan stopped, too")


def test_a_server_that_is_not_ready_in_time_keeps_nobody_waiting(
    supervisor: Daemon, tmp_path: Path
) -> None:
    """On a machine that is busy its imports may take long: workers are spawned meanwhile."""
    go_on = tmp_path / "go_on"
    slow = "import time, pathlib\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.05)\n"
    slow = slow.format(str(go_on))
    supervisor.environment |= {**importing(tmp_path, "slow", slow), READY_VARIABLE: "0.1"}
    supervisor.drop("one")
    supervisor.start()
    pid = supervisor.wait_state("one", "RUNNING")["pid"]
    assert parent(pid) == supervisor.pid
    go_on.touch()
    first = forks(supervisor)
    supervisor.drop("two")
    assert parent(supervisor.wait_state("two", "RUNNING")["pid"]) == first


def test_an_orphan_that_is_stopped_is_told_from_a_hanging_one(supervisor: Daemon) -> None:
    """Also without its parent's word."""
    supervisor.drop("one", "promise little")
    supervisor.start()
    pid = supervisor.wait_state("one", "RUNNING")["pid"]
    os.kill(forks(supervisor), signal.SIGKILL)
    suspend(pid)
    hung = wait_for(lambda: supervisor.log("worker.hung"), "its promise is broken")
    assert hung[0]["stopped"] is True
    wait_for(lambda: supervisor.agent("one").get("restarts") == 1, "it is replaced")


def test_a_server_that_hangs_is_replaced(supervisor: Daemon) -> None:
    """A start waits some seconds for it, and what was to be forked is spawned."""
    supervisor.drop("one")
    supervisor.start()
    pid = supervisor.wait_state("one", "RUNNING")["pid"]
    first = forks(supervisor)
    suspend(first)
    supervisor.drop("two")
    supervisor.wait_state("two", "RUNNING")
    assert [line["agent"] for line in supervisor.log("worker.not_forked")] == ["two.admission"]
    wait_for(lambda: forks(supervisor) != first, "there is another one")
    assert supervisor.agent("one")["pid"] == pid
    supervisor.drop("three")
    assert parent(supervisor.wait_state("three", "RUNNING")["pid"]) == forks(supervisor)


def test_an_end_that_a_hanging_server_does_not_tell_is_noticed(
    supervisor: Daemon, tmp_path: Path
) -> None:
    """Its promise breaks, and then the locks tell which of its children are dead."""
    quick = "from agentd.process import fork_server as it\nit.BEAT_S, it.PROMISE_S = 0.1, 0.2\n"
    supervisor.environment |= importing(tmp_path, "quick", quick)
    supervisor.drop("one")
    supervisor.start()
    pid = supervisor.wait_state("one", "RUNNING")["pid"]
    suspend(forks(supervisor))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: supervisor.agent("one").get("pid") not in (None, pid), "a new process")
    assert (agent := supervisor.wait_state("one", "RUNNING"))["restarts"] == 1, agent


@pytest.mark.parametrize("how", [signal.SIGCONT, signal.SIGSTOP])
def test_a_server_does_not_outlive_its_supervisor(supervisor: Daemon, how: signal.Signals) -> None:
    """Nor where it is stopped: a guardian stands beside it."""
    supervisor.drop("one")
    supervisor.start()
    pids = [supervisor.wait_state("one", "RUNNING")["pid"], forks(supervisor)]
    if how == signal.SIGSTOP:
        suspend(pids[1])
    supervisor.end()
    wait_for(lambda: not any(map(alive, pids)), "all are gone")


def test_code_that_was_updated_is_not_forked(supervisor: Daemon, tmp_path: Path) -> None:
    """An update under a running daemon: half of a worker must not be of the version before."""
    supervisor.environment |= importing(tmp_path, "updated", "# before\n")
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    first = forks(supervisor)
    (tmp_path / "code" / "updated.py").write_text("# after, and longer\n")
    supervisor.drop("two")
    supervisor.wait_state("two", "RUNNING")
    wait_for(lambda: forks(supervisor) != first, "there is another one")
    why = supervisor.log("worker.not_forked")[0]["why"]
    assert why == "the installed code has changed since it was imported"
    supervisor.drop("three")
    assert parent(supervisor.wait_state("three", "RUNNING")["pid"]) == forks(supervisor)


def test_a_person_can_have_them_spawned(supervisor: Daemon) -> None:
    """`workers = "spawn"`: no server, and each worker is a new program; also after a change."""
    supervisor.configure(f'{QUICK}workers = "spawn"\n')
    supervisor.drop("one")
    supervisor.start()
    assert parent(supervisor.wait_state("one", "RUNNING")["pid"]) == supervisor.pid
    assert supervisor.status()["workers"] is None
    supervisor.configure(f'{QUICK}workers = "fork"\n')
    wait_for(lambda: supervisor.log("config.reloaded"), "it is read")
    supervisor.drop("two")
    assert parent(supervisor.wait_state("two", "RUNNING")["pid"]) == forks(supervisor)
    supervisor.configure(f'{QUICK}workers = "spawn"\n')
    wait_for(lambda: len(supervisor.log("config.reloaded")) > 1, "it is read")
    supervisor.drop("three")
    assert parent(supervisor.wait_state("three", "RUNNING")["pid"]) == supervisor.pid


@pytest.mark.parametrize(
    ("module", "text", "why"),
    [
        ("_scproxy", "", "_scproxy must not be loaded before a fork"),
        ("threaded", THREAD, "a process that has threads must not fork"),
        ("broken", "raise ValueError('broken')", "ValueError: broken"),
    ],
)
def test_a_server_that_must_not_fork_keeps_nobody_from_running(
    supervisor: Daemon, tmp_path: Path, module: str, text: str, why: str
) -> None:
    """Where a rule of `fork_rules` is broken, or it cannot be imported: workers are spawned."""
    supervisor.environment |= importing(tmp_path, module, text)
    supervisor.drop("one")
    supervisor.start()
    assert parent(supervisor.wait_state("one", "RUNNING")["pid"]) == supervisor.pid
    parked = wait_for(lambda: _parked(supervisor), "it is given up")
    assert why in parked["reason"]
    assert parked["problem"]["what"] == f"workers are not forked: {parked['reason']}"
    supervisor.drop("two")
    assert parent(supervisor.wait_state("two", "RUNNING")["pid"]) == supervisor.pid


@pytest.mark.parametrize(("parked_s", "again"), [("0", True), ("3600", False)])
def test_a_server_that_was_given_up_is_tried_again_after_a_while(
    supervisor: Daemon, tmp_path: Path, parked_s: str, again: bool
) -> None:
    """Not with each start: what it could not import may be there again, or not for long."""
    supervisor.environment |= {**importing(tmp_path, "broken", "1 / 0"), PARKED_VARIABLE: parked_s}
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    wait_for(lambda: _parked(supervisor), "it is given up")
    (tmp_path / "code" / "broken.py").write_text("# well again\n")
    supervisor.drop("two")
    pid = supervisor.wait_state("two", "RUNNING")["pid"]
    assert parent(pid) == (forks(supervisor) if again else supervisor.pid)
    assert bool(_parked(supervisor)) is not again


def test_an_end_that_is_heard_while_another_child_is_looked_at_is_acted_on() -> None:
    """Else nobody would look at the dead one again: what told of it can be read only once."""

    async def ends() -> None:
        ours, theirs = socket.socketpair()
        server, reaper, looked = Channel(theirs), Reaper(SystemClock()), asyncio.Event()
        reports = Reports(Channel(ours), reaper, lambda _: None)
        reaper.add(looked.set)
        server.send({"ended": 7, "code": 0})
        assert reports.orders.code(8) is None
        async with asyncio.timeout(DEADLINE_S):
            await looked.wait()
        assert reports.orders.code(7) == 0
        reports.end()
        server.close()

    asyncio.run(ends())


def _parked(supervisor: Daemon) -> dict[str, Any] | None:
    document = supervisor.status().get("workers") or {}
    return document if document.get("state") == "PARKED" else None
