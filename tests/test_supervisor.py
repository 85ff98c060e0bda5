"""The supervisor as a real process: files, signals, crashes, kills. Only its children are fakes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest
import structlog

from agentd.bus import Bus
from agentd.config.daemon import MODEL_PORT, ModelConfig
from agentd.errors import NotRunning
from agentd.events import DAEMON, PERSON, NewEvent
from agentd.macos.privacy import LAUNCHD_VARIABLE
from agentd.paths import discover
from agentd.process.child import Child
from agentd.states import Priority
from agentd.supervisor.agents import Agents
from agentd.supervisor.checks import DEADLINE_S
from agentd.supervisor.client import query
from tests.supervised import (
    FILE,
    PORT_VARIABLE,
    QUICK,
    STOP_VARIABLE,
    Daemon,
    alive,
    daemon,
    state,
    suspend,
    wait_for,
)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Daemon]:
    with daemon(tmp_path) as one:
        yield one


def pull_model(one: Daemon) -> None:
    """Make it look as if the default model was on disk."""
    folder = one.paths.models / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def command(one: Daemon, name: str, **payload: str) -> None:
    """Send a command as `agentd pause NAME` does."""
    bus = Bus(one.paths.database, wake=one.paths.wake)
    event = NewEvent(f"agentd.{name}", payload, target=DAEMON)
    bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
    bus.close()


def in_time(two_processes_s: float, took_s: float) -> bool:
    """Whether a drop took little more than the processes that it starts."""
    return took_s < 2 * two_processes_s + 0.5


# --- files come, change and go


def test_a_dropped_file_starts_an_agent_at_once(supervisor: Daemon) -> None:
    """The promise of the drop-in folder, and the event that tells of it.

    It needs two processes, a check and a worker: how long those take now is measured just before.
    Another file has its turn where this machine was busy with something else in between.
    """
    supervisor.start()
    seen = []
    for name in ("one", "two", "three"):
        began = time.monotonic()
        for _ in range(2):
            supervisor.start_and_end_a_child()
        dropped = time.monotonic()
        supervisor.drop(name)
        supervisor.wait_state(name, "RUNNING")
        seen.append((dropped - began, time.monotonic() - dropped))
        if in_time(*seen[-1]):
            break
    assert any(in_time(*times) for times in seen), seen
    agent = supervisor.wait_state("one", "RUNNING")
    wait_for(lambda: supervisor.events("agent.started"), "the bus hears of it")
    expected = {"agent": "one", "version": agent["version"], "pid": agent["pid"]}
    assert supervisor.events("agent.started")[0] == expected


def test_a_change_restarts_only_that_agent(supervisor: Daemon) -> None:
    """And a save that changes nothing restarts nobody."""
    supervisor.drop("one")
    supervisor.drop("two")
    supervisor.start()
    one, two = supervisor.wait_state("one", "RUNNING"), supervisor.wait_state("two", "RUNNING")
    supervisor.drop("one", more="# changed")

    def changed() -> bool:
        agent = supervisor.agent("one")
        return bool(agent["state"] == "RUNNING" and agent["pid"] != one["pid"])

    wait_for(changed, "one runs anew")
    assert supervisor.agent("two")["pid"] == two["pid"]
    assert not alive(one["pid"])
    now = supervisor.agent("one")
    checks = len(supervisor.log("files.changed"))
    supervisor.drop("one", more="# changed")
    wait_for(lambda: len(supervisor.log("files.changed")) > checks, "the save is noticed")
    wait_for(lambda: not supervisor.agent("one")["checking"], "it is checked")
    assert supervisor.agent("one")["pid"] == now["pid"]


def test_a_removed_file_stops_its_agent(supervisor: Daemon) -> None:
    """Removed means gone: process, status and the bus's list."""
    supervisor.drop("one")
    supervisor.start()
    agent = supervisor.wait_state("one", "RUNNING")
    (supervisor.paths.agents_d / "one.toml").unlink()
    wait_for(lambda: not supervisor.agent("one"), "it leaves the status")
    wait_for(lambda: not alive(agent["pid"]), "it is stopped")
    wait_for(lambda: supervisor.log("agent.removed"), "it is removed")
    bus = Bus(supervisor.paths.database)
    assert [row.removed_at is not None for row in bus.agents.list()] == [True]
    bus.close()


def test_a_file_that_comes_back_at_once_runs_again(supervisor: Daemon) -> None:
    """Some editors delete and write anew: the second worker waits for the first to go."""
    supervisor.drop("one")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    for _ in range(3):
        (supervisor.paths.agents_d / "one.toml").unlink()
        supervisor.drop("one", more="# again")

    def again() -> bool:
        agent = supervisor.agent("one")
        return bool(agent.get("state") == "RUNNING" and agent["pid"] != first["pid"])

    wait_for(again, "it runs again")
    assert not alive(first["pid"])
    bus = Bus(supervisor.paths.database)
    assert [row.removed_at for row in bus.agents.list()] == [None]
    bus.close()


def test_a_wrong_file_disables_only_itself(supervisor: Daemon) -> None:
    """INVALID, with what, where and a hint; the others run; the correction starts it."""
    supervisor.drop("good")
    supervisor.paths.agents_d.joinpath("bad.toml").write_text("does = [half a fi")
    supervisor.start()
    supervisor.wait_state("good", "RUNNING")
    bad = supervisor.wait_state("bad", "INVALID")
    assert bad["problem"]["where"] == str(supervisor.paths.agents_d / "bad.toml")
    assert bad["problem"]["hint"] == "correct that line"
    supervisor.drop("bad")
    assert supervisor.wait_state("bad", "RUNNING")["problem"] is None


