"""The command line of a process as `ps` shows it. A forked one has its parent's, or writes its own.

The strings that a program was started with are in its memory, where the kernel looks when it is
asked (`proc(5)`: /proc/PID/cmdline; on macOS `sysctl` with KERN_PROCARGS2). They have the room that
they had at the start, so a server that forks is started with `ROOM` for longer ones.
"""

import ctypes
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

ROOM = "." * 400  # the last word of its command line
_ARG_START, _ARG_END = 45, 46  # of /proc/PID/stat, counted from behind the name (proc(5): 48, 49)


def own() -> list[str]:
    """Return this process's command line, without the room."""
    return [word for word in sys.orig_argv if word != ROOM]


def write(argv: Sequence[str]) -> None:
    """Show this command line, as much of it as there is room for."""
    start, size = _place()
    if size <= 0:
        return
    text = b"\0".join(word.encode(errors="surrogateescape") for word in argv)[: size - 1]
    ctypes.memmove(start, text + bytes(size - len(text)), size)


@functools.cache  # it does not change with a fork
def _place() -> tuple[int, int]:
    return _linux() if sys.platform == "linux" else _macos()


def _linux() -> tuple[int, int]:
    """Return where the strings lie, and how many bytes they have."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    except (OSError, ValueError, IndexError):
        return 0, 0
    return start, end - start


def _macos() -> tuple[int, int]:
    """Return the same, as `crt_externs.h` has it: they lie one behind the other."""
    library = ctypes.CDLL(None)
    library._NSGetArgc.restype = ctypes.POINTER(ctypes.c_int)
    library._NSGetArgv.restype = ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))
    count = library._NSGetArgc().contents.value
    words = library._NSGetArgv().contents
    start, last = words[0], words[count - 1]
    if not start or not last:
        return 0, 0
    return start, last + len(ctypes.string_at(last)) + 1 - start
