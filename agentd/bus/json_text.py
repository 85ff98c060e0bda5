"""JSON as the database stores it: compact, strict, UTF-8, bounded."""

import json
import math
from collections.abc import Mapping
from typing import Any

from agentd.errors import EventRefused
from agentd.events import PAYLOAD_BYTES_MAX

UNREADABLE = (ValueError, TypeError, RecursionError)  # of a row that somebody wrote by hand
NESTING_MAX = 100  # levels; Python and SQLite both give up near 1,000, and an agent adds some

compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"holds {text}, which is no number of JSON")
    return number


_decode = json.JSONDecoder(parse_float=_finite, parse_constant=_finite).decode


def read_json(text: str) -> Any:
    """Return what a JSON text says, if it might have been published.

    Raises:
        UNREADABLE: it is not JSON, not finite or too deep.
    """
    value = _decode(text)
    if _too_deep(text, value):
        raise ValueError(f"nests deeper than {NESTING_MAX} levels")
    return value


def read_strings(text: Any) -> tuple[str, ...]:
    """Return the strings of a JSON array, without what a person wrote there that is none."""
    try:
        items = read_json(text)
    except UNREADABLE:
        return ()
    return tuple(item for item in items if isinstance(item, str) and is_utf8(item))


def is_utf8(text: str) -> bool:
    """Whether the text has no lone surrogate, which SQLite could not store."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def strict_json(value: Any, where: str) -> str:
    """Return `value` as text; `where` names it in errors.

    Raises:
        EventRefused: it is not JSON, not UTF-8, too large or too deep.
    """
    try:
        text = compact(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as error:
        raise EventRefused(
            "holds half a character (a lone surrogate)",
            where=where,
            hint="decode bytes with errors='replace'",
        ) from error
    except (TypeError, ValueError, RecursionError) as error:  # NaN, sets, cycles, depth
        raise EventRefused(f"is not JSON: {error}", where=where) from error
    if size > PAYLOAD_BYTES_MAX:
        raise EventRefused(
            f"takes {size} bytes; at most {PAYLOAD_BYTES_MAX} may",
            where=where,
            hint="publish a path or a summary instead",
        )
    if _too_deep(text, value):
        raise EventRefused(
            f"nests deeper than {NESTING_MAX} levels", where=where, hint="flatten it"
        )
    return text


def _too_deep(text: str, value: Any) -> bool:
    """Whether a JSON value, given with its text, nests too deeply; goes down level by level."""
    if text.count("{") + text.count("[") <= NESTING_MAX:
        return False
    level = [value]
    for _ in range(NESTING_MAX):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, Mapping) else item)
            if isinstance(child, Mapping | list | tuple)
        ]
    return bool(level)


def payload_text(event_type: str, payload: Mapping[str, Any]) -> str:
    """Return a payload as text.

    Raises:
        EventRefused: it is no JSON object, not UTF-8, or too large.
    """
    if type(payload) is not dict:
        if not isinstance(payload, Mapping):
            raise EventRefused(
                f"a payload is a JSON object, not {type(payload).__name__}", where=event_type
            )
        payload = dict(payload)
    return strict_json(payload, event_type)
