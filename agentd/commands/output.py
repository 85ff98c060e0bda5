"""How commands print: aligned tables for people in local time, JSON in UTC for programs."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from agentd.clock import parse_iso
from agentd.terminal import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    colour,
    note,
    plain,
    rewrite,
    say,
    say_lines,
)

__all__ = [  # all that commands print with
    "BOLD",
    "DIM",
    "GREEN",
    "RED",
    "YELLOW",
    "colour",
    "compact",
    "duration",
    "local",
    "note",
    "plain",
    "print_json",
    "print_table",
    "rewrite",
    "say",
    "say_lines",
    "shorten",
]

CELL_MAX = 60  # characters; the last column of a table is never cut


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document; with `indent=None` on one line, for streams of objects."""
    # ASCII only, so that the bytes are the same in every locale. JSON lets DEL stand as it is.
    text = json.dumps(value, indent=indent, default=str).replace("\x7f", "\\u007f")
    say_lines(text, flush=indent is None)


def compact(value: Any) -> str:
    """Return a value as one line of JSON, readable and safe to print."""
    return plain(json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str))


def shorten(text: str, length: int) -> str:
    """Cut a text to `length` characters, visibly."""
    return text if len(text) <= length else text[: length - 1] + "…"


def local(moment: datetime | str | None, now: datetime | None = None) -> str:
    """Render a moment in local time: the time alone when it is today's, else with its date.

    What a person wrote by SQL, and is no time, is shown as it is.
    """
    if moment is None:
        return "-"
    try:
        when = (moment if isinstance(moment, datetime) else parse_iso(moment)).astimezone()
    except ValueError:
        return plain(str(moment))
    today = (now or datetime.now(UTC)).astimezone().date()
    return when.strftime("%H:%M:%S" if when.date() == today else "%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Render a length of time in at most two units: `4.2s`, `3m 05s`, `2h 10m`, `3d 4h`."""
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours < 24 else f"{hours // 24}d {hours % 24}h"


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows in columns under a head line. None shows as `-`."""
    cells = [tuple(_cell(value) for value in row) for row in rows]
    cells = [(*(shorten(c, CELL_MAX) for c in row[:-1]), row[-1]) for row in cells]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    say(colour(_line(head, widths), BOLD))
    for row in cells:
        say(_line(row, widths))


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else plain(str(value))


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
