"""A JSON value that was begun and not ended, as an answer is that was cut."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["scalar", "first", "key", "colon", "value", "after", "comma"]
_DECODER = json.JSONDecoder()


@dataclass(eq=False)
class Begun:
    """What there is of a value.

    `state` says what stands at its end: nothing but the opening bracket (`first`), a part of a
    key, a key without or with its colon, a value (`after`), a comma. A number at the end counts as
    begun, as more digits may follow.
    """

    text: str
    state: State
    items: list[tuple[str, Any]] = field(default_factory=list)  # whole ones; in a list without key
    key: str = ""  # of the value that is begun, or the part that there is of it, with its quote
    inner: "Begun | None" = None


def begun(text: str) -> Begun | None:
    """Return what was begun; None where there is nothing yet. Separators may have a space."""
    return _value(text, 0) if text else None


def _value(text: str, at: int) -> Begun:
    if text[at] not in "[{":
        return Begun(text[at:], "scalar")
    found = Begun(text[at:], "first")
    listed = text[at] == "["
    at += 1
    while at < len(text):
        at = _skip(text, at)
        if at == len(text):
            break
        if not listed:
            end = _end(text, at)
            if end is None:
                found.state, found.key = "key", text[at:]
                break
            found.state, found.key = "colon", json.loads(text[at:end])
            at = _skip(text, end)
            if at == len(text):
                break
            found.state, at = "value", _skip(text, at + 1)
            if at == len(text):
                break
        end = _end(text, at)
        if end is None:
            found.state, found.inner = "value", _value(text, at)
            break
        found.items.append((found.key, json.loads(text[at:end])))
        found.state, at = "after", _skip(text, end)
        if at < len(text):
            if text[at] in "]}":
                break
            found.state, at = "comma", at + 1
    return found


def _skip(text: str, at: int) -> int:
    return at + 1 if at < len(text) and text[at] == " " else at


def _end(text: str, at: int) -> int | None:
    """Return where a whole value ends, or None; a number at the text's end may go on."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except ValueError:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if (number and end == len(text)) or text[end : end + 1] in (".", "e", "E") else end
