"""How workers and checks of agents start: forked by a process that has their imports, or spawned.

The fork server is started with the first check. Where there is none, it refuses, or it does not
answer, they are spawned: they do the same, and a worker takes three times the memory.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from agentd.errors import Problem
from agentd.process import environment
from agentd.process.channel import Channel
from agentd.process.child import Child
from agentd.process.fork_orders import ForkOrders, NotForked
from agentd.process.process_title import ROOM
from agentd.states import WorkerState
from agentd.supervisor.children import Managed, Reaper
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.restart import Ended, Life
from agentd.worker.head import head_command

NAME = "agentd.workers"  # no agent's name has a point
READY_S = 5.0  # for it to have imported all, before workers are spawned in its place
STOP_S = 1.0
PARKED_S = 60.0  # from a crash loop to one more try
HINT = "workers run without it, and each takes three times the memory"
ORPHANS_S = 0.2  # between looks at children whose server is gone


class WorkerForks:
    """Starts children that are forked where that goes. In the event loop."""

    def __init__(self, parts: HostParts, life: Life) -> None:
        self._parts = parts
        self._orders: ForkOrders | None = None
        self._settled = asyncio.Event()
        self._closed = False
        self.managed = Managed(
            NAME,
            self._spawn,
            life,
            parts.reaper,
            self._on_change,
            hear=self._hear,
            log=parts.log,
            clock=parts.clock,
        )

    @property
    def wanted(self) -> bool:
        """Whether workers are to be forked."""
        return self._parts.config().supervisor.forks and self._parts.commands.forks is not None

    def document(self) -> dict[str, Any] | None:
        """Return what `status` says of the server; None where there is none, as workers go."""
        life = self.managed.life
        if life.state is WorkerState.STOPPED:
            return None
        what = f"workers are not forked: {life.reason}"
        problem: Problem = {"what": what, "where": NAME, "hint": HINT}
        parked = life.state is WorkerState.PARKED
        return {**self.managed.document(), "problem": problem if parked else None}

    async def settled(self) -> None:
        """Return when children can be started: by a server, or without one."""
        if self._closed or not self.wanted:
            return
        life = self.managed.life
        if life.state is WorkerState.PARKED and self._parked_s > PARKED_S:
            life.try_once()
            self.managed.start()
        elif life.state is WorkerState.STOPPED and not life.stopping:
            self.managed.start()
        try:
            async with asyncio.timeout(READY_S):
                await self._settled.wait()
        except TimeoutError:
            self._settled.set()  # nobody else waits: the next ones get whatever there is by then

    def worker(self, name: str, version: str, more: Mapping[str, str]) -> Child:
        """Start the worker of an agent's version; `more` of its environment.

        Raises:
            OSError, AlreadyRunning: as `Child.spawn`.
        """
        paths = self._parts.paths
        argv = self._parts.commands.worker(name, version)
        if (child := self._fork(name, argv, more, control=True)) is not None:
            return child
        argv = head_command(argv, paths.versions / name / version, paths)
        return self._parts.spawn(name, argv, more=more)

    def admission(self, name: str, argv: Sequence[str]) -> Child:
        """Start a check of an agent.

        Raises:
            OSError, AlreadyRunning: as `Child.spawn`.
        """
        child = self._fork(name, argv, {}, control=False)
        return child or self._parts.spawn(name, argv, control=False)

    def _fork(
        self, name: str, argv: Sequence[str], more: Mapping[str, str], *, control: bool
    ) -> Child | None:
        """Return a forked child; None where that does not go."""
        if self._orders is None or not self.wanted:
            return None
        paths, env = self._parts.paths, {**environment.for_child(), **more}
        fork = partial(self._orders.fork, argv, env, paths.data)
        try:
            return Child.begin(name, paths.locks, fork, control=control, clock=self._parts.clock)
        except NotForked as error:
            self._parts.log.warning("worker.not_forked", agent=name, why=error.what)
            self._begin_anew(error)
            return None

    async def stop(self) -> None:
        """Stop the server for good, and return when it is gone."""
        self._closed = True
        self.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=STOP_S)
        await self.managed.gone()

    @property
    def _parked_s(self) -> float:
        return (self._parts.clock.now() - self.managed.life.since).total_seconds()

    def _begin_anew(self, error: NotForked) -> None:
        """End a server that hangs, or that is out of date; its children live on."""
        self._orders = None
        if error.lost:
            self.managed.kill()
        else:
            self.managed.restart()

    def _spawn(self) -> Child:
        assert self._parts.commands.forks is not None
        return self._parts.spawn(NAME, [*self._parts.commands.forks(), ROOM])

    def _hear(self, server: Child) -> "Reports":
        assert server.control is not None
        return Reports(Channel(server.control), self._parts.reaper, self._orphaned)

    def _on_change(self, _: Ended | None) -> None:
        state, reports = self.managed.life.state, self.managed.hearing
        self._orders = None
        if state is WorkerState.RUNNING and isinstance(reports, Reports):
            self._orders = reports.orders
        if state is WorkerState.STARTING:
            self._settled.clear()
        else:
            self._settled.set()

    def _orphaned(self, orders: ForkOrders) -> None:
        if orders.living:
            self._parts.jobs.start(self._watch_orphans(orders), "orphans of a fork server")

    async def _watch_orphans(self, orders: ForkOrders) -> None:
        """See that somebody looks whether they are dead: no signal tells."""
        living = True
        while living:
            await asyncio.sleep(ORPHANS_S)  # ends by cancellation
            self._parts.reaper.reap()  # also after the last was found dead by another look
            living = bool(orders.living)


class Reports:
    """Hears one server; in the event loop."""

    def __init__(
        self, channel: Channel, reaper: Reaper, gone: Callable[[ForkOrders], None]
    ) -> None:
        self.orders = ForkOrders(channel, self._ended)
        self._reaper, self._gone = reaper, gone
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.orders.fileno(), self._read)
        self._looks = False  # somebody looks soon who it was that ended

    def end(self) -> None:
        """The server is gone."""
        self._loop.remove_reader(self.orders.fileno())
        self.orders.close()
        self._reaper.reap()
        self._gone(self.orders)

    def _read(self) -> None:
        self.orders.hear()
        if self.orders.lost:
            self._loop.remove_reader(self.orders.fileno())

    def _ended(self) -> None:
        """It told of an end: to us, or while an order, or the look at another child, heard it."""
        if not self._looks:
            self._looks = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looks = False
        self._reaper.reap()
