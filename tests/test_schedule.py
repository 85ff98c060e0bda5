"""Schedules: what is due, what a missed run means, and nothing twice."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog
from apscheduler.triggers.cron import CronTrigger

from agentd.bus import Bus
from agentd.config import AgentConfig, Cron, Every
from agentd.events import Event, Lane
from agentd.schedule import Scheduler, Timetable, reconcile, wanted
from agentd.testing import ManualClock

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LANE = Lane("digest", True)
LOG: Any = structlog.get_logger()


class Clock:
    """A clock that moves when told."""

    moment = NOON

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return (self.moment - NOON).total_seconds()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bus(tmp_path: Path, clock: Clock) -> Iterator[Bus]:
    bus = Bus(tmp_path / "agentd.db", clock=clock)
    bus.accept("digest", "v1")
    yield bus
    bus.close()


def in_berlin(expression: str) -> Timetable:
    """Return a timetable whose cron counts in a zone with daylight saving."""
    table = Timetable("digest", Cron(cron=expression))
    table._cron = CronTrigger.from_crontab(expression, timezone=ZoneInfo("Europe/Berlin"))
    return table


def fired(bus: Bus) -> list[Event]:
    return bus.events(event_type="schedule.fired")


def answer(bus: Bus) -> None:
    event = bus.next(LANE)
    assert event is not None
    bus.finish(LANE, event)


def test_interval_is_anchored_to_the_last_due_time() -> None:
    """Looking late does not shift an interval's later runs, and many missed runs are one."""
    table = Timetable("digest", Every(every=timedelta(minutes=15)))
    due = table.latest(NOON, NOON + timedelta(minutes=50))
    assert due is not None and due.at == NOON + timedelta(minutes=45)
    assert table.latest(NOON, NOON + timedelta(minutes=14)) is None
    after = table.latest(due.at, NOON + timedelta(minutes=60))
    assert after is not None and after.at == NOON + timedelta(minutes=60)


@pytest.mark.parametrize(
    ("expression", "away", "latest"),
    [
        ("*/1 * * * *", timedelta(days=365), NOON),
        ("0 0 1 1 *", timedelta(days=900), datetime(2025, 12, 31, 23, tzinfo=UTC)),
        ("30 11 * * *", timedelta(days=3), datetime(2026, 6, 1, 9, 30, tzinfo=UTC)),
        ("0 0 31 2 *", timedelta(days=900), None),
    ],
)
def test_latest_cron_run_after_a_long_absence(
    expression: str, away: timedelta, latest: datetime | None
) -> None:
    """The latest missed run is found after months, also of a cron that never comes."""
    table = in_berlin(expression)
    due = table.latest(NOON - away, NOON)
    assert (due and due.at) == latest


def test_fixed_hour_runs_once_when_clocks_go_back() -> None:
    """02:30 comes twice that night: both moments share one key, so the second is not written."""
    table = in_berlin("30 2 * * *")
    first = table.latest(
        datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )
    assert first is not None
    second = table.latest(first.at, datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
    assert second is not None and second.at > first.at
    assert second.key == first.key
    third = table.latest(second.at, datetime(2026, 10, 26, 1, 30, tzinfo=UTC))
    assert third is not None and third.key != first.key


def test_quarter_hours_lose_no_run_when_clocks_go_back() -> None:
    """A cron without a fixed hour runs in both hours: eight different keys."""
    table = in_berlin("*/15 * * * *")
    moment, end = datetime(2026, 10, 25, 0, tzinfo=UTC), datetime(2026, 10, 25, 2, tzinfo=UTC)
    keys = set()
    while moment < end:
        moment += timedelta(minutes=15)
        due = table.latest(moment - timedelta(minutes=15), moment)
        assert due is not None and due.at == moment
        keys.add(due.key)
    assert len(keys) == 8


def test_skipped_hour_still_runs_when_clocks_go_forward() -> None:
    """02:30 does not exist that night; the run comes at the same moment as 03:30."""
    table = in_berlin("30 2 * * *")
    due = table.latest(datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 29, 6, tzinfo=UTC))
    assert due is not None and due.at == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("missed", "late", "runs"),
    [
        ("once", timedelta(hours=9), True),
        ("skip", timedelta(hours=9), False),
        ("skip", timedelta(seconds=20), True),
        (timedelta(minutes=30), timedelta(minutes=29), True),
        (timedelta(minutes=30), timedelta(minutes=31), False),
    ],
)
def test_missed_is_the_agents_choice(missed: str | timedelta, late: timedelta, runs: bool) -> None:
    """Once, not at all, or only if not too late."""
    table = Timetable("digest", Every(every=timedelta(days=1)))
    due = table.latest(NOON - timedelta(days=1), NOON)
    assert due is not None
    assert wanted(due, NOON + late, missed) is runs