def test_a_pipe_among_the_files_blocks_nobody(supervisor: Daemon) -> None:
    """Opening a pipe waits for its writer, and the supervisor looks into each file."""
    supervisor.paths.agents_d.mkdir(parents=True)
    os.mkfifo(supervisor.paths.agents_d / "pipe.toml")
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    assert supervisor.wait_state("pipe", "INVALID")["problem"]["what"] == "not a file"


def test_checks_that_hang_delay_no_other(supervisor: Daemon) -> None:
    """Modules that never finish importing may take every slot; each gives it back soon."""
    for name in ("a", "b", "c"):
        supervisor.drop(name, "hang the check")
    supervisor.drop("d")
    supervisor.start()
    supervisor.wait_state("d", "RUNNING")
    assert supervisor.agent("a")["checking"]


def test_a_corrected_file_does_not_wait_for_its_hanging_check(supervisor: Daemon) -> None:
    """A person who mends the module sees it start at once, not when the old check is given up."""
    supervisor.drop("one", "hang the check")
    supervisor.start()
    wait_for(lambda: (supervisor.paths.locks / "one.admission.lock").exists(), "the check runs")
    supervisor.drop("one")
    began = time.monotonic()
    supervisor.wait_state("one", "RUNNING")
    assert time.monotonic() - began < DEADLINE_S / 2, "it waited for its check to be given up"


def test_a_file_removed_while_nobody_ran_is_an_agent_gone(supervisor: Daemon) -> None:
    """Else events could be sent to it for ever, and its cursors would hold back pruning."""
    for name in ("one", "two"):
        supervisor.drop(name)
    supervisor.start()
    for name in ("one", "two"):
        supervisor.wait_state(name, "RUNNING")
    supervisor.stop()
    (supervisor.paths.agents_d / "two.toml").unlink()
    supervisor.start()

    def removed() -> list[bool]:
        with contextlib.closing(Bus(supervisor.paths.database)) as bus:
            return [row.removed_at is not None for row in bus.agents.list()]

    wait_for(lambda: removed() == [False, True], "only two is removed")


def test_a_folder_that_cannot_be_read_removes_nobody(supervisor: Daemon) -> None:
    """No descriptor left, no permission, a failing disk: that is not an empty folder.

    What changes meanwhile is found later.
    """
    for name in ("one", "two"):
        supervisor.drop(name)
    supervisor.start()
    pids = [supervisor.wait_state(name, "RUNNING")["pid"] for name in ("one", "two")]
    with unreadable(supervisor.paths.agents_d):
        wait_for(lambda: supervisor.status()["problem"], "the status says so")
        assert "cannot be read" in supervisor.status()["problem"]["what"]
        assert [supervisor.agent(name)["pid"] for name in ("one", "two")] == pids
    supervisor.drop("three")
    supervisor.wait_state("three", "RUNNING")
    assert supervisor.status()["problem"] is None
    assert [supervisor.agent(name)["pid"] for name in ("one", "two")] == pids


@contextlib.contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Let a folder be a link to itself: its listing fails, whoever asks, also for root."""
    away = folder.with_name("away")
    folder.rename(away)
    folder.symlink_to(folder.name)
    try:
        yield
    finally:
        folder.unlink()
        away.rename(folder)


def test_a_supervisor_that_starts_waits_for_a_folder_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it notes that agents are gone whose files were removed while nobody ran."""

    class Records:
        removed: ClassVar[list[str]] = []

        async def agents(self) -> dict[str, object]:
            return {"one": None, "two": None}

        async def remove(self, name: str) -> None:
            self.removed.append(name)

    monkeypatch.setattr("agentd.supervisor.agents.RETRY_S", 0.01)
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.agents_d.mkdir(parents=True)
    (paths.agents_d / "one.toml").touch()
    log: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    records: Any = Records()
    shared: Any = SimpleNamespace(paths=paths, records=records, log=log)
    unused: Any = None
    agents = Agents(shared, unused)

    async def run() -> None:
        with unreadable(paths.agents_d):
            forgetting = asyncio.create_task(agents.forget_vanished())
            while agents.problem is None:
                await asyncio.sleep(0)
            assert not forgetting.done() and records.removed == []
        await forgetting

    asyncio.run(asyncio.wait_for(run(), 20))
    assert records.removed == ["two"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's own")
def test_no_descriptor_left_removes_nobody(supervisor: Daemon) -> None:
    """At one save, while many connections are open, say."""
    for name in ("one", "two"):
        supervisor.drop(name)
    supervisor.start()
    two = supervisor.wait_state("two", "RUNNING")["pid"]
    supervisor.wait_state("one", "RUNNING")
    process = psutil.Process(supervisor.pid)
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (3, before[1]))  # none beyond its standard streams
    supervisor.drop("one", more="# touched")
    wait_for(lambda: supervisor.log("agents.unreadable"), "it finds the folder unreadable")
    process.rlimit(psutil.RLIMIT_NOFILE, before)
    supervisor.drop("one", more="# touched again")
    wait_for(lambda: supervisor.status().get("problem", "unknown") is None, "it looks again")
    supervisor.wait_state("one", "RUNNING")
    assert supervisor.agent("two")["pid"] == two
    assert supervisor.log("agent.removed") == []


