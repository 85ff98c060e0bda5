"""Landlock: which files a process may touch, which ports it may reach, whom it may signal.

Each kernel knows a part of it, its ABI: https://docs.kernel.org/userspace-api/landlock.html
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from agentd.sandbox.policy import SandboxPolicy
from agentd.sandbox.system_calls import call

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << n for n in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = (1 << n for n in range(6, 12))
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = (1 << n for n in range(12, 16))
ALL_FILES = (1 << 16) - 1
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # the rest is for folders
READING = READ_FILE | READ_DIR
REMOVING = REMOVE_DIR | REMOVE_FILE
WRITING = READ_DIR | WRITE_FILE | TRUNCATE | REMOVING | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1, 2
RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2
CREATE_RULESET_VERSION = 1
AT_FDCWD, RESOLVE_NO_SYMLINKS = -100, 4
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP)

NEEDED = 6  # the ABI that has all that a policy asks for
# What an ABI brought, in the words of what is missing without it.
BROUGHT = {
    2: "files cannot be moved between two of its folders",
    3: "it can empty files that it may only read",
    4: "TCP ports are not limited",
    5: "devices that it may open take any command",
    6: "it can signal this user's other processes, and reach their abstract sockets",
}
LOADERS = (
    *("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"),
    *("/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1"),
)


def abi() -> int:
    """Return the kernel's ABI; 0 where it has no Landlock, or where it is switched off."""
    try:
        return call("landlock_create_ruleset", None, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


class Ruleset:
    """A policy as the kernel takes it. It holds a descriptor until it is collected."""

    def __init__(self, policy: SandboxPolicy, known: int, *, connects: bool = False) -> None:
        """Make it. `known`: the ABI to go by. `connects`: it may connect to the policy's port.

        Raises:
            OSError: the kernel refused it.
        """
        self._files = ALL_FILES & ~sum(
            right for right, since in ((REFER, 2), (TRUNCATE, 3), (IOCTL_DEV, 5)) if known < since
        )
        ports = BIND_TCP | CONNECT_TCP if known >= 4 and policy.sockets != "any" else 0
        scopes = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL if known >= 6 else 0
        size = 24 if known >= 6 else 16 if known >= 4 else 8
        attributes = struct.pack("QQQ", self._files, ports, scopes)[:size]
        self.fd = call("landlock_create_ruleset", attributes, size, 0)
        self.missing: list[str] = []  # paths of the policy that are not there
        for path, rights in _rules(policy):
            self._allow(path, rights)
        for port in policy.ports[:1] if ports and connects else ():
            rule = struct.pack("QQ", CONNECT_TCP, port)
            call("landlock_add_rule", self.fd, RULE_NET_PORT, rule, 0)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            os.close(self.fd)
            self.fd = -1

    def _allow(self, path: str, rights: int) -> None:
        # The path was resolved: a link that somebody put in its way since then leads nowhere.
        how = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS)
        try:
            fd = call("openat2", AT_FDCWD, os.fsencode(path) + b"\0", how, len(how))
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            self.missing.append(path)
            return
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                rights &= OF_A_FILE
            if rights := rights & self._files:
                rule = struct.pack("=Qi", rights, fd)
                call("landlock_add_rule", self.fd, RULE_PATH_BENEATH, rule, 0)
        finally:
            os.close(fd)

    def restrict(self) -> None:
        """Put the calling thread under it, for good. It must have no new privileges.

        Raises:
            OSError: the kernel refused it, as the seventeenth of one process.
        """
        call("landlock_restrict_self", self.fd, 0)


def _rules(policy: SandboxPolicy) -> Iterator[tuple[str, int]]:
    sockets = MAKE_SOCK if policy.sockets in ("unix", "any") else 0
    closed = set(map(os.path.realpath, policy.closed))
    protected = closed.union(map(os.path.realpath, policy.protected))
    for paths, rights, shut in (
        (policy.read, READING, closed),
        (policy.write, WRITING | REFER | sockets, protected),
        (policy.run, EXECUTE | READING, closed),
    ):
        above = {str(folder) for place in shut for folder in Path(place).parents}
        for path in paths:
            yield from _around(policy.real(path), rights, shut, above)
    yield "/dev/null", READ_FILE | WRITE_FILE
    for path in filter(os.path.exists, LOADERS):
        yield os.path.realpath(path), EXECUTE | READ_FILE


def _around(path: str, rights: int, closed: set[str], above: set[str]) -> Iterator[tuple[str, int]]:
    """Yield rules for a path without links that leave out what is closed inside of it.

    A rule holds for all that lies below, and none takes anything back: so what lies beside a closed
    place has rules of its own. The names of all of it can be listed. `above`: all folders in which
    closed places lie.
    """
    if str(Path(path)) not in above:
        yield path, rights
        return
    yield path, rights & READ_DIR
    with os.scandir(path) as entries:
        inner = sorted(entry.path for entry in entries if not entry.is_symlink())
    for place in inner:
        if place not in closed:
            yield from _around(place, rights, closed, above)
