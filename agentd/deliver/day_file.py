"""A Markdown file per day, which gets all. Each entry begins with a mark that says whose it is.

A file is written whole, so no power cut tears an entry. An entry whose mark stands there is not
written again, so a kill between file and database doubles none. All that a person wrote in there
stays: it is read each time.
"""

import itertools
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, tzinfo
from pathlib import Path

from agentd.deliver.news import Item, Kind
from agentd.deliver.ways import WayFailed
from agentd.errors import shown
from agentd.macos.privacy import refusal
from agentd.whole import read_start, write_whole

FILE_BYTES = 4_000_000  # of one file; a day that has more gets another one
MODE = 0o600  # of a new file
HEADING = re.compile(r"^( {0,3})(#{1,2})(?=\s|$)", re.MULTILINE)
TAG = re.compile(r"<(?=[A-Za-z/!?])")
# What opens a block of code, or, with nothing behind it, closes one. A ` behind ``` makes it text.
FENCE = re.compile(r"^ {0,3}(`{3,}(?!.*`)|~{3,})(.*)$", re.MULTILINE)
UNDERLINE = re.compile(r"^(?= {0,3}(=+|-+)\s*$)", re.MULTILINE)  # would make a heading of a line


class DayFile:
    """Writes what is to be told into files of `folder`. `zone`: None is this machine's."""

    def __init__(self, folder: Path, zone: tzinfo | None = None) -> None:
        self._folder, self._zone = folder, zone

    def append(self, items: Sequence[Item]) -> None:
        """Add what is not there yet, each to the file of its day.

        Raises:
            WayFailed: a file cannot be read or written; nothing of that day was added.
        """
        for day, of_day in itertools.groupby(items, lambda item: self._local(item).date()):
            try:
                self._write(day, list(of_day))
            except OSError as error:
                where = shown(str(self._folder))
                hint = refusal(self._folder, error) or "make it a folder that you may write"
                raise WayFailed(f"{where}: {error.strerror or error}", hint=hint) from error

    def _write(self, day: date, items: Sequence[Item]) -> None:
        seen = b""
        for number in itertools.count(1):
            path = self._folder / f"{day}{f'-{number}' if number > 1 else ''}.md"
            there, mode = b"", MODE
            with suppress(FileNotFoundError):
                mode = stat.S_IMODE(path.stat().st_mode)
                there = read_start(path, 2 * FILE_BYTES)
            seen += there
            if len(there) < FILE_BYTES:
                break
        new = [item for item in items if _mark(item).encode() not in seen]
        if not new:
            return
        before = there.rstrip(b"\n") or f"# {day}".encode()
        entries = "\n".join(map(self._entry, new)).encode("utf-8", "replace")
        write_whole(path, before + b"\n\n" + entries, mode=mode)

    def _entry(self, item: Item) -> str:
        title = _harmless(item.title)
        who = "" if item.kind is not Kind.RESULT else f"{item.agent}: "
        head = f"{_mark(item)}\n## {self._local(item):%H:%M} {who}{title}\n"
        if item.kind is not Kind.RESULT:
            return f"{head}\n`{item.todo}`\n" if item.todo else head
        return f"{head}\n{_lowered(_harmless(item.text))}\n" if item.text else head

    def _local(self, item: Item) -> datetime:
        return item.at.astimezone(self._zone)


def _mark(item: Item) -> str:
    return f"<!-- agentd {item.key} -->"


def _harmless(text: str) -> str:
    """Return Markdown without HTML: a comment could forge a mark, a tag hide what comes after."""
    return TAG.sub("&lt;", text)


def _lowered(text: str) -> str:
    """Return Markdown whose headings stand below its entry's, and whose blocks of code end."""
    text = UNDERLINE.sub("\n", HEADING.sub(r"\1###", text))
    fence = ""

    def at_margin(found: re.Match[str]) -> str:
        """Return it where it belongs to no item of a list, whose end would end the block."""
        nonlocal fence
        if not fence:
            fence = found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
        else:
            return found[0]
        return found[1] + found[2]

    text = FENCE.sub(at_margin, text)
    return f"{text}\n{fence}" if fence else text
