"""Time, passed in, so that no test patches it."""

import re
import time
from datetime import UTC, datetime
from typing import Any, Protocol

# Years that can be converted to every zone: `datetime` ends at 1 and 9999.
YEAR_MIN, YEAR_MAX = 2, 9998
EPOCH = datetime.fromtimestamp(0, UTC)  # for a time that cannot be read
# A moment that is all of a cell, or of an item, of a result's Markdown.
_CELL = re.compile(
    r"(?<=[|:-] )\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)(?= \||$)",
    re.MULTILINE,
)


class Clock(Protocol):
    """Wall time for records and schedules, monotonic time for deadlines."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back. On macOS they stand still while it sleeps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Return the wall time, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()


def iso(moment: datetime) -> str:
    """Render a moment as the bus stores it: UTC, ISO 8601, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


def parse_iso(text: str) -> datetime:
    """Read what `iso` wrote, or another ISO 8601 time, as a moment in UTC.

    Without a zone it is UTC, as SQLite's `datetime('now')` is.

    Raises:
        ValueError: it is none, or so far off that no zone can show it.
    """
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{text!r} is no time") from error
    if not YEAR_MIN <= moment.year <= YEAR_MAX:
        raise ValueError(f"{text!r} is too far off")
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)


def with_local_times(markdown: str) -> str:
    """Return a result's text as a person reads it: moments in its columns in local time.

    What an agent wrote keeps them as ISO 8601 has them: who reads it may be elsewhere.
    """
    return _CELL.sub(_local_time, markdown)


def _local_time(found: re.Match[str]) -> str:
    try:
        return f"{parse_iso(found[0]).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return found[0]


def moment_or(text: Any, default: datetime) -> datetime:
    """Return the moment that a row holds, or `default` where somebody wrote something else."""
    try:
        return parse_iso(text)
    except ValueError:
        return default
