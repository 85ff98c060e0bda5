"""Values as a grammar spells them: one way for each, so that a beginning can be told."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

from agentd.json_schema.bounds import Schema

_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_VALUE = {**{chr(n): f"\\u{n:04x}" for n in (*range(0x20), 0x7F)}, **_SHORT}
_KEY = {**{chr(n): f"\\u{n:04x}" for n in range(0x20)}, "\b": "\\b", "\f": "\\f", **_SHORT}
LONGEST = 17  # digits that a number may still get


def key(name: str) -> str:
    """Spell a property's name."""
    return '"' + "".join(_KEY.get(sign, sign) for sign in name) + '"'


def spelled(value: Any, comma: str, colon: str) -> str:
    """Spell a value of an enum."""
    if isinstance(value, str):
        return '"' + "".join(_VALUE.get(sign, sign) for sign in value) + '"'
    if isinstance(value, list):
        return "[" + comma.join(spelled(one, comma, colon) for one in value) + "]"
    if isinstance(value, dict):
        pairs = (key(name) + colon + spelled(one, comma, colon) for name, one in value.items())
        return "{" + comma.join(pairs) + "}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return plain(value)


def plain(value: float) -> str:
    """Spell a number without an exponent, and without a point where it is whole."""
    text = format(Decimal(str(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def characters(text: str) -> int | None:
    """Count the characters of a text after its quote; None if it ends, -1 inside an escape."""
    count, at = 0, 1
    while at < len(text):
        if text[at] == '"':
            return None
        size = (6 if text[at + 1 : at + 2] == "u" else 2) if text[at] == "\\" else 1
        if at + size > len(text):
            return -1
        count, at = count + 1, at + size
    return count


def number_ends(begun: str, schema: Schema) -> Iterator[str]:
    """Yield short ways to end a number that was begun, so that it fits; none if it cannot."""
    step = Fraction(str(schema.get("multipleOf", 1)))
    low, high = Fraction(str(schema["minimum"])), Fraction(str(schema["maximum"]))
    if not begun and low <= 0 <= high:
        yield "0"
        return
    for sign in ("", "-"):
        if begun[:1] not in ("", "-") if sign else begun[:1] == "-":
            continue
        least, most = (-high, -low) if sign else (low, high)
        least = max(least, step if sign else Fraction(0))
        found = _magnitude(begun.removeprefix("-"), least, most, step)
        if found is not None:
            yield (sign + found)[len(begun) :]


def _magnitude(begun: str, low: Fraction, high: Fraction, step: Fraction) -> str | None:
    """Return a shortest number without a sign that begins like this, as it is written."""
    whole, point, part = begun.partition(".")
    most = next(places for places in range(20) if (step * 10**places).denominator == 1)
    ways = sorted(
        (more + places + (places > 0 and not point), more, places)
        for more in range(1 if point or whole == "0" else LONGEST)
        for places in range(max(1, len(part)) if point else 0, max(most, len(part)) + 1)
    )
    for _length, more, places in ways:
        first, last = _between(whole, part, more, places, bool(point))
        scale = 10**places
        grid = (step * scale).numerator  # only its multiples are whole at this scale
        found = ceil(Fraction(max(first, ceil(low * scale)), grid)) * grid
        if found <= min(last, floor(high * scale)):
            text = str(found).rjust(places + 1, "0")
            return f"{text[:-places]}.{text[-places:]}" if places else text
    return None


def _between(whole: str, part: str, more: int, places: int, point: bool) -> tuple[int, int]:
    """Return the first and last number with so many digits more; in units of the last place."""
    if point:
        free = 10 ** (places - len(part))
        return int(whole + part) * free, (int(whole + part) + 1) * free - 1
    if whole:
        first, last = int(whole) * 10**more, (int(whole) + 1) * 10**more - 1
    else:
        first, last = 10 ** (more - 1) if more > 1 else 0, 10**more - 1
    return first * 10**places, (last + 1) * 10**places - 1
