"""What a program may take of the machine: neither that nor the daemon goes down with it.

By limits of the kernel, which a process hands on to all that it starts, and cannot raise. None of
them is about a group of processes: that ends with its call.
"""

import ctypes
import resource
import struct
from contextlib import suppress
from pathlib import Path

from agentd.sandbox.system_calls import call

MORE_PROCESSES = 512  # and threads, than there are on this machine when it starts
MEMORY_SHARE = 2  # one process gets this part of the machine's
# struct sysinfo of sysinfo(2)
SYSINFO_BYTES, MEMORY_AT, PROCESSES_AT, UNIT_AT = 112, 32, 80, 104
FIRST_TO_GO = "1000"


def bind() -> None:
    """Limit this process. Only system calls are made, so a fork may do it.

    Processes are counted by user, and root's are not limited. Memory is what a process has for
    itself and may write (RLIMIT_DATA): runtimes reserve far more addresses than they use.
    """
    told = ctypes.create_string_buffer(SYSINFO_BYTES)
    call("sysinfo", told)
    (memory,), (count,), (unit,) = (
        struct.unpack_from(kind, told, at)
        for kind, at in (("Q", MEMORY_AT), ("H", PROCESSES_AT), ("I", UNIT_AT))
    )
    _limit(resource.RLIMIT_NPROC, count + MORE_PROCESSES)
    _limit(resource.RLIMIT_DATA, memory * unit // MEMORY_SHARE)
    _limit(resource.RLIMIT_CORE, 0)  # what it has in memory goes to no file, and to no program


def _limit(what: int, wanted: int) -> None:
    most = resource.getrlimit(what)[1]
    value = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(what, (value, value))


def first_to_go() -> None:
    """Let the system end this process, and all that it starts, first where memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
