"""Schedules: when an agent is due, what a missed run means, and APScheduler to wait for it.

A job only appends `schedule.fired` to the outbox. Whether it does is decided by `reconcile`, which
compares wall clocks and may be called at any time: a machine that slept, a restart and a clock
that jumped all look the same to it. The moment last handled stands in the `schedules` table and
moves in the same transaction as the event.
"""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from agentd.bus import Bus
from agentd.clock import Clock, iso
from agentd.config.agent import AgentConfig
from agentd.config.timetable import ON_TIME, Due, Timetable, local_zone, wanted
from agentd.errors import StorageError
from agentd.events import FIRED_FIELDS, NewEvent
from agentd.logs.logger import Logger

# Python's monotonic clock stands still while a Mac sleeps (cpython#86273), so a long wait wakes
# late: look at the wall clock at least this often.
RECONCILE_S = 30
DUE, LATE = "due", "late"  # the job of the due times, and that of a late run that waits
# When a machine wakes, or starts in the morning, fifty agents may be late at once: each waits for a
# while of its own, up to this long.
SPREAD_S = 30.0


class DueTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """When to look at a schedule next; always ahead, however many runs were missed meanwhile."""

    def __init__(self, timetable: Timetable, last: datetime) -> None:
        self._timetable, self._last = timetable, last

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        """Return the next moment after both; see APScheduler."""
        after = now if previous is None else max(previous, now)
        return self._timetable.following(self._last, max(after, self._last))


class Spread:
    """Lets a run that is late wait for a moment, once; `chance` returns numbers in [0, 1)."""

    def __init__(self, clock: Clock, chance: Callable[[], float] = random.random) -> None:
        self._clock, self._chance = clock, chance
        self._key, self._until = "", 0.0

    def chose(self, due: Due) -> bool:
        """Whether this run waits already: by then it was wanted."""
        return due.key == self._key

    def wait_s(self, due: Due) -> float:
        """Return for how long the run still waits; 0 or less: no longer."""
        now = self._clock.monotonic()
        if due.key != self._key:
            self._key, self._until = due.key, now + self._chance() * SPREAD_S
        return self._until - now


def reconcile(
    bus: Bus,
    timetable: Timetable,
    missed: str | timedelta,
    now: datetime,
    log: Logger,
    spread: Spread | None = None,
) -> float:
    """Append the event of the latest run due by `now`, if there is one and it is still wanted.

    Does nothing while the schedule's previous event is unanswered: the run is then late, and
    `missed` decides once it is answered. Several missed runs are one. Returns in how many seconds
    to look again, because a late run waits by `spread`; 0: no earlier than usual.
    """
    last = bus.schedules.last_run(timetable.agent, timetable.name)
    if last is None:  # a new schedule counts from now
        bus.schedules.note(timetable.agent, timetable.name, now)
        return 0.0
    if last.due > now:
        # The clock was set back. Going on from here cannot run anything twice: keys are unique.
        log.warning("schedule.clock_back", last_due=iso(last.due))
        bus.schedules.note(timetable.agent, timetable.name, now)
        return 0.0
    due = timetable.latest(last.due, now)
    if due is None or last.unanswered:
        return 0.0
    late_s = round((now - due.at).total_seconds(), 3)
    waits = spread is not None and spread.chose(due)
    if not waits and not wanted(due.at, now, missed):
        bus.schedules.note(timetable.agent, timetable.name, due.at)
        log.info("schedule.skipped", schedule=timetable.name, due=iso(due.at), late_s=late_s)
        return 0.0
    if spread is not None and now - due.at > ON_TIME and (wait_s := spread.wait_s(due)) > 0:
        return wait_s
    payload = dict(zip(FIRED_FIELDS, (timetable.name, iso(due.at), late_s), strict=True))
    event = NewEvent("schedule.fired", payload, target=timetable.agent, dedup_key=due.key)
    event_id = bus.schedules.fire(timetable.agent, timetable.name, due.at, event)
    if event_id is not None:
        log.info("schedule.fired", event_id=event_id, **payload)
    return 0.0


