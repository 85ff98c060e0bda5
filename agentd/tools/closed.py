"""The places that no permission opens: agentd's own, and what others would run or obey.

An agent may be given a wide `write`, such as a home or a repository, to work on what lies there. A
file that a shell, git, Python or the system reads at its start is a program of this user all the
same. So writing is also held to this list. Places are compared by inode, because one place has many
names (case, Unicode forms, links, bind mounts, a Mac's /System/Volumes/Data), and by name where
there is no file yet.
"""

import os
import pwd
import re
import site
import sys
import sysconfig
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from agentd.paths import Paths, shipped

OWN = "belongs to agentd itself; no tool opens it"
PROCESS = "belongs to a process; no tool opens it"
INODES = "names a file by its number; no tool opens it so"
WRITING = "is written by no tool, whatever [permissions] say: "
MADE_OF = WRITING + "agentd, its agents or the programs of this machine are made of it"
REPOSITORY = WRITING + "git obeys what lies in a repository's own folder"
STARTUP = WRITING + "programs obey it when they start"
ENVIRONMENT = WRITING + "it is a Python environment"
SETTINGS = WRITING + "settings in a home; list that very folder if it holds none"

Inode = tuple[int, int]

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

# By name, wherever they lie: homes are copied, linked into, and not all of them are ours.
STARTUP_NAMES = frozenset(
    {
        # shells
        *(".profile", ".login", ".logout", ".bashrc", ".bash_profile", ".bash_login"),
        *(".bash_logout", ".bash_aliases", ".bashrc.d", ".profile.d", ".zshrc", ".zshenv"),
        *(".zprofile", ".zlogin", ".zlogout", ".zsh_aliases", ".zshrc.d", ".oh-my-zsh"),
        *(".kshrc", ".mkshrc", ".cshrc", ".tcshrc", ".inputrc", ".envrc", ".direnvrc"),
        # sessions, terminals, remote and mail
        *(".xprofile", ".xinitrc", ".xsession", ".xsessionrc", ".xserverrc", ".pam_environment"),
        *(".screenrc", ".tmux.conf", ".ssh", ".gnupg", ".rhosts", ".shosts", ".netrc"),
        *("authorized_keys", "authorized_keys2", ".forward", ".procmailrc", ".mailcap"),
        *("launchagents", "launchdaemons", "startupitems", "crontabs"),
        # editors and tools whose settings are programs
        *(".vim", ".vimrc", ".gvimrc", ".exrc", ".nvimrc", ".emacs", ".emacs.d", ".nanorc"),
        *(".gdbinit", ".lldbinit", ".hgrc", ".npmrc", ".pypirc", ".curlrc", ".wgetrc"),
        *(".pythonrc", ".pythonrc.py", ".pythonstartup", ".ipython", ".pdbrc", ".perldb"),
        *(".irbrc", ".pryrc", ".ghci", ".rprofile", ".condarc", ".husky"),
        *("sitecustomize.py", "usercustomize.py"),
    }
)
# Below `.config`, `.local` and a Mac's `Library`, two names in a row.
STARTUP_PAIRS = frozenset(
    {
        *((".config", "autostart"), (".config", "autostart-scripts"), (".config", "systemd")),
        *((".config", "environment.d"), (".config", "fish"), (".config", "zsh")),
        *((".config", "git"), (".config", "nvim"), (".config", "vim"), (".config", "emacs")),
        *((".config", "plasma-workspace"), (".config", "pip"), (".config", "direnv")),
        *((".config", "hypr"), (".config", "sway"), (".config", "i3"), (".config", "tmux")),
        *((".local", "bin"), (".local", "lib"), (".cargo", "bin"), (".cargo", "config.toml")),
        *(("share", "systemd"), ("share", "applications"), ("share", "dbus-1")),
        *(("library", "services"), ("library", "scripts"), ("library", "application scripts")),
        *(("library", "preferences"), ("library", "preferencepanes"), ("library", "quicklook")),
        *(("library", "keychains"), ("library", "input methods"), ("library", "internet plug-ins")),
    }
)
GIT_NAMES = frozenset({".git", ".gitmodules", ".gitattributes", ".gitconfig"})
ENVIRONMENT_NAMES = frozenset({"site-packages", "dist-packages", "pyvenv.cfg"})
# Folders of a home that only hold others' folders: to list one of these opens none of them.
SHELVES = frozenset(
    {
        *((".config",), (".local",), (".cache",), ("library",)),
        *((".local", "share"), (".local", "state"), ("library", "application support")),
    }
)
HOMES = ("/home", "/Users", "/var/home")  # folders of homes
ROOTS = ("/root", "/var/root", "/private/var/root")  # the homes that lie elsewhere
# HFS+ passes these over in a name, as git knows: utf8.c, next_hfs_char.
IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