@pytest.mark.parametrize("what", ["database", "home"])
def test_a_home_that_is_removed_stops_the_supervisor(supervisor: Daemon, what: str) -> None:
    """Into a removed database events only vanish."""
    supervisor.drop("one")
    supervisor.start()
    pid = supervisor.wait_state("one", "RUNNING")["pid"]
    path = supervisor.paths.database
    if what == "home":
        supervisor.home.rename(supervisor.home.with_name("away"))
    else:
        path.unlink()
    assert supervisor.process is not None
    _, error = supervisor.process.communicate(timeout=20)
    assert supervisor.process.returncode == 75
    assert str(path) in error and "was removed" in error and "Traceback" not in error
    wait_for(lambda: not alive(pid), "the worker is gone")


def test_a_wrong_change_keeps_the_last_good_version_running(supervisor: Daemon) -> None:
    """Also for a supervisor that starts anew and finds the wrong file."""
    supervisor.drop("one")
    supervisor.start()
    good = supervisor.wait_state("one", "RUNNING")
    supervisor.paths.agents_d.joinpath("one.toml").write_text("nonsense")
    wait_for(lambda: supervisor.agent("one")["problem"], "the problem is shown")
    now = supervisor.agent("one")
    assert (now["state"], now["pid"], now["version"]) == ("RUNNING", good["pid"], good["version"])
    assert supervisor.stop() == 0
    supervisor.start()
    again = supervisor.wait_state("one", "RUNNING")
    assert again["version"] == good["version"]
    assert again["problem"]


def test_old_versions_go_and_the_running_one_stays(supervisor: Daemon) -> None:
    """Also when edits that were overtaken or refused built newer ones meanwhile."""
    supervisor.drop("one")
    supervisor.start()
    running = supervisor.wait_state("one", "RUNNING")["version"]
    folder = supervisor.paths.versions / "one"
    for number in range(6):
        (folder / f"overtaken{number}").mkdir()
    supervisor.paths.agents_d.joinpath("one.toml").write_text("nonsense")
    wait_for(lambda: supervisor.agent("one")["problem"], "the problem is shown")
    assert (folder / running).is_dir()
    supervisor.drop("one", more="# mended")
    wait_for(lambda: supervisor.agent("one")["version"] != running, "the next one runs")
    mended = supervisor.agent("one")["version"]
    wait_for(lambda: len(list(folder.iterdir())) <= 5, "old ones are gone")
    assert (folder / mended).is_dir() and (folder / running).is_dir()


def test_a_file_waits_for_its_module(supervisor: Daemon) -> None:
    """A TOML that arrives first waits; the module starts it; a changed module restarts it."""
    supervisor.start()
    supervisor.drop("one", more='needs = "one.py"')
    waiting = supervisor.wait_state("one", "WAITING")
    assert waiting["problem"]["what"] == "one.py is missing"
    module = supervisor.paths.agents / "one.py"
    module.write_text("x = 1")
    first = supervisor.wait_state("one", "RUNNING")
    module.write_text("x = 2")
    wait_for(lambda: supervisor.agent("one")["version"] != first["version"], "a new version")
    assert supervisor.wait_state("one", "RUNNING")["pid"] != first["pid"]


def test_a_disabled_agent_is_checked_and_not_started(supervisor: Daemon) -> None:
    """`enabled = false` stops it; true starts it again."""
    supervisor.drop("one", more="enabled = false")
    supervisor.start()
    wait_for(lambda: supervisor.agent("one").get("enabled") is False, "it is checked")
    stopped = supervisor.wait_state("one", "STOPPED")
    assert stopped["reason"] == "enabled = false in its file"
    supervisor.drop("one")
    supervisor.wait_state("one", "RUNNING")


def test_a_schedule_holds_from_when_its_file_says_so(supervisor: Daemon) -> None:
    """Its past stays over a restart of the daemon, and goes with a change, or while disabled."""

    def times() -> int:
        with contextlib.closing(Bus(supervisor.paths.database)) as bus:
            return sum(bus.schedules.last_run("one", name) is not None for name in ("a", "b"))

    with contextlib.closing(Bus(supervisor.paths.database)) as bus:
        bus.schedules.note("one", "a", bus.clock.now())
    supervisor.drop("one", more="schedule = 'a'")
    supervisor.start()
    version = supervisor.wait_state("one", "RUNNING")["version"]
    assert times() == 1
    supervisor.drop("one", more="schedule = 'b'")
    wait_for(lambda: supervisor.agent("one")["version"] != version, "it is accepted")
    assert times() == 0
    with contextlib.closing(Bus(supervisor.paths.database)) as bus:
        bus.schedules.note("one", "b", bus.clock.now())
    supervisor.drop("one", more="schedule = 'b'\nenabled = false")
    supervisor.wait_state("one", "STOPPED")
    supervisor.drop("one", more="schedule = 'b'")
    supervisor.wait_state("one", "RUNNING")
    assert times() == 0


def test_a_wrong_file_that_is_disabled_stops_its_agent(supervisor: Daemon) -> None:
    """Who writes `enabled = false` wants it stopped, whatever else the file says; errors show."""
    supervisor.drop("one")
    supervisor.start()
    agent = supervisor.wait_state("one", "RUNNING")
    (supervisor.paths.agents_d / "one.toml").write_text("enabled = false")
    stopped = supervisor.wait_state("one", "STOPPED")
    assert stopped["problem"]
    assert not alive(agent["pid"])


