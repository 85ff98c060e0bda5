"""A path that a tool was given: resolved, held to the permissions, opened without following links.

A path is resolved once and then opened component by component, so that a link put in its way in
between leads nowhere.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agentd.errors import ConfigError, PermissionRefused, ToolError, shown
from agentd.macos import privacy
from agentd.paths import expanded
from agentd.tools.base import Grants, unshown
from agentd.tools.closed import OWN, Marks

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Of a folder on the way, which is not read: a sandbox may open one of its files and no more.
WAY_FLAGS = FOLDER_FLAGS | getattr(os, "O_PATH", 0)
NEW_FOLDER_MODE = 0o755  # the umask may take of it
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Place:
    """A resolved path inside a permitted root. `parts` lead from `base` to it, free of links."""

    base: str  # an existing folder, resolved
    parts: tuple[str, ...]
    path: str

    @property
    def name(self) -> str:
        """The path as the model sees it."""
        return shown(self.path)


def is_own(path: str, grants: Grants) -> bool:
    """Whether a path, by its text alone, lies in the agent's own folder.

    So it does without a `/` at its beginning where [permissions] list nothing else to write.
    """
    if not grants.own or ".." in path.split("/"):
        return False
    if not path.startswith(("/", "~")):
        return not grants.write
    return any(
        _below(os.path.normpath(_expanded(path)), top) is not None
        for top in (grants.own, os.path.realpath(grants.own))
    )


def writable(path: str, grants: Grants) -> tuple[str, ...]:
    """Return the roots in which `path` may be written.

    Of what lies in the agent's own folder nothing else: a link in there must not lead to a place
    that needs a person's yes.
    """
    return (grants.own,) if is_own(path, grants) else grants.write


def locate(
    path: str, roots: Sequence[str], marks: Marks | None = None, *, links: bool = True
) -> Place:
    """Resolve `path` against the permitted roots; a relative one lies in the first that has it.

    `~/` is this user's home, as in the permissions. `marks` say what is closed all the same.
    Without `links` its last part must be none.

    Raises:
        PermissionRefused: it leads, by `..`, a link or directly, out of every root, or is closed.
        ToolError: no path at all, or a link.
    """
    if "\0" in path:
        raise ToolError("a path holds no NUL")
    tops = [top for root in roots if (top := _top(root)) is not None]
    texts = [path] if unshown(path) == path else [path, unshown(path)]
    inside: list[Place] = []
    why = None
    for text, top in ((text, top) for text in texts for top in tops):
        real = resolved(_expanded(text), top)
        if not links and Path(top, _expanded(text)).is_symlink():
            raise ToolError(f"{path!r} is a link; name what it leads to")
        place = next((found for top in tops if (found := _below(real, top))), None)
        if place is None:
            continue
        shut = marks and marks.reason(real, max(_parts(up) for up in tops if _below(real, up)))
        why = why or shut
        if not shut:
            inside.append(place)
    if inside:
        return next((place for place in inside if os.path.lexists(place.path)), inside[0])
    if why:
        raise PermissionRefused(f"{path!r} {why}")
    raise PermissionRefused(f"{path!r} is outside of what may be touched: {_names(roots)}")


def resolved(path: str, folder: str = "/") -> str:
    """Return the path without links.

    Raises:
        ToolError: it cannot be one (halves of characters, links without end), or changed meanwhile.
    """
    try:
        return os.path.realpath(Path(folder) / path)
    except (OSError, ValueError, RecursionError) as error:
        raise ToolError(f"{path!r} leads nowhere: {error}") from error


def _expanded(path: str) -> str:
    with suppress(ConfigError):  # there is no home
        if path.startswith("~/"):
            return str(expanded(path))
    return path


def _top(root: str) -> str | None:
    """Return a permitted root without links, None where it is none."""
    with suppress(ConfigError, ToolError):  # no such home
        path = expanded(root)
        return resolved(str(path)) if path.is_absolute() else None
    return None


def _parts(path: str) -> int:
    return len(Path(path).parts)


def _names(roots: Sequence[str]) -> str:
    return ", ".join(roots) or "nothing"


def _below(real: str, top: str) -> Place | None:
    if real == top:
        if privacy.is_folder(top):
            return Place(top, (), real)
        return Place(str(Path(top).parent), (Path(top).name,), real)
    prefix = top.rstrip("/") + "/"
    if not real.startswith(prefix):
        return None
    return Place(top, tuple(real[len(prefix) :].split("/")), real)


@contextmanager
def folder_of(
    place: Place, parts: Sequence[str], marks: Marks | None = None, *, create: bool = False
) -> Iterator[int]:
    """Open the folder that `parts` lead to, following no link; give its descriptor.

    One to start from: to list the folder, open it once more.

    Raises:
        PermissionRefused: a closed folder was put in the way since the path was resolved.
    """
    descriptor = os.open(place.base, WAY_FLAGS)
    try:
        shut = False
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, NEW_FOLDER_MODE, dir_fd=descriptor)
            deeper = os.open(part, WAY_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
            if marks is not None:
                found = marks.shuts_folder(descriptor)
                shut = shut if found is None else found
        if shut:
            raise PermissionRefused("leads into a closed folder that was put there meanwhile")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened(name: str, folder: int, marks: Marks | None = None) -> Iterator[BinaryIO]:
    """Open the regular file `name` of an open folder for reading.

    Raises:
        ToolError: it is no regular file, or may not be opened.
    """
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    check_regular(before, marks)  # before opening: opening a device may already do something
    with os.fdopen(os.open(name, FILE_FLAGS, dir_fd=folder), "rb") as file:
        check_regular(os.fstat(file.fileno()), marks)
        yield file


def read_bytes(name: str, folder: int, *, limit: int, marks: Marks | None = None) -> bytes:
    """Read the regular file `name` of an open folder, at most `limit` bytes.

    Raises:
        ToolError: it is no regular file, is larger, or may not be opened.
    """
    with opened(name, folder, marks) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ToolError(f"too large: {size} bytes; at most {limit} are read")
        data = file.read(limit + 1) or b""  # None: a file of the system that has nothing to say now
        if len(data) > limit:
            raise ToolError(f"too large: grew beyond {limit} bytes")
        return data


def check_regular(status: os.stat_result, marks: Marks | None) -> None:
    """Raise ToolError unless this is a regular file, and not agentd's own."""
    if marks is not None and marks.hides(status):
        raise PermissionRefused(OWN)
    if stat.S_ISDIR(status.st_mode):
        raise ToolError("is a folder; use ListFiles")
    if not stat.S_ISREG(status.st_mode):
        raise ToolError("is no regular file")
