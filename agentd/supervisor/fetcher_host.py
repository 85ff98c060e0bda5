"""The fetcher as the supervisor runs it: started at need, stopped when nobody needs it any more."""

import asyncio
import itertools
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from agentd.admission.version import CONFIG
from agentd.config.agent import load_agent
from agentd.errors import AgentdError
from agentd.fetcher.proxy_place import ProxyPlace, new_place
from agentd.fetcher.resolver import fetcher_policy
from agentd.process.child import Child
from agentd.process.jobs import in_thread
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.states import WorkerState
from agentd.supervisor.children import KILLED_S, Managed
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.requests import Answer, Asker, Handler
from agentd.supervisor.restart import Ended, Life

NAME = "agentd.fetcher"  # no agent's name has a point
STOP_S = 1.0  # for it to tell agents that it ends
IDLE_S = 60.0
PARKED_S = 60.0  # from a crash loop to one more try


class FetcherHost:
    """Runs the fetcher. In the event loop."""

    def __init__(
        self,
        parts: HostParts,
        life: Life,
    ) -> None:
        self._parts, self._clock = parts, parts.clock
        # Listening sockets, with what is said of them: they outlive a fetcher that dies.
        self._proxies: dict[int, tuple[socket.socket, Mapping[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._awaited = False  # somebody waits by a call of it, all the time
        self._used = self._clock.monotonic()
        self._closed = False
        self.managed = Managed(
            NAME,
            self._spawn,
            life,
            parts.reaper,
            self._on_change,
            log=parts.log,
            clock=parts.clock,
        )

    def handlers(self) -> Mapping[str, Handler]:
        """Return what workers may ask for."""
        return {"fetcher": self._channel}

    async def proxy(self, net: Sequence[str]) -> ProxyPlace:
        """Let the programs of some hands reach these hosts, until `end_proxy`.

        Raises:
            AgentdError: the fetcher cannot be started, or there is no port for it.
        """
        await self._there()
        place, listening, document = new_place(next(self._numbers), net)
        self._proxies[place.number] = listening, document
        with suppress(AgentdError):  # it has just died: the next one gets them all
            self.managed.hand_over(document, listening)
        return place

    def end_proxy(self, number: int) -> None:
        """Let nobody through there any more, also not what was left running."""
        if (proxy := self._proxies.pop(number, None)) is None:
            return  # the fetcher was stopped first
        proxy[0].close()
        with suppress(AgentdError):  # then it has ended as well
            self.managed.hand_over({"end": number})

    def poll(self) -> None:
        """Stop it if nobody has needed it for long, or its resolver's files are others by now."""
        beat, life = self.managed.beat, self.managed.life
        if life.state is not WorkerState.RUNNING or life.stopping or beat["state"] != "idle":
            return
        kept = self._proxies or self._awaited
        if kept and beat["stale"]:
            self.managed.restart()
        elif not kept and (beat["stale"] or self._idle_s > IDLE_S):
            self.managed.stop(WorkerState.STOPPED, "nobody needs it", grace_s=STOP_S)

    async def stop(self) -> None:
        """Stop it for good, and return when it is gone."""
        self._closed = True
        self.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=STOP_S)
        await self.managed.gone()
        for number in list(self._proxies):
            self.end_proxy(number)

    @property
    def _idle_s(self) -> float:
        """For how long it has had nothing to do, as it and we know."""
        return min(float(self.managed.beat["idle_s"]), self._clock.monotonic() - self._used)

    async def _channel(self, asker: Asker, _: dict[str, Any]) -> Answer:
        """Hand a worker a channel by which it reaches what its agent's `net` lists."""
        config = await in_thread(load_agent, asker.folder(self._parts.paths) / CONFIG)
        return {}, [await self._calls({"agent": asker.name, "net": config.permissions.net})]

    async def posts(self, name: str, host: str, *, waits: bool) -> int:
        """Return a channel's descriptor by which what sends results posts to this host alone.

        `waits`: its calls wait for others' news; until `release` the fetcher is kept for them.

        Raises:
            AgentdError: the fetcher cannot be started.
        """
        document = {"agent": name, "net": [host], "posts": True, "waits": waits}
        channel = await self._calls(document)
        self._awaited = self._awaited or waits
        return channel

    def release(self) -> None:
        """Nobody waits there any more."""
        self._awaited = False

    async def _calls(self, document: Mapping[str, Any]) -> int:
        """Hand the fetcher one end of a channel for somebody's calls; return the other one."""
        theirs, ours = socket.socketpair()
        with ours:
            try:
                await self._hand_over(document, ours)
            except BaseException:
                theirs.close()
                raise
        return theirs.detach()

    async def _hand_over(self, document: Mapping[str, Any], sock: socket.socket) -> None:
        await self._there()
        try:
            self.managed.hand_over(document, sock)
        except AgentdError:  # it has just died: who asks knew so before we did
            async with asyncio.timeout(KILLED_S):
                await self.managed.gone()
            await self._there()
            self.managed.hand_over(document, sock)

    async def _there(self) -> None:
        """See to it that there is a process, or one that is being started.

        Raises:
            AgentdError: there can be none.
        """
        await in_thread(demand, self._parts.required)
        self._used = self._clock.monotonic()
        life = self.managed.life
        if life.stopping:
            await self.managed.gone()
        if self._closed:
            raise AgentdError("the supervisor stops")
        if self.managed.pid is not None:
            return
        if life.state is WorkerState.PARKED:
            if (self._clock.now() - life.since).total_seconds() < PARKED_S:
                raise AgentdError(f"the fetcher is PARKED: {life.reason}")
            life.try_once()
        self.managed.start()

    def _spawn(self) -> Child:
        command = self._parts.commands.fetcher(self._parts.required)
        return self._parts.spawn(NAME, put_into(fetcher_policy(), command))

    def _on_change(self, _: Ended | None) -> None:
        if self.managed.life.state is WorkerState.STARTING:
            for listening, document in self._proxies.values():
                with suppress(AgentdError):  # it has died at once
                    self.managed.hand_over(document, listening)
