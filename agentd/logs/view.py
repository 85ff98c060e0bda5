"""Reads log files: all lines by time, further ones as they come, and renders them for people.

Follows a file across rotation by its inode, so no line is lost or shown twice.
"""

import contextlib
import heapq
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.clock import parse_iso
from agentd.events import DAEMON
from agentd.logs.file import ROTATED, SUFFIX, folders
from agentd.paths import Paths
from agentd.terminal import colour, plain

POLL_S = 0.2  # between looks at growing files; only while a person watches
READ_BYTES = 262_144
LEVELS = ("debug", "info", "warning", "error", "critical")  # in the order of `logger`
LEVEL_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
NAME_WIDTH, EVENT_WIDTH = 14, 20
HEAD = ("ts", "level", "event", "agent")

Place = tuple[int, int]  # an inode, and an offset in its file


def read(
    paths: Paths,
    names: Sequence[str] = (),
    *,
    wait: Callable[[], bool] | None = None,
    begin: Mapping[Path, Place] | None = None,
) -> Iterator[str]:
    """Yield log lines without their newlines, oldest first.

    `wait` is called after the newest, before the next look; None, and what it says by False: no
    further look.

    `names`: only these agents (or `agentd`, `model`), with what the supervisor says about them.
    `begin`: how far each log was given before, see `newest.all_back`; others from their start.
    """
    begin = begin or {}
    tails: dict[Path, _Tail] = {}
    while True:
        for path in log_files(paths.logs):
            if not names or path.stem in (*names, DAEMON):
                tails.setdefault(path, _Tail(path, *begin.get(path, (None, 0))))
        streams = (_wanted(tail, names) for tail in tails.values())
        yield from (line for _, line in heapq.merge(*streams, key=lambda item: item[0]))
        if wait is None or not wait():
            return


def log_names(logs: Path) -> list[str]:
    """Return whose log files there are."""
    return sorted({path.stem for path in log_files(logs)})


def log_files(logs: Path) -> list[Path]:
    """Return the current log files, also those of which only rotated ones are left."""
    found = set()
    for folder in folders(logs) if logs.is_dir() else []:
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                match = ROTATED.fullmatch(path.name)
                if match or path.name.endswith(SUFFIX):
                    name = match["name"] if match else path.name.removesuffix(SUFFIX)
                    found.add(folder / f"{name}{SUFFIX}")
    return sorted(found)


def _wanted(tail: "_Tail", names: Sequence[str]) -> Iterator[tuple[str, str]]:
    last = ""
    for line in tail.lines():
        entry = parse(line)
        if names and tail.name not in names and entry.get("agent") not in names:
            continue
        # A line that is not ours (torn by a crash) keeps its place behind the one before it.
        last = max(last, str(entry.get("ts", "")))
        yield last, line


class _Tail:
    """One process's log as a stream of lines, over all its files."""

    def __init__(self, path: Path, inode: int | None, offset: int) -> None:
        self.name = path.name.removesuffix(SUFFIX)
        self._path, self._inode, self._offset = path, inode, offset

    def lines(self) -> Iterator[str]:
        """Yield what is new since the last call: complete lines only."""
        for path in self._unread():
            try:
                with opened(path) as fd:
                    status = os.fstat(fd)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    # An inode is used again after its file was deleted: then it is shorter.
                    if status.st_ino != self._inode or status.st_size < self._offset:
                        self._inode, self._offset = status.st_ino, 0
                    yield from self._from(fd)
            except OSError:
                continue  # rotated away in between: found by its inode next time

    def _from(self, fd: int) -> Iterator[str]:
        rest = b""
        while data := os.pread(fd, READ_BYTES, self._offset + len(rest)):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._offset += len(line) + 1
                if line:
                    yield line.decode("utf-8", "replace")

    def _unread(self) -> list[Path]:
        """Return the files from the one that was read last to the current one, oldest first."""
        found: list[Path] = []
        for path in rotations(self._path):
            found.append(path)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == self._inode:
                    break
        return found[::-1]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a log. Agents write in that folder: no link is followed, no pipe is waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def rotations(path: Path) -> list[Path]:
    """Return a log's files, the current one first, then the rotated ones, the newest first."""
    numbered: list[tuple[int, Path]] = [(0, path)]
    for other in path.parent.glob(f"{path.name}.*"):
        match = ROTATED.fullmatch(other.name)
        if match and match["name"] == path.stem:
            numbered.append((int(match["number"]), other))
    return [file for _, file in sorted(numbered)]


def parse(line: str) -> dict[str, Any]:
    """Return a line's object, {} for a line that is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def render(line: str) -> str:
    """Return a line for people: local time, level, agent, event, then key=value.

    What a log carries was partly written by others: control characters are shown, not obeyed.
    Coloured by its level where `colour` colours; so print it with `say_lines`.
    """
    entry = parse(line)
    if not entry:
        return plain(line)
    level = str(entry.get("level", ""))
    trace = entry.get("exception")
    head = (
        f"{_local(str(entry.get('ts', '')))} {plain(level):7} "
        f"{plain(str(entry.get('agent', ''))):{NAME_WIDTH}} "
        f"{plain(str(entry.get('event', ''))):{EVENT_WIDTH}}"
    )
    lines = [f"{head} {keys(entry)}".rstrip()]
    if isinstance(trace, str):
        lines += [f"    {plain(part)}" for part in trace.rstrip().split("\n")]
    code = LEVEL_COLOURS.get(level)
    return "\n".join(colour(text, code) if code else text for text in lines)


def keys(entry: Mapping[str, Any]) -> str:
    """Return what a line says besides its head and a traceback: each key with its value."""
    aside = (*HEAD, "exception") if isinstance(entry.get("exception"), str) else HEAD
    return " ".join(f"{plain(k)}={plain(_value(v))}" for k, v in entry.items() if k not in aside)


def rank(level: object) -> int:
    """Return where a level stands; one that nobody knows is shown with the worst."""
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def _local(ts: str) -> str:
    try:
        moment = parse_iso(ts).astimezone()
    except ValueError:
        return plain(ts)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        bare = value.isprintable() and value and not any(char in value for char in " =\"'")
        return value if bare else json.dumps(value, ensure_ascii=not value.isprintable())
    return json.dumps(value)
