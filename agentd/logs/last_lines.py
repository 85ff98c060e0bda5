"""The last log lines of one agent, without reading all that was ever logged."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentd.events import DAEMON
from agentd.logs.file import SUFFIX
from agentd.logs.view import parse
from agentd.paths import Paths

END_BYTES = 128 * 1024  # of each file that is looked at


def last_lines(paths: Paths, name: str, count: int) -> list[str]:
    """Return the last lines that an agent logged, or the daemon about it, oldest first.

    Those alone that stand at the ends of the files as they are now: a file that has just been begun
    has fewer.
    """
    found = []
    for stem in (name, DAEMON):
        for line in _end(paths.logs / stem / f"{stem}{SUFFIX}"):
            entry = parse(line)
            if entry and (stem == name or entry.get("agent") == name):
                found.append((str(entry.get("ts", "")), line))
    found.sort(key=lambda item: item[0])
    return [line for _, line in found[-count:]]


def _end(path: Path) -> Iterator[str]:
    """Yield the whole lines of a file's end."""
    with suppress(OSError), path.open("rb") as file:
        start = max(0, os.fstat(file.fileno()).st_size - END_BYTES)
        file.seek(start)
        lines = file.read(END_BYTES).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines[bool(start) : -1] if line)
