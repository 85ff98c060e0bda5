"""Wake-ups: quick when they arrive, harmless when they do not."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.bus import Bus
from agentd.bus.wake import Bell, Ear, socket_path
from agentd.errors import EventRefused, StorageError
from agentd.events import Lane, NewEvent


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    bus = Bus(tmp_path / "a.db", wake=tmp_path)
    bus.accept("reader", "v", subscribe=["repo.changed", "disk.*"])
    bus.accept("other", "v", subscribe=["mail.came"])
    return bus


def test_a_subscriber_is_woken_and_nobody_else(bus: Bus) -> None:
    """Twenty idle workers must not wake for one event."""
    reader, other = bus.doorbell.ear("reader"), bus.doorbell.ear("other")
    bus.publish("person", NewEvent("repo.changed"))
    assert reader.wait(1) and not reader.drain()
    bus.publish("person", NewEvent("disk.full"))
    assert reader.wait(1)
    assert not other.drain()


def test_the_target_is_woken_and_no_subscriber(bus: Bus) -> None:
    """An addressed event is nobody else's."""
    reader, other = bus.doorbell.ear("reader"), bus.doorbell.ear("other")
    bus.publish("person", NewEvent("repo.changed", target="other"))
    assert other.wait(1)
    assert not reader.drain()


def test_a_publisher_does_not_wake_itself(bus: Bus) -> None:
    """It does not receive its own events."""
    reader = bus.doorbell.ear("reader")
    bus.publish("reader", NewEvent("repo.changed"))
    assert not reader.drain()


def test_a_changed_subscription_is_noticed(bus: Bus) -> None:
    """The table of subscriptions is cached, and the cache is dropped on a change."""
    other = bus.doorbell.ear("other")
    bus.publish("person", NewEvent("repo.changed"))
    bus.accept("other", "v2", subscribe=["repo.changed"])
    bus.publish("person", NewEvent("repo.changed"))
    assert other.wait(1)


def test_the_wake_up_comes_after_the_commit(bus: Bus) -> None:
    """Woken earlier, a consumer would find nothing and sleep for a whole poll."""
    reader = bus.doorbell.ear("reader")
    with bus.transaction():
        bus.publish("person", NewEvent("repo.changed"))
        assert not reader.drain()
    assert reader.wait(1)


def test_a_rolled_back_event_wakes_nobody(bus: Bus) -> None:
    """Neither at once nor with the next commit."""
    reader = bus.doorbell.ear("reader")
    with pytest.raises(EventRefused), bus.transaction():
        bus.publish("person", NewEvent("repo.changed"))
        bus.publish("person", NewEvent("not a type"))
    bus.publish("person", NewEvent("mail.came"))
    assert not reader.drain()


def test_a_full_receiver_neither_blocks_nor_fails_the_publisher(bus: Bus) -> None:
    """ENOBUFS and EAGAIN: enough wake-ups wait there already."""
    reader = bus.doorbell.ear("reader")
    for _ in range(2000):
        bus.publish("person", NewEvent("repo.changed"))
    assert reader.wait(1) and not reader.drain()
    assert bus.next(Lane("reader", False, ("repo.changed",))) is not None


def test_a_missing_or_dead_receiver_does_not_fail_the_publisher(tmp_path: Path) -> None:
    """ENOENT and ECONNREFUSED: the event is committed, the poll finds it."""
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(socket_path(tmp_path, "dead")))
    dead.close()
    bell = Bell(tmp_path)
    bell.ring(["dead", "missing", "x" * 200])
    Bell(tmp_path / "no folder").ring(["missing"])


def test_a_dead_workers_socket_is_replaced(tmp_path: Path) -> None:
    """A SIGKILLed worker leaves its socket file behind."""
    first = Ear(tmp_path, "reader")
    second = Ear(tmp_path, "reader")
    Bell(tmp_path).ring(["reader"])
    assert second.wait(1) and not first.drain()
    first.close()  # it must not take the successor's socket with it
    Bell(tmp_path).ring(["reader"])
    assert second.wait(1)
    second.close()
    assert not second.path.exists()


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    """104 bytes on macOS; the error says where."""
    folder = tmp_path / ("d" * 100)
    folder.mkdir()
    with pytest.raises(StorageError, match="d" * 100):
        Ear(folder, "reader")


def test_one_process_wakes_anotherwithin_a_blink(tmp_path: Path) -> None:
    """Through the file system, not through memory."""
    ear = Ear(tmp_path, "reader")
    code = "import sys; from pathlib import Path; from agentd.bus.wake import Bell\n"
    code += "Bell(Path(sys.argv[1])).ring(['reader'])"
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]):
        assert ear.wait(30)
