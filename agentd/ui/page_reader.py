"""What pages read: the database, read only, and what the supervisor says of itself."""

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from agentd.bus import Bus, Opening
from agentd.bus.bus_thread import BusThread
from agentd.bus.database import Database
from agentd.clock import SystemClock
from agentd.errors import AgentdError, StorageError
from agentd.paths import Paths
from agentd.process.channel import close_all
from agentd.process.jobs import in_thread
from agentd.process.supervisor_link import SupervisorLink, error_of

BUSY_MS = 5_000
ANSWER_S = 45.0  # for what the supervisor does first, above its own deadline
READ_BYTES = 65_536
ANSWER_BYTES_MAX = 16_000_000

T = TypeVar("T")


class PageReader:
    """In the event loop: every read is made in a thread."""

    def __init__(self, paths: Paths, link: SupervisorLink) -> None:
        self.paths = paths
        self._link = link
        opening = Opening(create=False, busy_ms=BUSY_MS, read_only=True)
        self._bus = BusThread(paths, SystemClock(), opening)
        # A look at a number in shared memory: a thread for it would cost 20 times as much.
        self._look = replace(opening, busy_ms=0)
        self._seen: Database | None = None
        self._last = 0

    async def open(self) -> None:
        """Open the database. Raises StorageError."""
        await self._bus.open()
        self._seen = Database(self.paths.database, self._look)

    def close(self) -> None:
        """Read no more."""
        self._bus.close()

    def version(self) -> int:
        """Return a number that is another one once something was committed.

        While the database is busy it is the last one: what was committed meanwhile is seen then.
        """
        assert self._seen is not None
        with suppress(StorageError):
            self._last = self._seen.version()
        return self._last

    async def call(self, function: Callable[[Bus], T]) -> T:
        """Return `function(bus)`. Raises what it raises, as a StorageError."""
        return await self._bus.call(function)

    async def status(self, *, use: bool = False) -> dict[str, Any]:
        """Return what the supervisor says of itself; by `use` also what its processes take.

        Raises:
            AgentdError: it does not answer.
        """
        return await self.answer({"ask": "status", "use": use})

    async def key(self) -> bytes:
        """Return the key of links and cookies. Raises AgentdError."""
        answer, fds = await in_thread(self._link.ask, {"ask": "page_key"})
        close_all(fds)
        return bytes.fromhex(answer["key"])

    async def index(self) -> None:
        """Let all that is committed be found by its words. Raises AgentdError."""
        _, fds = await in_thread(self._link.ask, {"ask": "index"})
        close_all(fds)

    async def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return a document that the supervisor gives by a socket of its own.

        Raises:
            AgentdError: it refuses, is gone, or takes too long.
        """
        return await in_thread(self._answer, question)

    def _answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        _, fds = self._link.ask(question)
        if len(fds) != 1:
            close_all(fds)
            raise AgentdError("the supervisor answered with nothing to read")
        read = bytearray()
        with socket.socket(fileno=fds[0]) as sock:
            sock.settimeout(ANSWER_S)
            try:
                while (data := sock.recv(READ_BYTES)) and len(read) <= ANSWER_BYTES_MAX:
                    read += data
            except OSError as error:  # a TimeoutError is one
                raise AgentdError(f"the supervisor did not answer: {error}") from error
        try:
            document = json.loads(read)
        except ValueError as error:
            raise AgentdError("the supervisor ended in the middle of its answer") from error
        if not isinstance(document, dict):
            raise AgentdError("the supervisor answered with no object")
        if "failed" in document:
            raise error_of(document["failed"])
        return document
