"""Documents and descriptors between two of our processes, over real sockets."""

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agentd.errors import Stopped
from agentd.process.channel import FDS_MAX, HEAD_BYTES, BadFrame, Channel, ChannelClosed
from agentd.process.stop import Cancel

SOON_S = 20.0  # for what comes at once


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = map(Channel, socket.socketpair())
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    one, other = socket.socketpair()
    channel = Channel(other, frame_max=1_000)
    yield one, channel
    one.close()
    channel.close()


def test_documents_come_as_they_were_sent(ends: tuple[Channel, Channel]) -> None:
    """In order, whole, also half a character of a file's name, which is no UTF-8."""
    one, other = ends
    documents: list[dict[str, Any]] = [{"id": 1, "text": "ä\udcff"}, {}, {"list": [None, {"a": 1}]}]
    for document in documents:
        one.send(document)
    assert [other.receive(SOON_S)[0] for _ in documents] == documents
    assert other.receive_now() is None


def test_a_document_larger_than_any_buffer_comes_whole(ends: tuple[Channel, Channel]) -> None:
    """What a program wrote may be megabytes; sender and reader take turns."""
    one, other = ends
    document = {"text": "x" * 3_000_000}
    sender = threading.Thread(target=one.send, args=(document,))
    sender.start()
    assert other.receive(SOON_S) == (document, [])
    sender.join()


def test_descriptors_come_with_their_own_frame(ends: tuple[Channel, Channel]) -> None:
    """A socket handed on belongs to that answer, and is not inherited by programs."""
    one, other = ends
    read, write = os.pipe()
    one.send({"n": 1})
    one.send({"n": 2}, [write])
    one.send({"n": 3})
    os.close(write)
    assert other.receive(SOON_S) == ({"n": 1}, [])
    document, (got,) = other.receive(SOON_S)
    assert document == {"n": 2}
    assert other.receive(SOON_S) == ({"n": 3}, [])
    assert not os.get_inheritable(got)
    os.write(got, b"here")
    os.close(got)
    assert os.read(read, 10) == b"here"
    os.close(read)


def open_descriptors(of: int) -> int:
    """How many of this process lead where this one does: others may come and go meanwhile."""
    found = 0
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - a list, not a folder that is open
        with contextlib.suppress(OSError):  # the listing's own
            found += os.path.samestat(os.fstat(int(name)), os.fstat(of))
    return found


def test_descriptors_that_nobody_asked_for_are_closed(raw: tuple[socket.socket, Channel]) -> None:
    """A frame with too many, or one that never comes whole, leaves none behind."""
    one, other = raw
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        socket.send_fds(one, [b"\0\0\0\4"], [fd] * FDS_MAX)
        assert other.receive_now() is None
        assert open_descriptors(fd) == 1 + FDS_MAX
        socket.send_fds(one, [b"{"], [fd])
        with pytest.raises(BadFrame, match=f"more than {FDS_MAX} descriptors"):
            other.receive_now()
        other.close()
        assert open_descriptors(fd) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"\xff\xff", b"[" * 900, b'{"a": 1'])
def test_garbage_closes(raw: tuple[socket.socket, Channel], text: bytes) -> None:
    """What is no JSON object is no frame, and nothing is read behind it."""
    one, other = raw
    one.send(len(text).to_bytes(HEAD_BYTES, "big") + text)
    with pytest.raises(BadFrame, match="no JSON"):
        other.receive(SOON_S)


def test_a_frame_that_is_too_long_is_not_read(raw: tuple[socket.socket, Channel]) -> None:
    """Its length alone refuses it: no memory is taken for it."""
    one, other = raw
    one.send(b"\xff" * HEAD_BYTES)
    with pytest.raises(BadFrame, match="too long"):
        other.receive(SOON_S)
    with pytest.raises(ValueError, match="too long"):
        other.send({"text": "x" * 1_000})


def test_an_end_that_is_gone_is_told(ends: tuple[Channel, Channel]) -> None:
    """To who reads, after what was sent before, and to who writes."""
    one, other = ends
    one.send({"last": 1})
    one.close()
    assert other.receive(SOON_S) == ({"last": 1}, [])
    with pytest.raises(ChannelClosed):
        other.receive(SOON_S)
    with pytest.raises(ChannelClosed):
        other.send({})


def test_a_wait_ends_at_its_deadline(ends: tuple[Channel, Channel]) -> None:
    """Half a frame does not make it longer, and nobody waits for who does not read."""
    one, other = ends
    with pytest.raises(TimeoutError):
        other.receive(0.01)
    with pytest.raises(TimeoutError):
        one.send({"text": "x" * 3_000_000}, deadline_s=0.01)
    with pytest.raises(TimeoutError):
        other.receive(0.05)


def test_a_stop_ends_a_wait(ends: tuple[Channel, Channel]) -> None:
    """From another thread; what was half read is read on later."""
    one, other = ends
    cancel = Cancel()
    text = json.dumps({"a": 1}).encode()
    one._socket.send(len(text).to_bytes(HEAD_BYTES, "big") + text[:3])
    stopper = threading.Timer(0.05, cancel.stop)
    stopper.start()
    with pytest.raises(Stopped):
        other.receive(SOON_S, cancel)
    stopper.join()
    one._socket.send(text[3:])
    assert other.receive(SOON_S) == ({"a": 1}, [])
