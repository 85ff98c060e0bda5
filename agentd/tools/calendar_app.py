"""The Calendar app of a Mac: its events as those of a calendar file, which are read alike."""

import json
import re
from datetime import datetime, timedelta
from typing import Any

from agentd.errors import ToolError
from agentd.events import Result
from agentd.macos.scripts import READ_CALENDAR, script_argv
from agentd.tools.base import ToolCall
from agentd.tools.calendar import APP, bounds, days_of
from agentd.tools.macos_apps import check_app, own_folder, ran

JSON_BYTES = 8_000_000  # some ten thousand events


def ask_calendar(call: ToolCall, first: str, days: int) -> Result:
    """Give the app's events; see `calendar.read_calendar`."""
    check_app(call, "calendar")
    span = (str(int(moment.timestamp() * 1_000)) for moment in bounds(first, days))
    with own_folder() as folder:
        argv = script_argv(READ_CALENDAR, *span)
        output = ran(call, APP, argv, folder, limit=JSON_BYTES, errors=False)
    if output.dropped:
        raise ToolError("Calendar has too many events that repeat")
    try:
        events = [_event(row) for row in json.loads(output.data)]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ToolError(f"Calendar gave what is no list of events: {error}"[:200]) from error
    text = "\n".join(["BEGIN:VCALENDAR", *events, "END:VCALENDAR"])
    return days_of(call, APP, text, first, days)


def _event(row: Any) -> str:
    """Return one of the script's rows as a calendar file has it. Times are this machine's."""
    uid, title, place, starts, ends, whole_day, status, rule, left_out = row
    start, end = _local(starts), _local(ends)
    if whole_day:
        after = (end - timedelta(seconds=1)).date() + timedelta(1)
        times = [f"DTSTART;VALUE=DATE:{start:%Y%m%d}", f"DTEND;VALUE=DATE:{after:%Y%m%d}"]
    else:
        times = [f"DTSTART:{start:%Y%m%dT%H%M%S}", f"DTEND:{end:%Y%m%dT%H%M%S}"]
    for moment in left_out or ():
        form = ";VALUE=DATE:%Y%m%d" if whole_day else ":%Y%m%dT%H%M%S"
        times.append(f"EXDATE{_local(moment):{form}}")
    if rule:
        times.append(f"RRULE:{_rule(rule)}")
    lines = [
        "BEGIN:VEVENT",
        f"UID:{_value(uid)}",
        f"SUMMARY:{_value(title)}",
        f"LOCATION:{_value(place)}",
        f"STATUS:{_value(status)}",
        *times,
        "END:VEVENT",
    ]
    return "\n".join(lines)


def _local(text: str) -> datetime:
    """Return a time of the script (JSON writes them in UTC) as this machine's clock shows it."""
    return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)


def _rule(text: object) -> str:
    return re.sub(r"[^A-Z0-9=;,:+-]", "", str(text))


def _value(text: object) -> str:
    """Return a text as a calendar file writes it (RFC 5545, 3.3.11), on one line."""
    plain = "".join(c if c.isprintable() else " " for c in str(text or ""))
    return plain.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")
