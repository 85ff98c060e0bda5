"""A machine that sleeps, clocks that jump, both daylight-saving days: nothing twice, no burst."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest
import structlog
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentd.bus import Bus
from agentd.bus.wake import socket_path
from agentd.clock import parse_iso
from agentd.config.agent import Cron, Every
from agentd.config.timetable import Timetable
from agentd.events import Event, Lane, NewEvent
from agentd.paths import discover
from agentd.sessions.sessions import Sessions
from agentd.states import SessionState
from agentd.storage.rows import Rows
from agentd.supervisor.children import RECENT_S, TICK_S, SleepDetector
from agentd.testing import FakeModelServer, ManualClock, wait_for
from agentd.worker.schedule import SPREAD_S, Spread, reconcile
from tests.commandline import DEADLINE_S, write_agent
from tests.supervised import Daemon, daemon, state

LOG: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
AGENTS = 50
BERLIN = ZoneInfo("Europe/Berlin")


def fired(bus: Bus) -> Sequence[Event]:
    return bus.events.list(event_type="schedule.fired", limit=100_000)


def answer_all(bus: Bus, names: list[str]) -> None:
    for name in names:
        while (event := bus.next(Lane(name, True))) is not None:
            bus.finish(Lane(name, True), event)


def drop_answered(bus: Bus) -> list[Event]:
    """Drop what was answered, as a database at its size limit does at any age; return it."""
    ((passed,),) = bus.db.run("SELECT last_seen_id FROM cursors WHERE consumer = 'one/direct'")
    answered = [event for event in fired(bus) if event.id <= passed]
    Rows(bus).drop_events(passed, 100_000)
    return answered


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(tmp_path: Path, clock: ManualClock) -> Iterator[Bus]:
    bus = Bus(tmp_path / "a.db", clock=clock)
    bus.accept("one", "v1")
    yield bus
    bus.close()


# --- no burst


@pytest.mark.parametrize("missed", ["once", timedelta(hours=9, seconds=1)])
def test_fifty_agents_that_are_late_at_once_are_spread(
    bus: Bus, clock: ManualClock, missed: str | timedelta
) -> None:
    """After nine hours of sleep each runs once, within half a minute, a few in any second.

    Also those whose `missed` would not let them wait that long: they were wanted when it woke.
    """
    chance = random.Random(1)
    tables = [Timetable(f"agent{n}", Every(every=timedelta(minutes=15))) for n in range(AGENTS)]
    spreads = [Spread(clock, chance.random) for _ in tables]
    for table in tables:
        bus.accept(table.agent, "v1")
        reconcile(bus, table, missed, clock.now(), LOG)
    clock.advance(9 * 3600 + 61)
    woke = clock.now()
    for _ in range(40):
        for table, spread in zip(tables, spreads, strict=True):
            wait_s = reconcile(bus, table, missed, clock.now(), LOG, spread)
            assert 0 <= wait_s <= SPREAD_S
        clock.advance(1)
    events = fired(bus)
    assert sorted(event.target or "" for event in events) == sorted(t.agent for t in tables)
    seconds = Counter(int((event.created_at - woke).total_seconds()) for event in events)
    assert max(seconds.values()) < 8 and max(seconds) <= SPREAD_S


def test_a_run_on_time_does_not_wait(bus: Bus, clock: ManualClock) -> None:
    """Only what was missed is spread."""
    table = Timetable("one", Every(every=timedelta(minutes=15)))
    spread = Spread(clock, lambda: 0.99)
    reconcile(bus, table, "once", clock.now(), LOG, spread)
    clock.advance(15 * 60 + 20)
    assert reconcile(bus, table, "once", clock.now(), LOG, spread) == 0
    assert len(fired(bus)) == 1


# --- clocks that jump


def walk(
    bus: Bus, clock: ManualClock, table: Timetable, until: datetime, step: timedelta
) -> list[Event]:
    """Look at the schedule at every step until the moment; answer what it fires, and prune it."""
    events = []
    while clock.now() <= until:
        reconcile(bus, table, "once", clock.now(), LOG)
        answer_all(bus, ["one"])
        events += drop_answered(bus)
        clock.advance(step.total_seconds())
    return events


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/15 * * * *", "0 9 * * *"])
def test_both_days_on_which_clocks_change(
    bus: Bus, clock: ManualClock, day: str, expression: str
) -> None:
    """A daily run comes once, though 02:30 exists twice or not at all; quarters lose none."""
    table = Timetable("one", Cron(cron=expression), BERLIN)
    midnight = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    end = (midnight + timedelta(days=1)).astimezone(UTC)
    hours = round((end - midnight.astimezone(UTC)).total_seconds() / 3600)
    assert hours == (23 if day == "2026-03-29" else 25)
    clock.set(midnight.astimezone(UTC) - timedelta(seconds=1))
    events = walk(bus, clock, table, end - timedelta(seconds=1), timedelta(minutes=1))
    assert len(events) == (4 * hours if "/" in expression else 1)
    assert len({event.payload["due"] for event in events}) == len(events)


jumps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(1, 7200)),  # seconds go by
        st.tuples(st.just("jump"), st.integers(-90_000, 90_000)),  # the wall clock is set
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("answer"), st.just(0)),
        st.tuples(st.just("prune"), st.just(0)),
    ),
    max_size=40,
)


LATE = [("pass", 7200), ("pass", 40)]  # a run is due, and the wait of one that is late is over
TWICE = [*LATE, ("answer", 0), ("prune", 0), ("jump", -7240), *LATE]


@settings(max_examples=30)
@example(steps=TWICE, expression="0 * * * *")
@given(steps=jumps, expression=st.sampled_from(["every", "0 * * * *", "30 2 * * *"]))
def test_no_run_twice_however_the_clock_jumps(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], expression: str
) -> None:
    """Each due time has one event at most, is never in the future, and runs go on afterwards.

    Also where the event that ran is pruned by then.
    """
    clock = ManualClock()
    path = tmp_path_factory.mktemp("walk") / "a.db"
    bus = Bus(path, clock=clock)
    bus.accept("one", "v1")
    schedule = (
        Every(every=timedelta(minutes=30)) if expression == "every" else Cron(cron=expression)
    )
    table, spread, events = Timetable("one", schedule), Spread(clock), []
    reconcile(bus, table, "once", clock.now(), LOG, spread)
    for what, seconds in steps:
        if what == "pass":
            clock.advance(seconds)
        elif what == "jump":
            clock.set(clock.now() + timedelta(seconds=seconds))
        elif what == "restart":
            bus.close()
            bus, spread = Bus(path, clock=clock), Spread(clock)
        elif what == "prune":
            events += drop_answered(bus)
        else:
            answer_all(bus, ["one"])
        reconcile(bus, table, "once", clock.now(), LOG, spread)
    events += fired(bus)
    assert len({event.payload["due"] for event in events}) == len(events)
    assert all(parse_iso(event.payload["due"]) <= event.created_at for event in events)
    answer_all(bus, ["one"])
    before = len(fired(bus))
    # A day that was lived twice has its runs once: go on until the clock is where it never was.
    clock.advance(40 * 90_000)
    reconcile(bus, table, "once", clock.now(), LOG)
    assert len(fired(bus)) == before + 1
    bus.close()


# --- a process that stands still


def test_a_supervisor_knows_that_it_stood_still() -> None:
    """For a moment after it woke, whoever asks; not when a look is only a little late."""
    clock = ManualClock()
    detector = SleepDetector(clock)
    for _ in range(3):
        clock.advance(TICK_S + 0.5)
        assert detector.check() == 0
    clock.advance(3600)
    assert detector.check() == 3600
    clock.advance(RECENT_S / 2)
    assert detector.check() == 3600, "another child's timer may be the second to ask"
    clock.advance(TICK_S)
    detector.check()
    clock.advance(TICK_S)
    assert detector.check() == 0


def test_a_tree_that_stood_still_kills_nobody(tmp_path: Path) -> None:
    """SIGSTOP of supervisor and workers for longer than a promise, then SIGCONT: all go on.

    Twice: for a little longer than a promise, and for much longer.
    """
    with daemon(tmp_path) as one:
        one.drop("short", "promise little")
        one.start()
        pid = one.wait_state("short", "RUNNING")["pid"]
        for seconds in (6.5, 9.0):
            stand_still(one, pid, seconds)
            beats = one.agent("short")["beat"]["number"]
            wait_for(lambda beats=beats: one.agent("short")["beat"]["number"] > beats + 3)  # type: ignore[misc]
        agent = one.agent("short")
        assert (agent["pid"], agent["restarts"], agent["state"]) == (pid, 0, "RUNNING")
        assert one.log("worker.hung") == []


def stand_still(one: Daemon, pid: int, seconds: float) -> None:
    """Stop the whole tree for a time; the supervisor wakes first, and finds no new beats."""
    for each in (pid, one.pid):
        os.kill(each, signal.SIGSTOP)
    wait_for(lambda: state(one.pid) == state(pid) == "T")
    until = time.monotonic() + seconds
    wait_for(lambda: time.monotonic() > until)
    os.kill(one.pid, signal.SIGCONT)
    wait_for(lambda: one.status().get("pid") == one.pid)
    os.kill(pid, signal.SIGCONT)


def test_a_session_goes_on_where_the_whole_tree_stood_still(tmp_path: Path) -> None:
    """Everything real: the call's deadline passes while nobody runs, and fails nothing."""
    held: list[bool] = [True]

    def answer(_request: Any) -> Any:
        wait_for(lambda: not held[0], seconds=60)
        return {"tool": "done", "result": "well"}

    with FakeModelServer(answer, token="") as model:
        write_agent(tmp_path, "hello")
        (tmp_path / "config" / "agentd.toml").write_text(
            f"[model]\nurl = '{model.url}'\ncall_deadline = '3s'\n"
        )
        paths = discover({"AGENTD_HOME": str(tmp_path)})
        with subprocess.Popen(
            [sys.executable, "-m", "agentd", "run"],
            env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        ) as process:
            try:
                wait_for(socket_path(paths.wake, "hello").exists, seconds=DEADLINE_S)
                bus = Bus(paths.database, wake=paths.wake)
                bus.publish("person", NewEvent("note.added", {"name": "Ada"}))
                wait_for(lambda: model.requests, seconds=DEADLINE_S)
                tree = [psutil.Process(process.pid)]
                tree += tree[0].children(recursive=True)
                for each in tree:  # some check may be over just now
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.suspend()
                until = time.monotonic() + 6.0
                wait_for(lambda: time.monotonic() > until)
                held[0] = False
                for each in tree:  # who goes on first may end another: a check that is over
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.resume()
                sessions = Sessions(bus)
                wait_for(
                    lambda: sessions.archive.list(state=SessionState.ENDED), seconds=DEADLINE_S
                )
                (row,) = sessions.archive.list()
                assert (row.attempt, row.turns) == (1, 1)
                assert bus.events.list(event_type="agent.crashed") == []
                bus.close()
                process.terminate()
                assert process.wait(DEADLINE_S) == 0
            finally:
                process.kill()