def test_sleep_of_hours_gives_one_run(bus: Bus, clock: Clock) -> None:
    """Waking after nine hours appends one event, not thirty-six, and says how late it is."""
    table = Timetable("digest", Every(every=timedelta(minutes=15)))
    reconcile(bus, table, "once", clock.now(), LOG)
    assert fired(bus) == [], "a new schedule counts from now"
    clock.moment += timedelta(hours=9, seconds=7)
    reconcile(bus, table, "once", clock.now(), LOG)
    reconcile(bus, table, "once", clock.now(), LOG)
    (event,) = fired(bus)
    assert event.target == "digest"
    assert event.payload["late_s"] == 7
    assert event.payload["due"] == "2026-06-01T21:00:00.000Z"


def test_no_run_while_the_previous_event_is_unanswered(bus: Bus, clock: Clock) -> None:
    """A slow agent does not collect a queue of its own schedule."""
    table = Timetable("digest", Every(every=timedelta(minutes=15)))
    reconcile(bus, table, "once", clock.now(), LOG)
    for _ in range(4):
        clock.moment += timedelta(minutes=15)
        reconcile(bus, table, "once", clock.now(), LOG)
    assert len(fired(bus)) == 1
    answer(bus)
    reconcile(bus, table, "once", clock.now(), LOG)
    assert len(fired(bus)) == 2, "the runs missed meanwhile are one"


def test_restart_neither_repeats_nor_forgets(bus: Bus, clock: Clock, tmp_path: Path) -> None:
    """The last due time outlives the process: a run handled before a restart is not run again."""
    table = Timetable("digest", Every(every=timedelta(minutes=15)))
    reconcile(bus, table, "once", clock.now(), LOG)
    clock.moment += timedelta(minutes=16)
    reconcile(bus, table, "once", clock.now(), LOG)
    answer(bus)
    again = Bus(tmp_path / "agentd.db", clock=clock)
    reconcile(again, table, "once", clock.now(), LOG)
    assert len(fired(again)) == 1
    clock.moment += timedelta(minutes=14)
    reconcile(again, table, "once", clock.now(), LOG)
    assert len(fired(again)) == 2
    again.close()


def test_clock_set_back_runs_nothing_twice(bus: Bus, clock: Clock) -> None:
    """After a jump back the schedule goes on from the new time; the same due time has one event."""
    table = in_berlin("0 * * * *")
    reconcile(bus, table, "once", clock.now(), LOG)
    clock.moment += timedelta(minutes=60)
    reconcile(bus, table, "once", clock.now(), LOG)
    answer(bus)
    clock.moment -= timedelta(minutes=30)
    reconcile(bus, table, "once", clock.now(), LOG)
    clock.moment += timedelta(minutes=30)
    reconcile(bus, table, "once", clock.now(), LOG)
    assert len(fired(bus)) == 1
    clock.moment += timedelta(minutes=60)
    reconcile(bus, table, "once", clock.now(), LOG)
    assert len(fired(bus)) == 2


def test_scheduler_fires_by_itself(tmp_path: Path) -> None:
    """APScheduler's thread appends the event and wakes the agent, with nobody polling."""
    wake = tmp_path / "w"
    wake.mkdir()
    bus = Bus(tmp_path / "agentd.db", wake=wake)
    bus.accept("digest", "v1")
    config = AgentConfig(agent="task", done="something is done", schedule=Every(every="200ms"))
    with_bus = lambda: Bus(tmp_path / "agentd.db", wake=wake)  # noqa: E731
    waker = bus.waker("digest")
    scheduler = Scheduler("digest", config, with_bus, bus.clock, LOG)
    scheduler.start(bus)
    try:
        assert waker.wait(10), "no wake-up came"
        (event,) = fired(bus)
        assert bus.next(LANE) == event
    finally:
        scheduler.stop()
        waker.close()
        bus.close()


def test_a_clock_set_back_does_not_stop_the_schedule(tmp_path: Path) -> None:
    """APScheduler alone would sleep until the wall clock is where it was."""
    clock = ManualClock()

    def open_bus() -> Bus:
        return Bus(tmp_path / "agentd.db", clock=clock)

    bus = open_bus()
    bus.accept("digest", "v1")
    config = AgentConfig(agent="task", done="something is done", schedule=Every(every="1h"))
    scheduler = Scheduler("digest", config, open_bus, clock, LOG)
    scheduler.start(bus)
    try:
        clock.set(clock.now() - timedelta(days=400))
        for _ in range(2 * 60 + 1):
            clock.advance(30)
            scheduler.look(bus)
        assert len(fired(bus)) == 1
    finally:
        scheduler.stop()
        bus.close()