def test_a_name_that_is_no_name_is_refused(supervisor: Daemon) -> None:
    """`Über Agent.toml` and reserved names become INVALID; hidden files are nobody's."""
    for name in ("Über Agent", "agentd", ".hidden"):
        supervisor.drop(name)
    supervisor.start()
    assert "cannot name an agent" in supervisor.wait_state("Über Agent", "INVALID")["reason"]
    supervisor.wait_state("agentd", "INVALID")
    assert [agent["name"] for agent in supervisor.status()["agents"]] == ["agentd", "Über Agent"]


def test_a_check_that_dies_is_the_agents_own_problem(supervisor: Daemon) -> None:
    """A module that brings its process down at import becomes INVALID, not a dead daemon."""
    supervisor.drop("bad", "kill the check")
    supervisor.drop("good")
    supervisor.start()
    assert "died" in supervisor.wait_state("bad", "INVALID")["reason"]
    supervisor.wait_state("good", "RUNNING")


# --- crashes and hangs


def test_a_crash_is_restarted_then_parked_with_its_reason(supervisor: Daemon) -> None:
    """Backoff between crashes, PARKED after the third, the last words in the reason; events."""
    supervisor.drop("one", "crash")
    supervisor.start()
    parked = supervisor.wait_state("one", "PARKED")
    assert parked["reason"].startswith("crash loop: 3 crashes in a row, the last: exit 1")
    assert parked["reason"].endswith("the last thing it says")
    wait_for(lambda: supervisor.events("agent.parked"), "the bus hears of it")
    assert supervisor.events("agent.parked")[0] == {"agent": "one", "reason": parked["reason"]}
    crashes = supervisor.events("agent.crashed")
    assert [crash["restarts"] for crash in crashes] == [1, 2, 3]
    assert (crashes[0]["exit"], crashes[0]["signal"]) == (1, None)
    states = [line["state"] for line in supervisor.log("worker.state") if line["agent"] == "one"]
    assert states == ["STARTING", "RUNNING", "BACKOFF"] * 2 + ["STARTING", "RUNNING", "PARKED"]


def test_a_killed_worker_comes_back(supervisor: Daemon) -> None:
    """The classic: kill -9, and it runs again; the signal is in the event."""
    supervisor.drop("one")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: supervisor.agent("one")["pid"] not in (None, first["pid"]), "a new process")
    assert supervisor.wait_state("one", "RUNNING")["restarts"] == 1
    wait_for(lambda: supervisor.events("agent.crashed"), "the bus hears of it")
    assert supervisor.events("agent.crashed")[0]["signal"] == signal.SIGKILL


def test_a_worker_that_is_killed_again_and_again_is_not_given_up(supervisor: Daemon) -> None:
    """Twice as many kills as crashes would park it; it always comes back."""
    supervisor.drop("one")
    supervisor.start()
    for number in range(6):
        pid = supervisor.wait_state("one", "RUNNING")["pid"]
        os.kill(pid, signal.SIGTERM if number % 3 == 2 else signal.SIGKILL)
        wait_for(lambda: supervisor.agent("one")["restarts"] == number + 1, "it is noticed")  # noqa: B023
    agent = supervisor.wait_state("one", "RUNNING")
    assert (agent["crashes"], agent["restarts"]) == (0, 6)


def test_a_crash_is_told_to_the_next_worker_and_a_kill_is_not(supervisor: Daemon) -> None:
    """It is the evidence against what the worker was doing; told until the next one beats."""
    supervisor.drop("one", "tell how the one before died")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    assert first["beat"]["crashed"] is None
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: supervisor.agent("one")["pid"] not in (None, first["pid"]), "a new process")
    second = supervisor.wait_state("one", "RUNNING")
    assert second["beat"]["crashed"] is None
    os.kill(second["pid"], signal.SIGSEGV)
    wait_for(lambda: supervisor.agent("one")["pid"] not in (None, second["pid"]), "a new process")
    third = supervisor.wait_state("one", "RUNNING")
    pid, why = third["beat"]["crashed"]
    assert pid == second["pid"]
    assert why.startswith("killed by SIGSEGV: Fatal Python error: Segmentation fault, File ")
    os.kill(third["pid"], signal.SIGKILL)
    wait_for(lambda: supervisor.agent("one")["pid"] not in (None, third["pid"]), "a new process")
    assert supervisor.wait_state("one", "RUNNING")["beat"]["crashed"] is None


def test_a_bad_configuration_is_parked_and_a_change_starts_it(supervisor: Daemon) -> None:
    """Exit 78: the child's own words are shown, and only a change helps."""
    supervisor.drop("one", "wrong")
    supervisor.start()
    parked = supervisor.wait_state("one", "PARKED")
    assert parked["reason"] == "exit 78: params.repo: no such folder"
    assert parked["problem"]["hint"] == "write it"
    supervisor.drop("one")
    assert supervisor.wait_state("one", "RUNNING")["problem"] is None


def test_what_no_event_can_hold_stops_no_events(supervisor: Daemon) -> None:
    """A reason with half a character is written with a question mark; later events come, too."""
    supervisor.drop("one", "say half a character")
    supervisor.start()
    wait_for(lambda: supervisor.events("agent.parked"), "the bus hears of it")
    supervisor.drop("one")
    wait_for(lambda: supervisor.events("agent.started"), "and of what follows")


