"""The notes in a folder, or one of them: text files, one after the other. In the hands."""

import os
import re
from collections.abc import Iterator

from agentd.errors import ToolError
from agentd.macos import privacy
from agentd.tools.base import ToolCall, clean_line
from agentd.tools.files import SEARCH_BYTES, SEARCH_FILES, decode, files_below, told
from agentd.tools.place import locate, read_bytes

SUFFIXES = (".md", ".markdown", ".txt", ".org")
FENCE = re.compile(r"\s*(?:```|~~~)")
HEADING = re.compile(r"#{1,6}\s+(.*)")
ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+")  # begins one of a list
NAME_CHARACTERS = 200
HEADING_CHARACTERS = 160


class NoteFiles:
    """Gives each note's path below the folder, and its text; counts what it left out."""

    def __init__(self, call: ToolCall, path: str) -> None:
        self._call, self._marks = call, call.closed.marks(writing=False)
        self._place = locate(path, call.permissions.readable, self._marks)
        self._closed: list[OSError] = []
        self.path = self._place.name
        self.files = self._skipped = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Read them. Raises what `told` does."""
        place, marks = self._place, self._marks
        with told(place):
            for folder, inner, name in files_below(place, self._call, marks, self._closed):
                if name.startswith(".") or not name.lower().endswith(SUFFIXES):
                    continue
                if self.files + self._skipped >= SEARCH_FILES:
                    self._skipped += 1
                    break
                try:
                    if privacy.not_downloaded(os.stat(name, dir_fd=folder, follow_symlinks=False)):
                        raise ToolError("is not downloaded")
                    text = decode(read_bytes(name, folder, limit=SEARCH_BYTES, marks=marks))
                except (ToolError, OSError):  # binary, large, special, unreadable, absent: counted
                    self._skipped += 1
                    continue
                self.files += 1
                yield clean_line(inner, NAME_CHARACTERS), text

    def left(self, more: int = 0) -> dict[str, int]:
        """Return how much was left out, by why."""
        counts = {"more": more, "skipped": self._skipped, "closed": len(self._closed)}
        return {key: count for key, count in counts.items() if count > 0}


def heading_of(line: str) -> str | None:
    """Return the heading that a line is, None where it is none."""
    title = HEADING.fullmatch(line)
    return title and clean_line(title[1].rstrip("# \t\r"), HEADING_CHARACTERS)
