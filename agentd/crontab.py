"""Crontab expressions as cron(8) reads them, as triggers of APScheduler.

APScheduler's own `from_crontab` counts weekdays from Monday, where 1-5 is Tuesday to Saturday, and
wants both days to match where a day of the month and a weekday are given; cron wants one of them.
"""

import re
import time
from datetime import tzinfo
from typing import Any

import tzlocal
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")


def local_zone() -> tzinfo:
    """Return the machine's zone as it is now: a laptop travels, and tzlocal remembers the first.

    Raises:
        ValueError, LookupError: the system's files contradict each other.
    """
    time.tzset()  # else tzlocal warns that the C library has another
    return tzlocal.reload_localzone()


class Crontab:
    """A crontab expression in a zone, the machine's own by default.

    Raises:
        ValueError: it is none.
    """

    def __init__(self, expression: str, zone: tzinfo | None = None) -> None:
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(f"it has {len(fields)} fields instead of 5")
        minute, hour, day, month, weekday = fields
        weekdays = _weekdays(weekday)

        def trigger(**days: str) -> CronTrigger:
            return CronTrigger(minute=minute, hour=hour, month=month, timezone=zone, **days)

        both = trigger(day=day, day_of_week=weekdays)
        self.zone: tzinfo = both.timezone
        self.trigger: Any = both
        if not day.startswith("*") and not weekday.startswith("*"):
            self.trigger = OrTrigger([trigger(day=day), trigger(day_of_week=weekdays)])
        # Where clocks go back, cron runs twice only what has a `*` for its minute or hour.
        self.fixed = not minute.startswith("*") and not hour.startswith("*")


def _weekdays(field: str) -> str:
    """Return the weekdays by name: APScheduler's numbers are not cron's (0 or 7 is Sunday)."""
    found: set[int] = set()
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"weekday {part!r}: write 0 to 7 or mon, a range 1-5, or steps */2")
        first = 0 if match["first"] is None else _weekday(match["first"])
        last = first
        if match["first"] is None:
            last = 6
        elif match["last"] is not None:
            last = _weekday(match["last"])
            last = 7 if last == 0 else last
        if last < first:
            raise ValueError(f"weekday {part!r} ends before it begins")
        step = int(match["step"] or 1)
        if not step:
            raise ValueError(f"weekday {part!r} has a step of 0")
        found.update(day % 7 for day in range(first, last + 1, step))
    return ",".join(DAYS[day] for day in sorted(found))


def _weekday(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 7:
        return int(text)
    try:
        return DAYS.index(text.lower())
    except ValueError:
        raise ValueError(f"no weekday: {text!r}; write 0 to 7 or {', '.join(DAYS)}") from None