def test_a_stopped_worker_is_found_hung_and_replaced(supervisor: Daemon) -> None:
    """SIGSTOP: alive by its pid, dead by its promise. supervisord calls that RUNNING."""
    supervisor.drop("one", "break its promise")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    suspend(first["pid"])
    wait_for(lambda: supervisor.log("worker.hung"), "it is found")
    wait_for(lambda: not alive(first["pid"]), "it is killed")
    wait_for(lambda: supervisor.agent("one")["restarts"] == 1, "it is replaced")
    crash = wait_for(lambda: supervisor.events("agent.crashed"), "the bus hears of it")[0]
    assert crash["reason"].startswith("hung: broke its promise to beat within 0.1 s")


@pytest.mark.parametrize("then", ["live", "crash"])
def test_odd_beats_harm_nobody(supervisor: Daemon, then: str) -> None:
    """Numbers that no float holds, brackets without end: its death is seen, and all goes on."""
    supervisor.drop("one", f"beat oddly, {then}")
    supervisor.drop("two")
    supervisor.start()
    first = supervisor.wait_state("one", "PARKED" if then == "crash" else "RUNNING")
    assert then == "live" or first["restarts"] == 3
    assert supervisor.wait_state("two", "RUNNING")["pid"]
    assert supervisor.stop() == 0


def test_a_flood_of_output_is_bounded_and_blocks_nobody(supervisor: Daemon) -> None:
    """Megabytes a second on stdout: a few lines in the log, a count, and a living supervisor."""
    supervisor.drop("one", "flood")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    wait_for(lambda: supervisor.log("child.output"), "some of it is logged")
    supervisor.drop("two")
    supervisor.wait_state("two", "RUNNING")
    (supervisor.paths.agents_d / "one.toml").unlink()
    wait_for(lambda: supervisor.log("child.output_lost"), "the rest is counted")
    assert supervisor.log("child.output_lost")[-1]["bytes"] > 100_000
    assert sum(path.stat().st_size for path in supervisor.paths.logs.rglob("*.jsonl*")) < 200_000


# --- start and stop


def test_sigterm_stops_everything_and_exits_0(supervisor: Daemon) -> None:
    """Workers and model server are gone, with their groups; nothing stale is left behind."""
    pull_model(supervisor)
    for number in range(5):
        supervisor.drop(f"agent{number}")
    supervisor.drop("parent", "have children")
    supervisor.start()
    names = [*(f"agent{number}" for number in range(5)), "parent"]
    pids = [supervisor.wait_state(name, "RUNNING")["pid"] for name in names]
    pids.append(supervisor.wait_model()["pid"])
    grandchild = supervisor.home / "parent.grandchild"
    pids.append(int(wait_for(lambda: grandchild.exists() and grandchild.read_text())))
    began = time.monotonic()
    assert supervisor.stop() == 0
    assert time.monotonic() - began < 10
    wait_for(lambda: not any(map(alive, pids)), "all are gone")
    assert not supervisor.paths.model_address.exists()
    with pytest.raises(NotRunning):
        query(supervisor.paths)
    ends = [line["agent"] for line in supervisor.log("worker.state") if line["state"] == "STOPPED"]
    assert ends[-1] == "model", "workers first, so that their last calls are answered"


def test_a_stubborn_worker_is_killed_within_the_limit(supervisor: Daemon) -> None:
    """Whatever ignores SIGTERM gets SIGKILL after its grace; the exit code is still 0."""
    supervisor.drop("one", "stubborn")
    supervisor.start()
    agent = supervisor.wait_state("one", "RUNNING")
    began = time.monotonic()
    assert supervisor.stop() == 0
    assert time.monotonic() - began < 10
    assert not alive(agent["pid"])


def test_a_second_sigterm_kills_at_once(supervisor: Daemon) -> None:
    """For a person who does not want to wait for a long grace."""
    supervisor.configure("[supervisor]\nstop_grace = '60s'\n")
    supervisor.environment |= {STOP_VARIABLE: "60"}  # else it kills by itself after 4.5 s
    supervisor.drop("one", "stubborn")
    supervisor.start()
    agent = supervisor.wait_state("one", "RUNNING")
    assert supervisor.process is not None
    supervisor.process.send_signal(signal.SIGTERM)
    wait_for(lambda: supervisor.status().get("stopping"), "it stops")
    assert supervisor.stop() == 0  # within `DEADLINE_S`
    assert not alive(agent["pid"])


def test_a_killed_supervisor_leaves_no_orphans(supervisor: Daemon) -> None:
    """kill -9: workers, model server, a tool's child and a hanging check are gone by themselves."""
    pull_model(supervisor)
    supervisor.drop("one")
    supervisor.drop("parent", "have children")
    supervisor.drop("check", "hang the check")
    supervisor.start()
    pids = [supervisor.wait_state(name, "RUNNING")["pid"] for name in ("one", "parent")]
    pids.append(supervisor.wait_model()["pid"])
    grandchild = supervisor.home / "parent.grandchild"
    pids.append(int(wait_for(lambda: grandchild.exists() and grandchild.read_text())))
    lock = supervisor.paths.locks / "check.admission.lock"
    pids.append(
        wait_for(lambda: lock.exists() and lock.read_text() and json.loads(lock.read_text()))["pid"]
    )
    supervisor.end()
    began = time.monotonic()
    wait_for(lambda: not any(map(alive, pids)), "all are gone")
    assert time.monotonic() - began < 10


