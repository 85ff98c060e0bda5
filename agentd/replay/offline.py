"""No network: while it is switched off, a connection is an error in whatever code tries one.

By an audit hook, which sees every socket of this process. Programs that it starts are not seen: see
`no_effects.py`, by which a replay starts none but git, which it forbids every transport.
"""

import ipaddress
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from agentd.errors import AgentdError

EVENTS = frozenset(
    {
        "socket.connect",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.getnameinfo",
    }
)


class Offline(AgentdError):
    """Something wanted to reach the network where it must not."""


class Scope:
    """The threads for which a rule holds: this one and those that start from now on, or all."""

    def __init__(self, *, all_threads: bool = False) -> None:
        self.everywhere = all_threads
        self._others = frozenset(sys._current_frames()) - {threading.get_ident()}

    def holds(self) -> bool:
        """Whether it does for the calling thread."""
        return self.everywhere or threading.get_ident() not in self._others


class _Block(Scope):
    """The network is off; `loopback` lets through what stays on this machine."""

    def __init__(self, *, loopback: bool, all_threads: bool) -> None:
        super().__init__(all_threads=all_threads)
        self.loopback = loopback


class _Online(threading.local):
    passes: frozenset[_Block] = frozenset()  # the blocks that this thread need not heed


_online = _Online()
_blocks: list[_Block] = []
_adding = threading.Lock()
_added: set[Callable[[str, tuple[Any, ...]], None]] = set()


def add_hook(hook: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Add an audit hook to this process, once and for good: Python has no way to remove one."""
    with _adding:
        if hook not in _added:
            sys.addaudithook(hook)
            _added.add(hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in EVENTS or not _blocks:
        return
    blocks = [block for block in _blocks if block not in _online.passes and block.holds()]
    if not blocks:
        return
    host = _host(event, args)
    if host is None or (all(block.loopback for block in blocks) and _is_loopback(host)):
        return
    raise Offline(
        f"the network is off here: {host} may not be reached",
        hint="give recorded pages or a fake server instead",
    )


def _host(event: str, args: tuple[Any, ...]) -> str | None:
    """Return the host of an address; None for a socket of this machine's file system."""
    asked = event.startswith("socket.get")
    if not asked and args[0].family == socket.AF_UNIX:
        return None
    address = args[0] if asked else args[1]
    if isinstance(address, tuple):
        address = address[0]
    if isinstance(address, bytes):
        address = address.decode("utf-8", "replace")
    return address if isinstance(address, str) else None


def _is_loopback(host: str) -> bool:
    """Whether it is this machine: by a name or an address that nobody else can have."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def offline(*, loopback: bool = False, all_threads: bool = False) -> Iterator[None]:
    """Refuse connections of this thread and of those that it starts, or of all.

    With `loopback` those of this machine pass. A refused one raises `Offline` where it is tried.
    """
    add_hook(_hook)
    block = _Block(loopback=loopback, all_threads=all_threads)
    _blocks.append(block)
    try:
        yield
    finally:
        _blocks.remove(block)


@contextmanager
def online() -> Iterator[None]:
    """Let this thread's connections through inside an `offline` block: a call to a model.

    A block of all threads stays: it is a test's, and knows which servers are fake ones.
    """
    before = _online.passes
    _online.passes = frozenset(block for block in _blocks if not block.everywhere)
    try:
        yield
    finally:
        _online.passes = before
