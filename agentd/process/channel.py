"""JSON documents over a Unix stream socket, and descriptors with them, between our processes.

A frame is 4 bytes of length, big endian, then JSON in UTF-8. A descriptor comes with the first byte
of its frame (SCM_RIGHTS), so a frame is read for itself and never more than it.
"""

import array
import json
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from agentd.errors import Stopped

if TYPE_CHECKING:
    from agentd.process.stop import Cancel

FRAME_BYTES_MAX = 16_000_000
HEAD_BYTES = 4
FDS_MAX = 5  # with one frame: as many as a child gets
READ_BYTES = 65_536
SEND_S = 30.0  # for the other end to read what it is sent
BYE = "bye"  # in the last frame of a process that ends by itself: what comes after is not begun
CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none


class ChannelClosed(ConnectionError):
    """The other end is gone."""


class BadFrame(ChannelClosed):
    """It sent what is no frame: nothing can be read behind it."""


class Channel:
    """One end. For one reader and one writer at a time; they may be two threads."""

    def __init__(self, sock: socket.socket, *, frame_max: int = FRAME_BYTES_MAX) -> None:
        self._socket, self._frame_max = sock, frame_max
        self._read = bytearray()  # of the frame that is coming
        self._fds: list[int] = []  # that came with it
        sock.setblocking(False)

    def fileno(self) -> int:
        """Return a descriptor that is readable when something came."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it; descriptors of a frame that did not come whole are closed as well."""
        close_all(self._fds)
        self._fds = []
        self._socket.close()

    def send(
        self,
        document: Mapping[str, Any],
        fds: Sequence[int] = (),
        *,
        deadline_s: float = SEND_S,
        cancel: "Cancel | None" = None,
    ) -> None:
        """Send one document. `fds` stay the caller's own.

        Raises:
            ChannelClosed: the other end is gone.
            TimeoutError: it did not read for `deadline_s`; nothing more can be sent.
            Stopped: `cancel` came first, with the same consequence.
            ValueError: it is longer than a frame may be; nothing was sent.
        """
        data = memoryview(frame(document, self._frame_max))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        until = time.monotonic() + deadline_s
        while data:
            try:
                sent = self._socket.sendmsg([data], rights)
            except BlockingIOError:
                self._wait(select.POLLOUT, until, cancel)
                continue
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            data, rights = data[sent:], []

    def receive(
        self, deadline_s: float | None = None, cancel: "Cancel | None" = None
    ) -> tuple[dict[str, Any], list[int]]:
        """Return the next document, and the descriptors that came with it: the caller's to close.

        Raises:
            ChannelClosed, BadFrame: nothing more comes.
            TimeoutError: nothing whole came within `deadline_s`.
            Stopped: `cancel` came first. The next call goes on where this one was.
        """
        until = None if deadline_s is None else time.monotonic() + deadline_s
        while (found := self.receive_now()) is None:
            self._wait(select.POLLIN, until, cancel)
        return found

    def receive_now(self) -> tuple[dict[str, Any], list[int]] | None:
        """Return the next document if all of it is there; see `receive`."""
        while True:
            wanted = HEAD_BYTES
            if len(self._read) >= HEAD_BYTES:
                wanted += length_of(self._read[:HEAD_BYTES], self._frame_max)
                if len(self._read) == wanted:
                    return self._document(bytes(self._read[HEAD_BYTES:]))
            try:
                self._take(min(wanted - len(self._read), READ_BYTES))
            except BlockingIOError:
                return None

    def _take(self, count: int) -> None:
        try:
            data, rights, flags, _ = self._socket.recvmsg(
                count, socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize), CLOSE_ON_EXEC
            )
        except BlockingIOError:
            raise
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        for level, kind, value in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
                self._fds += fds
        for fd in self._fds:
            os.set_inheritable(fd, False)
        if not data:
            raise ChannelClosed("the other end is gone")
        if flags & socket.MSG_CTRUNC or len(self._fds) > FDS_MAX:
            raise BadFrame(f"more than {FDS_MAX} descriptors came with a frame")
        self._read += data

    def _document(self, text: bytes) -> tuple[dict[str, Any], list[int]]:
        self._read.clear()
        document = document_of(text)
        fds, self._fds = self._fds, []
        return document, fds

    def _wait(self, events: int, until: float | None, cancel: "Cancel | None") -> None:
        """Wait for the socket, the deadline or the stop."""
        left_s = None if until is None else until - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError("the other end took too long")
        with ExitStack() as stack:
            poll = select.poll()
            poll.register(self._socket, events)
            if cancel is not None:
                poll.register(stack.enter_context(cancel.bell()), select.POLLIN)
            poll.poll(None if left_s is None else left_s * 1000 + 1)
        if cancel is not None and cancel.stopped:
            raise Stopped("the wait for another process was stopped")


def frame(document: Mapping[str, Any], frame_max: int = FRAME_BYTES_MAX) -> bytes:
    """Return a document as a frame.

    Raises:
        ValueError: it is longer than a frame may be.
    """
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > frame_max:
        raise ValueError(f"{len(text)} bytes are too long for one frame")
    return len(text).to_bytes(HEAD_BYTES, "big") + text


def length_of(head: bytes | bytearray, frame_max: int = FRAME_BYTES_MAX) -> int:
    """Return how many bytes follow the head of a frame.

    Raises:
        BadFrame: more than a frame may have.
    """
    length = int.from_bytes(head, "big")
    if length > frame_max:
        raise BadFrame(f"a frame of {length} bytes is too long")
    return length


def document_of(text: bytes) -> dict[str, Any]:
    """Return what a frame holds.

    Raises:
        BadFrame: it is no JSON object.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"a frame is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadFrame("a frame is no JSON object")
    return document


def close_all(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
