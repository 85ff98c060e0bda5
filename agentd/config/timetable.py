"""When a schedule is due, and what it means to be late. Pure: every moment is an argument."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

import tzlocal

from agentd.clock import iso
from agentd.config.cron import Crontab
from agentd.config.wakes import At, Cron, Every

# A run at most this late is not "missed": a look at the clock that came late may have found it.
ON_TIME = timedelta(seconds=60)
STEP = timedelta(minutes=1)  # the least time between two runs of a cron


def local_zone() -> tzinfo:
    """Return the machine's zone as it is now: a laptop travels, and tzlocal remembers the first.

    Raises:
        ValueError, LookupError: the system's files contradict each other.
    """
    time.tzset()  # else tzlocal warns that the C library has another
    return tzlocal.reload_localzone()


@dataclass(frozen=True)
class Due:
    """A run that should happen: its moment, and the unique key of its event."""

    at: datetime
    key: str


class Timetable:
    """When one of an agent's schedules is due."""

    def __init__(self, agent: str, schedule: Every | Cron | At, zone: tzinfo | None = None) -> None:
        self.agent = agent
        self.schedule = schedule
        self.name = schedule.name
        self._cron = Crontab(schedule.cron) if isinstance(schedule, Cron) else None
        # An interval needs no zone, and a moment may have its own.
        self.local = self._cron is not None or (
            isinstance(schedule, At) and schedule.moment.tzinfo is None
        )
        self._zone: tzinfo = (zone or local_zone()) if self.local else UTC

    def latest(self, last: datetime, now: datetime) -> Due | None:
        """Return the latest run due after `last` and not after `now`, or None."""
        run = self.following(last, last)
        if run is None or run > now:
            return None
        if isinstance(self.schedule, Every):
            return self._due(last + (now - last) // self.schedule.every * self.schedule.every)
        # Halve the time until the latest is left. A machine may have been off for months, in which
        # a cron was due each minute.
        end = now
        while end - run >= STEP:
            middle = run + (end - run) / 2
            later = self.following(last, middle)
            if later is None or later > now:
                end = middle
            else:
                run = later
        return self._due(run)

    def following(self, last: datetime, moment: datetime) -> datetime | None:
        """Return the first run after `moment`, in UTC; an interval counts from `last`, before it.

        None: there is none before the calendar ends.
        """
        if self._cron is not None:
            return self._cron.after(moment, self._zone)
        if isinstance(self.schedule, At):
            run = self.schedule.moment
            if self.local:
                run = run.replace(tzinfo=self._zone)
            return run.astimezone(UTC) if run > moment else None
        assert isinstance(self.schedule, Every)
        return last + ((moment - last) // self.schedule.every + 1) * self.schedule.every

    def in_zone(self, zone: tzinfo) -> "Timetable | None":
        """Return the same in another zone; None where that makes no difference."""
        if not self.local or str(zone) == str(self._zone):
            return None
        return Timetable(self.agent, self.schedule, zone)

    def _due(self, moment: datetime) -> Due:
        """Key a run by its UTC time; a cron that names hour and minute by local time; one by name.

        When the clocks go back, 01:30 comes twice and must run once; every 15 minutes must not
        lose the second hour's runs.
        """
        key = iso(moment)
        if isinstance(self.schedule, At):
            key = "once"  # also for who travels
        elif self._cron is not None and self._cron.fixed:
            key = moment.astimezone(self._zone).strftime("%Y-%m-%dT%H:%M local")
        return Due(moment, f"schedule:{self.agent}:{self.name}:{key}")


def wanted(due: datetime, now: datetime, missed: str | timedelta) -> bool:
    """Say whether what was due then should still happen, by the agent's own choice."""
    late = now - due
    if isinstance(missed, timedelta):
        return late <= max(missed, ON_TIME)
    return missed == "once" or late <= ON_TIME
