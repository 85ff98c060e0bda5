"""Moving one file, inside the folders that the agent's permissions name; nothing is overwritten."""

import errno
import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

from agentd.errors import ToolError
from agentd.events import Result
from agentd.tools.base import ToolCall
from agentd.tools.closed import Marks
from agentd.tools.files import told, unchanged
from agentd.tools.place import check_regular, folder_of, locate, read_bytes, writable
from agentd.whole import move, write_whole

COPY_BYTES = 64_000_000  # of a file that goes to another disk, which is read whole


def move_file(call: ToolCall, path: str, to: str) -> Result:
    """Move a regular file to a new name, or into a folder that is there."""
    marks = call.closed.marks(writing=True)
    source = locate(path, writable(path, call.permissions), marks, links=False)
    roots = writable(to, call.permissions)
    target = locate(to, roots, marks, links=False)
    if Path(target.path).is_dir():
        target = locate(f"{target.path}/{Path(source.path).name}", roots, marks, links=False)
    with ExitStack() as stack:
        with told(source):
            if not source.parts:
                raise ToolError("is a folder; name a file")
            name = source.parts[-1]
            folder = stack.enter_context(folder_of(source, source.parts[:-1], marks))
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            check_regular(status, marks)
        with told(target):
            new = target.parts[-1]
            there = stack.enter_context(folder_of(target, target.parts[:-1], marks))
            try:
                _move(name, folder, new, there, status, marks)
            except FileExistsError as error:
                raise ToolError("is there already; nothing is overwritten") from error
    return Result({"path": source.name, "to": target.name})


def _move(
    name: str, folder: int, new: str, there: int, status: os.stat_result, marks: Marks
) -> None:
    """Move it, to another disk by way of a copy: it goes when that is on its disk."""
    try:
        move(name, new, dir_fd=folder, to_fd=there)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    data = read_bytes(name, folder, limit=COPY_BYTES, marks=marks)
    write_whole(new, data, mode=stat.S_IMODE(status.st_mode) & 0o777, new=True, dir_fd=there)
    if not unchanged(status, os.stat(name, dir_fd=folder, follow_symlinks=False)):
        os.unlink(new, dir_fd=there)
        raise ToolError("was not written: its source was changed meanwhile, and is where it was")
    with suppress(OSError):  # not in every sandbox
        os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=there)
    os.unlink(name, dir_fd=folder)
