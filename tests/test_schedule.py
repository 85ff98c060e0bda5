"""Schedules: what is due, what a missed run means, and nothing twice."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog

from agentd.bus import Bus
from agentd.config.agent import AgentConfig, Cron, Every
from agentd.config.timetable import Timetable, wanted
from agentd.events import Event, Lane
from agentd.testing import ManualClock, wait_for
from agentd.worker.schedule import DueTrigger, Scheduler, reconcile

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
    table = Timetable("digest", Cron(cron=expression), ZoneInfo("Europe/Berlin"))
    return table


def fired(bus: Bus) -> Sequence[Event]:
    return bus.events.list(event_type="schedule.fired")


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
        ("0 0 29 2 *", timedelta(days=900), datetime(2024, 2, 28, 23, tzinfo=UTC)),
        ("0 0 29 2 *", timedelta(days=300), None),
        ("* * * 1 *", timedelta(days=4000), datetime(2026, 1, 31, 22, 59, tzinfo=UTC)),
    ],
)
def test_latest_cron_run_after_a_long_absence(
    expression: str, away: timedelta, latest: datetime | None
) -> None:
    """The latest missed run is found after months, however many or few there were."""
    table = in_berlin(expression)
    due = table.latest(NOON - away, NOON)
    assert (due and due.at) == latest


def test_fixed_hour_runs_once_when_clocks_go_back() -> None:
    """02:30 comes twice that night: it runs in the first pass, and next on the following night."""
    table = in_berlin("30 2 * * *")
    first = table.latest(
        datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    )
    assert first is not None and first.at == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert table.latest(first.at, datetime(2026, 10, 26, 1, 29, tzinfo=UTC)) is None
    # From a look in the second pass, as by a worker that starts in it.
    second_pass = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)
    second = table.latest(second_pass, datetime(2026, 10, 26, 1, 30, tzinfo=UTC))
    assert second is not None and second.at == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert second.key != first.key


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


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 9 * * 1-5", "Mon Tue Wed Thu Fri"),
        ("0 9 * * mon-fri", "Mon Tue Wed Thu Fri"),
        ("0 9 * * 0", "Sun"),
        ("0 9 * * 7", "Sun"),
        ("0 9 * * SUN", "Sun"),
        ("0 9 * * 5-7", "Fri Sat Sun"),
        ("0 9 * * sat-sun", "Sat Sun"),
        ("0 9 * * 6,1", "Mon Sat"),
        ("0 9 * * */2", "Tue Thu Sat Sun"),
        ("0 9 * * 1-5/2", "Mon Wed Fri"),
        ("0 9 3 * *", "Wed"),  # 3 June 2026
        ("0 9 3 * 5", "Wed Fri"),
        ("0 9 */2 * 1", "Mon"),
    ],
)
def test_days_are_those_of_cron(expression: str, days: str) -> None:
    """Sunday is 0 or 7; a day of the month and a weekday mean either of them."""
    table = in_berlin(expression)
    monday = datetime(2026, 6, 1, tzinfo=UTC)
    starts = [monday + timedelta(days=day) for day in range(7)]
    runs = [table.latest(start, start + timedelta(days=1)) for start in starts]
    assert " ".join(due.at.strftime("%a") for due in runs if due is not None) == days


def test_a_range_of_hours_runs_once_when_clocks_go_back() -> None:
    """Only what has a star for its minute or hour runs in both of the hours: see crontab(5)."""
    night = datetime(2026, 10, 24, 22, tzinfo=UTC)  # midnight in Berlin
    for expression, runs in (("30 1-3 * * *", 3), ("*/30 2 * * *", 4), ("30 * * * *", 6)):
        table = in_berlin(expression)
        dues = {}
        for quarter in range(24):
            start = night + timedelta(minutes=15 * quarter)
            if (due := table.latest(start, start + timedelta(minutes=15))) is not None:
                dues[due.key] = due.at
        assert len(dues) == runs, expression


def test_skipped_hour_still_runs_when_clocks_go_forward() -> None:
    """02:30 does not exist that night; the run comes at the first instant after the gap."""
    table = in_berlin("30 2 * * *")
    due = table.latest(datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 3, 29, 6, tzinfo=UTC))
    assert due is not None and due.at == datetime(2026, 3, 29, 1, tzinfo=UTC)


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
    assert wanted(due.at, NOON + late, missed) is runs


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
    ear = bus.doorbell.ear("digest")
    scheduler = Scheduler("digest", config, with_bus, bus.clock, LOG)
    scheduler.start(bus)
    try:
        assert ear.wait(10), "no wake-up came"
        (event,) = fired(bus)
        assert bus.next(LANE) == event
    finally:
        scheduler.stop()
        ear.close()
        bus.close()


def test_what_its_thread_raises_reaches_the_worker(tmp_path: Path) -> None:
    """APScheduler would log it and go on, and the schedule would never be due again."""
    bus = Bus(tmp_path / "agentd.db")
    bus.accept("digest", "v1")
    config = AgentConfig(agent="task", done="something is done", schedule=Every(every="100ms"))

    def broken() -> Bus:
        raise RuntimeError("a bug")

    scheduler = Scheduler("digest", config, broken, bus.clock, LOG)
    scheduler.start(bus)

    def raised() -> bool:
        try:
            scheduler.look(bus)
        except RuntimeError as error:
            return str(error) == "a bug"
        return False

    try:
        wait_for(raised, seconds=10, what="the worker's own thread hears of it")
    finally:
        scheduler.stop()
        bus.close()


DAILY, HOURLY = Cron(cron="0 9 * * *"), Every(every=timedelta(hours=1))


def hold(bus: Bus, schedule: Cron | Every | None) -> None:
    """As the supervisor and then the worker of an accepted file do."""
    name = None if schedule is None else schedule.name
    bus.accept("digest", "v", schedule=name)
    bus.schedules.keep_only("digest", () if name is None else (name,))
    if schedule is not None:
        reconcile(bus, Timetable("digest", schedule, UTC), "once", bus.clock.now(), LOG)


@pytest.mark.parametrize("first", [DAILY, HOURLY])
@pytest.mark.parametrize(
    "meanwhile",
    [
        pytest.param(lambda bus: hold(bus, Cron(cron="0 0 1 1 *")), id="another cron"),
        pytest.param(lambda bus: hold(bus, Every(every=timedelta(days=99))), id="an interval"),
        pytest.param(lambda bus: hold(bus, None), id="no schedule"),
        pytest.param(lambda bus: bus.accept("digest", "v", schedule=None), id="it never ran"),
        pytest.param(lambda bus: bus.agents.remove("digest"), id="disabled or removed"),
    ],
)
def test_time_in_which_a_schedule_did_not_hold_is_not_made_up_for(
    bus: Bus, clock: Clock, first: Cron | Every, meanwhile: Callable[[Bus], None]
) -> None:
    """A schedule that is put back counts from then on; it fires when it is due again."""
    hold(bus, first)
    clock.moment += timedelta(minutes=30)
    meanwhile(bus)
    clock.moment += timedelta(days=3)
    hold(bus, first)
    assert fired(bus) == []
    clock.moment += timedelta(days=1)
    hold(bus, first)
    assert len(fired(bus)) == 1


def test_a_restart_is_no_change_of_the_schedule(bus: Bus, clock: Clock) -> None:
    """What was due while nothing ran is late, and `missed` decides: the file always held."""
    hold(bus, DAILY)
    clock.moment += timedelta(days=3)
    hold(bus, DAILY)
    (event,) = fired(bus)
    assert event.payload["late_s"] == 3 * 3600


def test_a_worker_forgets_what_an_earlier_one_left(bus: Bus, clock: Clock) -> None:
    """A worker that was still to stop may note a run after its schedule was changed."""
    hold(bus, HOURLY)
    bus.accept("digest", "v", schedule=DAILY.name)
    bus.schedules.note("digest", HOURLY.name, clock.now())
    hold(bus, DAILY)
    assert bus.schedules.last_run("digest", HOURLY.name) is None


def test_sleep_does_not_walk_what_was_missed() -> None:
    """APScheduler asks for the next moment once, not for each of a night's runs."""
    table = Timetable("digest", Every(every=timedelta(milliseconds=1)))
    now = NOON + timedelta(hours=9, microseconds=500)
    following = DueTrigger(table, NOON).get_next_fire_time(NOON, now)
    assert following == NOON + timedelta(hours=9, milliseconds=1)


