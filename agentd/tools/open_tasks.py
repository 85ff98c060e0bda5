"""ReadTasks: what is open in notes in Markdown, by its form: tasks and questions."""

import os
import re
from collections.abc import Iterator
from typing import Any

from agentd.errors import ToolError
from agentd.events import Result
from agentd.macos import privacy
from agentd.tools.base import ToolCall, clean_line
from agentd.tools.files import SEARCH_BYTES, SEARCH_FILES, decode, files_below, told
from agentd.tools.place import locate, read_bytes

TASKS_MAX = 100
TEXT_CHARACTERS_MAX = 160
SUFFIXES = (".md", ".markdown", ".txt", ".org")
FENCE = re.compile(r"\s*(?:```|~~~)")
HEADING = re.compile(r"#{1,6}\s+(.*)")
ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+")  # begins one of a list
BOX = re.compile(r"\[(.)\]\s+")
OPEN = re.compile(r"\b(?:TODO|FIXME)\b[:\s-]*")
MARKS = re.compile(r"\*\*|__|`|<!--|-->")
CLOSING = "'\")\u201d\u2019"  # may stand behind a question mark


def read_tasks(call: ToolCall, path: str) -> Result:
    """Give the open tasks and then the questions, each in order of its file and line."""
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.readable, marks)
    found: list[dict[str, Any]] = []
    closed: list[OSError] = []
    files = skipped = 0
    with told(place):
        for folder, inner, name in files_below(place, call, marks, closed):
            if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                continue
            if files + skipped >= SEARCH_FILES:
                skipped += 1
                break
            try:
                if privacy.not_downloaded(os.stat(name, dir_fd=folder, follow_symlinks=False)):
                    raise ToolError("is not downloaded")
                text = decode(read_bytes(name, folder, limit=SEARCH_BYTES, marks=marks))
            except (ToolError, OSError):  # binary, large, special, unreadable, absent: counted
                skipped += 1
                continue
            files += 1
            found += ({**task, "file": clean_line(inner, 200)} for task in tasks_in(text))
    found.sort(key=lambda task: task["kind"] != "task")
    value = {"path": place.name, "files": files, "tasks": found[:TASKS_MAX]}
    left = {"more": len(found) - TASKS_MAX, "skipped": skipped, "closed": len(closed)}
    return Result(value | {key: n for key, n in left.items() if n > 0}, trusted=False)


def tasks_in(text: str) -> Iterator[dict[str, Any]]:
    """Give what is open in a note, line by line."""
    heading, fenced = "", False
    for number, line in enumerate(text.split("\n"), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif title := HEADING.fullmatch(line):
            heading = clean_line(title[1].rstrip("# \t\r"), TEXT_CHARACTERS_MAX)
        elif not fenced and (found := _open(line[:2_000])) is not None:
            kind, what = found
            about = {"line": number, "heading": heading}
            yield {"kind": kind, "text": clean_line(what, TEXT_CHARACTERS_MAX), **about}


def _open(line: str) -> tuple[str, str] | None:
    """Return what is open in a line: its kind and text."""
    item = ITEM.match(line)
    if item is None and line.startswith(("    ", "\t", ">", "|")):  # code, a quotation
        return None
    line = MARKS.sub("", line[item.end() :] if item else line).strip()
    if (box := BOX.match(line)) and item:
        if box[1] != " ":  # done, or given up
            return None
        line = line[box.end() :]
        return ("question" if _asks(line) else "task", line) if line else None
    if todo := OPEN.search(line):
        what = line[todo.end() :].strip() or line[: todo.start()].strip()
        return ("task", what) if what else None
    return ("question", line) if _asks(line) else None


def _asks(line: str) -> bool:
    """Whether a line is a question, and not an address that ends so."""
    words = line.rstrip(CLOSING).split()
    return bool(words) and words[-1].endswith("?") and "://" not in words[-1] and len(line) > 2
