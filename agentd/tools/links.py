"""Where links lead, found without waiting: what a link stands for is closed as the link is.

Looks are bounded in number, depth and time. Onto a disk that may not answer (network, FUSE) a link
is followed by its text alone.
"""

import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from agentd.tools.obeyed import Inode, folded, homes_here, inode_of

ENTRIES_MAX = 6_000  # looked at below the hidden folders of one home
LINKS_MAX = 1_000  # followed of one home, or of one of our folders
DEPTH_MAX = 4  # of folders in a hidden one: `.config/systemd/user/default.target.wants`
SECONDS_MAX = 5.0  # for one home: a slow disk, or a busy machine; it takes some milliseconds
HOPS_MAX = 40  # links behind links, as the system counts them
NOBODY_OBEYS = frozenset({".cache", ".trash"})  # and what lies there may be endless
# File systems of this machine's own disks and memory. All others may wait for somebody else.
LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "zfs", "jfs", "reiserfs"),
        *("tmpfs", "ramfs", "rootfs", "overlay", "squashfs", "erofs", "iso9660", "udf", "devtmpfs"),
        *("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "hfs", "hfsplus", "apfs"),
        *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "debugfs"),
    }
)
MAC_REMOTE = ("/Volumes", "/Network", "/net", "/home")  # where a Mac mounts what is not its own
MOUNTS = Path("/proc/self/mountinfo")
ESCAPED = re.compile(r"\\([0-7]{3})")


class Disks:
    """Which folders lie on a disk that may not answer, and which are this user's homes.

    Where a home lies, or one of the places that we use, there we wait anyway.
    """

    def __init__(self, used: Iterable[str] = ()) -> None:
        self.homes = list(dict.fromkeys(map(os.path.realpath, homes_here())))
        places = [f"{path}/" for path in (*used, *self.homes)]
        self._slow = tuple(
            f"{top}/"
            for top in _remote()
            if not any(place.startswith(f"{top}/") for place in places)
        )

    def wait(self, path: str) -> bool:
        """Whether to look at `path` may take for ever."""
        return bool(self._slow) and f"{path}/".startswith(self._slow)

    def resolved(self, path: str) -> str:
        """Return an absolute path without links, as far as nothing has to be waited for."""
        parts, real, hops = path.split("/")[::-1], "", 0
        while parts:
            part = parts.pop()
            if part == "..":
                real = real.rpartition("/")[0]
            if part in ("", ".", ".."):
                continue
            here = f"{real}/{part}"
            if hops > HOPS_MAX or self.wait(here):
                return os.path.normpath("/".join((here, *reversed(parts))))
            try:
                target = os.readlink(here)  # noqa: PTH115 - one of very many
            except OSError:  # no link, or nothing at all
                real = here
                continue
            hops += 1
            real = "" if target.startswith("/") else real
            parts += target.split("/")[::-1]
        return real or "/"

    def holds_home(self, real: str) -> bool:
        """Whether a resolved place is a home of this user, or holds one."""
        top = f"{real.rstrip('/')}/"
        return any(f"{home}/".startswith(top) for home in self.homes)

    def inode_of(self, path: str) -> Inode | None:
        """Return what `path` leads to, None where there is nothing, or one would have to wait."""
        return None if self.wait(path) else inode_of(path)


def _remote() -> Iterator[str]:
    if sys.platform == "darwin":
        yield from MAC_REMOTE
        return
    with suppress(OSError):
        for line in MOUNTS.read_text("utf-8", "surrogateescape").splitlines():
            mounted, _, source = line.partition(" - ")
            words, kind = mounted.split(" "), source.partition(" ")[0]
            if kind not in LOCAL and len(words) > 4 and words[4] != "/":
                yield ESCAPED.sub(lambda found: chr(int(found[1], 8)), words[4])


def links_in(folder: str, disks: Disks) -> list[str]:
    """Return the links that lie in a folder itself."""
    found: list[str] = []
    if disks.wait(folder):
        return found
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                found.append(entry.path)
            if len(found) >= LINKS_MAX:
                break
    return found


def hidden_links(home: str, disks: Disks) -> list[str]:
    """Return the links among a home's hidden entries, in its hidden folders, and in `Library`.

    Those nearest to the home come first, and are found whatever else lies there.
    """
    until = time.monotonic() + SECONDS_MAX
    found: list[str] = []
    waiting = deque([(home, -1)])
    looked = 0
    while waiting and looked < ENTRIES_MAX and len(found) < LINKS_MAX:
        folder, depth = waiting.popleft()
        if disks.wait(folder) or time.monotonic() > until:
            continue
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if depth < 0 and not _counts(entry.name):
                    continue
                looked += 1
                if entry.is_symlink():
                    found.append(entry.path)
                elif depth < DEPTH_MAX and entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, depth + 1))
                if looked >= ENTRIES_MAX:
                    break
    return found[:LINKS_MAX]


def _counts(name: str) -> bool:
    if name.startswith("."):
        return folded(name) not in NOBODY_OBEYS
    return len(name) == len("library") and name.casefold() == "library"