def folded(text: str) -> str:
    """Return the one form that all spellings of a name have on a Mac's file system."""
    return unicodedata.normalize("NFC", IGNORED.sub("", text)).casefold()


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
                inode = _inode(real)
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
        return _why_unwritten(path, named) if self.writing else None

    def shuts(self, status: os.stat_result) -> bool | None:
        """Say whether an open file or folder is closed, or open within one; None: neither."""
        return self._inodes.get((status.st_dev, status.st_ino))

    def shuts_folder(self, descriptor: int) -> bool | None:
        """Say the same of an open folder, also whether it is one that git obeys."""
        found = self.shuts(os.fstat(descriptor))
        if found is None and self.writing and is_git_folder(partial(_has, descriptor)):
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
        inode = _inode(place)
        return self._names.get(folded(place)) if inode is None else self._inodes.get(inode)

    def _why(self, place: Path) -> str:
        inside = any(_inode(str(path)) == _inode(str(place)) for path in self._own)
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
                if self._inodes.get(_inode(folder) or (0, 0)) is False:
                    folders.clear()
                    continue
                for name in names:
                    if (inode := _inode(f"{folder}/{name}")) is not None:
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


def _why_unwritten(path: Path, named: int) -> str | None:
    """Return why nobody's tools write here, None where they may."""
    names = tuple(folded(part) for part in path.parts)
    known = set(names)
    if known & GIT_NAMES or _in_repository(path):
        return REPOSITORY
    if known & STARTUP_NAMES or set(pairwise(names)) & STARTUP_PAIRS:
        return STARTUP
    if known & ENVIRONMENT_NAMES or any((up / "pyvenv.cfg").exists() for up in path.parents):
        return ENVIRONMENT
    return SETTINGS if _is_setting(path, names, named) else None


def _in_repository(path: Path) -> bool:
    """Whether a folder around `path` is a repository without a working tree, or becomes one."""
    return any(is_git_folder(partial(_lies, up), path.parts[len(up.parts)]) for up in path.parents)


def _lies(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / name)


def is_git_folder(has: Callable[[str], bool], coming: str = "") -> bool:
    """Whether git takes a folder for its own, once it also has `coming`. See git's setup.c.

    `has` says whether a name is there. Nothing needs to be right in them: what is written first and
    what later is for the writer to choose.
    """
    new = folded(coming)

    def there(name: str) -> bool:
        return name.lower() == new or has(name)

    if not there("HEAD"):
        return False
    return there("commondir") or (there("objects") and there("refs"))


def _has(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _is_setting(path: Path, names: tuple[str, ...], named: int) -> bool:
    """Whether this is a hidden file or folder of a home, which its permission does not name."""
    homes = {_inode(home) for home in _homes()} - {None}
    for count in range(len(path.parts) - 1, 0, -1):
        up = str(Path(*path.parts[:count]))
        parent = str(Path(up).parent)
        if _inode(up) not in homes and parent not in HOMES and up not in ROOTS:
            continue
        inner = names[count:]
        if not inner[0].startswith(".") and inner[0] != "library":
            return False
        needed = 1
        while needed <= len(inner) and inner[:needed] in SHELVES:
            needed += 1
        return named < count + needed
    return False


def _homes() -> Iterator[str]:
    with suppress(RuntimeError):
        yield str(Path.home())
    with suppress(KeyError):
        yield pwd.getpwuid(os.getuid()).pw_dir


def _real(path: Path | str) -> str:
    """Return the path without links; as it stands where one of them goes in this moment."""
    try:
        return os.path.realpath(path)
    except OSError:
        return str(path)


def _inode(path: str) -> Inode | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
