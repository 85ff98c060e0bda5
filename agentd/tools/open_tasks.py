"""ReadTasks: what is open in notes in Markdown, by its form: tasks and questions."""

import re
from collections.abc import Iterator
from typing import Any

from agentd.events import Result
from agentd.tools.base import ToolCall, clean_line
from agentd.tools.note_files import FENCE, ITEM, NoteFiles, heading_of

TASKS_MAX = 100
TEXT_CHARACTERS_MAX = 160
BOX = re.compile(r"\[(.)\]\s+")
OPEN = re.compile(r"\b(?:TODO|FIXME)\b[:\s-]*")
MARKS = re.compile(r"\*\*|__|`|<!--|-->")
CLOSING = "'\")\u201d\u2019"  # may stand behind a question mark


def read_tasks(call: ToolCall, path: str) -> Result:
    """Give the open tasks and then the questions, each in order of its file and line."""
    notes, found = NoteFiles(call, path), list[dict[str, Any]]()
    for file, text in notes:
        found += ({**task, "file": file} for task in tasks_in(text))
    found.sort(key=lambda task: task["kind"] != "task")
    value = {"path": notes.path, "files": notes.files, "tasks": found[:TASKS_MAX]}
    return Result(value | notes.left(len(found) - TASKS_MAX), trusted=False)


def tasks_in(text: str) -> Iterator[dict[str, Any]]:
    """Give what is open in a note, line by line."""
    heading, fenced = "", False
    for number, line in enumerate(text.split("\n"), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif (title := heading_of(line)) is not None:
            heading = title
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
