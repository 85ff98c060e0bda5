"""The places that no permission opens: agentd's own, and what others would run or obey.

An agent may be given a wide `write`, such as a home or a repository, to work on what lies there. A
file that a shell, git, Python or the system reads at its start is a program of this user all the
same. So writing is also held to this list. Places are compared by inode, because one place has many
names (case, Unicode forms, links, bind mounts, a Mac's /System/Volumes/Data), and by name where
there is no file yet.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from agentd.paths import Paths, expanded
from agentd.tools.git_settings import named_by
from agentd.tools.links import Disks, links_in
from agentd.tools.obeyed import (
    REPOSITORY,
    WRITING,
    Inode,
    folded,
    inode_of,
    is_open_git_folder,
    why_unwritten,
)
from agentd.tools.surroundings import OPEN_IN_SYSTEM, machine, stand_ins

OWN = "belongs to agentd itself; no tool opens it"
PROCESS = "belongs to a process; no tool opens it"
INODES = "names a file by its number; no tool opens it so"
MADE_OF = WRITING + "agentd, its agents or the programs of this machine are made of it"

# What /proc tells everybody of a process; the rest is its memory, environment and open files.
OF_PROCESSES = frozenset(
    {
        *("cgroup", "cmdline", "comm", "limits", "mountinfo", "mounts", "mountstats", "net"),
        *("oom_score", "sched", "schedstat", "stat", "statm", "status"),
    }
)


FILLED_MAX = 10_000  # files and folders that are looked at in `Closed.filled`
LISTS = ("own", "protected", "spared", "filled")  # of `Closed`


@dataclass(frozen=True)
class Closed:
    """What is closed to one agent besides the list of this module.

    `own` is neither read nor written, `protected` not written; what lies in `spared` is open again.
    `home` is a folder that is ours and a person's at once, as AGENTD_HOME is: folders in there that
    are none of ours are a person's. `filled` are those of `own` in which agents and servers put
    what they like: no link there says whose a place is, and not all of it is gone through.
    """

    own: tuple[Path, ...] = ()
    protected: tuple[Path, ...] = ()
    spared: tuple[Path, ...] = ()
    filled: tuple[Path, ...] = ()
    home: Path | None = None

    @classmethod
    def of(cls, paths: Paths, agent: str, key_file: Path | None) -> "Closed":
        """Return what is closed to `agent` in this home; `key_file` is that of the model's key."""
        made_of = (paths.config, paths.agents, paths.baml_src)
        database = Path(os.path.realpath(paths.database))
        beside = [database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal")]
        return cls(
            own=(
                *(paths.data, paths.logs, paths.run, paths.sockets),
                *(paths.database_folder, database, *beside),
                # They lie in `data`, or are links from there.
                *(paths.versions, paths.backups, paths.scratch, paths.prompt_caches),
                paths.own_folders,
                *(paths.accepted_daemon_file, paths.locks, paths.wake, paths.secrets),
                *([expanded(key_file)] if key_file else []),
            ),
            # Else an agent with a wide `write` could give itself, or a new agent, any permission.
            protected=(*made_of, paths.agents_d, paths.daemon_file, paths.models),
            spared=(
                *(*made_of, paths.scratch / agent),
                *(paths.hands_scratch(agent), paths.own_folders / agent),
            ),
            filled=(paths.scratch, paths.mcp, paths.database_folder, paths.own_folders),
            home=paths.data if paths.data == paths.user else None,
        )

    def document(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        lists = {key: [str(path) for path in getattr(self, key)] for key in LISTS}
        return {**lists, "home": None if self.home is None else str(self.home)}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> "Closed":
        """Return what a document of `document` says."""
        lists = {key: tuple(map(Path, document[key])) for key in LISTS}
        return cls(**lists, home=Path(document["home"]) if document["home"] else None)

    def marks(self, *, writing: bool, listed: bool = True) -> "Marks":
        """Return how places compare with these now.

        Unless something is `listed` to be written, what others obey is not looked for: it costs
        15 ms, and none of it lies in an agent's own folder.
        """
        disks = Disks(map(str, (*self.own, *self.protected)))
        own = [*map(str, self.own), *self._linked(self.own, disks)]
        shut = list(own)
        if writing and listed:
            shut += [*map(str, self.protected), *self._linked(self.protected, disks)]
            shut += machine(disks)
        spared = [*map(str, self.spared), *self._others(), *OPEN_IN_SYSTEM]
        stands = stand_ins(disks) if writing and listed else ()
        filled = map(str, self.filled)
        return Marks(shut, spared, own, disks, writing=writing, stands=stands, filled=filled)

    def _linked(self, folders: Iterable[Path], disks: Disks) -> Iterator[str]:
        """Give what the links in our folders lead to: it is ours, wherever it is kept.

        In a home that is a person's as well, what lies beside our folders need not be.
        """
        left_out = (self.home, *self.filled)
        for folder in folders:
            for link in links_in(str(folder), disks) if folder not in left_out else ():
                if not disks.holds_home(real := disks.resolved(link)):
                    yield real

    def _others(self) -> Iterator[str]:
        """Give the folders in `home` that are a person's; ours that come and go are hidden."""
        if self.home is None:
            return
        ours = {folded(str(path)) for path in (*self.own, *self.protected)}
        with suppress(OSError), os.scandir(self.home) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") or folded(entry.path) in ours
                if not hidden and entry.is_dir(follow_symlinks=False):
                    yield entry.path


class KnownClosed:
    """What is closed, as it lay when nothing hid it yet: for a process that enters a sandbox.

    `writing`: whether anything is listed to be written.
    """

    def __init__(self, closed: Closed, *, writing: bool) -> None:
        reading = closed.marks(writing=False)
        reading.look_inside()
        if writing:
            other = closed.marks(writing=True)
            other.look_inside()
        else:  # as `closed.marks(writing=True, listed=False)`, without a second look
            other = copy(reading)
            other.writing = True
        self._marks = {False: reading, True: other}

    def marks(self, *, writing: bool) -> "Marks":
        """See `Closed.marks`."""
        return self._marks[writing]


class Marks:
    """The closed places as they lie now, for one call."""

    def __init__(
        self,
        shut: Iterable[str],
        spared: Iterable[str],
        own: Iterable[str],
        disks: Disks,
        *,
        writing: bool,
        stands: Iterable[tuple[str, str]] = (),
        filled: Iterable[str] = (),
    ) -> None:
        self.writing = writing
        self._disks = disks
        self._own = tuple(map(disks.resolved, own))
        self._filled = frozenset(map(disks.resolved, filled))
        self._closed: dict[Inode | str, bool] = {}
        self._stands: dict[Inode | str, list[str]] = {}
        self._inner: frozenset[Inode] | None = None
        for paths, closed in ((spared, False), (shut, True)):  # what is both is shut
            for path in paths:
                self._closed[self._key(disks.resolved(path))] = closed
        for real, place in stands:
            self._stands.setdefault(self._key(real), []).append(place)

    def _key(self, real: str) -> Inode | str:
        """Return what a resolved place is known by: its inode, or its name where there is none."""
        return self._disks.inode_of(real) or folded(real)

    def _keys(self, real: str) -> set[Inode | str]:
        """Return all by which it may be known: it may have come since, or nobody may look there."""
        return {self._key(real), folded(real)}

    def reason(self, real: str, named: int) -> str | None:
        """Return why the resolved path is closed, None where it is open.

        `named` counts the leading parts of it that the permission itself lists.
        """
        path = Path(real)
        parts = path.parts[1:]
        first = folded(parts[0]) if parts else ""
        if first == ".vol":
            return INODES
        process = first == "proc" and len(parts) > 1 and (parts[1].isdigit() or "self" in parts[1])
        if process and not OF_PROCESSES & set(parts[2:3]):
            return PROCESS
        for place in (path, *path.parents):  # the nearest one decides
            if (closed := self._of(str(place))) is not None:
                if closed:
                    return self._why(place)
                break
        return self._why_unwritten(path, named) if self.writing else None

    def _why_unwritten(self, path: Path, named: int) -> str | None:
        """Return why no tool writes here, or in the hidden place that this stands in for."""
        for place, known in ((path, named), *self._meant(path, named)):
            if why := why_unwritten(place, known):
                return why
        spelled = {folded(str(up)) for up in (path, *path.parents)}
        for up in path.parents:
            if os.path.lexists(up / ".git") and any(
                folded(str(place)) in spelled for place in named_by(up)
            ):
                return REPOSITORY
        return None

    def _meant(self, path: Path, named: int) -> Iterator[tuple[Path, int]]:
        """Give the places that `path` is by a link or the environment, and what is named of each.

        A permission that names what a link leads to names the link; one that names a folder
        further up names neither.
        """
        for up in (path, *path.parents) if self._stands else ():
            count = len(up.parts)
            found = (self._stands.get(key, ()) for key in self._keys(str(up)))
            for place in dict.fromkeys(chain.from_iterable(found)):
                known = len(Path(place).parts) + named - count if named >= count else 0
                yield Path(place) / path.relative_to(up), known

    def shuts(self, status: os.stat_result) -> bool | None:
        """Say whether an open file or folder is closed, or open within one; None: neither."""
        return self._closed.get((status.st_dev, status.st_ino))

    def shuts_folder(self, descriptor: int) -> bool | None:
        """Say the same of an open folder, also whether it is one that git obeys."""
        found = self.shuts(os.fstat(descriptor))
        if found is None and self.writing and is_open_git_folder(descriptor):
            return True
        return found

    def hides(self, status: os.stat_result) -> bool:
        """Whether this is agentd's own file, also by a hard link from elsewhere."""
        if status.st_nlink > 1:
            self.look_inside()
        inner = self._inner if self._inner is not None and status.st_nlink > 1 else frozenset()
        inode = (status.st_dev, status.st_ino)
        return self._closed.get(inode) is True or inode in inner

    def look_inside(self) -> None:
        """Get to know all files in our own folders, once."""
        if self._inner is None:
            self._inner = frozenset(self._files())

    def _of(self, place: str) -> bool | None:
        found = {self._closed.get(key) for key in self._keys(place)} - {None}
        return any(found) if found else None

    def _why(self, place: Path) -> str:
        keys = {self._key(path) for path in self._own}
        inside = not keys.isdisjoint(self._keys(str(place)))
        return OWN if inside or not self.writing else MADE_OF

    def _files(self) -> Iterator[Inode]:
        """Give the inodes of all files in our own folders, but for what is spared.

        Nothing is opened but folders: a SQLite file that is closed loses this process's locks.
        """
        tops = {top for top in self._own if not self._disks.wait(top)}
        waiting = [top for top in tops if tops.isdisjoint(map(str, Path(top).parents))]
        filled: deque[str] = deque()
        while waiting:
            if (folder := waiting.pop()) in self._filled:
                filled.append(folder)
            else:
                yield from filter(None, self._in(folder, waiting))
        entries = (found for folder in _taken(filled) for found in self._in(folder, filled))
        yield from filter(None, islice(entries, FILLED_MAX))

    def _in(self, folder: str, further: "list[str] | deque[str]") -> Iterator[Inode | None]:
        """Give the inodes of a folder's own files, None for what is none; add its folders."""
        if self._closed.get(inode_of(folder) or (0, 0)) is False:
            return
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    further.append(entry.path)
                yield None if is_folder else inode_of(entry.path)


def _taken(waiting: "deque[str]") -> Iterator[str]:
    while waiting:
        yield waiting.popleft()
