"""How commands print: aligned tables for people in local time, JSON in UTC for programs."""

import argparse
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from agentd.clock import parse_iso
from agentd.terminal import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    colour,
    duration,
    note,
    plain,
    rewrite,
    say,
    say_lines,
    shorten,
    terminal_width,
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
    "print_done",
    "print_facts",
    "print_json",
    "say",
    "say_lines",
    "shorten",
    "unescaped",
]

ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")  # in Markdown, where a character means only itself

ROOM_MIN = 20  # characters: in less, a text is left to the terminal to wrap


def unescaped(markdown: str) -> str:
    """Return a Markdown text as a terminal shows it: without the marks before characters."""
    return ESCAPED.sub(r"\1", markdown)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document; with `indent=None` on one line, for streams of objects."""
    # ASCII only, so that the bytes are the same in every locale. JSON lets DEL stand as it is.
    text = json.dumps(value, indent=indent, default=str).replace("\x7f", "\\u007f")
    say_lines(text, flush=indent is None)


def print_done(args: argparse.Namespace, done: str | None, *lines: str, **about: Any) -> None:
    """Tell what a command did: in `lines`, or with --json as one object.

    `done` is a word for it, None where nothing was changed. `about` says what it was done to.
    """
    if args.json:
        print_json({"done": done, **about})
    else:
        for line in lines:
            say(line)


def json_option(parser: argparse.ArgumentParser) -> None:
    """Declare --json for a command that prints one object."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def compact(value: Any) -> str:
    """Return a value as one line of JSON, readable and safe to print."""
    return plain(json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=str))


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


def print_facts(facts: Mapping[str, Any], *, indent: int = 0, width: int = 0) -> None:
    """Print named values, one a line; nothing for None and an empty text.

    The values stand behind the longest name, or behind `width` characters; on a terminal their
    further lines do as well.
    """
    width = width or max(map(len, facts))
    room = (terminal_width() or 0) - indent - width - 2
    for name, value in facts.items():
        if value in (None, ""):
            continue
        text = plain(str(value))
        lines = wrapped(text, room) if room >= ROOM_MIN else [text]
        for number, line in enumerate(lines):
            say(f"{'':{indent}}{'' if number else name:{width}}  {line}")


def wrapped(text: str, room: int) -> list[str]:
    """Return a text as lines; a path or link stays whole, so that it can be copied."""
    return textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)


def cell_text(value: Any) -> str:
    """Return what a cell of a table shows."""
    return "-" if value is None or value == "" else plain(str(value))


INTEGER_MAX = 2**63 - 1  # SQLite's, and Python's for lengths


def whole(text: str) -> int:
    """Return an id."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a whole number: {text[:40]!r}") from None
    if abs(number) > INTEGER_MAX:
        raise argparse.ArgumentTypeError(f"too large: {text[:40]}")
    return number


def count(text: str) -> int:
    """Return how many of something, zero or more."""
    number = whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number


STEPS = 4  # plain lines are printed at each quarter
BAR_CHARACTERS = 24


class ProgressLine:
    """Called as `models.Progress` is; close it with `done` so that the next line starts afresh."""

    def __init__(self, stream: TextIO | None = None, indent: str = "", unit: str = "") -> None:
        self._stream = stream or sys.stderr
        self._indent = indent
        self._unit = unit  # what is counted, where it is not bytes
        self._tty = self._stream.isatty()
        self._said: tuple[str, int] | None = None
        self._open = False  # a bar stands on the current line

    def __call__(self, done: int, total: int, label: str) -> None:
        """Show `done` of `total` bytes or units (0: not known) of what `label` says."""
        if self._tty:
            self._bar(done, total, label)
            return
        step = (label, done * STEPS // total if total else 0)
        if step != self._said:
            self._said = step
            say(f"{self._indent}{self._text(done, total, label)}", file=self._stream, flush=True)

    def say(self, label: str, aside: str = "") -> None:
        """Show what is going on, without a bar; `aside` may change often: for terminals alone."""
        self(0, 0, f"{label} ({aside})" if self._tty and aside else label)

    def clear(self) -> None:
        """Take the bar away, so that other lines can be printed."""
        if self._open:
            rewrite("", self._stream)
            self._open = False

    def done(self) -> None:
        """Leave the bar's line."""
        if self._open:
            say(file=self._stream, flush=True)
            self._open = False

    def _bar(self, done: int, total: int, label: str) -> None:
        if self._open and total and self._said and self._said[0] != label:
            self.done()
        self._said, self._open = (label, 0), True
        filled = min(BAR_CHARACTERS, done * BAR_CHARACTERS // total) if total else 0
        bar = f"[{'#' * filled}{'.' * (BAR_CHARACTERS - filled)}] " if total else ""
        line = shorten(
            f"{self._indent}{bar}{self._text(done, total, label)}",
            shutil.get_terminal_size().columns - 1,
        )
        rewrite(line, self._stream)

    def _text(self, done: int, total: int, label: str) -> str:
        label = plain(label)  # before it is cut to the terminal's width
        if not total:
            return label
        if self._unit:
            return f"{label}: {done} of {total} {self._unit}"
        share = f"{100 * done // total:3d} %"
        return f"{label}: {share} of {total / 1e6:.0f} MB" if done < total else label