class Scheduler:
    """Waits for one agent's due times on a thread of its own. `open_bus` is called there.

    An agent has at most one schedule that recurs, and any number of moments.
    """

    def __init__(
        self,
        name: str,
        config: AgentConfig,
        open_bus: Callable[[], Bus],
        clock: Clock,
        log: Logger,
    ) -> None:
        if not config.schedules:
            raise ValueError(f"{name} has no schedule")
        self._tables = [Timetable(name, schedule) for schedule in config.schedules]
        self._spreads = [Spread(clock) for _ in self._tables]
        self._missed = config.missed
        self._open_bus = open_bus
        self._clock = clock
        self._log = log
        self.next_run: datetime | None = None  # as of the last look
        self._look_at = float("-inf")  # monotonic
        self._failed: BaseException | None = None  # what a look raised in the scheduler's thread
        self._thread_buses = threading.local()
        # The defaults lose runs on a laptop that slept: no grace limit, one run for many missed.
        # One thread: the looks come one after another, on one bus connection.
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": {"type": "threadpool", "max_workers": 1}},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self, bus: Bus) -> None:
        """Look once now, on the caller's thread and bus; then wait for the due times."""
        self.look(bus)
        for number, table in enumerate(self._tables):
            last = bus.schedules.last_run(table.agent, table.name)
            anchor = last.due if last is not None else self._clock.now()
            self._scheduler.add_job(self._look, DueTrigger(table, anchor), id=f"{DUE}{number}")
        self._scheduler.add_job(self._look, IntervalTrigger(seconds=RECONCILE_S, timezone=UTC))
        self._scheduler.start()

    def look(self, bus: Bus) -> None:
        """Look on the caller's thread and bus, now and then; cheap to call often.

        APScheduler waits for moments of the wall clock: set back by a day, it sleeps for a day.
        What a look of its own raised, it would only log; it is raised here.
        """
        if self._failed is not None:
            raise self._failed
        if self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + RECONCILE_S
            self._reconcile(bus)

    def stop(self) -> None:
        """Stop waiting; a look in progress ends first."""
        self._scheduler.shutdown(wait=True)

    def _look(self) -> None:
        bus: Bus | None = getattr(self._thread_buses, "bus", None)
        try:
            if bus is None:
                bus = self._thread_buses.bus = self._open_bus()
            self._reconcile(bus)
        except StorageError as error:
            # Nothing is lost: the next look finds the same run still due.
            self._log.error("schedule.storage", error=str(error), retry_s=RECONCILE_S)
        except BaseException as error:  # told to the worker's own thread
            self._failed = error

    def _reconcile(self, bus: Bus) -> None:
        now = self._clock.now()
        self._follow_zone(now)
        waits, following = [], []
        for table, spread in zip(self._tables, self._spreads, strict=True):
            waits.append(reconcile(bus, table, self._missed, now, self._log, spread))
            last = bus.schedules.last_run(table.agent, table.name)
            since = now if last is None else last.due
            following.append(table.following(since, max(since, now)))
        self.next_run = min(filter(None, following), default=None)
        if soonest := min(filter(None, waits), default=0.0):
            again = now + timedelta(seconds=soonest)
            self._scheduler.add_job(self._look, DateTrigger(again), id=LATE, replace_existing=True)

    def _follow_zone(self, now: datetime) -> None:
        """Count in the zone that the machine is in by now."""
        if not any(table.local for table in self._tables):
            return
        try:
            zone = local_zone()
        except (ValueError, LookupError):
            return  # being written, perhaps; what held holds on
        for number, table in enumerate(self._tables):
            if (moved := table.in_zone(zone)) is not None:
                self._tables[number] = moved
                if self._scheduler.get_job(f"{DUE}{number}") is not None:  # of a moment: not over
                    self._scheduler.reschedule_job(f"{DUE}{number}", trigger=DueTrigger(moved, now))
