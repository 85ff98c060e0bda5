"""Durations as configuration and commands write them: "30s", "15m", "2h", "7d"."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

WRITTEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")  # not \d: that is any script's
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # in milliseconds
LONGEST = timedelta(days=3650)


def parse(text: str) -> timedelta:
    """Return the duration that `text` writes, to the millisecond.

    Raises:
        ValueError: it is none, or outside of what can be meant.
    """
    match = WRITTEN.fullmatch(text.strip())
    if match is None:
        raise ValueError('write a duration as "30s", "15m", "2h" or "1d"')
    milliseconds = float(match[1]) * UNITS[match[2]]
    if not 1 <= milliseconds <= LONGEST / timedelta(milliseconds=1):
        raise ValueError("must be longer than zero and at most ten years")
    return timedelta(milliseconds=round(milliseconds))


def written(value: timedelta) -> str:
    """Render a duration the way configuration files write it."""
    milliseconds = value // timedelta(milliseconds=1)
    unit = max((u for u, size in UNITS.items() if milliseconds % size == 0), key=UNITS.__getitem__)
    return f"{milliseconds // UNITS[unit]}{unit}"


def _read(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    return parse(value if isinstance(value, str) else "")


Duration = Annotated[
    timedelta,
    BeforeValidator(_read),
    PlainSerializer(written),
    WithJsonSchema({"type": "string", "pattern": f"^{WRITTEN.pattern}$"}),
]