def test_a_killed_supervisor_leaves_no_stopped_orphans(supervisor: Daemon) -> None:
    """kill -9 while a worker is under SIGSTOP: it and its tool's child are gone by themselves."""
    supervisor.drop("parent", "have children")
    supervisor.start()
    pids = [supervisor.wait_state("parent", "RUNNING")["pid"]]
    grandchild = supervisor.home / "parent.grandchild"
    pids.append(int(wait_for(lambda: grandchild.exists() and grandchild.read_text())))
    suspend(pids[0])
    supervisor.end()
    wait_for(lambda: not any(map(alive, pids)), "all are gone")


def test_a_new_supervisor_kills_a_stopped_orphan_first(supervisor: Daemon) -> None:
    """A whole group under SIGSTOP sees no end of file: its lock is held, so it is killed."""
    supervisor.drop("one")
    supervisor.start()
    orphan = supervisor.wait_state("one", "RUNNING")["pid"]
    os.killpg(orphan, signal.SIGSTOP)
    wait_for(lambda: state(orphan) == "T", "it stands still")
    supervisor.end()
    assert alive(orphan)
    supervisor.start()
    assert not alive(orphan)
    assert supervisor.wait_state("one", "RUNNING")["pid"] != orphan
    assert supervisor.log("worker.took_over")[0]["killed_group"] == orphan


def test_a_supervisor_can_be_a_child_itself(supervisor: Daemon) -> None:
    """The demo starts one as its child, with a lock in the same folder; all ends with the demo."""
    supervisor.drop("one")
    supervisor.paths.create()
    argv = [sys.executable, str(FILE), "run"]
    child = Child.spawn("agentd", argv, supervisor.paths.locks, env=supervisor.environment)

    def worker() -> int | None:
        with contextlib.suppress(NotRunning):
            for agent in query(supervisor.paths)["agents"]:
                return int(agent["pid"] or 0)
        return None

    try:
        pid = wait_for(worker, "its worker runs")
    finally:
        child.kill()
        wait_for(lambda: child.poll() is not None, "it is dead")
        child.close()
    wait_for(lambda: not alive(pid), "its worker is gone")


def test_what_processes_take_is_measured_for_who_asks(supervisor: Daemon) -> None:
    """A command that waits asks 20 times a second, and on a Mac a program measures each time."""
    supervisor.drop("one")
    supervisor.start()
    worker = supervisor.wait_state("one", "RUNNING")["pid"]
    assert "processes" not in query(supervisor.paths)
    assert str(worker) in query(supervisor.paths, use=True)["processes"]["of"]


def test_who_asks_nothing_in_particular_is_answered(supervisor: Daemon) -> None:
    """A program of before an update connects and reads, and never says that it has no question."""
    supervisor.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(supervisor.paths.status_socket))
        answer = bytearray()
        while data := client.recv(65_536):
            answer += data
    assert json.loads(answer)["pid"] == supervisor.pid


def test_a_second_supervisor_is_refused_by_pid(supervisor: Daemon) -> None:
    """One supervisor per home; the second says who is there and exits 1, and the first goes on."""
    supervisor.start()
    second = Daemon(supervisor.home)
    second.start(wait=False)
    assert second.process is not None
    _, errors = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert f"another supervisor is running (pid {supervisor.pid})" in errors
    assert supervisor.status()["pid"] == supervisor.pid


# --- commands and reload


def test_pause_holds_across_restarts_and_resume_ends_it(supervisor: Daemon) -> None:
    """PAUSED is a person's wish: neither a changed file nor a new supervisor ends it."""
    supervisor.drop("one")
    supervisor.start()
    agent = supervisor.wait_state("one", "RUNNING")
    command(supervisor, "pause", agent="one")
    supervisor.wait_state("one", "PAUSED")
    assert not alive(agent["pid"])
    supervisor.drop("one", more="# changed")
    wait_for(lambda: supervisor.agent("one")["version"] != agent["version"], "a new version")
    supervisor.wait_state("one", "PAUSED")
    supervisor.stop()
    supervisor.start()
    supervisor.wait_state("one", "PAUSED")
    command(supervisor, "resume", agent="one")
    supervisor.wait_state("one", "RUNNING")


def test_resume_starts_a_parked_agent(supervisor: Daemon) -> None:
    """What a person repaired outside needs no edit of the file; its crashes are forgiven."""
    supervisor.drop("one", "crash")
    supervisor.start()
    supervisor.wait_state("one", "PARKED")
    command(supervisor, "resume", agent="one")
    wait_for(lambda: len(supervisor.events("agent.crashed")) > 3, "it was tried again")
    assert supervisor.wait_state("one", "PARKED")["crashes"] == 3


def test_an_old_command_is_not_carried_out(supervisor: Daemon) -> None:
    """A pause that was sent an hour ago, while nothing ran, is nobody's wish any more."""
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    supervisor.stop()
    command(supervisor, "pause", agent="one")
    bus = Bus(supervisor.paths.database)
    with bus.transaction():
        bus.db.run(
            "UPDATE outbox SET created_at = '2020-01-01T00:00:00.000Z'"
            " WHERE event_type = 'agentd.pause'"
        )
    bus.close()
    supervisor.start()
    wait_for(lambda: supervisor.log("command.expired"), "it is noticed")
    supervisor.wait_state("one", "RUNNING")


