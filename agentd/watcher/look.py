"""Finds the files that an agent's patterns mean: bounded, and following no link."""

import os
import stat
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from agentd.config.watched import Pattern
from agentd.errors import shown
from agentd.macos import privacy

ENTRIES_MAX = 50_000  # names looked at for one agent
FILES_MAX = 10_000  # of one agent
DEPTH_MAX = 12  # folders below that of a pattern
PROBLEMS_MAX = 3  # told of one agent
EVERY_ENTRIES = 1_000  # between two words that it gets on
# How downloads are called while they are under way, by browsers and other programs; also beside the
# file that is to be.
PARTIAL = (".part", ".partial", ".crdownload", ".download", ".tmp", ".opdownload")
LOCKS = ("~$",)  # of office programs, beside an open document
PARTIAL_S = 3600.0  # such a file that did not change for so long is left over


@dataclass(frozen=True)
class File:
    """A file as it was found. Two with the same stamp have the same content."""

    path: str
    pattern: Pattern
    size: int
    stamp: str
    came: float  # seconds since 1970: when it was put there, or last changed
    partial: bool  # a download of it seems to be under way


@dataclass
class FoundFiles:
    """What is there, by path, and what is wrong with where it was looked for."""

    files: dict[str, File] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    entries: int = 0

    @property
    def full(self) -> bool:
        """Whether there is more than is looked at."""
        return self.entries > ENTRIES_MAX or len(self.files) >= FILES_MAX

    def problem(self, text: str) -> None:
        """Note what is wrong."""
        if len(self.problems) < PROBLEMS_MAX and text not in self.problems:
            self.problems.append(text)


def look(patterns: Iterable[Pattern], progress: Callable[[], None]) -> FoundFiles:
    """Return what the patterns mean now; `progress` is called now and then."""
    found = FoundFiles()
    for pattern in patterns:
        ways: list[tuple[str, ...]] = [()]
        while ways and not found.full:
            _look_into(pattern, ways, found, progress)
    if found.full:
        most = f"{FILES_MAX} files or {ENTRIES_MAX} names"
        found.problem(f"more than {most} lie there: the rest is not watched; narrow the pattern")
    return found


def _look_into(
    pattern: Pattern, ways: list[tuple[str, ...]], found: FoundFiles, progress: Callable[[], None]
) -> None:
    """Look into the folder of the last way; add those that lead deeper."""
    way = ways.pop()
    folder = str(pattern.folder.joinpath(*way))
    try:
        with os.scandir(folder) as listing:
            entries = []
            for entry in listing:
                entries.append(entry)
                found.entries += 1
                if found.entries % EVERY_ENTRIES == 0:
                    progress()
                if found.full:
                    break
    except FileNotFoundError:
        if not way:  # else it went this moment
            found.problem(f"{shown(folder)} is not there")
        return
    except OSError as error:
        found.problem(f"{shown(folder)}: {privacy.described(Path(folder), error)}")
        return
    names = {entry.name: entry for entry in entries}
    for entry in entries:
        if len(found.files) >= FILES_MAX:
            return
        parts = (*way, entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                if len(parts) <= DEPTH_MAX and pattern.enters(parts):
                    ways.append(parts)
            elif pattern.matches(parts) and (file := _file(entry, pattern, names)) is not None:
                found.files[file.path] = file
        except OSError:
            continue  # it went this moment


def _file(entry: os.DirEntry[str], pattern: Pattern, names: Collection[str]) -> File | None:
    """Return what is to be told of an entry; None: nothing, or not yet."""
    if entry.name.lower().endswith(PARTIAL) or entry.name.startswith(LOCKS):
        return None
    return file_of(entry.path, entry.stat(follow_symlinks=False), pattern, names)


def file_of(
    path: str, status: os.stat_result, pattern: Pattern, names: Collection[str] = ()
) -> File | None:
    """Return a file with content; `names` lie beside it. None: it is none, or in a cloud only."""
    if not stat.S_ISREG(status.st_mode) or not status.st_size or privacy.not_downloaded(status):
        return None
    beside = [path + end for end in PARTIAL if Path(path).name + end in names]
    return File(
        path,
        pattern,
        status.st_size,
        stamp_of(status),
        max(status.st_mtime, status.st_ctime),
        any(map(_grows, beside)),
    )


def stamp_of(status: os.stat_result) -> str:
    """Return what changes when a file's content does."""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _grows(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime < PARTIAL_S
    except OSError:
        return False
