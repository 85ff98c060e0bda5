"""seccomp: which system calls a process may make, for what Landlock does not look at.

A filter is a program of the kernel's BPF that sees a call's number and its six words, and nothing
that these point to: https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

import ctypes
import errno
import struct
from collections.abc import Iterable, Iterator, Sequence

from agentd.sandbox.policy import Sockets
from agentd.sandbox.system_calls import call, number

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand

LOAD, EQUAL, GREATER, BITS, AND, JUMP, RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x05, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16  # of struct seccomp_data
ALLOW, KILL_PROCESS, ERRNO, USER_NOTIF = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
SET_MODE_FILTER, FLAG_NEW_LISTENER = 1, 1 << 3
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000  # calls of 32-bit pointers on x86_64, with numbers of their own
LAST_KNOWN = "mseal"  # of Linux 6.12; what came later is answered as an older kernel would

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM, SOCK_TYPE = 1, 0xF
IPPROTO_TCP = 6
MSG_FASTOPEN = 0x20000000  # connects by sending, past Landlock
NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*
CLONE_PARENT = 0x8000  # a child of one's parent, which waits for none: a dead one stays for ever

# Refused to everybody, in groups of a reason.
REFUSED = (
    # The same by another way, which no filter sees.
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    # Other processes of this user: Landlock's scopes are about signals and ptrace alone.
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease"),
    *("pidfd_getfd", "kcmp", "migrate_pages", "move_pages", "setpriority", "ioprio_set"),
    # What belongs to a user and not to a process: keys, shared memory, queues.
    *("keyctl", "add_key", "request_key", "shmget", "shmat", "shmctl", "semget", "semop"),
    *("semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink"),
    # What leaves the process group would outlive it.
    *("setsid", "setpgid"),
    # Files that Landlock does not look at: handles, watches.
    *("name_to_handle_at", "open_by_handle_at", "lookup_dcookie", "fanotify_init"),
    # Programs without a file, which may be executed everywhere.
    *("memfd_create", "memfd_secret", "execveat"),
    # The kernel's inner parts.
    *("bpf", "perf_event_open", "userfaultfd", "syslog", "modify_ldt", "ioperm", "iopl"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load"),
    # The system's.
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "statmount", "listmount", "unshare", "setns"),
    *("swapon", "swapoff", "reboot", "acct", "quotactl", "quotactl_fd", "vhangup"),
    *("sethostname", "setdomainname", "settimeofday", "clock_settime", "adjtimex"),
    "clock_adjtime",
)
NOTICES = ("inotify_init", "inotify_init1")  # watches, as well
# Files that Landlock does not look at: modes, owners and times.
UNDONE = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat"),
)
# As on a disk that has none: programs meet that every day, and go on.
NOT_SUPPORTED = (
    *("setxattr", "lsetxattr", "fsetxattr", "getxattr", "lgetxattr", "fgetxattr"),
    *("listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr", "fremovexattr"),
)
# Their first argument is a process: 0 is the caller, and no other one is meant.
OF_ONESELF = (
    *("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam"),
    "sched_setattr",
)
# What an open descriptor may be told: to be closed at exec, not to wait, how much waits; copies of
# blocks, and a file's flags. Not among it: text typed into a terminal, flags changed, files made
# immutable (fs-verity), addresses of the network's cards, which any socket tells.
COMMANDS = (0x5450, 0x5451, 0x5421, 0x5452, 0x541B, 0x5411, 0x40049409, 0x4020940D, 0x80086601)
GATES_COMMANDS = (0xC0502100, 0xC0182101, 0x40182103)  # see `gate.py`

EPERM: Instruction = (RETURN, 0, 0, ERRNO | errno.EPERM)
OK: Instruction = (RETURN, 0, 0, ALLOW)
NOT_KNOWN: Instruction = (RETURN, 0, 0, ERRNO | errno.ENOTTY)
DONE: Instruction = (RETURN, 0, 0, ERRNO | 0)  # nothing is done, and no error is told


def filter_for(
    sockets: Sockets,
    machine: str,
    *,
    gate: bool = False,
    program: bool = False,
    notices: bool = False,
) -> list[Instruction]:
    """Return the filter of a process that may have these sockets, on this machine.

    `gate`: its TCP sockets are made, and connected, by another process (`gate.py`). `program`:
    changes of modes, owners and times are not refused to it. Nothing is done, and it is told that
    all is well: git, tar and many others give up without. `notices`: it is told of changes.
    """

    def at(names: Iterable[str], *then: Instruction) -> list[Instruction]:
        numbers = (number(name, machine) for name in names)
        return _when([found for found in numbers if found is not None], *then)

    undone = DONE if program else EPERM
    last = number(LAST_KNOWN, machine)
    assert last is not None
    foreign = (RETURN, 0, 0, KILL_PROCESS)
    return [
        *((LOAD, 0, 0, MACHINE_AT), (EQUAL, 1, 0, AUDIT_ARCH[machine]), foreign),
        (LOAD, 0, 0, NUMBER_AT),
        *(((GREATER, 0, 1, X32_BIT - 1), foreign) if machine == "x86_64" else ()),
        *((GREATER, 0, 1, last), (RETURN, 0, 0, ERRNO | errno.ENOSYS)),
        # Its flags cannot be seen. Every libc goes on with the older call.
        *at(("clone3",), (RETURN, 0, 0, ERRNO | errno.ENOSYS)),
        *at(("clone",), _argument(0), (BITS, 0, 1, NEW_NAMESPACES | CLONE_PARENT), EPERM, OK),
        *at((*REFUSED, *(() if notices else NOTICES)), EPERM),
        *at(NOT_SUPPORTED, (RETURN, 0, 0, ERRNO | errno.EOPNOTSUPP)),
        *at(OF_ONESELF, _argument(0), (EQUAL, 1, 0, 0), EPERM, OK),
        *at(("ioctl",), _argument(1), *_when((*COMMANDS, *GATES_COMMANDS), OK), NOT_KNOWN),
        *at(UNDONE, undone),
        *at(("utimensat",), _argument(1), *_zero(undone), _argument(1, True), *_zero(undone), OK),
        *(step for names, then in _sockets(sockets, gate) for step in at(names, *then)),
        OK,
    ]


class Filter:
    """A filter as the kernel takes it."""

    def __init__(self, program: Sequence[Instruction]) -> None:
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
        self._code = ctypes.create_string_buffer(code, len(code))  # the head points to it
        self._head = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(self._code))

    def install(self, *, listened: bool = False) -> int:
        """Put the calling thread under it, for good. It must have no new privileges.

        `listened`: return the descriptor at which another process answers what it is to decide.

        Raises:
            OSError: the kernel refused it.
        """
        return call("seccomp", SET_MODE_FILTER, FLAG_NEW_LISTENER if listened else 0, self._head)


def _when(values: Sequence[int], *then: Instruction) -> list[Instruction]:
    """Do `then`, which ends in a `RETURN`, where what is loaded is one of these values."""
    tests = [(EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [*tests, (JUMP, 0, 0, len(then)), *then] if tests else []


def _zero(otherwise: Instruction) -> tuple[Instruction, Instruction]:
    return (EQUAL, 1, 0, 0), otherwise


def _argument(index: int, high: bool = False) -> Instruction:
    """Load one half of an argument; the machines that we know have the low one first."""
    return (LOAD, 0, 0, ARGUMENTS_AT + 8 * index + 4 * high)


def _sockets(sockets: Sockets, gate: bool) -> Iterator[tuple[tuple[str, ...], list[Instruction]]]:
    """Yield names of calls, and what to do there."""
    local = (_argument(0), (EQUAL, 1, 0, AF_UNIX), EPERM)
    stream = (_argument(1), (AND, 0, 0, SOCK_TYPE), (EQUAL, 1, 0, SOCK_STREAM), EPERM)
    if sockets == "unix":
        yield ("socket", "socketpair"), [*local, OK]
        return
    # One of a pair of datagram sockets can send to any path.
    yield ("socketpair",), [*local, *stream, OK]
    internet = (_argument(0), (EQUAL, 2, 0, AF_INET), (EQUAL, 1, 0, AF_INET6), EPERM)
    if sockets == "any":
        yield ("socket",), [*internet, OK]
        return
    if sockets == "serve":  # what listens was bound by who handed it over
        yield ("socket", "bind", "connect"), [EPERM]
        return
    yield ("bind", "listen", "accept", "accept4"), [EPERM]
    if sockets == "none":
        yield ("socket", "connect"), [EPERM]
        return
    # Other protocols of streams (MPTCP, SCTP) are none that Landlock looks at.
    protocol = (_argument(2), (EQUAL, 2, 0, 0), (EQUAL, 1, 0, IPPROTO_TCP), EPERM)
    asked = (RETURN, 0, 0, USER_NOTIF) if gate else OK
    yield ("socket",), [*internet, *stream, *protocol, asked]
    if gate:
        yield ("connect",), [DONE]
    yield ("sendto", "sendmmsg"), [_argument(3), (BITS, 0, 1, MSG_FASTOPEN), EPERM, OK]
    yield ("sendmsg",), [_argument(2), (BITS, 0, 1, MSG_FASTOPEN), EPERM, OK]