def test_sighup_reloads(supervisor: Daemon) -> None:
    """SIGHUP reads agentd.toml, checks all agents, and retries what was parked."""
    supervisor.drop("one", "wrong")
    supervisor.start()
    supervisor.wait_state("one", "PARKED")
    assert supervisor.process is not None
    supervisor.process.send_signal(signal.SIGHUP)

    def parkings() -> int:
        return [line["state"] for line in supervisor.log("worker.state")].count("PARKED")

    wait_for(lambda: parkings() == 2, "it was tried again")
    assert supervisor.log("supervisor.reloading")


def test_a_wrong_agentd_toml_keeps_the_old_one(supervisor: Daemon) -> None:
    """A reload with an unknown key changes nothing, and status says which."""
    supervisor.start()
    supervisor.configure(QUICK + "[logs]\nlevle = 'debug'\n")
    problem = wait_for(lambda: supervisor.status()["problem"], "the problem is shown")
    assert "logs.levle: unknown key" in problem["what"]
    supervisor.configure(QUICK + "[logs]\nlevel = 'debug'\n")
    wait_for(lambda: supervisor.status()["problem"] is None, "it is repaired")
    assert wait_for(lambda: supervisor.log("config.reloaded"))[0]["changed"] == ["logs"]


def test_a_worker_can_start_while_agentd_toml_is_wrong(supervisor: Daemon) -> None:
    """It reads the last one that was right, as the daemon itself goes on with it."""
    supervisor.drop("one", "read agentd.toml")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    supervisor.configure("half a fi")
    wait_for(lambda: supervisor.status()["problem"], "it is found wrong")
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: supervisor.agent("one")["restarts"] == 1, "it is noticed")
    supervisor.wait_state("one", "RUNNING")
    assert supervisor.status()["problem"]


def test_a_wrong_agentd_toml_does_not_keep_the_daemon_from_its_start_at_login(
    tmp_path: Path,
) -> None:
    """Nobody is there to read an error: it goes on with the last right one, and status tells."""
    url = "[model]\nurl = 'http://127.0.0.1:9/v1'\n"
    with daemon(tmp_path, {LAUNCHD_VARIABLE: "1"}) as one:
        one.configure(QUICK + url)
        one.start()
        assert one.stop() == 0
        one.configure(QUICK + url + "queue = 'many'\n")
        status = one.start().status()
        assert "model.queue" in status["problem"]["what"] and status["model"]["external"]
        one.configure(QUICK)
        wait_for(lambda: one.status()["problem"] is None, "it is repaired")
        assert not one.status()["model"]["external"]
        assert one.stop() == 0
        one.configure("half a fi")
        one.paths.accepted_daemon_file.unlink()
        one.start(wait=False)
        assert one.process is not None and one.process.wait(DEADLINE_S) == 0
        with pytest.raises(NotRunning, match="is not valid TOML"):
            query(one.paths)


def test_a_wrong_agentd_toml_is_an_error_in_a_terminal(supervisor: Daemon) -> None:
    """The person who starts it reads it; an earlier one that was right hides nothing."""
    supervisor.start()
    assert supervisor.stop() == 0
    supervisor.configure("half a fi")
    supervisor.start(wait=False)
    assert supervisor.process is not None
    _, errors = supervisor.process.communicate(timeout=DEADLINE_S)
    assert supervisor.process.returncode == 78
    assert "agentd.toml: is not valid TOML" in errors


def test_a_repaired_agentd_toml_starts_what_it_parked(supervisor: Daemon) -> None:
    """A worker that cannot start while agentd.toml is wrong is parked; nobody has to name it."""
    supervisor.drop("one", "read agentd.toml")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    supervisor.configure("half a fi")
    wait_for(lambda: supervisor.status()["problem"], "it is found wrong")
    supervisor.paths.accepted_daemon_file.unlink()  # it could not be kept: the disk was full, say
    os.kill(first["pid"], signal.SIGKILL)
    supervisor.wait_state("one", "PARKED")
    supervisor.configure()
    supervisor.wait_state("one", "RUNNING")


def test_a_changed_model_restarts_the_workers(supervisor: Daemon) -> None:
    """They read [model] when they start: address, window and deadline would stay the old ones."""
    supervisor.drop("one")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    supervisor.configure(QUICK + "[model]\nurl = 'http://127.0.0.1:9/v1'\n")
    wait_for(lambda: supervisor.agent("one")["pid"] not in (None, first["pid"]), "a new one runs")
    assert supervisor.wait_state("one", "RUNNING")["restarts"] == 0


# --- the model server


def test_a_missing_model_waits_and_starts_when_it_comes(supervisor: Daemon) -> None:
    """Agents run meanwhile; the hint is the command that fetches it; no restart is needed."""
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    model = supervisor.status()["model"]
    assert model["state"] == "WAITING"
    assert model["problem"]["hint"] == "agentd model pull smollm2-135m"
    pull_model(supervisor)
    model = supervisor.wait_model()
    address = json.loads(supervisor.paths.model_address.read_text())
    expected = {"url": model["url"], "model": "smollm2-135m", "pid": model["pid"], "crashes": 0}
    expected["socket"] = str(supervisor.paths.model_socket)
    assert address == expected
    assert supervisor.paths.token.stat().st_mode & 0o777 == 0o600
    assert len(supervisor.paths.token.read_text()) > 30


