"""Calendars: what is on in the next days, of an `.ics` file, of one at a URL, or of a Mac's app."""

import re
import time
from base64 import b64decode
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from agentd.errors import AgentdError, ToolError
from agentd.events import Result
from agentd.tools.base import TEXT_CHARACTERS, ToolCall, clean_line
from agentd.tools.charsets import decoded
from agentd.tools.files import read_listed
from agentd.tools.time_limit import TooSlow, time_limit

APP = "Calendar"  # of a Mac, as a source
DAYS = 7
URL_BYTES, FILE_BYTES = 4_000_000, 16_000_000
CALENDAR_S = 20.0
SERIES_S = 1.0  # for all of one event's repetitions; a year of days takes 10 ms
REPEATS_MAX = 500  # of one event in the range: eight a day
EVENTS_MAX = 100  # in one result
TITLE_CHARACTERS = 200
PLACE_CHARACTERS = 100
# What may lie elsewhere than its start and end say.
REPEATING = ("RRULE", "RDATE", "RECURRENCE-ID", "DURATION")
DAY = re.compile(r"DT(?:START|END)[^:]*:(\d{8})")


def read_calendar(call: ToolCall, source: str, days: int | None) -> Result:
    """Give the events from today's midnight on, for so many days, in order, in local time."""
    span = {"first": call.clock.now().astimezone().date().isoformat(), "days": days or DAYS}
    if source == APP:
        return call.inner("hands", "AskCalendar", span)
    if "://" not in source:
        return call.inner("hands", "ParseCalendar", {"source": source, **span})
    url = re.sub("^webcals?://", "https://", source)
    found = call.inner("fetcher", "Fetch", {"url": url, "limit": URL_BYTES}).value
    host = urlsplit(url).hostname or ""  # the rest of a calendar's address is often its key
    if found["cut"]:
        raise ToolError(f"the calendar of {host} has more than {URL_BYTES} bytes")
    return call.inner("hands", "ParseCalendar", {"source": host, "data": found["data"], **span})


def parse_calendar(
    call: ToolCall, source: str, first: str, days: int, data: str | None = None
) -> Result:
    """Give the events of these bytes in base64; without them, of the file `source`."""
    if data is None:
        place, content = read_listed(call, source, FILE_BYTES)
        name, text = place.name, decoded(content, "")
    else:
        name, text = source, decoded(b64decode(data), "")
    return days_of(call, name, text, first, days)


def days_of(call: ToolCall, name: str, text: str, first: str, days: int) -> Result:
    """Give the events of a calendar file's text."""
    if "BEGIN:VCALENDAR" not in text.upper():
        raise ToolError(f"{name} is no calendar")
    start, stop = bounds(first, days)
    try:
        found, skipped = _occurrences(_near(text, start.date(), stop.date()), start, stop, call)
    except TooSlow as error:
        raise ToolError(f"{name} takes too long to read") from error
    except AgentdError:
        raise
    except Exception as error:  # whatever the parser stumbles over was written by others
        raise ToolError(f"{name} cannot be read: {type(error).__name__}") from error
    value = {"source": name, "first": first, "days": days, **_fitting(found)}
    if skipped:
        value["skipped"] = f"{skipped} events cannot be read, or repeat too often"
    return Result(value, trusted=False)


def bounds(first: str, days: int) -> tuple[datetime, datetime]:
    """Return the midnights here before the first and after the last of these days."""
    day = date.fromisoformat(first)
    start, stop = (
        datetime(each.year, each.month, each.day) for each in (day, day + timedelta(days))
    )
    return start.astimezone(), stop.astimezone()


def _fitting(events: list[dict[str, str]]) -> dict[str, Any]:
    """Return these events in order, as far as a result has room."""
    kept: list[dict[str, str]] = []
    size = 0
    for event in sorted(events, key=lambda event: (event["start"], event["title"])):
        size += sum(map(len, event.values()))
        if len(kept) >= EVENTS_MAX or size > TEXT_CHARACTERS:
            break
        kept.append(event)
    left = len(events) - len(kept)
    more = {"more": f"{left} further events; ask for fewer days"} if left else {}
    return {"events": kept, **more}


def _near(text: str, first: date, last: date) -> str:
    """Leave out what lies elsewhere by its own words: parsing an event takes half a millisecond.

    By a day and a half more on each side: who wrote it may live in another time zone.
    """
    low, high = (f"{day:%Y%m%d}" for day in (first - timedelta(2), last + timedelta(2)))
    kept: list[str] = []
    event: list[str] | None = None
    for line in text.split("\n"):
        upper = line[:80].rstrip().upper()  # what begins with a blank goes on with a line
        if upper == "BEGIN:VEVENT" and event is None:
            event = []
        if event is None:
            kept.append(line)
            continue
        event.append(line)
        if upper == "END:VEVENT":
            days = [match[1] for line in event if (match := DAY.match(line.upper()))]
            near = not days or (min(days) <= high and max(days) >= low)
            if near or any(line.upper().startswith(REPEATING) for line in event):
                kept += event
            event = None
    return "\n".join(kept)


def _occurrences(
    text: str, start: datetime, stop: datetime, call: ToolCall
) -> tuple[list[dict[str, str]], int]:
    """Return the events in the range, and how many could not be read."""
    import icalendar

    until = time.monotonic() + min(call.left_s, CALENDAR_S)
    with time_limit(until - time.monotonic()):
        series: dict[str, icalendar.Calendar] = {}
        for calendar in icalendar.Calendar.from_ical(text, multiple=True):
            for number, event in enumerate(calendar.walk("VEVENT")):
                own = series.setdefault(str(event.get("UID", f"#{number}")), icalendar.Calendar())
                own.add_component(event)
    found: list[dict[str, str]] = []
    skipped = 0
    for own in series.values():
        call.check()
        left_s = until - time.monotonic()
        try:
            with time_limit(min(SERIES_S, left_s)):
                found += _series(own, start, stop)
        except TooSlow:
            if left_s < SERIES_S:
                raise
            skipped += 1
        except Exception:  # one event that makes no sense takes no other with it
            skipped += 1
    return found, skipped


def _series(calendar: Any, start: datetime, stop: datetime) -> list[dict[str, str]]:
    """Return one event's occurrences in the range."""
    import recurring_ical_events

    query = recurring_ical_events.of(calendar)
    between = (one for series in query.series for one in series.between(start, stop))
    occurrences = list(islice(between, REPEATS_MAX + 1))
    if len(occurrences) > REPEATS_MAX:
        raise ValueError("repeats too often")
    components = [one.as_component(False) for one in occurrences]
    return [_event(one) for one in components if one.get("STATUS", "").upper() != "CANCELLED"]


def _event(component: Any) -> dict[str, str]:
    start, end = component["DTSTART"].dt, component["DTEND"].dt
    if not isinstance(start, datetime):  # the end of a day's event is the day after
        end = max(start, end - timedelta(1))
    return {
        "start": _local(start),
        "end": _local(end),
        "title": clean_line(str(component.get("SUMMARY", "")), TITLE_CHARACTERS),
        "place": clean_line(str(component.get("LOCATION", "")), PLACE_CHARACTERS),
    }


def _local(moment: date | datetime) -> str:
    """Return "2026-11-29", or "2026-11-29 09:00" by the clock here; one without a zone is that."""
    if isinstance(moment, datetime):
        return f"{moment.astimezone():%Y-%m-%d %H:%M}"
    return moment.isoformat()
