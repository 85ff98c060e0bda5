"""The restart rules, walked through with a clock in hand."""

import asyncio
import errno
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import structlog

from agentd.config.daemon import DaemonConfig, ModelConfig, SupervisorConfig
from agentd.errors import AgentdError
from agentd.paths import discover
from agentd.process.child import Child
from agentd.states import WorkerState
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Managed, Reaper
from agentd.supervisor.model import PARKED_S, ModelHost
from agentd.supervisor.restart import BEAT_GRACE_S, START_S, DueAction, Ended, Life, Rules
from agentd.testing import ManualClock

RULES = Rules(backoff_first_s=1, backoff_max_s=8, healthy_after_s=30, crashes=5, stop_grace_s=5)


def running(clock: ManualClock, promise_s: float = 10) -> Life:
    life = Life(RULES, clock, random.Random(1))
    life.spawned()
    assert life.beat(promise_s)
    return life


def test_the_first_beat_makes_it_running() -> None:
    """STARTING ends with the first beat; later beats only move the deadline."""
    clock = ManualClock()
    life = Life(RULES, clock, random.Random(1))
    seen = [life.state]
    life.spawned()
    seen.append(life.state)
    assert life.beat(10)
    seen.append(life.state)
    assert seen == [WorkerState.STOPPED, WorkerState.STARTING, WorkerState.RUNNING]
    assert not life.beat(10)


def test_backoff_doubles_with_jitter_up_to_its_cap() -> None:
    """Waits grow 1, 2, 4, 8, 8 s, each shortened by at most a fifth, so that agents spread out."""
    clock = ManualClock()
    life = Life(RULES, clock, random.Random(1))
    waits = []
    for _ in range(6):
        life.spawned()
        life.beat(10)
        assert life.exited(75) is Ended.CRASHED
        assert life.deadline is not None
        waits.append(life.deadline - clock.monotonic())
        clock.advance(life.deadline - clock.monotonic())
        assert life.due() is DueAction.START
    for wait, most in zip(waits, (1, 2, 4, 8, 8, 8), strict=True):
        assert 0.8 * most <= wait <= most
    assert len(set(waits)) == len(waits)


def test_a_crash_loop_is_parked_and_says_why() -> None:
    """After so many crashes in a row nobody restarts it, and the reason names the last one."""
    clock = ManualClock()
    life = running(clock)
    for _ in range(4):
        assert life.exited(-11) is Ended.CRASHED
        life.spawned()
        life.beat(10)
    assert life.exited(1, "ValueError: no") is Ended.PARKED
    assert life.state is WorkerState.PARKED
    assert life.reason == "crash loop: 5 crashes in a row, the last: exit 1: ValueError: no"
    assert life.deadline is None


def test_a_passing_fault_never_parks() -> None:
    """Exit 75 says that trying again helps: backoff only, for as long as it takes."""
    life = running(ManualClock())
    for _ in range(50):
        assert life.exited(75) is Ended.CRASHED
        life.spawned()
    assert life.state is WorkerState.STARTING


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP])
def test_a_kill_from_outside_never_parks_and_is_no_crash(code: int) -> None:
    """Who is killed did nothing wrong; the growing backoff bounds what the system kills itself."""
    clock = ManualClock()
    life = running(clock)
    for _ in range(50):
        assert life.exited(code) is Ended.CRASHED
        assert life.own_doing == ""
        life.spawned()
        life.beat(10)
    assert life.exited(code) is Ended.CRASHED
    assert life.deadline is not None and life.deadline - clock.monotonic() > 6
    assert life.reason.startswith("killed by SIG")


def test_what_a_process_did_itself_is_evidence() -> None:
    """A crash, an exit and a hang are; a kill, a passing fault and an order to stop are not."""
    clock = ManualClock()
    for code, own in ((-11, True), (-6, True), (3, True), (0, True), (75, False), (-9, False)):
        life = running(clock)
        life.exited(code, "its words")
        assert (life.own_doing != "") is own, code
        assert not own or life.own_doing.endswith("its words")
    life = running(clock)
    life.exited(0, in_order=True)
    assert life.own_doing == "", "somebody else sent it SIGTERM"
    life = running(clock)
    life.stop(WorkerState.STOPPED)
    life.exited(-9)
    assert life.own_doing == "", "we killed it, because it did not stop in time"


@pytest.mark.parametrize("suspended", [True, False])
def test_a_hang_is_its_own_doing_unless_somebody_stopped_it(suspended: bool) -> None:
    """SIGSTOP looks like a hang from here; its supervisor asks the system which it is."""
    clock = ManualClock()
    life = running(clock, promise_s=10)
    clock.advance(20)
    assert life.due() is DueAction.HUNG
    if suspended:
        life.suspended()
    assert life.exited(-9) is Ended.CRASHED
    assert life.crashes == (0 if suspended else 1)
    assert (life.own_doing == "") is suspended
    assert ("stopped by a signal" in life.reason) is suspended


def test_a_bad_configuration_is_parked_at_once() -> None:
    """Exit 78 says that trying again is useless until a person changes something."""
    life = running(ManualClock())
    assert life.exited(78, "params.repo: no such folder") is Ended.PARKED
    assert life.reason == "exit 78: params.repo: no such folder"
    assert life.restarts == 0


