"""Ways by the kernel itself: what belongs to a user or to the system, and other kinds of calls."""

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from agentd.escape.attempt import Attempt, Impossible, Run, of
from agentd.escape.outside import Outside
from agentd.sandbox.system_calls import call, machine

ARRAY = struct.pack("IIII", 2, 4, 4, 1) + bytes(104)  # for BPF_MAP_CREATE
# struct perf_event_attr: a clock in software, of this process, outside of the kernel
CLOCK = struct.pack("II", 1, 120) + bytes(32) + struct.pack("Q", 1 << 5 | 1 << 6) + bytes(72)
SESSION_KEYRING, GET_KEYRING_ID = -3, 0
IPC_PRIVATE, IPC_RMID, FOR_ONESELF, SHM_RDONLY = 0, 0, 0o1600, 0o10000
UFFD_USER_MODE_ONLY, SYSLOG_SIZE_UNREAD = 1, 9
GETPID_X32 = 0x40000000 | 39
GETPID_32 = b"\xb8\x14\0\0\0\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret


def attempts() -> Iterator[Attempt]:
    """Yield those that this system has."""
    kernel: dict[str, Run] = {
        "load a program (BPF)": lambda o: call("bpf", 0, ARRAY, len(ARRAY)),
        "watch the processor": lambda o: call("perf_event_open", CLOCK, 0, -1, -1, 0),
        "serve page faults": lambda o: call("userfaultfd", UFFD_USER_MODE_ONLY),
        "add a key": lambda o: call("add_key", b"user\0", b"a\0", b"x", 1, SESSION_KEYRING),
        "read keys": lambda o: call("keyctl", GET_KEYRING_ID, SESSION_KEYRING, 0),
        "read this user's shared memory": _read_shared_memory,
        "make a queue of messages": _make_queue,
        "make a queue that has a name": _make_named_queue,
        "make a semaphore": _make_semaphore,
        "read the kernel's messages": lambda o: call("syslog", SYSLOG_SIZE_UNREAD, None, 0),
        "mount a file system": _mount,
        "see what is mounted": lambda o: len(Path("/proc/self/mountinfo").read_text()),
        "change to another root": lambda o: os.chroot(o.own),
        "type into a terminal": _type,
        "make calls of another kind (x32)": _call_as_x32,
        "make calls of another kind (32 bits)": _call_as_32_bits,
    }
    if sys.platform == "linux":
        yield from of("reach into the kernel", kernel)


def _read_shared_memory(outside: Outside) -> int:
    if outside.shared_memory < 0:
        raise Impossible("none could be made")
    return call("shmat", outside.shared_memory, 0, SHM_RDONLY)


def _make_queue(outside: Outside) -> int:
    return call("msgctl", call("msgget", IPC_PRIVATE, FOR_ONESELF), IPC_RMID, 0)


def _make_named_queue(outside: Outside) -> int:
    name = f"agentd-{os.getpid()}\0".encode()
    call("mq_open", name, os.O_CREAT | os.O_RDWR, 0o600, None)
    return call("mq_unlink", name)


def _make_semaphore(outside: Outside) -> int:
    return call("semctl", call("semget", IPC_PRIVATE, 1, FOR_ONESELF), 0, IPC_RMID, 0)


def _mount(outside: Outside) -> int:
    place = os.fsencode(outside.own) + b"\0"
    call("mount", b"none\0", place, b"tmpfs\0", 0, None)
    return call("umount2", place, 0)


def _type(outside: Outside) -> None:
    _, follower = os.openpty()
    os.setsid()
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
    fcntl.ioctl(follower, termios.TIOCSTI, b"x")


def _call_as_x32(outside: Outside) -> int:
    if machine() != "x86_64":
        raise Impossible("this machine has none")
    if ctypes.CDLL(None).syscall(ctypes.c_long(GETPID_X32)) < 0:
        raise Impossible("this kernel has none")
    return GETPID_X32


def _call_as_32_bits(outside: Outside) -> int:
    if machine() != "x86_64":
        raise Impossible("this machine has none")
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(GETPID_32)
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    found: int = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if found != os.getpid():
        raise Impossible("this kernel has none")
    return found
