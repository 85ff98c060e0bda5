"""The supervisor's hand on the bus, in a thread of its own.

SQLite waits up to 30 s for a lock, and a disk can be full for a day. Neither may stop children from
being watched, so the event loop never touches the database: it hands calls to this one thread.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from agentd.approval.kept import use
from agentd.approval.signature import person_key
from agentd.approval.unanswered import looked_up, take_reply
from agentd.bus import AgentRow, Bus, Opening
from agentd.bus.bus_thread import BusThread
from agentd.clock import Clock
from agentd.deliver.position import forget_ways
from agentd.errors import AgentdError, DamagedDatabase, EventRefused, Problem
from agentd.events import DAEMON, Event, Lane, NewEvent
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.jobs import Jobs
from agentd.storage import copies
from agentd.supervisor.requests import Answer, Asker

LANE = Lane(DAEMON, direct=True)
WAITING_MAX = 1_000  # events that wait for the database; beyond, the oldest are lost and counted
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 30.0


class Records:
    """What the supervisor writes to and reads from the bus."""

    def __init__(
        self,
        paths: Paths,
        clock: Clock,
        log: Logger,
        opening: Opening,
        jobs: Jobs,
    ) -> None:
        self.lost = 0  # events given up because too many waited
        self.problem: Problem | None = None  # the last failure, None once writing works again
        self._paths = paths
        self._thread = BusThread(paths, clock, opening)
        self._log = log
        self._jobs = jobs
        self._waiting: deque[NewEvent] = deque()
        self._new = asyncio.Event()
        self._writing = asyncio.Lock()  # a batch that is being written is not written again
        self._sender: asyncio.Task[None] | None = None

    def document(self) -> dict[str, Any]:
        """Return what `status` says: how many events are still to be written, or were lost."""
        error = self.problem["what"] if self.problem else ""
        return {"waiting": len(self._waiting), "lost": self.lost, "error": error}

    async def open(self) -> None:
        """Open the bus and start writing announced events.

        Raises:
            NewerDatabase, StorageError: the database cannot be used.
        """
        await self._thread.open()
        await self._thread.call(lambda bus: bus.lanes.open(LANE))
        self._sender = self._jobs.start(self._send(), "announce", last=True)

    async def index(self) -> None:
        """Take up what the index of words lacks, for who may not write. Raises StorageError."""
        while await self._thread.call(lambda bus: bus.search.index()):
            pass

    def announce(self, event_type: str, payload: dict[str, Any]) -> None:
        """Publish an event of the system as soon as the database allows. Never blocks."""
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(NewEvent(event_type, payload))
        self._new.set()

    async def accept(
        self,
        name: str,
        version: str,
        *,
        subscribe: Sequence[str],
        start: Literal["now", "beginning"],
        **triggers: Any,
    ) -> bool:
        """Note an accepted version, create cursors; return whether the agent is paused.

        Raises:
            StorageError: the database cannot be written.
        """

        def work(bus: Bus) -> bool:
            bus.accept(name, version, subscribe=subscribe, start=start, **triggers)
            return any(row.paused for row in bus.agents.list() if row.name == name)

        return await self._thread.call(work)

    async def remove(self, name: str) -> None:
        """Note that an agent is gone or disabled; one that was never accepted is not known.

        Raises:
            StorageError: the database cannot be written.
        """

        def work(bus: Bus) -> None:
            if name in bus.agents.present():
                bus.agents.remove(name)

        await self._thread.call(work)

    async def set_paused(self, name: str, paused: bool) -> None:
        """Keep an agent's pause beyond a restart.

        Raises:
            StorageError: the database cannot be written.
        """
        await self._thread.call(lambda bus: bus.agents.set_paused(name, paused))

    async def forgive(self, *names: str) -> None:
        """Let agents try again that gave up because all their events failed alike.

        Raises:
            StorageError: the database cannot be written.
        """

        def work(bus: Bus) -> None:
            for name in names:
                bus.forgive(name)

        await self._thread.call(work)

    async def agents(self) -> dict[str, AgentRow]:
        """Return the present agents as the bus knows them.

        Raises:
            StorageError: the database cannot be read.
        """
        return await self._thread.call(lambda bus: bus.agents.present())

    async def next_command(self) -> Event | None:
        """Take the next event addressed to the supervisor, None when there is none.

        It is stepped over first: a command that kills us must not kill the next one too.

        Raises:
            StorageError: the database cannot be used.
        """

        def work(bus: Bus) -> Event | None:
            event = bus.next(LANE)
            if event is not None:
                bus.step(LANE, event)
            return event

        return await self._thread.call(work)

    async def verify(self, asker: Asker, request: dict[str, Any]) -> Answer:
        """Answer whether event `event` is what a person's command, or we, wrote to who asks.

        With `use` it is used up: what it allows is done now.

        Raises:
            AgentdError: it is no event's id, or the key or the database cannot be read.
        """
        event_id = request.get("event")
        if type(event_id) is not int or not 0 < event_id < 2**63:
            raise AgentdError("this is no event's id", where="verify")

        def work(bus: Bus) -> dict[str, Any]:
            key, uses = person_key(self._paths), partial(use, self._paths)
            more = (uses,) if request.get("use") is True else ()
            return looked_up(bus, key, asker.name, event_id, *more)

        return await self._thread.call(work), ()

    async def reply(self, asker: Asker, request: dict[str, Any]) -> Answer:
        """Take a person's reply to a message about a question; answer with what to tell them.

        Raises:
            AgentdError: it makes no sense, or the key or the database cannot be used.
        """
        session, asked, done = (request.get(key) for key in ("session", "asked", "done"))
        if type(session) is not int or not isinstance(done, dict):
            raise AgentdError("this is no reply", where="reply")

        def work(bus: Bus) -> dict[str, Any]:
            key, answer = person_key(self._paths), request.get("answer")
            return {"told": take_reply(bus, key, session, str(asked), answer, done)}

        return await self._thread.call(work), ()

    async def forget_ways(self, kept: Sequence[str]) -> None:
        """Forget all ways by which results went but these.

        Raises:
            StorageError: the database cannot be written.
        """
        await self._thread.call(lambda bus: forget_ways(bus, kept))

    async def copy(self, target: Path) -> None:
        """Copy the database, as it is now, to a file of another name.

        Raises:
            DamagedDatabase, StorageError: it cannot be read, or the copy not be written.
        """
        await self._thread.call(lambda bus: copies.copy(bus.db.connection, target))

    async def closed(self) -> None:
        """Return when the database is closed."""
        await self._thread.closed()

    async def flush(self, deadline_s: float) -> None:
        """Write what still waits, for at most `deadline_s` seconds; the last words come next."""
        if self._sender is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while self._waiting:
                    await self._write()
        self._sender.cancel()
        if self._waiting:
            error = self.problem["what"] if self.problem else "no time was left"
            self._log.error("events.lost", count=len(self._waiting), error=error)

    def close(self) -> None:
        """Close the bus, without waiting for it."""
        self._thread.close()

    async def _send(self) -> None:
        retry_s = RETRY_FIRST_S
        while True:
            await self._new.wait()
            if await self._write():
                retry_s = RETRY_FIRST_S
            else:
                await asyncio.sleep(retry_s)  # ends by cancellation
                retry_s = min(2 * retry_s, RETRY_MAX_S)

    async def _write(self) -> bool:
        async with self._writing:
            batch = list(self._waiting)
            try:
                refused = await self._thread.call(lambda bus: _publish(bus, batch))
            except AgentdError as error:
                if self.problem is None:
                    self._log.error("events.delayed", count=len(batch), error=error.what)
                self.problem = error.document()
                if isinstance(error, DamagedDatabase):
                    self._jobs.report(error)  # no later try can mend it
                return False
            self.problem = None
            for one in refused:
                self.lost += 1
                self._log.error("event.refused", type=one.where, error=one.what)
            written = {id(event) for event in batch}
            while self._waiting and id(self._waiting[0]) in written:
                self._waiting.popleft()
            if not self._waiting:
                self._new.clear()
            return True


def _publish(bus: Bus, batch: Sequence[NewEvent]) -> list[EventRefused]:
    """Publish the events in one transaction, except those that the database refuses; return why.

    Raises:
        EventRefused: what refused one of them took the transaction back; nothing was written.
    """
    refused = []
    with bus.transaction():
        for event in batch:
            try:
                bus.publish(DAEMON, event, system=True)
            except EventRefused as error:
                if not bus.db.connection.in_transaction:
                    raise
                refused.append(error)
    return refused
