"""Connections to public addresses, within a call's deadline: the name's look-up as well.

What is public stands in IANA's registries of special-purpose addresses, turned round: only what is
globally reachable is. https://www.iana.org/assignments/iana-ipv4-special-registry and
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from agentd.errors import AgentdError, ToolError
from agentd.tools.base import ToolCall

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
T = TypeVar("T")

# The standard library lacks some of these, and each version others.
SPECIAL_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        ),
    )
)
GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # all that was ever given out
# Protocols (Teredo among them), documentation, 6to4: they lead elsewhere, or nowhere.
SPECIAL_V6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
# They stand for an IPv4 address; a network without IPv4 has no other way to reach one.
EMBEDDING = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::ffff:0:0/96")))


def is_public(text: str) -> bool:
    """Whether an address is reachable from anywhere. One with a zone is of this machine's links."""
    if "%" in text:
        return False
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in EMBEDDING):
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        else:
            special = any(address in network for network in SPECIAL_V6)
            return address in GLOBAL_V6 and not special and address.is_global
    return address.is_global and not any(address in network for network in SPECIAL_V4)


def look_up(host: str, port: int, call: ToolCall) -> list[str]:
    """Return the host's addresses.

    Raises:
        ToolError: it has none, or not in time.
        Stopped: an orderly stop came.
    """
    look = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = _waited(look, call)
    except (OSError, UnicodeError) as error:
        raise ToolError(f"{host} does not resolve: {error}") from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def connect(address: str, port: int, call: ToolCall, wait_s: float) -> socket.socket:
    """Return a socket that is connected within `wait_s` seconds; its own time is the call's.

    Raises:
        OSError: nobody answers there.
        ToolError, Stopped: the call's time is over, or a stop came.
    """
    wait_s = max(0.001, wait_s)
    plain = _waited(partial(socket.create_connection, (address, port), wait_s), call, _close)
    plain.settimeout(max(0.001, call.left_s))
    return plain


def _waited(
    function: Callable[[], T], call: ToolCall, drop: Callable[[T], None] | None = None
) -> T:
    """Return what the system answers; it knows no stop, and no deadline for a name's look-up.

    So a thread waits for it. `drop` takes what comes too late.
    """
    answer: Future[T] = Future()
    over = threading.Event()

    def ask() -> None:
        try:
            answer.set_result(function())
        except Exception as error:  # handed to who waits
            answer.set_exception(error)
        over.set()

    def late(answer: Future[T]) -> None:
        if drop is not None and answer.exception() is None:
            drop(answer.result())

    threading.Thread(target=ask, name="network", daemon=True).start()
    try:
        with call.interrupting(over.set):
            over.wait()
    except AgentdError:
        answer.add_done_callback(late)
        raise
    return answer.result(timeout=0)


def _close(late: socket.socket) -> None:
    late.close()
