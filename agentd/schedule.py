"""Schedules: when an agent is due, what a missed run means, and APScheduler to wait for it.

A job only appends `schedule.fired` to the outbox. Whether it does is decided by `reconcile`, which
compares wall clocks and may be called at any time: a machine that slept, a restart and a clock
that jumped all look the same to it. The moment last handled stands in the `schedules` table and
moves in the same transaction as the event.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from agentd.bus import Bus
from agentd.clock import Clock, iso
from agentd.config import AgentConfig, Cron, Every, duration_text
from agentd.errors import StorageError
from agentd.events import NewEvent
from agentd.log import Logger

# Python's monotonic clock stands still while a Mac sleeps (cpython#86273), so a long wait wakes
# late: look at the wall clock at least this often.
RECONCILE_S = 30
# A run at most this late is not "missed": the reconciling look above may be what found it.
ON_TIME = timedelta(seconds=60)
# Windows in which to look for the latest due time, growing: keeps a minutely cron from being
# walked minute by minute over the months a machine was off.
WINDOWS = (
    timedelta(minutes=2),
    timedelta(hours=2),
    timedelta(days=3),
    timedelta(days=40),
    timedelta(days=400),
    timedelta(days=1500),  # 29 February
)


@dataclass(frozen=True)
class Due:
    """A run that should happen: its moment, and the unique key of its event."""

    at: datetime
    key: str


class Timetable:
    """When one agent's schedule is due. Pure: every moment is an argument."""

    def __init__(self, agent: str, schedule: Every | Cron) -> None:
        self.agent = agent
        self.schedule = schedule
        self._cron = CronTrigger.from_crontab(schedule.cron) if isinstance(schedule, Cron) else None

    @property
    def name(self) -> str:
        """The schedule's key in the `schedules` table: another text is another schedule."""
        if isinstance(self.schedule, Cron):
            return f"cron {self.schedule.cron}"
        return f"every {duration_text(self.schedule.every)}"

    def latest(self, last: datetime, now: datetime) -> Due | None:
        """Return the latest run due after `last` and not after `now`, or None."""
        if self._cron is None:
            assert isinstance(self.schedule, Every)
            runs = (now - last) // self.schedule.every
            return self._due(last + runs * self.schedule.every) if runs > 0 else None
        for window in WINDOWS:
            start = max(last, now - window)
            moment = self._after(start)
            if moment is None or moment > now:
                if start == last:
                    return None
                continue
            while (following := self._after(moment)) is not None and following <= now:
                moment = following
            return self._due(moment)
        return None

    def trigger(self, last: datetime) -> Any:
        """Return the APScheduler trigger; an interval is anchored to the last due time."""
        if self._cron is not None:
            return self._cron
        assert isinstance(self.schedule, Every)
        return IntervalTrigger(
            seconds=self.schedule.every.total_seconds(), start_date=last + self.schedule.every
        )

    def _after(self, moment: datetime) -> datetime | None:
        """Return the cron's first moment strictly after `moment`, in UTC."""
        assert self._cron is not None
        following = self._cron.get_next_fire_time(None, moment + timedelta(microseconds=1))
        return None if following is None else following.astimezone(UTC)

    def _due(self, moment: datetime) -> Due:
        """Key a run by its UTC time; a cron with a fixed hour by local time.

        When the clocks go back, 01:30 comes twice and must run once; every 15 minutes must not
        lose the second hour's runs.
        """
        key = iso(moment)
        if self._cron is not None and self._fixed_hour():
            key = moment.astimezone(self._cron.timezone).strftime("%Y-%m-%dT%H:%M local")
        return Due(moment, f"schedule:{self.agent}:{self.name}:{key}")

    def _fixed_hour(self) -> bool:
        assert isinstance(self.schedule, Cron)
        hour = self.schedule.cron.split()[1]
        return all(part.isdigit() for part in hour.split(","))


def wanted(due: Due, now: datetime, missed: str | timedelta) -> bool:
    """Say whether a run this late should still happen, by the agent's own choice."""
    late = now - due.at
    if isinstance(missed, timedelta):
        return late <= max(missed, ON_TIME)
    return missed == "once" or late <= ON_TIME


def reconcile(
    bus: Bus, timetable: Timetable, missed: str | timedelta, now: datetime, log: Logger
) -> None:
    """Append the event of the latest run due by `now`, if there is one and it is still wanted.

    Does nothing while the schedule's previous event is unanswered: the run is then late, and
    `missed` decides once it is answered. Several missed runs are one.
    """
    last = bus.last_run(timetable.agent, timetable.name)
    if last is None:  # a new schedule counts from now
        bus.note_schedule(timetable.agent, timetable.name, now)
        return
    if last.due > now:
        # The clock was set back. Going on from here cannot run anything twice: keys are unique.
        log.warning("schedule.clock_back", last_due=iso(last.due))
        bus.note_schedule(timetable.agent, timetable.name, now)
        return
    due = timetable.latest(last.due, now)
    if due is None or last.unanswered:
        return
    late_s = round((now - due.at).total_seconds(), 3)
    if not wanted(due, now, missed):
        bus.note_schedule(timetable.agent, timetable.name, due.at)
        log.info("schedule.skipped", schedule=timetable.name, due=iso(due.at), late_s=late_s)
        return
    payload = {"schedule": timetable.name, "due": iso(due.at), "late_s": late_s}
    event = NewEvent("schedule.fired", payload, target=timetable.agent, dedup_key=due.key)
    event_id = bus.fire_schedule(timetable.agent, timetable.name, due.at, event)
    if event_id is not None:
        log.info("schedule.fired", event_id=event_id, **payload)


class Scheduler:
    """Waits for one agent's due times on a thread of its own. `open_bus` is called there."""

    def __init__(
        self,
        name: str,
        config: AgentConfig,
        open_bus: Callable[[], Bus],
        clock: Clock,
        log: Logger,
    ) -> None:
        if config.schedule is None:
            raise ValueError(f"{name} has no schedule")
        self._timetable = Timetable(name, config.schedule)
        self._missed = config.missed
        self._open_bus = open_bus
        self._clock = clock
        self._log = log
        self._look_at = float("-inf")  # monotonic
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
        last = bus.last_run(self._timetable.agent, self._timetable.name)
        anchor = last.due if last is not None else self._clock.now()
        self._scheduler.add_job(self._look, self._timetable.trigger(anchor))
        self._scheduler.add_job(self._look, IntervalTrigger(seconds=RECONCILE_S, timezone=UTC))
        self._scheduler.start()

    def look(self, bus: Bus) -> None:
        """Look on the caller's thread and bus, now and then; cheap to call often.

        APScheduler waits for moments of the wall clock: set back by a day, it sleeps for a day.
        """
        if self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + RECONCILE_S
            reconcile(bus, self._timetable, self._missed, self._clock.now(), self._log)

    def stop(self) -> None:
        """Stop waiting; a look in progress ends first."""
        self._scheduler.shutdown(wait=True)

    def _look(self) -> None:
        bus: Bus | None = getattr(self._thread_buses, "bus", None)
        try:
            if bus is None:
                bus = self._thread_buses.bus = self._open_bus()
            reconcile(bus, self._timetable, self._missed, self._clock.now(), self._log)
        except StorageError as error:
            # Nothing is lost: the next look finds the same run still due.
            self._log.error("schedule.storage", error=str(error), retry_s=RECONCILE_S)
