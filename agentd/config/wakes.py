"""What wakes an agent, as its file writes it: schedules, moments, folders, and which events."""

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator

from agentd.config.duration import Duration
from agentd.config.toml import Strict
from agentd.config.watched import Pattern
from agentd.paths import expanded

MOMENT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?", re.ASCII)
PAYLOAD_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
BATCH_MAX = timedelta(days=1)
MOMENTS_MAX = 50
PATTERNS_MAX = 16
VALUES_MAX = 100  # of one field of a payload


class Schedule(Strict):
    """Base of all kinds."""

    @property
    def name(self) -> str:
        """Its key in the `schedules` table, as "every 15m": another text is another schedule."""
        return " ".join(*self.model_dump(mode="json").items())


class Every(Schedule):
    """A schedule by interval, anchored to the last due time."""

    every: Duration = Field(description='Interval, e.g. "15m".')


class Cron(Schedule):
    """A schedule by crontab, in local time."""

    cron: str = Field(description='Five crontab fields, local time, e.g. "0 9 * * 1-5".')

    @field_validator("cron")
    @classmethod
    def _parses(cls, value: str) -> str:
        from agentd.config.cron import Crontab  # only where a cron is written

        Crontab(value)
        return value


class At(Schedule):
    """One run, at a moment: local time, unless it says how far from UTC."""

    at: str

    @property
    def moment(self) -> datetime:
        """The moment; without a zone where it is local time."""
        return datetime.fromisoformat(self.at)


class Batching(Strict):
    """Several events of the subscription as one."""

    within: Duration = Field(description="How long the first event waits, at most a day.")
    most: int = Field(20, ge=2, le=100, description="Events after which it waits no longer.")

    @field_validator("within")
    @classmethod
    def _bounded(cls, value: timedelta) -> timedelta:
        if value > BATCH_MAX:
            raise ValueError("must be at most a day")
        return value


def _listed(value: Any) -> Any:
    """Let one moment stand for a list of it, and TOML's own dates for their texts."""
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple(v.isoformat() if isinstance(v, datetime) else v for v in values)


def _are_moments(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        try:
            if not MOMENT.fullmatch(text):
                raise ValueError
            datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValueError(f'{text!r} is no moment; write "2026-12-24T09:00"') from None
    return _each_once(value)


def _are_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        Pattern.of(text)
    return _each_once(value)


def _each_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("write each one once")
    return value


def _comparable(value: dict[str, Any]) -> dict[str, Any]:
    for field, wanted in value.items():
        if not PAYLOAD_FIELD.fullmatch(field):
            raise ValueError(f"{field!r} is no field at the top of a payload")
        values = wanted if isinstance(wanted, list | tuple) else (wanted,)
        if not 0 < len(values) <= VALUES_MAX or not all(map(_is_value, values)):
            raise ValueError(f"{field}: write a text, a number, true or false, or a list of those")
    return value


def _is_value(value: Any) -> bool:
    return type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))


def fitting(where: dict[str, Any]) -> str:
    """Return what payloads must hold, as `events.Lane` has it; "": anything."""
    wanted = {}
    for field, value in where.items():
        values = value if isinstance(value, list | tuple) else [value]
        homes = [str(expanded(v)) for v in values if str(v).startswith("~/")]
        wanted[field] = [*values, *homes]
    return json.dumps(wanted, sort_keys=True, ensure_ascii=False) if wanted else ""


_VALUE = {"type": ["string", "number", "boolean"]}
_ANY_VALUE = {"anyOf": [_VALUE, {"type": "array", "items": _VALUE}]}
_TEXTS = {"type": "array", "items": {"type": "string"}, "maxItems": MOMENTS_MAX}

Where = Annotated[
    dict[str, Any],
    AfterValidator(_comparable),
    WithJsonSchema({"type": "object", "additionalProperties": _ANY_VALUE}),
]
Moments = Annotated[
    tuple[str, ...],
    Field(max_length=MOMENTS_MAX),
    BeforeValidator(_listed),
    AfterValidator(_are_moments),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS]}),
]
Patterns = Annotated[tuple[str, ...], Field(max_length=PATTERNS_MAX), AfterValidator(_are_patterns)]
