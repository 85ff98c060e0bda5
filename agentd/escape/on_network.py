"""Ways to the network and to other programs' sockets."""

import errno
import fcntl
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from agentd.escape.attempt import Attempt, Impossible, Run, of, refused
from agentd.escape.outside import Outside
from agentd.sandbox.system_calls import call

TIMEOUT_S = 2.0
IPPROTO_MPTCP, MSG_FASTOPEN, AF_VSOCK, SIOCGIFHWADDR = 262, 0x20000000, 40, 0x8927
HERE = "127.0.0.1"
QUERY = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1"  # of DNS: an address
SYSTEM = (
    *("/run/dbus/system_bus_socket", "/run/systemd/resolve/io.systemd.Resolve"),
    *("/run/systemd/journal/stdout", "/var/run/nscd/socket", "/var/run/mDNSResponder"),
)


def attempts() -> Iterator[Attempt]:
    """Yield those that this system has."""
    network: dict[str, Run] = {
        "connect by TCP": lambda o: _connect(HERE, o.port),
        "connect by TCP, as IPv6": lambda o: _connect(f"::ffff:{HERE}", o.port),
        "connect to another host, at the proxy's port": lambda o: _connect(*o.other_host),
        "wait for connections": lambda o: _wait((HERE, 0)),
        "wait for connections at any port": lambda o: _wait(None),
        "send by UDP": lambda o: _send(b"sent", (HERE, o.datagram_port)),
        "ask a name server": lambda o: _send(QUERY, (HERE, o.datagram_port)),
        "send by hand, without TCP or UDP": _send_raw,
    }
    local: dict[str, Run] = {
        "one at a path": lambda o: _connect_local(o.stream),
        "send to one at a path": lambda o: _send(b"sent", o.datagram),
        "send to one at a path by half of a pair": _send_by_pair,
        "one of the system's: D-Bus, names, the log": _connect_to_system,
        "agentd's own": lambda o: _connect_local(o.places.get("socket", "")),
        "the model server": _connect_to_model,
    }
    if sys.platform == "linux":
        local["one without a path (abstract)"] = lambda o: _connect_local(o.abstract)
        network |= {
            "connect by TCP while sending": _connect_while_sending,
            "connect by multipath TCP": lambda o: _connect(HERE, o.port, IPPROTO_MPTCP),
            "listen to everything": lambda o: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
            "ask about it by half of a pair": _ask_by_pair,
            "ask the kernel about it": lambda o: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            "reach the host of a virtual machine": _reach_host,
            "any of it by io_uring, which no filter sees": lambda o: call(
                "io_uring_setup", 1, bytes(120)
            ),
        }
    yield from of("reach the network", network)
    yield from of("reach sockets of this machine", local)


def _connect(host: str, port: int, protocol: int = 0) -> object:
    if not port:
        raise Impossible("no port is listed")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as made:
        made.settimeout(TIMEOUT_S)
        made.connect((host, port))
        if made.getpeername()[:2] != (host, port):
            raise refused("it leads to the proxy")
        return made.getpeername()


def _connect_local(path: str) -> str:
    if not path:
        raise Impossible("there is none")
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
        return path


def _connect_to_system(outside: Outside) -> str:
    return _connect_local(next((path for path in SYSTEM if Path(path).is_socket()), ""))


def _reach_host(outside: Outside) -> object:
    try:
        return socket.socket(AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise Impossible("there is no such socket here") from error
        raise


def _connect_to_model(outside: Outside) -> object:
    host, _, port = outside.places.get("model", "").rpartition(":")
    return _connect(host, int(port or 0))


def _connect_while_sending(outside: Outside) -> int:
    with socket.socket() as made:
        return made.sendto(b"sent", MSG_FASTOPEN, (HERE, outside.port))


def _wait(address: tuple[str, int] | None) -> object:
    with socket.socket() as made:
        if address:
            made.bind(address)
        made.listen()
        return made.getsockname()


def _send(data: bytes, address: str | tuple[str, int]) -> int:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        return made.sendto(data, address)


def _send_by_pair(outside: Outside) -> int:
    half, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with half, other:
        return half.sendto(b"sent", outside.datagram)


def _ask_by_pair(outside: Outside) -> bytes:
    half, other = socket.socketpair()
    with half, other:
        return fcntl.ioctl(half, SIOCGIFHWADDR, struct.pack("40s", b"lo"))


def _send_raw(outside: Outside) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as made:
        message = struct.pack("!HHHH", 1, outside.datagram_port, 12, 0) + b"sent"
        return made.sendto(message, (HERE, 0))