def test_a_healthy_period_forgives() -> None:
    """Crashes count in a row: up long enough, and the count starts anew."""
    clock = ManualClock()
    life = running(clock)
    for _ in range(20):
        clock.advance(31)
        assert life.exited(1) is Ended.CRASHED
        assert life.crashes == 1
        life.spawned()
        life.beat(1e6)


def test_a_broken_promise_is_a_hang() -> None:
    """Past the promise and its grace it is to be killed; the exit is then a crash, called hung."""
    clock = ManualClock()
    life = running(clock, promise_s=10)
    clock.advance(10 + BEAT_GRACE_S - 0.1)
    assert life.due() is None
    clock.advance(0.2)
    assert life.due() is DueAction.HUNG
    assert not life.beat(10), "a beat after the verdict does not bring it back"
    assert life.exited(-9) is Ended.CRASHED
    assert life.reason.startswith("hung: broke its promise to beat within 10 s")


def test_no_first_beat_is_a_hang() -> None:
    """A child that never beats is not STARTING for ever."""
    clock = ManualClock()
    life = Life(RULES, clock, random.Random(1))
    life.spawned()
    clock.advance(START_S)
    assert life.due() is DueAction.HUNG
    life.exited(-9)
    assert "no beat within 60 s of its start" in life.reason


def test_a_supervisor_that_slept_blames_nobody() -> None:
    """After a long sleep of the machine all promises look broken: they get their time again."""
    clock = ManualClock()
    life = running(clock, promise_s=10)
    clock.advance(3600)
    life.late(3600 - 15)
    assert life.due() is None
    clock.advance(BEAT_GRACE_S + 0.1)
    assert life.due() is DueAction.HUNG


def test_an_asked_stop_is_no_crash_and_has_a_grace() -> None:
    """It rests where it was asked to; past the grace it is to be killed."""
    clock = ManualClock()
    life = running(clock)
    assert life.stop(WorkerState.PAUSED, "paused by a person")
    assert not life.stop(WorkerState.PAUSED, "again"), "it was told already"
    clock.advance(5)
    assert life.due() is DueAction.KILL
    assert life.exited(-9) is Ended.STOPPED
    assert (life.state, life.reason) == (WorkerState.PAUSED, "again")
    assert life.restarts == life.crashes == 0


def test_a_stop_for_a_restart_starts_again_at_once() -> None:
    """A changed version restarts without a backoff."""
    life = running(ManualClock())
    life.stop(WorkerState.STARTING)
    assert life.exited(0) is Ended.AGAIN


def test_a_stop_overrides_a_restart() -> None:
    """The last word counts: removed while it was restarting, it does not come back."""
    life = running(ManualClock())
    life.stop(WorkerState.STARTING)
    life.stop(WorkerState.STOPPED, "its file was removed")
    assert life.exited(0) is Ended.STOPPED
    assert life.state is WorkerState.STOPPED


def test_an_exit_with_0_unasked_counts_as_a_crash() -> None:
    """A worker has no reason to end by itself; one that does would otherwise be gone silently."""
    life = running(ManualClock())
    assert life.exited(0) is Ended.CRASHED
    assert life.reason == "exited unasked"


def test_a_child_that_cannot_be_started_backs_off() -> None:
    """No memory, no descriptors: tried again later, parked in the end."""
    life = Life(RULES, ManualClock(), random.Random(1))
    assert life.unstartable("Too many open files") is Ended.CRASHED
    assert life.reason == "cannot be started: Too many open files"


def test_an_interpreter_that_is_being_upgraded_parks_nobody() -> None:
    """`brew upgrade` and `uv tool upgrade` take it away for a while; a child is tried on."""

    def spawn() -> Child:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "python3")

    async def tries() -> Life:
        clock = ManualClock()
        life = Life(RULES, clock, random.Random(1))
        log: Any = structlog.get_logger()
        child = Managed("a", spawn, life, Reaper(clock), log=log, clock=clock)
        for _ in range(2 * RULES.crashes):
            child.start()
        return life

    life = asyncio.run(tries())
    assert (life.state, life.crashes) == (WorkerState.BACKOFF, 0)
    assert "No such file" in life.reason


def test_a_model_server_that_was_given_up_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Mac another program may have taken the GPU's memory: all agents would wait for ever."""
    clock, tried = ManualClock(), []
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    (tmp_path / "config.json").touch()  # a model, as far as it is looked at
    config = DaemonConfig(model=ModelConfig(name=str(tmp_path)))
    life = Life(RULES, clock, random.Random(1))
    log: Any = structlog.get_logger()
    reaper = Reaper(clock)
    host = ModelHost(paths, config, Commands(), life, reaper, log=log, clock=clock)

    def spawn() -> Child:
        tried.append(clock.monotonic())
        raise AgentdError("aborted")

    monkeypatch.setattr(host.managed, "_spawn", spawn)
    for _ in range(RULES.crashes):
        life.unstartable("aborted")
    assert life.state is WorkerState.PARKED
    for _ in range(2):
        host.poll()
        clock.advance(PARKED_S - 1)
        host.poll()
        clock.advance(1)
        before = len(tried)
        host.poll()
        assert len(tried) == before + 1
        assert life.state is WorkerState.PARKED, "one try, not a whole loop"


def test_the_rules_come_from_the_configuration() -> None:
    """[supervisor] of agentd.toml, in seconds."""
    rules = Rules.of(SupervisorConfig())
    assert rules == Rules(1, 60, 30, 8, 5)
