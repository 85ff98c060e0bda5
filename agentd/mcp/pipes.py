"""A server's messages over its own pipes, which are ours: bounded lines, and no flood.

The library's own stdio transport starts the process itself, lets a line grow without end, and
leaves what the server started. Here the process is somebody else's matter.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

LINE_BYTES_MAX = 8_000_000  # an image of some megabytes is one line
READ_BYTES = 65_536
# A server that says more within a window than anybody asks for is ended: reading all of it would
# take the time of the other servers' calls.
WINDOW_S = 10.0
WINDOW_LINES = 5_000
WINDOW_BYTES = 64_000_000
TOOLS_CHANGED = "notifications/tools/list_changed"

Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
Outgoing = MemoryObjectSendStream[SessionMessage]


class Flow:
    """What comes from one server, held to what anybody asks for."""

    def __init__(self) -> None:
        self._since, self._lines, self._bytes = time.monotonic(), 0, 0

    def floods(self, lines: int, size: int) -> bool:
        """Count lines and bytes that came; say whether it is too much for a window."""
        now = time.monotonic()
        if now - self._since > WINDOW_S:
            self._since, self._lines, self._bytes = now, 0, 0
        self._lines, self._bytes = self._lines + lines, self._bytes + size
        return self._lines > WINDOW_LINES or self._bytes > WINDOW_BYTES


class Pipes:
    """The two descriptors of a server's standard input and output.

    `ended` is set once nothing comes any more, and `why` says why.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.ended = anyio.Event()
        self.why = ""
        self.tools_changed = False  # it said so; whoever lists its tools again resets it
        self._read_fd, self._write_fd = read_fd, write_fd
        self._flow = Flow()
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)

    def close(self) -> None:
        """Close both descriptors: a server in order ends then."""
        for fd in (self._read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._read_fd = self._write_fd = -1

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[tuple[Incoming, Outgoing]]:
        """Yield the transport of an `mcp.Client`."""
        to_client, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, from_client = anyio.create_memory_object_stream[SessionMessage](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, to_client)
            tasks.start_soon(self._write, from_client)
            try:
                yield incoming, outgoing
            finally:
                tasks.cancel_scope.cancel()

    async def _read(self, to_client: MemoryObjectSendStream[SessionMessage | Exception]) -> None:
        try:
            async with to_client:
                self.why = await self._lines_to(to_client)
        finally:
            self.ended.set()

    async def _lines_to(self, to_client: MemoryObjectSendStream[SessionMessage | Exception]) -> str:
        """Pass its lines on until there is a reason to end, which is returned."""
        rest = bytearray()
        while True:
            await anyio.wait_readable(self._read_fd)
            try:
                data = os.read(self._read_fd, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                return f"cannot be read: {error.strerror}"
            if not data:
                return "ended"
            *lines, last = data.split(b"\n")
            for line in lines:
                message = _message(bytes(rest + line))
                rest.clear()
                if self._flow.floods(1, len(line)):
                    return f"says more than {WINDOW_LINES} lines in {WINDOW_S:g} s"
                if message is not None and not self._only_tells(message):
                    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                        await to_client.send(message)
                await anyio.sleep(0)  # the others' turn
            rest += last
            if len(rest) > LINE_BYTES_MAX:
                return f"wrote a line of more than {LINE_BYTES_MAX} bytes"

    def _only_tells(self, message: SessionMessage) -> bool:
        """Whether nobody waits for it: log lines, progress, changes of what is not used here."""
        method = getattr(message.message, "method", None)
        self.tools_changed = self.tools_changed or method == TOOLS_CHANGED
        return method is not None and not hasattr(message.message, "id")

    async def _write(self, from_client: MemoryObjectReceiveStream[SessionMessage]) -> None:
        async with from_client:
            async for sent in from_client:
                text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                data = memoryview(text.encode() + b"\n")
                while data:
                    try:
                        data = data[os.write(self._write_fd, data) :]
                    except BlockingIOError:
                        await anyio.wait_writable(self._write_fd)
                    except OSError:  # it is gone: the reader hears that, too
                        return


def _message(line: bytes) -> SessionMessage | None:
    """Return a line's message; None for what is none, as servers print other things as well."""
    if not line.strip():
        return None
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None