@contextlib.contextmanager
def scheduled(
    folder: Path, clock: ManualClock, schedule: Cron | Every
) -> Iterator[tuple[Bus, Scheduler]]:
    """A worker's scheduler at work, and a bus to look at what it publishes."""

    def open_bus() -> Bus:
        return Bus(folder / "agentd.db", clock=clock)

    config = AgentConfig(agent="task", done="something is done", schedule=schedule)
    with contextlib.closing(open_bus()) as bus:
        bus.accept("digest", "v1")
        scheduler = Scheduler("digest", config, open_bus, clock, LOG)
        scheduler.start(bus)
        try:
            yield bus, scheduler
        finally:
            scheduler.stop()


@pytest.fixture
def _zone_restored() -> Iterator[None]:
    yield
    time.tzset()


@pytest.mark.usefixtures("_zone_restored")
def test_a_laptop_that_travels_takes_its_crons_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine o'clock is nine where the machine is by now, not where the worker was started."""
    clock = ManualClock(datetime(2026, 6, 1, 12, tzinfo=UTC))
    monkeypatch.setenv("TZ", "Europe/Berlin")
    with scheduled(tmp_path, clock, Cron(cron="0 9 * * *")) as (bus, scheduler):
        monkeypatch.setenv("TZ", "America/New_York")
        for _ in range(49):
            clock.advance(30 * 60)
            scheduler.look(bus)
            if bus.next(LANE) is not None:
                answer(bus)
        due = [event.payload["due"] for event in fired(bus)]
        assert due == ["2026-06-01T13:00:00.000Z"]


def test_a_clock_set_back_does_not_stop_the_schedule(tmp_path: Path) -> None:
    """APScheduler alone would sleep until the wall clock is where it was."""
    clock = ManualClock()
    with scheduled(tmp_path, clock, Every(every="1h")) as (bus, scheduler):
        clock.set(clock.now() - timedelta(days=400))
        for _ in range(2 * 60 + 1):
            clock.advance(30)
            scheduler.look(bus)
        assert len(fired(bus)) == 1
