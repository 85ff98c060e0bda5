"""Ways to files outside: to their contents, their names, their modes and times."""

import ctypes
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from agentd.escape.attempt import SEE, Attempt, Impossible, Run, of, refused
from agentd.escape.outside import ATTRIBUTE, OURS, Outside
from agentd.sandbox.system_calls import call

AT_FDCWD, NAME_ONLY = -100, getattr(os, "O_PATH", os.O_RDONLY)
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
IN_ALL_EVENTS, RENAME_EXCHANGE, HANDLE_BYTES = 0xFFF, 2, 128


def attempts() -> Iterator[Attempt]:
    """Yield those that this system has."""
    reading: dict[str, Run] = {
        "a file": lambda o: _read(o.secret),
        "a folder's names": lambda o: os.listdir(o.folder),  # noqa: PTH208
        "a file by a symbolic link": lambda o: _link(o, os.symlink).read_text(),
        "a file by a hard link": lambda o: _link(o, os.link).read_text(),
        "a file from a working folder beside it": _by_working_folder,
        "a file from an open folder": _by_open_folder,
        "a terminal or another device": lambda o: _open("/dev/ptmx", os.O_RDWR),
    }
    changing: dict[str, Run] = {
        "overwrite a file": lambda o: _write(o.spare, "r+"),
        "append to a file": lambda o: _write(o.spare, "a"),
        "empty a file": lambda o: os.truncate(o.spare, 0),
        "empty a file by opening it": lambda o: _open(o.spare, os.O_TRUNC),
        "make a file": lambda o: _write(f"{o.folder}/made", "x"),
        "make a folder": lambda o: Path(o.folder, "made-folder").mkdir(),
        "make a pipe": lambda o: os.mkfifo(f"{o.folder}/made-pipe"),
        "make a symbolic link": lambda o: Path(o.folder, "link").symlink_to(o.own),
        "make a hard link to a file of its own": lambda o: os.link(_own(o), f"{o.folder}/linked"),
        "move a file of its own there": lambda o: _own(o).rename(f"{o.folder}/moved"),
        "move a file away": lambda o: Path(o.spare).rename(f"{o.own}/away"),
        "remove a file": lambda o: Path(o.folder, "removed").unlink(),
    }
    modes: dict[str, Run] = {
        "a file's mode": partial(_change, by=lambda path: path.chmod(0o777)),
        "a program that lends this user's rights (set-uid)": _set_uid,
        "a file's group": partial(_change, by=_change_owner),
        "a file's times": partial(_change, by=lambda path: os.utime(path, (0, 0))),
    }
    if sys.platform == "linux":
        reading |= {
            "a file by /proc/self/root": lambda o: _read(f"/proc/self/root{o.secret}"),
            "a file by a descriptor that only names it": _by_descriptor,
            "a file by its handle": _by_handle,
            "a file's attributes": lambda o: os.getxattr(o.secret, ATTRIBUTE),
            "what is done in a folder, as it happens": _watch,
        }
        changing["swap a file with one of its own"] = _swap
        modes |= {
            "a file's mode by a newer call": partial(_change, by=_chmod),
            "a file's attributes": lambda o: os.setxattr(o.secret, ATTRIBUTE, b"changed"),
            "a file's flags": _change_flags,
        }
    yield from of("read what it may not", reading)
    yield from of("change what it may not", changing)
    yield from of("change modes, owners and times", modes)
    for what in OURS:
        yield Attempt("reach agentd's own files", f"read {what}", partial(_ours, what=what))
        change = partial(_ours, what=what, mode="r+b")
        yield Attempt("reach agentd's own files", f"change {what}", change)
    yield Attempt(SEE, "that a file is there, its size and times", _see, visible=True)


def _read(path: str) -> str:
    return Path(path).read_text()


def _write(path: str, mode: str) -> int:
    with Path(path).open(mode) as file:
        return file.write("written")


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOCTTY)


def _own(outside: Outside) -> Path:
    path = Path(outside.own, "own")
    path.write_text("own")
    return path


def _bytes(path: str | Path) -> bytes:
    return os.fsencode(path) + b"\0"


def _link(outside: Outside, make: Callable[[str, Path], None]) -> Path:
    link = Path(outside.own, "link")
    link.unlink(missing_ok=True)
    make(outside.secret, link)
    return link


def _by_working_folder(outside: Outside) -> str:
    os.chdir(outside.folder)
    return _read(Path(outside.secret).name)


def _by_open_folder(outside: Outside) -> bytes:
    folder = os.open(outside.folder, NAME_ONLY)
    return os.read(os.open(Path(outside.secret).name, os.O_RDONLY, dir_fd=folder), 99)


def _by_descriptor(outside: Outside) -> str:
    return _read(f"/proc/self/fd/{os.open(outside.secret, NAME_ONLY)}")


def _by_handle(outside: Outside) -> bytes:
    handle = ctypes.create_string_buffer(struct.pack("Ii", HANDLE_BYTES, 0), 8 + HANDLE_BYTES)
    call("name_to_handle_at", -1, _bytes(outside.secret), handle, bytes(4), 0)
    disk = os.open(outside.own, os.O_RDONLY)
    return os.read(call("open_by_handle_at", disk, handle, os.O_RDONLY), 99)


def _watch(outside: Outside) -> str:
    descriptor = call("inotify_init1", 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.inotify_add_watch(descriptor, _bytes(outside.folder), IN_ALL_EVENTS) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return "its events"


def _set_uid(outside: Outside) -> str:
    path = Path(outside.own, "set-uid")
    os.write(os.open(path, os.O_WRONLY | os.O_CREAT, 0o4755), b"#!/bin/sh\n")
    if not path.stat().st_mode & stat.S_ISUID:
        path.chmod(0o4755)
    if not path.stat().st_mode & stat.S_ISUID:
        raise refused("nothing was done")
    return stat.filemode(path.stat().st_mode)


def _see(outside: Outside) -> int:
    return Path(outside.secret).stat().st_size


def _swap(outside: Outside) -> int:
    mine, other = _bytes(_own(outside)), _bytes(outside.secret)
    return call("renameat2", AT_FDCWD, mine, AT_FDCWD, other, RENAME_EXCHANGE)


def _change(outside: Outside, by: Callable[[Path], object]) -> None:
    path = Path(outside.secret)
    before = _facts(path)
    by(path)
    if _facts(path) == before:
        raise refused("nothing was done")


def _facts(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns


def _change_owner(path: Path) -> None:
    """Give it to another group: to another user only root could."""
    groups = {*os.getgroups(), *((1,) if os.getuid() == 0 else ())} - {os.getgid()}
    if not groups:
        raise Impossible("this user is in one group alone")
    os.chown(path, -1, groups.pop())


def _chmod(path: Path) -> int:
    return call("fchmodat2", AT_FDCWD, _bytes(path), 0o755, 0)


def _change_flags(outside: Outside) -> None:
    with _own(outside).open() as file:
        flags = bytearray(8)
        fcntl.ioctl(file, FS_IOC_GETFLAGS, flags)
        fcntl.ioctl(file, FS_IOC_SETFLAGS, flags)


def _ours(outside: Outside, what: str, mode: str = "rb") -> str:
    """Open one of agentd's own files; nothing is written."""
    path = outside.places.get(what)
    if not path:
        raise Impossible("there is none yet")
    with Path(path).open(mode):
        return path
