"""No network: what `offline` refuses, for whom, and what passes."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.replay.offline import Offline, offline, online


def refused(attempt: Callable[[], object]) -> bool:
    """Whether an attempt raises Offline; that it fails otherwise does not count."""
    try:
        attempt()
    except Offline:
        return True
    except OSError:
        return False
    return False


def in_thread(attempt: Callable[[], object]) -> bool:
    said: list[bool] = []
    thread = threading.Thread(target=lambda: said.append(refused(attempt)))
    thread.start()
    thread.join(30)
    return said == [True]


def test_threads_that_start_in_it_are_offline_as_well() -> None:
    """A handler that connects in a thread is refused there; one that runs already is left alone."""
    go, said = threading.Event(), list[bool]()

    def other() -> None:
        go.wait(30)
        said.append(refused(connect))

    def connect() -> None:
        socket.create_connection(("127.0.0.1", 9), 1).close()

    before = threading.Thread(target=other)
    before.start()
    with offline():
        assert refused(connect) and in_thread(connect)
        go.set()
        before.join(30)
        with online():
            assert not refused(connect)
        assert refused(connect)
    assert said == [False] and not refused(connect)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: socket.gethostbyaddr("192.0.2.1"),
        lambda: socket.getnameinfo(("192.0.2.1", 80), 0),
        lambda: socket.getaddrinfo("localhost.example.com", 80),
        lambda: socket.getaddrinfo("127.example.com", 80),
    ],
)
def test_names_that_are_not_this_machine(ask: Callable[[], object]) -> None:
    """What only begins like a loopback name is somebody else's; so are reverse lookups."""
    with offline(loopback=True):
        assert refused(ask)


def test_this_machine_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `loopback` its addresses do; sockets that are files always do."""
    monkeypatch.chdir(tmp_path)
    with offline(loopback=True):
        assert not refused(lambda: socket.getaddrinfo("localhost", 80))
        assert not refused(lambda: socket.getaddrinfo("127.0.0.2", 80))
    with offline(), socket.socket(socket.AF_UNIX) as file:
        assert not refused(lambda: file.connect("no.sock"))
