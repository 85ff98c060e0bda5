"""Crontab expressions as cron(8) reads them: what they mean, and when they are due.

`cronsim` does the arithmetic of months, days and weekdays, on wall clocks without a zone. What a
zone makes of it is here, because cronsim itself steps over runs where clocks change by half an
hour (Lord Howe Island).
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

FIELDS = {"minute": (0, 59), "hour": (0, 23), "day": (1, 31), "month": (1, 12), "weekday": (0, 7)}
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_NAMES = {
    "month": {name: number for number, name in enumerate(_MONTHS, 1)},
    "weekday": {name: number for number, name in enumerate(_DAYS)},
}
_TERM = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d{1,2}))?", re.ASCII)
_SPECIAL = {
    "day": re.compile("LW?"),  # the last day, the last working day
    "weekday": re.compile(rf"[0-7]L|([0-7]|{'|'.join(_DAYS)})#[1-5]"),  # the last, the n-th
}
_HINTS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day": "1 to 31, L for the last day, LW for the last working day",
    "month": "1 to 12 or jan",
    "weekday": "0 to 7 or mon, 5L for the last friday, 1#2 for the second monday",
}
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)  # no zone changes its clocks twice in one
# From here the check looks for a first run; every pair of a date and a weekday comes within 40
# years of it, and cronsim gives up after 50.
_ANY_DAY = datetime(2001, 1, 1)


class Crontab:
    """A crontab expression.

    Raises:
        ValueError: it is none, or one that is never due.
    """

    def __init__(self, expression: str) -> None:
        fields = expression.split()
        if len(fields) != len(FIELDS):
            found = f"it has {len(fields)} fields instead of {len(FIELDS)}"
            raise ValueError(f"not a crontab expression: {found}")
        plain = [_plain(name, text) for name, text in zip(FIELDS, fields, strict=True)]
        self._expression = " ".join(plain)
        # Such a cron names times of the day, and each comes once a day: not twice where clocks go
        # back, and after the gap where they go forward. With a `*` it follows the clock instead.
        self.fixed = not plain[0].startswith("*") and not plain[1].startswith("*")
        try:
            next(CronSim(self._expression, _ANY_DAY))
        except (CronSimError, StopIteration):  # each field is right by itself
            raise ValueError("never due: no month that it names has such a day") from None

    def after(self, moment: datetime, zone: tzinfo) -> datetime | None:
        """Return its first run in `zone` strictly after `moment`, in UTC; None beyond the calendar.

        A time that the clocks leave out runs at the first instant after the gap.
        """
        try:
            return self._once_a_day(moment, zone) if self.fixed else self._by_clock(moment, zone)
        except (StopIteration, OverflowError):  # the years end at 9999
            return None

    def _once_a_day(self, moment: datetime, zone: tzinfo) -> datetime:
        following = self._walls(_wall(moment, zone))
        while (run := _instant(next(following), zone)) <= moment:
            pass  # in the hour that the clocks repeat, what ran in its first pass
        return run

    def _by_clock(self, moment: datetime, zone: tzinfo) -> datetime:
        """Look on from each change of the clocks with the offset that holds from there."""
        offset = _offset(moment, zone)
        while True:
            wall = moment.astimezone(UTC).replace(tzinfo=None) + offset
            run = moment + (next(self._walls(wall)) - wall)
            change = _change(moment, run, offset, zone)
            if change is None:
                return run.astimezone(UTC)
            # What is due at the change itself counts.
            moment, offset = change - _SECOND, _offset(change, zone)

    def _walls(self, wall: datetime) -> Iterator[datetime]:
        return iter(CronSim(self._expression, wall))


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _instant(wall: datetime, zone: tzinfo) -> datetime:
    """Return the first instant at which the clocks show `wall` or have just left it out."""
    while True:
        instant = wall.replace(tzinfo=zone).astimezone(UTC)
        if _wall(instant, zone) == wall:
            return instant
        wall += _MINUTE


def _change(start: datetime, end: datetime, offset: timedelta, zone: tzinfo) -> datetime | None:
    """Return the first minute after `start`, up to `end`, with another offset; None: there is none.

    `offset` is that of `start`.
    """

    def other(moment: datetime) -> bool:
        return _offset(moment, zone) != offset

    while start < end:
        day = min(start + _DAY, end)
        if other(day):
            while day - start > _SECOND:
                middle = start + (day - start) / 2
                start, day = (start, middle) if other(middle) else (middle, day)
            return day.astimezone(UTC).replace(second=0, microsecond=0)
        start = day
    return None


def _plain(field: str, text: str) -> str:
    """Return a field without names and without what cronsim would read in its own way.

    Raises:
        ValueError: it is wrong.
    """
    try:
        return ",".join(_plain_term(field, term) for term in text.split(","))
    except ValueError:
        raise ValueError(
            f"not a crontab expression: its {field} {text.lower()!a} is none; "
            f"write {_HINTS[field]}, a list 1,3, a range 1-5, "
            "or a step */2, 1-5/2 or 1/2 (from 1 to the end)"
        ) from None


def _plain_term(field: str, text: str) -> str:
    if not text.isascii():  # upper() makes plain letters of some
        raise ValueError(text)
    text = text.upper()
    if field in _SPECIAL and _SPECIAL[field].fullmatch(text):
        return text
    match = _TERM.fullmatch(text)
    if match is None:
        raise ValueError(text)
    low, high = FIELDS[field]
    first = low if match["first"] is None else _number(field, match["first"])
    last = high if match["step"] or match["first"] is None else first
    if match["last"] is not None:
        last = _number(field, match["last"])
        if field == "weekday" and first > last == 0:
            last = 7  # a range may end with Sunday, which is 0 or 7
    step = int(match["step"] or 0)
    if not low <= first <= last <= high or (match["step"] and not 1 <= step <= last - first):
        raise ValueError(text)
    if match["first"] is None:  # the `*` matters: cron then wants both days, and see `fixed`
        return text
    whole = f"{first}-{last}" if last > first else f"{first}"
    return f"{whole}/{step}" if step else whole


def _number(field: str, text: str) -> int:
    known = _NAMES.get(field, {})
    return known[text] if text in known else int(text)
