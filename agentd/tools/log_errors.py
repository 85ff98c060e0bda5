"""The errors in lines of a log, those of one code together.

What tells an error's code is its line without what changes from one time to the next: times,
numbers, hexadecimal digits, addresses, paths, and whatever stands in quotes.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from agentd.terminal import plain
from agentd.tools.base import clean_line

LINE_CHARACTERS = 2_000  # looked at
LEVEL_CHARACTERS = 120  # in which a line says its level
CODE_CHARACTERS, EXAMPLE_CHARACTERS = 160, 300
CODES_MAX = 2_000  # told apart
OTHERS = "errors of further codes"  # all beyond those, together

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
TIME = re.compile(
    r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[ ]?[+-]\d\d:?\d\d)?"
    r"|(?:[A-Z][a-z]{2} )?[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,9})?(?: \d{4})?"
    r"|\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d(?: [+-]\d{4})?"
)
# The first of these words is a line's level.
LEVEL = re.compile(
    r"\b(?:(trace|debug|info|notice|warn|warning)"
    r"|err|error|severe|fatal|crit|critical|alert|emerg|emergency|panic)\b(?![=:] ?0\b)",
    re.IGNORECASE,
)
# Says in a line without a level that something went wrong.
TROUBLE = re.compile(
    r"\b(?:\w*(?:error|exception)|failed|failure|panicked|segfault|core dumped|killed process"
    r"|out of memory|denied|refused|timed out|no space left)\b(?![=:] ?0\b)",
    re.IGNORECASE,
)
HEADING = "Traceback (most recent call last)"  # the error itself stands below it
EMPTY = re.compile(r"^\W*?(?:\[\]|\b(?:time|ts)=\"?\"?(?=\s))?[\s:|-]*")  # left of a time
JSON_KEYS = (
    ("time", "timestamp", "ts", "@timestamp"),
    ("level", "severity"),
    ("logger", "service", "module"),
    ("msg", "message", "error", "err"),
)
MESSAGE = re.compile(r'\b(?:msg|message)="([^"]*)"')
CHANGING = (
    (re.compile(r"\b[a-z][a-z0-9+]{0,15}://[^\s\"'<>]+", re.IGNORECASE), "URL"),
    (re.compile(r"\"[^\"]*\"|`[^`]*`|(?<!\w)'[^']*'(?!\w)"), '"..."'),
    (re.compile(r"(?<![\w/])(?:~|\.{1,2})?(?:/[^\s/:;,()\[\]\"'=]+)+/?"), "PATH"),
    (
        re.compile(r"\b(?:0x[0-9a-f]+|(?=[a-f-]{0,40}\d)[0-9a-f]{4,}(?:-[0-9a-f]{4,})*)\b", re.I),
        "N",
    ),
    (re.compile(r"(?:\d+|\bN\b)(?:[.:,](?:\d+|N\b))*"), "N"),
)


def grouped(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the errors in these lines, those of one code together, the most frequent first.

    Each has its code, how many there are, when the first and the last came as the log says it
    ("" where it does not), and the newest as an example.
    """
    groups: dict[str, dict[str, Any]] = {}
    for line in lines:
        if (found := error_in(line)) is None:
            continue
        time, text = found
        code = code_of(text)
        if code not in groups and len(groups) >= CODES_MAX:
            code = OTHERS
        group = groups.setdefault(code, {"code": code, "count": 0, "first": time, "last": ""})
        group["count"] += 1
        group |= {"last": time or group["last"], "example": text}
    return sorted(groups.values(), key=lambda group: group["count"], reverse=True)


def error_in(line: str) -> tuple[str, str] | None:
    """Return an error's time and its line without it; None where the line tells of no error."""
    line = COLOUR.sub("", line[:LINE_CHARACTERS]).rstrip()
    if line[:1].isspace() or HEADING in line:  # a stack: the line that says what it is comes alone
        return None
    line = MESSAGE.sub(r"\1", _of_json(line) if line.startswith("{") else line)
    level = LEVEL.search(line[:LEVEL_CHARACTERS])
    if level[1] if level else not TROUBLE.search(line):
        return None
    time = TIME.search(line[:LEVEL_CHARACTERS])
    text = EMPTY.sub("", line.replace(time[0], "", 1) if time else line)
    return time[0] if time else "", clean_line(plain(" ".join(text.split())), EXAMPLE_CHARACTERS)


def code_of(text: str) -> str:
    """Return a line without what changes from one time to the next."""
    for what, name in CHANGING:
        text = what.sub(name, text)
    return text[:CODE_CHARACTERS]


def _of_json(line: str) -> str:
    """Return what a line of JSON says: time, level and message."""
    with suppress(ValueError, RecursionError):
        said = json.loads(line)
        if isinstance(said, dict):
            found = [next((said[key] for key in of if key in said), "") for of in JSON_KEYS]
            return " ".join(value for value in found if isinstance(value, str) and value)
    return line
