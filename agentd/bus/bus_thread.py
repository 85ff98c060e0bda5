"""A Bus in a thread of its own, for an event loop that must never wait for the disk."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from agentd.bus import Bus, Opening
from agentd.clock import Clock
from agentd.paths import Paths
from agentd.process.jobs import settle

T = TypeVar("T")


class BusThread:
    """A daemon thread that owns a Bus: a locked database never delays the process's exit."""

    def __init__(self, paths: Paths, clock: Clock, opening: Opening) -> None:
        self._paths, self._clock, self._opening = paths, clock, opening
        self._calls: queue.SimpleQueue[Callable[[Bus], None] | None] = queue.SimpleQueue()
        self._ended: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Open the database, creating or migrating it.

        Raises:
            DamagedDatabase, NewerDatabase, StorageError: it cannot be used.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Bus] = loop.create_future()
        self._ended = loop.create_future()
        thread = threading.Thread(target=self._run, args=(opened,), name="bus", daemon=True)
        thread.start()
        await opened

    async def call(self, function: Callable[[Bus], T]) -> T:
        """Run `function(bus)` in the thread and return what it returns, or raise what it raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def work(bus: Bus) -> None:
            settle(future, function, bus)

        self._calls.put(work)
        return await future

    def close(self) -> None:
        """Let the thread finish its calls and end. Does not wait for it."""
        self._calls.put(None)

    async def closed(self) -> None:
        """Close, and return when the database is closed."""
        self.close()
        if self._ended is not None:
            await self._ended

    def _run(self, opened: "asyncio.Future[Bus]") -> None:
        assert self._ended is not None
        settle(self._ended, self._serve, opened)

    def _serve(self, opened: "asyncio.Future[Bus]") -> None:
        bus: Bus | None = None

        def open_it() -> Bus:
            nonlocal bus
            path = self._paths.database
            wake = None if self._opening.read_only else self._paths.wake  # a reader wakes nobody
            bus = Bus(path, clock=self._clock, wake=wake, opening=self._opening)
            return bus

        if settle(opened, open_it) and bus is not None:
            while (call := self._calls.get()) is not None:
                call(bus)
            bus.close()
