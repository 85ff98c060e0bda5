"""Files that are written whole or not at all, whenever the power goes, and read without waiting.

Written beside their place, brought to the disk, renamed into it. Without the first sync a power cut
may leave the new name with nothing behind it; without the second the old file.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PARTIAL = ".partial"  # ends the name of what is still being written; it begins with a dot
# A disk that has no hard links (exFAT, FAT): most USB sticks.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# A disk that cannot sync a folder (network, FUSE), or a folder that we may not list.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES)


def write_whole(
    path: Path | str,
    data: bytes | str,
    *,
    mode: int | None = 0o600,
    new: bool = False,
    dir_fd: int | None = None,
) -> None:
    """Write a file in one step: who reads it, at any time, finds the old one or the new one.

    `mode`: exactly; None: as the umask says. `new`: it must not be there yet. `dir_fd`: the open
    folder that `path`, then a bare name, is taken from. A link in its place is replaced, not
    followed.

    Raises:
        FileExistsError: `new`, and there is something of that name; it was left as it is.
        OSError: it cannot be written; what was there is left as it was.
    """
    folder, name = os.path.split(path)
    half = os.path.join(folder, f".agentd-{os.urandom(8).hex()}{PARTIAL}")  # noqa: PTH118 - dir_fd
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(half, flags, 0o666 if mode is None else mode, dir_fd=dir_fd)
    try:
        with os.fdopen(fd, "wb") as file:
            # In a sandbox no mode can be changed: there the umask is 0, and the mode as asked for.
            if mode is not None and stat.S_IMODE(os.fstat(fd).st_mode) != mode:
                os.fchmod(fd, mode)
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(fd)
        _name(half, os.path.join(folder, name), new=new, dir_fd=dir_fd)  # noqa: PTH118 - dir_fd
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half, dir_fd=dir_fd)
        raise
    flush_folder(folder or ".", dir_fd)


def read_start(path: Path | str, limit: int) -> bytes:
    """Return the first `limit` bytes of a regular file, by way of links too.

    In a place that others can fill there may be a pipe or a device, and opening one waits for ever.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return file.read(limit)


def put_in_place(half: Path, place: Path, *, new: bool = False) -> None:
    """Give what was written beside its place, a file or a folder with files, its name.

    `new`: as for `write_whole`. A folder's place must be free, or an empty folder.

    Raises:
        OSError: it cannot be done; `half` is still there.
    """
    if half.is_dir():
        for folder, _, files in os.walk(half):
            for name in files:
                _flush(Path(folder) / name)
            flush_folder(folder)
    else:
        _flush(half)
    _name(half, place, new=new)
    flush_folder(place.parent)


def flush_folder(folder: Path | str, dir_fd: int | None = None) -> None:
    """Bring a folder's names to the disk, where it has a way to do that."""
    try:
        _flush(folder, dir_fd)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def _flush(path: Path | str, dir_fd: int | None = None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def move(name: str, place: str, *, dir_fd: int, to_fd: int) -> None:
    """Move a file from one open folder to another on its disk, where nothing has that name.

    Whoever looks finds it in one of them or, for a moment, in both.

    Raises:
        FileExistsError: there is something of that name; nothing was changed.
        OSError: it cannot be done; EXDEV: the folders are on two disks, or no file may go over.
    """
    _name(name, place, new=True, dir_fd=dir_fd, to_fd=to_fd)
    flush_folder(".", to_fd)
    flush_folder(".", dir_fd)


def _name(
    half: Path | str,
    place: Path | str,
    *,
    new: bool,
    dir_fd: int | None = None,
    to_fd: int | None = None,
) -> None:
    to_fd = dir_fd if to_fd is None else to_fd
    if not new or os.path.isdir(half):  # noqa: PTH112 - never with dir_fd
        os.rename(half, place, src_dir_fd=dir_fd, dst_dir_fd=to_fd)
        return
    try:
        os.link(half, place, src_dir_fd=dir_fd, dst_dir_fd=to_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Taken first, so that nobody else's file is replaced.
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=to_fd))
        try:
            os.rename(half, place, src_dir_fd=dir_fd, dst_dir_fd=to_fd)
        except OSError:
            os.unlink(place, dir_fd=to_fd)
            raise
    else:
        os.unlink(half, dir_fd=dir_fd)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible. No link is followed.

    Programs nest folders deeper than a path can tell, than Python recurses and than descriptors
    last. So each folder is moved up before its own are looked at.
    """
    with contextlib.suppress(OSError):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _removed(path.name, parent):
                return
            top = os.open(path.name, FOLDER, dir_fd=parent)
            try:
                for name in (waiting := [*_emptied(top, top)]):
                    with contextlib.suppress(OSError):
                        folder = os.open(name, FOLDER, dir_fd=top)
                        try:
                            waiting += _emptied(folder, top)
                        finally:
                            os.close(folder)
                        os.rmdir(name, dir_fd=top)
            finally:
                os.close(top)
            os.rmdir(path.name, dir_fd=parent)
        finally:
            os.close(parent)


def _removed(name: str, folder: int) -> bool:
    """Remove a file, or an empty folder. False: it is another one."""
    for how in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            how(name, dir_fd=folder)
            return True
    return False


def _emptied(folder: int, top: int) -> Iterator[str]:
    """Remove what lies in an open folder; move full folders to `top`, and yield their names."""
    for name in os.listdir(folder):
        if not _removed(name, folder):
            with contextlib.suppress(OSError):
                moved = name if folder == top else f".agentd-{os.urandom(8).hex()}"
                os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=top)
                yield moved


def write_over(file: BinaryIO, data: bytes) -> None:
    """Write an open file in the place of what it held, for a folder in which nothing may be made.

    A kill in between leaves a part of it.
    """
    file.truncate(0)
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
