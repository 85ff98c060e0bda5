"""Ways to other processes of this user, and out of one's own group."""

import ctypes
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCHLD

from agentd.escape.attempt import SEE, Attempt, Impossible, Run, of
from agentd.escape.outside import Outside
from agentd.sandbox.system_calls import call

PTRACE_SEIZE, KCMP_FILES, SI_QUEUE = 0x4206, 2, -1
CLONE_NEWUTS, CLONE_NEWUSER, CLONE_PARENT = 0x04000000, 0x10000000, 0x8000
IOPRIO_WHO_PROCESS, IOPRIO_BEST_EFFORT_4 = 1, 2 << 13 | 4
FLAGS = CLONE_NEWUSER | SIGCHLD
CONTINUE = signal.SIGCONT  # which harms nobody


def attempts() -> Iterator[Attempt]:
    """Yield those that this system has."""
    reaching: dict[str, Run] = {
        "send a signal": lambda o: os.kill(o.pid, CONTINUE),
        "send a signal to a group": lambda o: os.killpg(o.pid, CONTINUE),
        "change a priority": lambda o: os.setpriority(os.PRIO_PROCESS, o.pid, 1),
    }
    leaving: dict[str, Run] = {
        "by a session of its own": lambda o: os.setsid(),
        "by a group of its own": lambda o: os.setpgid(0, 0),
    }
    if sys.platform == "linux":
        reaching |= {
            "send a signal by a descriptor": _signal_by_descriptor,
            "send a signal with a value": _queue_signal,
            "trace one": lambda o: call("ptrace", PTRACE_SEIZE, o.pid, 0, 0),
            "read memory": _read_memory,
            "read memory by /proc": lambda o: _proc(o, "mem", o.address),
            "write memory": lambda o: os.open(f"/proc/{o.pid}/mem", os.O_RDWR),
            "read an environment": lambda o: _proc(o, "environ"),
            "read a command line": lambda o: _proc(o, "cmdline"),
            "list all processes": lambda o: os.listdir("/proc"),  # noqa: PTH208
            "list open files": lambda o: os.listdir(f"/proc/{o.pid}/fd"),  # noqa: PTH208
            "take an open file": lambda o: call("pidfd_getfd", _opened(o), 0, 0),
            "compare open files": lambda o: call("kcmp", os.getpid(), o.pid, KCMP_FILES, 0, 0),
            "change limits": lambda o: resource.prlimit(o.pid, resource.RLIMIT_CORE, (0, 0)),
            "change processors": lambda o: os.sched_setaffinity(o.pid, os.sched_getaffinity(0)),
            "change a schedule": _change_schedule,
            "change a priority at the disk": _change_disk_priority,
            "give one a child": lambda o: _ended(call("clone", CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)),
            "enter namespaces": lambda o: call("setns", _opened(o), CLONE_NEWUTS),
        }
        leaving |= {
            "into namespaces": lambda o: call("unshare", CLONE_NEWUSER),
            "by a process in namespaces": lambda o: _child(call("clone", FLAGS, 0, 0, 0, 0)),
            "by a process in namespaces, with a newer call": lambda o: _child(
                call("clone3", struct.pack("8Q", CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0), 64)
            ),
        }
    yield from of("reach other processes", reaching)
    yield from of("leave its own group of processes", leaving)
    yield Attempt(SEE, "that a process is there", _see, visible=True)


def _opened(outside: Outside) -> int:
    return call("pidfd_open", outside.pid, 0)


def _signal_by_descriptor(outside: Outside) -> int:
    return call("pidfd_send_signal", _opened(outside), CONTINUE, None, 0)


def _change_schedule(outside: Outside) -> None:
    if sys.platform == "linux":
        os.sched_setscheduler(outside.pid, os.SCHED_BATCH, os.sched_param(0))


def _change_disk_priority(outside: Outside) -> int:
    return call("ioprio_set", IOPRIO_WHO_PROCESS, outside.pid, IOPRIO_BEST_EFFORT_4)


def _queue_signal(outside: Outside) -> int:
    information = struct.pack("iii", CONTINUE, 0, SI_QUEUE) + bytes(116)
    return call("rt_sigqueueinfo", outside.pid, CONTINUE, information)


def _read_memory(outside: Outside) -> int:
    if not outside.address:
        raise Impossible("no address of its memory is known")
    buffer = ctypes.create_string_buffer(8)
    here = struct.pack("QQ", ctypes.addressof(buffer), 1)
    there = struct.pack("QQ", outside.address, 1)
    return call("process_vm_readv", outside.pid, here, 1, there, 1, 0)


def _proc(outside: Outside, name: str, start: int = 0) -> bytes:
    with Path(f"/proc/{outside.pid}/{name}").open("rb", buffering=0) as file:
        file.seek(start)
        return file.read(40) or b""


def _child(pid: int) -> tuple[int, int]:
    return os.waitpid(_ended(pid), 0)


def _ended(pid: int) -> int:
    """End here in a new process; return its number in the old one."""
    if pid == 0:
        os._exit(0)
    return pid


def _see(outside: Outside) -> str:
    try:
        os.kill(outside.pid, 0)
    except PermissionError:
        return "it is there, and not to be reached"
    return "it is there"
