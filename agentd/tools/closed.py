"""The places that no permission opens: agentd's own, and what others would run or obey.

An agent may be given a wide `write`, such as a home or a repository, to work on what lies there. A
file that a shell, git, Python or the system reads at its start is a program of this user all the
same. So writing is also held to this list. Places are compared by inode, because one place has many
names (case, Unicode forms, links, bind mounts, a Mac's /System/Volumes/Data), and by name where
there is no file yet.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentd.paths import Paths, shipped
from agentd.tools.obeyed import (
    STARTUP_NAMES,
    WRITING,
    Inode,
    folded,
    inode_of,
    is_open_git_folder,
    why_unwritten,
)

OWN = "belongs to agentd itself; no tool opens it"
PROCESS = "belongs to a process; no tool opens it"
INODES = "names a file by its number; no tool opens it so"
MADE_OF = WRITING + "agentd, its agents or the programs of this machine are made of it"

# What the system runs from, or obeys. A folder that is not there closes nothing.
SYSTEM = (
    *("/bin", "/sbin", "/lib", "/lib64", "/etc", "/boot", "/dev", "/proc", "/sys"),
    *("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/share"),
    *("/usr/local/bin", "/usr/local/sbin", "/usr/local/lib", "/usr/local/etc", "/opt/homebrew"),
    *("/var/spool/cron", "/var/spool/at", "/var/at", "/run/systemd", "/var/lib/systemd"),
    *("/Library", "/System", "/Applications"),
)
# What /proc tells everybody of a process; the rest is its memory, environment and open files.
OF_PROCESSES = frozenset(
    {
        *("cgroup", "cmdline", "comm", "limits", "mountinfo", "mounts", "mountstats", "net"),
        *("oom_score", "sched", "schedstat", "stat", "statm", "status"),
    }
)
SHARED_MEMORY = "/dev/shm"  # a folder like /tmp


@dataclass(frozen=True)
class Closed:
    """What is closed to one agent besides the list of this module.

    `own` is neither read nor written, `protected` not written; what lies in `spared` is open again.
    `home` is a folder that is ours and a person's at once, as AGENTD_HOME is: folders in there that
    are none of ours are a person's.
    """

    own: tuple[Path, ...] = ()
    protected: tuple[Path, ...] = ()
    spared: tuple[Path, ...] = ()
    home: Path | None = None

    @classmethod
    def of(cls, paths: Paths, agent: str, key_file: Path | None) -> "Closed":
        """Return what is closed to `agent` in this home; `key_file` is that of the model's key."""
        made_of = (paths.config, paths.agents, paths.baml_src)
        database = paths.database
        beside = [database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal")]
        return cls(
            own=(
                *(paths.data, paths.logs, paths.run, paths.sockets, database, *beside),
                # They lie in `data`, or are links from there.
                *(paths.versions, paths.backups, paths.scratch, paths.prompt_caches),
                paths.accepted_daemon_file,
                *([key_file] if key_file else []),
            ),
            # Else an agent with a wide `write` could give itself, or a new agent, any permission.
            protected=(*made_of, paths.models),
            spared=(*made_of, paths.scratch / agent),
            home=paths.data if paths.data == paths.user else None,
        )

    def marks(self, *, writing: bool) -> "Marks":
        """Return how places compare with these now."""
        shut = [*self.own, *((*self.protected, *_machine()) if writing else ())]
        spared = [path for path in (*self.spared, *self._others()) if path not in shut]
        return Marks(shut, [*spared, Path(SHARED_MEMORY)], self.own, writing=writing)

    def _others(self) -> Iterator[Path]:
        """Give the folders in `home` that are a person's; ours that come and go are hidden."""
        if self.home is None:
            return
        ours = {folded(str(path)) for path in (*self.own, *self.protected)}
        with suppress(OSError), os.scandir(self.home) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".") or folded(entry.path) in ours
                if not hidden and entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)


class Marks:
    """The closed places as they lie now, for one call."""

    def __init__(
        self, shut: Iterable[Path], spared: Iterable[Path], own: Iterable[Path], *, writing: bool
    ) -> None:
        self.writing = writing
        self._own = tuple(own)
        self._inodes: dict[Inode, bool] = {}
        self._names: dict[str, bool] = {}  # of what is not there yet
        self._inner: frozenset[Inode] | None = None
        for paths, closed in ((shut, True), (spared, False)):
            for path in paths:
                real = _real(path)
                inode = inode_of(real)
                if inode is None:
                    self._names[folded(real)] = closed
                else:
                    self._inodes[inode] = closed

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
        return why_unwritten(path, named) if self.writing else None

    def shuts(self, status: os.stat_result) -> bool | None:
        """Say whether an open file or folder is closed, or open within one; None: neither."""
        return self._inodes.get((status.st_dev, status.st_ino))

    def shuts_folder(self, descriptor: int) -> bool | None:
        """Say the same of an open folder, also whether it is one that git obeys."""
        found = self.shuts(os.fstat(descriptor))
        if found is None and self.writing and is_open_git_folder(descriptor):
            return True
        return found

    def hides(self, status: os.stat_result) -> bool:
        """Whether this is agentd's own file, also by a hard link from elsewhere."""
        if status.st_nlink > 1 and self._inner is None:
            self._inner = frozenset(self._files())
        inner = self._inner if self._inner is not None and status.st_nlink > 1 else frozenset()
        inode = (status.st_dev, status.st_ino)
        return self._inodes.get(inode) is True or inode in inner

    def _of(self, place: str) -> bool | None:
        inode = inode_of(place)
        return self._names.get(folded(place)) if inode is None else self._inodes.get(inode)

    def _why(self, place: Path) -> str:
        inside = any(inode_of(str(path)) == inode_of(str(place)) for path in self._own)
        return OWN if inside or not self.writing else MADE_OF

    def _files(self) -> Iterator[Inode]:
        """Give the inodes of all files in our own folders, but for what is spared.

        Nothing is opened but folders: a SQLite file that is closed loses this process's locks.
        """
        tops = {_real(top) for top in self._own}
        for top in tops:
            if any(str(up) in tops for up in Path(top).parents):
                continue
            for folder, folders, names in os.walk(top):
                if self._inodes.get(inode_of(folder) or (0, 0)) is False:
                    folders.clear()
                    continue
                for name in names:
                    if (inode := inode_of(f"{folder}/{name}")) is not None:
                        yield inode


def _machine() -> list[Path]:
    """Return what this process and the system are made of.

    Not all of sys.path: of a script or a test it holds the folder in which somebody works.
    """
    home = _real(Path.home())
    package = Path(__file__).parents[1]
    places = sysconfig.get_paths()
    kinds = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    python = [*map(places.__getitem__, kinds), *site.getsitepackages(), sys.executable]
    found = [*map(Path, SYSTEM), *map(Path, python), package.parent]
    found.append(Path(_real(sys.executable)).parent)
    if sys.prefix != sys.base_prefix:
        found.append(Path(sys.prefix))
    found += [shipped() / name for name in ("agents", "baml_src", "config", "launchd")]
    # What a start-up file's name leads to is that file, wherever it is kept.
    for name in STARTUP_NAMES:
        link = Path(home) / name
        if link.is_symlink():
            found.append(link)
    return [path for path in found if not Path(home).is_relative_to(_real(path))]


def _real(path: Path | str) -> str:
    """Return the path without links; as it stands where one of them goes in this moment."""
    try:
        return os.path.realpath(path)
    except OSError:
        return str(path)
