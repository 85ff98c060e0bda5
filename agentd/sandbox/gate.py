"""The one way to the network of a process in a sandbox: its sockets come connected to a proxy.

Landlock knows ports and no hosts: who may reach a proxy's port on this machine may reach that port
of every other one. So no process in a sandbox connects. Its calls of `socket` wait for this small
process outside, which connects to the proxy and puts that connection in the answer's place; its
calls of `connect` do nothing and succeed. Nothing of its memory is read, so nothing can be changed
in between. It ends with the last process of the sandbox.
"""

import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

CONNECT_S = 5.0
# From linux/seccomp.h, where the layouts stand as well.
NOTIF_RECV, NOTIF_SEND, NOTIF_ADDFD = 0xC0502100, 0xC0182101, 0x40182103
NOTIFICATION_BYTES = 80
ID_AT, KIND_AT = 0, 40  # of a notification: its id, and what kind of socket is asked for
ADDFD_FLAG_SEND = 2  # the descriptor is the call's result


def start(port: int, confine: Callable[[], object]) -> socket.socket:
    """Start the process, and return what a filter's listener has to be sent to, once.

    `confine` puts the new process under its own sandbox. It is forked: call it before any thread.
    """
    ours, its = socket.socketpair()
    if os.fork():
        its.close()
        return ours
    try:
        confine()
        os.dup2(its.fileno(), 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        with socket.socket(fileno=0) as channel:
            _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        _serve(descriptors[0], port)
    finally:
        os._exit(0)


def _serve(listener: int, port: int) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        notification = bytearray(NOTIFICATION_BYTES)
        with suppress(FileNotFoundError):  # who called was interrupted, or is gone
            fcntl.ioctl(listener, NOTIF_RECV, notification)
            _answer(listener, port, notification)


def _answer(listener: int, port: int, notification: bytearray) -> None:
    (call,) = struct.unpack_from("Q", notification, ID_AT)
    (kind,) = struct.unpack_from("Q", notification, KIND_AT)
    try:
        with socket.socket() as made:
            made.settimeout(CONNECT_S)
            made.connect(("127.0.0.1", port))
            made.setblocking(not kind & socket.SOCK_NONBLOCK)
            flags = os.O_CLOEXEC if kind & socket.SOCK_CLOEXEC else 0
            answer = struct.pack("QIIII", call, ADDFD_FLAG_SEND, made.fileno(), 0, flags)
            fcntl.ioctl(listener, NOTIF_ADDFD, answer)
    except FileNotFoundError:
        raise
    except OSError:
        fcntl.ioctl(listener, NOTIF_SEND, struct.pack("QqiI", call, 0, -errno.ENETUNREACH, 0))
