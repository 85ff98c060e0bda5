"""The newest lines of the logs, read from the end of each file: logs may be of gigabytes."""

import contextlib
import hashlib
import heapq
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.events import DAEMON
from agentd.logs.view import Place, log_files, opened, parse, rotations
from agentd.paths import Paths

BLOCK_BYTES = 65_536
END_BYTES = 4_096  # read at once, to find where the last whole line ends
TORN_BYTES_MAX = 1024 * 1024  # no process of ours writes a longer line
SAME_MOMENT = 5  # times as many lines as were asked for, where the last ones have the same time
READ_BYTES_MAX = 32 * 1024 * 1024  # of all files together: a second's work

Entry = Mapping[str, Any]


@dataclass
class Newest:
    """Lines as they are in the files, the newest first.

    `oldest` is the `before` of those that come next; `read_all`: there are none.
    """

    lines: list[str] = field(default_factory=list)
    oldest: str = ""
    read_all: bool = True


def newest(
    paths: Paths,
    names: Sequence[str] = (),
    *,
    wanted: Callable[[Entry], bool] = bool,
    before: str = "",
    limit: int = 100,
    bytes_max: int = READ_BYTES_MAX,
) -> Newest:
    """Return the last `limit` lines of which the object is `wanted`.

    `names`: only these agents (or `agentd`, `model`), with what the supervisor says about them.
    `before`: only lines of an earlier time. Of the oldest moment all lines are given, so that
    nothing falls between this answer and what was before; but no more than five times `limit`.
    """
    found = Newest()
    budget = ReadBudget(bytes_max)
    for ts, line, entry in all_back(paths, budget, names):
        if before and ts >= before:
            continue
        number = len(found.lines)
        if number >= limit and (ts != found.oldest or number >= limit * SAME_MOMENT):
            found.read_all = False
            break
        if wanted(entry):
            found.lines.append(line)
            found.oldest = ts
    found.read_all = found.read_all and not budget.spent
    return found


def all_back(
    paths: Paths,
    budget: "ReadBudget",
    names: Sequence[str] = (),
    ends: dict[Path, Place] | None = None,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the lines of all logs, as `entries_back` does of one, merged by their times.

    `ends` is filled before the first one comes: how far each log is given, so that `view.read` can
    go on there.
    """
    streams = [
        entries_back(path, budget, names, ends)
        for path in log_files(paths.logs)
        if not names or path.stem in (*names, DAEMON)
    ]
    streams.reverse()  # of the same moment, read from the end: as `view.read` has them
    return heapq.merge(*streams, key=lambda item: item[0], reverse=True)


def stamp(paths: Sequence[Path]) -> str:
    """Return a word that is another one as soon as something was written to these logs."""
    seen = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat(follow_symlinks=False)
            seen.append((path.name, status.st_ino, status.st_size))
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def entries_back(
    path: Path,
    budget: "ReadBudget",
    names: Sequence[str] = (),
    ends: dict[Path, Place] | None = None,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield a log's lines with their times and objects, the newest first.

    With `names` those that are of one of these, or speak of one. A line that is being written is
    left out. `ends`: see `all_back`.
    """
    whole = not names or path.stem in names
    last = "~"  # behind any time
    for line in _lines_back(path, budget, {} if ends is None else ends):
        entry = parse(line)
        ts = entry.get("ts")
        if isinstance(ts, str) and ts[:1].isdigit():
            # A line that is not ours keeps its place before the one after it, and so does one from
            # before the clock was set back.
            last = min(last, ts)
        if whole or entry.get("agent") in names:
            yield last, line, entry


@dataclass
class ReadBudget:
    """Bytes that may still be read; `spent`: there would have been more."""

    left: int
    spent: bool = False


def _lines_back(path: Path, budget: ReadBudget, ends: dict[Path, Place]) -> Iterator[str]:
    """Yield the lines of a log and of its rotated files from the last one to the first."""
    files = rotations(path)
    while files:
        file, *files = files
        with contextlib.suppress(OSError), opened(file) as fd:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                end = _end_of_lines(fd, status.st_size)
                ends.setdefault(path, (status.st_ino, end))
                yield from _file_back(fd, end, budget)
                files = _behind(rotations(path), status.st_ino)


def _behind(files: Sequence[Path], inode: int) -> list[Path]:
    """Return the files that are older than one, which may have been rotated since it was opened."""
    for at, file in enumerate(files):
        with contextlib.suppress(OSError):
            if file.stat(follow_symlinks=False).st_ino == inode:
                return list(files[at + 1 :])
    return []  # it is deleted by now, and what was older before it


def _end_of_lines(fd: int, size: int) -> int:
    """Return where the last whole line ends: what stands behind it is being written."""
    at = size
    while at > max(0, size - TORN_BYTES_MAX):
        begin = max(0, at - END_BYTES)
        if (newline := os.pread(fd, at - begin, begin).rfind(b"\n")) >= 0:
            return begin + newline + 1
        at = begin
    return at


def _file_back(fd: int, at: int, budget: ReadBudget) -> Iterator[str]:
    rest = b""
    while at > 0:
        size = min(BLOCK_BYTES, at)
        if budget.left < size:
            budget.spent = True
            return
        at -= size
        budget.left -= size
        rest, *lines = (os.pread(fd, size, at) + rest).split(b"\n")
        if len(rest) > TORN_BYTES_MAX:
            rest = b""
        yield from (line.decode("utf-8", "replace") for line in reversed(lines) if line)
    if rest:
        yield rest.decode("utf-8", "replace")
