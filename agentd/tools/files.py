"""Files: list, read, search, write, append to, inside the folders that permissions name."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from agentd.errors import ToolError, shown
from agentd.events import Result
from agentd.macos import privacy
from agentd.tools.base import TEXT_CHARACTERS, ToolCall
from agentd.tools.closed import Marks
from agentd.tools.place import (
    FOLDER_FLAGS,
    Place,
    check_regular,
    folder_of,
    locate,
    read_bytes,
    writable,
)
from agentd.whole import write_over, write_whole

READ_BYTES = 8_000_000  # a larger file is refused
SEARCH_BYTES = 1_000_000  # a larger file is not searched
SEARCH_FILES = 5_000
SEARCH_DEPTH = 32
MATCHES = 40
ENTRIES = 200
LINE_CHARACTERS = 1_000  # of one line shown
MATCH_CHARACTERS = 160
BINARY_PROBE_BYTES = 8_192
NEW_MODE = 0o644
# No set-uid, set-gid or sticky bit, and nothing that a model wrote is executable.
WRITTEN_MODES = 0o666
SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv"})


def decode(data: bytes) -> str:
    """Return `data` as text.

    Raises:
        ToolError: it is binary.
    """
    if b"\0" in data[:BINARY_PROBE_BYTES]:
        raise ToolError("is a binary file")
    return data.decode("utf-8", "replace").replace("\r\n", "\n")


@contextmanager
def told(place: Place) -> Iterator[None]:
    """Turn the system's errors, and ours, into ones that name the path."""
    try:
        yield
    except ToolError as error:
        if error.what.startswith(place.name):
            raise
        raise type(error)(f"{place.name} {error.what}") from error
    except OSError as error:
        raise ToolError(f"{place.name}: {privacy.described(Path(place.path), error)}") from error


def list_files(call: ToolCall, path: str) -> Result:
    """Give a folder's entries: folders end with a `/`, files have their size.

    Apart, because a small model takes "mypy.ini 114" for a path.
    """
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.readable, marks)
    entries: list[dict[str, object]] = []
    total = 0
    with told(place), folder_of(place, place.parts, marks) as folder:
        names = sorted(names_in(folder))
        total = len(names)
        for name in names[:ENTRIES]:
            call.check()
            with suppress(FileNotFoundError):
                entries.append(_entry(name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
    value: dict[str, object] = {"path": place.name, "entries": entries}
    if total > ENTRIES:
        value["more"] = total - ENTRIES
    return Result(value, trusted=False)


def names_in(folder: int) -> list[str]:
    """Return the names in a folder that `folder_of` opened."""
    opened = os.open(".", FOLDER_FLAGS, dir_fd=folder)
    try:
        return os.listdir(opened)  # noqa: PTH208 - pathlib knows no descriptors
    finally:
        os.close(opened)


def _entry(name: str, status: os.stat_result) -> dict[str, object]:
    if stat.S_ISDIR(status.st_mode):
        return {"name": shown(name) + "/"}
    if stat.S_ISREG(status.st_mode):
        return {"name": shown(name), "bytes": status.st_size}
    return {"name": shown(name), "kind": "link" if stat.S_ISLNK(status.st_mode) else "special"}


def read_listed(call: ToolCall, path: str, limit: int) -> tuple[Place, bytes]:
    """Return a listed file's place and content.

    Raises:
        PermissionRefused: it is not listed, or is agentd's own.
        ToolError: it is no regular file, has more than `limit` bytes, or cannot be read.
    """
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.readable, marks)
    with told(place):
        if not place.parts:
            raise ToolError("is a folder; use ListFiles")
        with folder_of(place, place.parts[:-1], marks) as folder:
            return place, read_bytes(place.parts[-1], folder, limit=limit, marks=marks)


def read_file(call: ToolCall, path: str, start: int | None) -> Result:
    """Give a file's text from line `start` on, with the number of its lines.

    A line beyond the end gives the last page, and says so.
    """
    place, data = read_listed(call, path, READ_BYTES)
    with told(place):
        lines = decode(data).split("\n")
    if lines[-1] == "":
        lines.pop()
    first = start or 1
    beyond = first > max(1, len(lines))
    if beyond:  # a small model guesses line numbers: the end serves it better than an error
        first = _last_page(lines)
    text, following = _page(lines, first)
    if beyond:
        text = f"...[no line {start}; from line {first} on]\n{text}"
    if following <= len(lines):
        text += f"\n...[cut: lines {following} to {len(lines)}; read on with start={following}]"
    value = {"path": place.name, "start": first, "lines": len(lines), "text": text}
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


def search_text(call: ToolCall, path: str, text: str) -> Result:
    """Give the lines that contain the text, as `path:line: text`, in order of path."""
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.readable, marks)
    found: list[str] = []
    closed: list[OSError] = []  # folders that could not be opened
    searched = skipped = more = 0
    with told(place):
        for folder, inner, name in files_below(place, call, marks, closed):
            if searched + skipped >= SEARCH_FILES:
                more += 1
                break
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if privacy.not_downloaded(status):  # a search must not fetch a whole cloud
                    raise ToolError("is not downloaded")
                data = read_bytes(name, folder, limit=SEARCH_BYTES, marks=marks)
                inside = decode(data)
            except (ToolError, OSError):  # binary, large, special, unreadable, absent: counted
                skipped += 1
                continue
            searched += 1
            for number, line in enumerate(inside.split("\n") if text in inside else (), 1):
                if text in line:
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


def files_below(
    place: Place, call: ToolCall, marks: Marks, closed: list[OSError]
) -> Iterator[tuple[int, str, str]]:
    """Give (folder's descriptor, path below `place`, name) of each file, following no link.

    Why a folder could not be opened is added to `closed`.
    """
    if place.parts and not Path(place.path).is_dir():
        with folder_of(place, place.parts[:-1], marks) as folder:
            yield folder, place.parts[-1], place.parts[-1]
        return
    with folder_of(place, place.parts, marks) as top:
        for inner, folders, names, folder in os.fwalk(".", dir_fd=top, onerror=closed.append):
            here = os.path.normpath(Path(place.path) / inner)
            if marks.shuts(os.fstat(folder)) or marks.reason(here, 0):
                folders.clear()
                continue
            depth = inner.count("/")
            folders[:] = sorted(set(folders) - SKIPPED_FOLDERS) if depth < SEARCH_DEPTH else []
            for name in sorted(names):
                call.check()
                yield folder, str(Path(inner) / name), name


def write_file(call: ToolCall, path: str, text: str) -> Result:
    """Write the file by way of a temporary one beside it, so that nobody sees half of it."""
    marks = call.closed.marks(writing=True)
    place = locate(path, writable(path, call.permissions), marks)
    data = text.encode("utf-8", "replace")
    with _to_write(place, marks) as (name, folder):
        _write(name, data, _status(name, folder, marks), folder, marks)
    return Result({"path": place.name, "bytes": len(data)})


def append_note(call: ToolCall, path: str, text: str) -> Result:
    """Add a line, or several, to the end of a text file, new or there; nobody sees half of it.

    What somebody else wrote meanwhile is kept.
    """
    marks = call.closed.marks(writing=True)
    place = locate(path, writable(path, call.permissions), marks)
    with _to_write(place, marks) as (name, folder):
        before = _status(name, folder, marks)
        while True:
            call.check()
            old = read_bytes(name, folder, limit=READ_BYTES, marks=marks) if before else b""
            decode(old)  # a binary file has no lines
            end = b"\n" if old and not old.endswith(b"\n") else b""
            data = old + end + text.encode("utf-8", "replace").rstrip(b"\n") + b"\n"
            now = _status(name, folder, marks)
            if unchanged(before, now):
                break
            before = now
        _write(name, data, now, folder, marks)
    return Result({"path": place.name, "bytes": len(data)})


@contextmanager
def _to_write(place: Place, marks: Marks) -> Iterator[tuple[str, int]]:
    """Give the name of a file that is to be written, and its open folder."""
    with told(place):
        if not place.parts:
            raise ToolError("is a folder")
        with folder_of(place, place.parts[:-1], marks, create=True) as folder:
            yield place.parts[-1], folder


def _status(name: str, folder: int, marks: Marks) -> os.stat_result | None:
    """Return what is there, a regular file, or None."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    check_regular(status, marks)
    return status


def unchanged(before: os.stat_result | None, now: os.stat_result | None) -> bool:
    """Whether nobody wrote a file in between."""
    if before is None or now is None:
        return before is now
    keys = ("st_ino", "st_dev", "st_size", "st_mtime_ns")
    return all(getattr(before, key) == getattr(now, key) for key in keys)


def _write(name: str, data: bytes, there: os.stat_result | None, folder: int, marks: Marks) -> None:
    """Write a file whole; in place where its folder is closed to us, and only the file is listed.

    Raises:
        OSError: it cannot be written.
    """
    mode = NEW_MODE if there is None else stat.S_IMODE(there.st_mode) & WRITTEN_MODES
    try:
        write_whole(name, data, mode=mode, dir_fd=folder)
        return
    except PermissionError:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError as error:
            raise ToolError("is not there, and may not be made; a person must make it") from error
    with os.fdopen(file, "wb") as opened:
        check_regular(os.fstat(file), marks)
        write_over(opened, data)
