"""A short text that a pattern is found in, made from the pattern's own parts."""

import functools
import re
from re import _parser  # type: ignore[attr-defined]  # the standard library's own, without a promise
from typing import Any

LONGEST = 500  # characters
CLASSES = {"CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}
TRIED = "a0A_-./: @#"  # for what must be none of some characters


@functools.lru_cache(maxsize=1024)
def example(pattern: str) -> str | None:
    """Return a text with the pattern, about as short as there is; None if none is found."""
    try:
        text = _shortest(_parser.parse(pattern, re.ASCII))
    except (re.error, RecursionError, OverflowError):
        return None
    return text if text is not None and len(text) <= LONGEST else None


def _shortest(parts: Any) -> str | None:
    found = ""
    for kind, value in parts:
        text = _part(str(kind), value)
        if text is None or len(found) > LONGEST:
            return None
        found += text
    return found


def _part(kind: str, value: Any) -> str | None:
    match kind:
        case "LITERAL":
            return chr(value)
        case "ANY":
            return "a"
        case "NOT_LITERAL":
            return "a" if value != ord("a") else "b"
        case "IN":
            return _member([(str(one), what) for one, what in value])
        case "BRANCH":
            texts = [text for one in value[1] if (text := _shortest(one)) is not None]
            return min(texts, key=len, default=None)
        case "SUBPATTERN":
            return _shortest(value[-1])
        case "MAX_REPEAT" | "MIN_REPEAT":
            text = _shortest(value[2]) if value[0] else ""
            return None if text is None or value[0] > LONGEST else text * value[0]
        case "AT":
            return ""
    return None  # references and assertions, which no grammar has either


def _member(members: list[tuple[str, Any]]) -> str | None:
    """Return one character of a class."""
    if members[0][0] == "NEGATE":
        return next((sign for sign in TRIED if not _among(sign, members[1:])), None)
    kind, value = members[0]
    if kind == "CATEGORY":
        return CLASSES.get(str(value), next((s for s in TRIED if _among(s, members)), None))
    return chr(value[0] if kind == "RANGE" else value)


def _among(sign: str, members: list[tuple[str, Any]]) -> bool:
    def has(kind: str, value: Any) -> bool:
        if kind == "RANGE":
            return bool(value[0] <= ord(sign) <= value[1])
        if kind == "CATEGORY":
            name = str(value).removeprefix("CATEGORY_")
            inside = {"DIGIT": sign.isdigit(), "WORD": sign.isalnum() or sign == "_"}
            found = inside.get(name.removeprefix("NOT_"), sign == " ")
            return found != name.startswith("NOT_")
        return bool(ord(sign) == value)

    return any(has(kind, value) for kind, value in members)
