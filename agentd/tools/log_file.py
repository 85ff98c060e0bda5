"""ReadLog: the errors that a log got since last time.

How far it was read is remembered as `log:PATH` once the session ends: the file's inode, the offset,
and a digest of its first bytes, by which a file is known again that was renamed or copied.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO

from agentd.errors import ToolError
from agentd.events import Result
from agentd.tools.base import TEXT_CHARACTERS, ToolCall
from agentd.tools.closed import Marks
from agentd.tools.files import names_in, told
from agentd.tools.log_errors import grouped
from agentd.tools.place import folder_of, locate, opened

READ_BYTES = 8_000_000  # in one session; the rest comes the next time
HEAD_BYTES = 256  # of which a digest is kept
BESIDE_MAX = 100  # files beside a log that may be its old one
ERRORS_MAX = 50  # in one result
FIRST = "read for the first time: what stands there already is not new"
DIGITS = re.compile(r"\d+")
LOST = "another file lies in its place, and the end of the old one is not beside it"
# Where a log was read to: `inode`, `offset`, and the digest `head` of its first `of` bytes.
Position = Mapping[str, Any]


def read_log(call: ToolCall, path: str) -> Result:
    """Give the new errors, those of one code together. The first time none is new.

    Of a log that was rotated, the old file is read to its end, where it lies beside the new one,
    and what was rotated away after it.
    """
    key = f"log:{path}"
    args = {"path": path, "before": call.session.memory.get(key)}
    value = dict(call.inner("hands", "ReadLogLines", args).value)
    return Result(value, trusted=False, remember={key: value.pop("position")})


def read_log_lines(call: ToolCall, path: str, before: Position | None) -> Result:
    """Give the errors behind a position, and the next position. A half line comes later."""
    marks = call.closed.marks(writing=False)
    place = locate(path, call.permissions.readable, marks)
    with told(place), ExitStack() as stack:
        if not place.parts:
            raise ToolError("is a folder; name a log in it")
        name = place.parts[-1]
        folder = stack.enter_context(folder_of(place, place.parts[:-1], marks))
        log = stack.enter_context(opened(name, folder, marks))
        if before is None:
            log.seek(0, os.SEEK_END)
            found = {"lines": 0, "errors": [], "note": FIRST, "position": _position(log)}
            return Result({"path": place.name, **found}, trusted=False)
        note, parts = "", [log]
        if not _is(log, before):
            beside = _beside(name, folder, marks, stack)
            olds = [one for one in beside if _begins(one[1], before)]
            olds.sort(key=lambda one: not _is(one[1], before))
            if olds and (_is(olds[0][1], before) or not _begins(log, before)):
                between = _after(olds[0], [one for one in beside if one not in olds])
                parts = [olds[0][1], *between, log]
            elif not _begins(log, before):
                note = LOST
        parts[0].seek(0 if note else before["offset"])
        lines, at = _read(call, parts)
        errors = grouped(lines)
        value: dict[str, Any] = {"lines": len(lines), "errors": _fitting(errors)}
        if more := len(errors) - len(value["errors"]):
            value["more"] = more
        if note:
            value["note"] = note
        return Result({"path": place.name, **value, "position": _position(at)}, trusted=False)


def _read(call: ToolCall, parts: Sequence[BinaryIO]) -> tuple[list[str], BinaryIO]:
    """Return the whole lines from where these files stand, and the file in which it ended."""
    lines: list[str] = []
    room = READ_BYTES
    for at in parts:
        call.check()
        data = at.read(room) or b""
        room -= len(data)
        if at is parts[-1] or not room:  # more of its last line is to come
            end = data.rfind(b"\n") + 1
            if end or room:
                at.seek(end - len(data), os.SEEK_CUR)
                data = data[:end]
        lines += data.decode("utf-8", "replace").splitlines()
        if not room:
            break
    return lines, at


def _beside(name: str, folder: int, marks: Marks, stack: ExitStack) -> list[tuple[str, BinaryIO]]:
    """Return the files beside a log whose names begin as its own: app.log.1, app.log-20261129."""
    files: list[tuple[str, BinaryIO]] = []
    names: list[str] = []
    with suppress(OSError):  # only the log itself is listed
        names = sorted(one for one in names_in(folder) if one != name and one.startswith(name))
    for one in names[:BESIDE_MAX]:
        with suppress(ToolError, OSError):
            files.append((one, stack.enter_context(opened(one, folder, marks))))
    return files


def _after(old: tuple[str, BinaryIO], others: Sequence[tuple[str, BinaryIO]]) -> list[BinaryIO]:
    """Return what was rotated away after `old`, in order: its name differs by its digits alone."""

    def written(file: BinaryIO) -> int:
        return os.fstat(file.fileno()).st_mtime_ns

    shape, since = DIGITS.sub("", old[0]), written(old[1])
    found = [file for name, file in others if DIGITS.sub("", name) == shape]
    return sorted((file for file in found if written(file) >= since), key=written)


def _is(file: BinaryIO, before: Position) -> bool:
    return os.fstat(file.fileno()).st_ino == before["inode"] and _begins(file, before)


def _begins(file: BinaryIO, before: Position) -> bool:
    """Whether a file is as long as what was read, and begins as it."""
    size = os.fstat(file.fileno()).st_size
    return bool(size >= before["offset"] and _head(file, before["of"]) == before["head"])


def _head(file: BinaryIO, size: int) -> str:
    return hashlib.sha256(os.pread(file.fileno(), size, 0)).hexdigest()


def _position(file: BinaryIO) -> dict[str, Any]:
    offset = file.tell()
    of = min(HEAD_BYTES, offset)
    inode = os.fstat(file.fileno()).st_ino
    return {"inode": inode, "offset": offset, "of": of, "head": _head(file, of)}


def _fitting(errors: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    size = at = 0
    for at, error in enumerate(errors[:ERRORS_MAX], 1):
        size += sum(len(text) for text in error.values() if isinstance(text, str))
        if size > TEXT_CHARACTERS:
            return list(errors[: at - 1])
    return list(errors[:at])