def test_a_dead_model_server_refuses_callers_and_comes_back_at_its_port(
    supervisor: Daemon,
) -> None:
    """No socket is left that accepts and never answers; the address stays the same."""
    pull_model(supervisor)
    rests = "[supervisor]\nbackoff_first = '1h'\nbackoff_max = '1h'\n"  # as long as we look
    supervisor.configure(f"{rests}[model]\nport = 0\n")  # another test may want the default
    supervisor.start()
    model = supervisor.wait_model()
    port = int(model["url"].split(":")[2].removesuffix("/v1"))
    os.kill(model["pid"], signal.SIGKILL)
    wait_for(lambda: supervisor.status()["model"]["state"] == "BACKOFF", "it is dead")
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))
    supervisor.configure(
        rests + "[model]\nport = 0\nqueue = 65\n"
    )  # a changed server is tried at once
    assert supervisor.wait_model()["url"] == model["url"]


def test_the_default_port_gives_way_where_it_is_taken(tmp_path: Path) -> None:
    """Two homes on one machine both work, and `status` says where the second one listens."""
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = taken.getsockname()[1]
        for name in ("one", "two"):
            home = stack.enter_context(daemon(tmp_path / name, {PORT_VARIABLE: str(port)}))
            pull_model(home)
            home.start()
            model = home.wait_model()
            assert str(port) not in model["url"]
            assert model["reason"] == f"port {port} was taken, so it listens on another one"
            assert json.loads(home.paths.model_address.read_text())["url"] == model["url"]


def test_a_port_in_use_is_one_clear_error(supervisor: Daemon) -> None:
    """It names port and key, exits 78, and leaves no traceback; status knows the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        supervisor.configure(f"[model]\nport = {port}\n")
        supervisor.start(wait=False)
        assert supervisor.process is not None
        _, errors = supervisor.process.communicate(timeout=20)
    assert supervisor.process.returncode == 78
    assert f"agentd.toml: model.port: port {port} is in use" in errors
    assert "Traceback" not in errors
    with pytest.raises(NotRunning, match=f"port {port} is in use"):
        query(supervisor.paths)


def test_a_port_in_use_at_login_is_waited_for(tmp_path: Path) -> None:
    """Agents run meanwhile, status knows the reason, and the server comes when the port is free."""
    with daemon(tmp_path, {LAUNCHD_VARIABLE: "1"}) as one:
        pull_model(one)
        one.drop("agent")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            rules = "[supervisor]\nbackoff_max = '50ms'\nbackoff_first = '50ms'\ncrashes = 10000\n"
            one.configure(f"{rules}[model]\nport = {port}\n")
            one.start()
            one.wait_state("agent", "RUNNING")
            model = one.status()["model"]
            assert (model["state"], model["pid"]) == ("BACKOFF", None)
            assert f"port {port} is in use" in model["problem"]["what"]
        assert one.wait_model()["url"] == f"http://127.0.0.1:{port}/v1"


def test_only_a_port_that_a_person_chose_is_insisted_on() -> None:
    """Written down it is meant, also where it is the default's number."""
    given: list[dict[str, Any]] = [{}, {"port": 0}, {"port": MODEL_PORT}, {"port": 5}]
    fixed = [ModelConfig.model_validate(table).fixed_port for table in given]
    assert fixed == [False, False, True, True]


def test_an_external_server_needs_no_process(supervisor: Daemon) -> None:
    """`[model] url`: the address file points there; a change back starts our own."""
    pull_model(supervisor)
    supervisor.configure(QUICK + "[model]\nurl = 'http://127.0.0.1:9/v1'\n")
    supervisor.start()
    model = supervisor.status()["model"]
    assert (model["state"], model["pid"]) == ("STOPPED", None)
    assert json.loads(supervisor.paths.model_address.read_text())["url"] == "http://127.0.0.1:9/v1"
    supervisor.configure(QUICK)
    supervisor.wait_model()
    assert json.loads(supervisor.paths.model_address.read_text())["url"] != "http://127.0.0.1:9/v1"


# --- trouble


def test_a_locked_database_stops_nobody(supervisor: Daemon) -> None:
    """Workers are watched and restarted meanwhile; their events come late, and are not lost."""
    supervisor.drop("one")
    supervisor.start()
    first = supervisor.wait_state("one", "RUNNING")
    wait_for(lambda: supervisor.status()["events"]["waiting"] == 0, "all is written")
    bus = Bus(supervisor.paths.database)
    with bus.transaction():
        os.kill(first["pid"], signal.SIGKILL)
        wait_for(lambda: supervisor.agent("one")["restarts"] == 1, "it is noticed")
        supervisor.wait_state("one", "RUNNING")
        assert supervisor.status()["events"]["waiting"] == 2
    bus.close()
    wait_for(lambda: len(supervisor.events("agent.started")) == 2, "they are written")
    assert len(supervisor.events("agent.crashed")) == 1


def test_a_locked_database_does_not_delay_the_stop(supervisor: Daemon) -> None:
    """SIGTERM keeps its 10 s whatever SQLite waits for."""
    supervisor.drop("one")
    supervisor.start()
    supervisor.wait_state("one", "RUNNING")
    bus = Bus(supervisor.paths.database)
    with bus.transaction():
        began = time.monotonic()
        assert supervisor.stop() == 0
        assert time.monotonic() - began < 10
    bus.close()


def test_what_the_supervisor_does_not_import(supervisor: Daemon) -> None:
    """No BAML, no MLX, no APScheduler in the process that watches all others."""

    code = (
        "import sys, agentd.supervisor\n"
        "heavy = {'baml_py', 'mlx', 'mlx_lm', 'apscheduler', 'rich', 'openai', 'huggingface_hub'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr
