"""Files: list, read, search, write, inside the folders that the agent's permissions name.

A path is resolved once and then opened component by component without following links, so that a
link put in its way in between leads nowhere.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from agentd import privacy
from agentd.agent import Result
from agentd.errors import PermissionRefused, ToolError
from agentd.tools.base import TEXT_CHARACTERS, Args, Call, Tool, shown, unshown
from agentd.whole import write_whole

PATH_CHARACTERS = 200
READ_BYTES = 8_000_000  # a larger file is refused
SEARCH_BYTES = 1_000_000  # a larger file is not searched
SEARCH_FILES = 5_000
SEARCH_DEPTH = 32
MATCHES = 40
ENTRIES = 200
LINE_CHARACTERS = 1_000  # of one line shown
MATCH_CHARACTERS = 160
BINARY_PROBE_BYTES = 8_192
SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv"})
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ListFiles(Args):
    """List a folder."""

    path: str = Field(max_length=PATH_CHARACTERS)


class ReadFile(Args):
    """Read a text file from line `start` on; 1 is the first."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    start: int | None = Field(None, ge=1, le=1_000_000)


class SearchText(Args):
    """Find the lines that contain `text`, in a file or below a folder."""

    path: str = Field(max_length=PATH_CHARACTERS)
    text: str = Field(min_length=1, max_length=80)


class WriteFile(Args):
    """Write a whole text file, new or in the place of the old one."""

    path: str = Field(min_length=1, max_length=PATH_CHARACTERS)
    text: str = Field(max_length=8_000)


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


def locate(path: str, roots: Sequence[str], forbidden: Sequence[Path] = ()) -> Place:
    """Resolve `path` against the permitted roots; a relative one lies in the first that has it.

    `~/` is this user's home, as in the permissions.

    Raises:
        PermissionRefused: it leads, by `..`, a link or directly, out of every root.
        ToolError: no path at all.
    """
    if "\0" in path:
        raise ToolError("a path holds no NUL")
    if path.startswith("~/"):
        path = str(Path(path).expanduser())
    tops = [os.path.realpath(Path(root).expanduser()) for root in roots if _usable(root)]
    texts = [path] if unshown(path) == path else [path, unshown(path)]
    candidates = [Path(top) / text for text in texts for top in tops]
    inside = []
    for candidate in candidates:
        real = os.path.realpath(candidate)
        place = next((found for top in tops if (found := _below(real, top))), None)
        if place is not None and not _touches(real, forbidden):
            inside.append(place)
    if not inside:
        raise PermissionRefused(f"{path!r} is outside of what may be touched: {_names(roots)}")
    return next((place for place in inside if os.path.lexists(place.path)), inside[0])


def _usable(root: str) -> bool:
    return Path(root).expanduser().is_absolute()


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


def _touches(real: str, forbidden: Sequence[Path]) -> bool:
    """Whether a path is one of these files and folders or lies in one, however it is spelled.

    A Mac's file system takes `Run` for `run` and either form of an umlaut, and every file of its
    data volume has a second name below /System/Volumes/Data, which is no link. The inode is one.
    """
    if any(_below(real, os.path.realpath(path)) for path in forbidden):
        return True
    found = _inodes(forbidden)
    return bool(found and found & _inodes((Path(real), *Path(real).parents)))


@contextmanager
def folder_of(place: Place, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open the folder that `parts` lead to, following no link; give its descriptor."""
    descriptor = os.open(place.base, FOLDER_FLAGS)
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            deeper = os.open(part, FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def _inodes(paths: Sequence[Path]) -> frozenset[tuple[int, int]]:
    found = set()
    for path in paths:
        with suppress(OSError):
            status = path.stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def read_bytes(
    name: str, folder: int, *, limit: int, forbidden: frozenset[tuple[int, int]] = frozenset()
) -> bytes:
    """Read the regular file `name` of an open folder, at most `limit` bytes.

    Raises:
        ToolError: it is no regular file, is larger, or may not be opened.
    """
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    _regular(before, forbidden)  # before opening: opening a device may already do something
    descriptor = os.open(name, FILE_FLAGS, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _regular(status, forbidden)
        if status.st_size > limit:
            raise ToolError(f"too large: {status.st_size} bytes; at most {limit} are read")
        data = file.read(limit + 1)
        if len(data) > limit:
            raise ToolError(f"too large: grew beyond {limit} bytes")
        return data


def _regular(status: os.stat_result, forbidden: frozenset[tuple[int, int]]) -> None:
    if (status.st_dev, status.st_ino) in forbidden:
        raise PermissionRefused("belongs to agentd itself; no tool opens it")
    if stat.S_ISDIR(status.st_mode):
        raise ToolError("is a folder; use ListFiles")
    if not stat.S_ISREG(status.st_mode):
        raise ToolError("is no regular file")


def decode(data: bytes) -> str:
    """Return `data` as text.

    Raises:
        ToolError: it is binary.
    """
    if b"\0" in data[:BINARY_PROBE_BYTES]:
        raise ToolError("is a binary file")
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


@contextmanager
def _told(place: Place) -> Iterator[None]:
    """Turn the system's errors, and ours, into ones that name the path."""
    try:
        yield
    except ToolError as error:
        if error.what.startswith(place.name):
            raise
        raise type(error)(f"{place.name} {error.what}") from error
    except OSError as error:
        raise ToolError(f"{place.name}: {privacy.described(Path(place.path), error)}") from error


def list_files(args: ListFiles, call: Call) -> Result:
    """Give a folder's entries: folders with a `/`, files with their size in bytes."""
    place = locate(args.path, call.permissions.read, call.forbidden)
    entries: list[str] = []
    total = 0
    with _told(place), folder_of(place, place.parts) as folder:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - pathlib knows no descriptors
        total = len(names)
        for name in names[:ENTRIES]:
            call.check()
            with suppress(FileNotFoundError):
                entries.append(_entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
    value: dict[str, object] = {"path": place.name, "entries": entries}
    if total > ENTRIES:
        value["more"] = total - ENTRIES
    return Result(value, trusted=False)


def _entry(name: str, status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return shown(name) + "/"
    if stat.S_ISREG(status.st_mode):
        return f"{shown(name)} {status.st_size}"
    return f"{shown(name)} {'link' if stat.S_ISLNK(status.st_mode) else 'special'}"


def read_file(args: ReadFile, call: Call) -> Result:
    """Give a file's text from line `start` on, with the number of its lines.

    A line beyond the end gives the last page, and says so.
    """
    place = locate(args.path, call.permissions.read, call.forbidden)
    with _told(place):
        if not place.parts:
            raise ToolError("is a folder; use ListFiles")
        with folder_of(place, place.parts[:-1]) as folder:
            forbidden = _inodes(call.forbidden)
            data = read_bytes(place.parts[-1], folder, limit=READ_BYTES, forbidden=forbidden)
        lines = decode(data).split("\n")
        if lines[-1] == "":
            lines.pop()
    start = args.start or 1
    beyond = start > max(1, len(lines))
    if beyond:  # a small model guesses line numbers: the end serves it better than an error
        start = _last_page(lines)
    text, following = _page(lines, start)
    if beyond:
        text = f"...[no line {args.start}; from line {start} on]\n{text}"
    if following <= len(lines):
        text += f"\n...[cut: lines {following} to {len(lines)}; read on with start={following}]"
    value = {"path": place.name, "start": start, "lines": len(lines), "text": text}
    return Result(value, trusted=False)


def _last_page(lines: Sequence[str]) -> int:
    """Return the line from which one page reaches the end; 1 where the whole file fits."""
    size, start = 0, len(lines) + 1
    while start > 1:
        # The marker of a cut line takes room too; it is never longer than this.
        size += min(len(lines[start - 2]), LINE_CHARACTERS + 40) + 1
        if size > TEXT_CHARACTERS:
            break
        start -= 1
    return max(1, min(start, len(lines)))


def _page(lines: Sequence[str], start: int) -> tuple[str, int]:
    """Return the text from line `start`, as far as it may go, and the line to go on with."""
    kept: list[str] = []
    size = 0
    for line in lines[start - 1 :]:
        piece = line
        if len(piece) > LINE_CHARACTERS:
            piece = f"{line[:LINE_CHARACTERS]}...[cut {len(line) - LINE_CHARACTERS} characters]"
        size += len(piece) + 1
        if kept and size > TEXT_CHARACTERS:
            break
        kept.append(piece)
    return "\n".join(kept), start + len(kept)


def search_text(args: SearchText, call: Call) -> Result:
    """Give the lines that contain the text, as `path:line: text`, in order of path."""
    place = locate(args.path, call.permissions.read, call.forbidden)
    forbidden = _inodes(call.forbidden)
    found: list[str] = []
    closed: list[OSError] = []  # folders that could not be opened
    searched = skipped = more = 0
    with _told(place):
        for folder, inner, name in _files(place, call, forbidden, closed):
            if searched + skipped >= SEARCH_FILES:
                more += 1
                break
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if privacy.not_downloaded(status):  # a search must not fetch a whole cloud
                    raise ToolError("is not downloaded")
                data = read_bytes(name, folder, limit=SEARCH_BYTES, forbidden=forbidden)
                text = decode(data)
            except (ToolError, OSError):  # binary, large, special, unreadable, absent: counted
                skipped += 1
                continue
            searched += 1
            for number, line in enumerate(text.split("\n") if args.text in text else (), 1):
                if args.text in line:
                    found.append(f"{shown(inner)}:{number}: {line.strip()[:MATCH_CHARACTERS]}")
            if len(found) > MATCHES:
                more += 1
                break
    value: dict[str, object] = {"path": place.name, "found": found[:MATCHES], "files": searched}
    if skipped:
        value["skipped"] = skipped  # binary, large or unreadable
    if closed:
        where = Path(place.path) / str(closed[0].filename)
        value["closed"] = f"{len(closed)} folders: {privacy.described(where, closed[0])}"
    if more or len(found) > MATCHES:
        value["more"] = "the search stopped here; search a smaller folder or a rarer text"
    return Result(value, trusted=False)


def _files(
    place: Place, call: Call, forbidden: frozenset[tuple[int, int]], closed: list[OSError]
) -> Iterator[tuple[int, str, str]]:
    """Give (folder's descriptor, path below `place`, name) of each file, following no link.

    Why a folder could not be opened is added to `closed`.
    """
    if place.parts and not Path(place.path).is_dir():
        with folder_of(place, place.parts[:-1]) as folder:
            yield folder, place.parts[-1], place.parts[-1]
        return
    with folder_of(place, place.parts) as top:
        for inner, folders, names, folder in os.fwalk(".", dir_fd=top, onerror=closed.append):
            status = os.fstat(folder)
            if (status.st_dev, status.st_ino) in forbidden:
                folders.clear()
                continue
            depth = inner.count("/")
            folders[:] = sorted(set(folders) - SKIPPED_FOLDERS) if depth < SEARCH_DEPTH else []
            for name in sorted(names):
                call.check()
                yield folder, str(Path(inner) / name), name


def write_file(args: WriteFile, call: Call) -> Result:
    """Write the file by way of a temporary one beside it, so that nobody sees half of it."""
    place = locate(args.path, call.permissions.write, (*call.forbidden, *call.protected))
    data = args.text.encode("utf-8", "replace")
    with _told(place):
        if not place.parts:
            raise ToolError("is a folder")
        name = place.parts[-1]
        with folder_of(place, place.parts[:-1], create=True) as folder:
            mode = 0o644
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                _regular(status, _inodes(call.forbidden))
                mode = stat.S_IMODE(status.st_mode)
            write_whole(name, data, mode=mode, dir_fd=folder)
    return Result({"path": place.name, "bytes": len(data)})


TOOLS = (
    Tool("ListFiles", ListFiles, "read", idempotent=True, trusted=False, run=list_files),
    Tool("ReadFile", ReadFile, "read", idempotent=True, trusted=False, run=read_file),
    Tool("SearchText", SearchText, "read", idempotent=True, trusted=False, run=search_text),
    Tool("WriteFile", WriteFile, "write", idempotent=True, trusted=True, run=write_file),
)
