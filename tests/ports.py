"""Ports for servers of tests."""

import contextlib
import random
import socket


def free_port() -> int:
    """A port on loopback that nobody has at this moment, and that no system gives out by itself.

    From 32768 on, or 49152, each connection and each server of another test may be given it.
    """
    while True:
        port = random.SystemRandom().randrange(25_000, 32_000)  # not the model server's own
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
