"""Into a sandbox, and no way back: the calling process, or a program that it is about to start.

A sandbox holds for what the kernel calls a thread, and for all that it starts. So a process enters
before it starts threads.
"""

import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agentd.errors import SandboxUnavailable
from agentd.sandbox import landlock, seatbelt, seccomp
from agentd.sandbox.gate import start
from agentd.sandbox.level import Reached, demand
from agentd.sandbox.machine_share import bind, first_to_go
from agentd.sandbox.policy import SandboxPolicy
from agentd.sandbox.system_calls import call, machine, prctl

SET_NO_NEW_PRIVS, CAPBSET_READ, CAPBSET_DROP, CAP_AMBIENT = 38, 23, 24, 47
AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
CAP_SETPCAP = 8
CAPABILITIES = 64  # as many as the kernel's sets have room for
UMASK = 0o077  # of programs


def enter(
    policy: SandboxPolicy, *, require: bool = True, program: bool = False, forked: bool = False
) -> tuple[str, ...]:
    """Restrict this process, of one thread, for good; return the policy's paths that are not there.

    All capabilities go, also root's. Modes cannot be changed afterwards, not even those of its own
    files: a file gets its mode as it is made, exactly that where the process set its umask to 0.
    On macOS nothing is done: it was started with what `put_into` made, unless it was `forked`.

    `require`: fail where this system cannot do all of it; else do what it can. `program`: this
    process is about to become a program that is not ours: bound and private as by `nested`.

    Raises:
        SandboxUnavailable: it cannot, or this process has threads.
    """
    if sys.platform == "darwin" and not forked:
        return ()  # nothing to find out, either: a program is started for that, in here in vain
    level = demand(require)
    if level.name == "checks":
        return ()
    if sys.platform == "darwin":
        seatbelt.confine(policy)
        return ()
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise SandboxUnavailable("a process with threads cannot enter a sandbox")
    gate = policy.sockets == "tcp" and bool(policy.ports)
    box = _Box(policy, level, gate=gate, program=program)
    if program:
        os.umask(UMASK)
        first_to_go()
        bind()
    try:
        _drop_capabilities()
        if gate:
            proxy = _Box(SandboxPolicy(ports=policy.ports, sockets="tcp"), level, connects=True)
            with start(policy.ports[0], proxy) as channel:
                listener = box()
                socket.send_fds(channel, [b"\0"], [listener])
            os.close(listener)
        else:
            box()
    except OSError as error:
        raise SandboxUnavailable(f"the kernel refused a sandbox: {error.strerror}") from error
    return tuple(box.missing)


def put_into(policy: SandboxPolicy, argv: Sequence[str]) -> list[str]:
    """Return the command line of a process that is to have this sandbox, as far as it has one.

    On Linux it enters by itself.

    Raises:
        SandboxUnavailable: a path of the policy cannot be told.
    """
    return seatbelt.wrapped(argv, policy) if demand(False).name == "full" else list(argv)


def nested(policy: SandboxPolicy, *, umask: int = UMASK) -> Callable[[], None]:
    """Return a `preexec_fn` for a program: a sandbox of its own inside of this process's.

    So the program can neither signal nor look into the process that started it. What it takes of
    the machine is bound. What it makes is private, as a change of modes would do nothing. What
    there is to prepare is prepared here; after the fork only system calls are made. It can be used
    again.

    Raises:
        SandboxUnavailable: it cannot be prepared.
    """
    level = demand(False)
    if sys.platform != "linux" or level.name == "checks":
        return lambda: None  # macOS: it has its parent's, and there is no other one
    box = _Box(policy, level, program=True)

    def preexec() -> None:
        os.umask(umask)
        bind()
        box()

    return preexec


class _Box:
    """A policy, prepared; calling it restricts the caller.

    `gate`: its TCP sockets come from a gate, to which the result of the call has to go.
    `connects`: it is that gate. `program`: see `filter_for`.
    """

    def __init__(
        self,
        policy: SandboxPolicy,
        level: Reached,
        *,
        gate: bool = False,
        connects: bool = False,
        program: bool = False,
    ) -> None:
        self._gate = gate
        try:
            self._ruleset = landlock.Ruleset(policy, level.abi, connects=connects)
        except OSError as error:
            what = f"the kernel refused this sandbox: {error.strerror}"
            raise SandboxUnavailable(what, where=str(error.filename or "")) from error
        self.missing = self._ruleset.missing
        code = seccomp.filter_for(
            policy.sockets, machine(), gate=gate, program=program, notices=policy.notices
        )
        self._filter = seccomp.Filter(code)

    def __call__(self) -> int:
        prctl(SET_NO_NEW_PRIVS, 1)
        self._ruleset.restrict()
        return self._filter.install(listened=self._gate)


def _drop_capabilities() -> None:
    """Give up every capability in every set: what root may do beyond its own files."""
    prctl(CAP_AMBIENT, AMBIENT_CLEAR_ALL)
    effective = _capabilities()[0]
    for capability in range(CAPABILITIES) if effective >> CAP_SETPCAP & 1 else ():
        try:
            if prctl(CAPBSET_READ, capability):
                prctl(CAPBSET_DROP, capability)
        except OSError:  # beyond the last one
            break
    call("capset", _header(), bytes(24))


def _header() -> bytes:
    return struct.pack("Ii", CAPABILITY_VERSION_3, 0)


def _capabilities() -> tuple[int, int, int]:
    """Return this process's effective, permitted and inheritable ones."""
    data = bytes(24)
    call("capget", _header(), data)
    low_e, low_p, low_i, high_e, high_p, high_i = struct.unpack("6I", data)
    return low_e | high_e << 32, low_p | high_p << 32, low_i | high_i << 32
