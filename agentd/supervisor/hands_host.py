"""Hands: started when a worker asks, killed when it ends, changes its version, or asks for that."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from functools import partial
from typing import Any

from agentd.admission.version import CONFIG
from agentd.config.agent import load_agent
from agentd.errors import AgentdError
from agentd.hands.orders import Orders
from agentd.hands.permitted import orders_for, written_in
from agentd.paths import private_folder
from agentd.process.channel import Channel, ChannelClosed
from agentd.process.child import Child
from agentd.process.jobs import in_thread
from agentd.process.supervisor_link import error_of
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.supervisor.children import KILLED_S
from agentd.supervisor.fetcher_host import FetcherHost
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.one_job import run_to_end
from agentd.supervisor.requests import Answer, Asker, Handler
from agentd.tools.closed import Closed
from agentd.whole import remove

READY_S = 20.0  # for hands to be in their sandbox; it takes 40 ms
PAUSE_S = 0.2  # between two starts for one agent: hands that die at once cost no more
SHOWN = 2_000  # characters of what they printed, in the log


class HandsHost:
    """All agents' hands, at most one process an agent. In the event loop."""

    def __init__(self, parts: HostParts, fetcher: FetcherHost) -> None:
        self._parts, self._fetcher = parts, fetcher
        self._paths, self._log = parts.paths, parts.log
        self._living: dict[str, tuple[Child, asyncio.Task[None]]] = {}  # by agent
        self._started: dict[str, float] = {}  # when its latest hands were, on the loop's clock

    def handlers(self) -> Mapping[str, Handler]:
        """Return what workers may ask for."""
        return {"hands": self._start, "kill_hands": self._kill, "sandbox": self._check}

    def leave(self, asker: Asker) -> None:
        """Kill the hands of a worker that is gone. Returns at once."""
        if (living := self._living.get(asker.name)) is not None:
            living[0].kill()

    def pids(self) -> dict[str, int]:
        """Return those that live, by agent."""
        return {name: child.pid for name, (child, _) in self._living.items()}

    async def gone(self) -> None:
        """Return when no hands are left, once the workers are gone; or after a moment."""
        if ends := [end for _, end in self._living.values()]:
            await asyncio.wait(ends, timeout=KILLED_S)

    async def _check(self, asker: Asker, document: dict[str, Any]) -> Answer:
        """Refuse where hands could not be closed off as agentd.toml wants them."""
        await in_thread(demand, self._parts.required)
        return {}, ()

    async def _kill(self, asker: Asker, document: dict[str, Any]) -> Answer:
        """Kill the hands that it has, and see them gone."""
        if (living := self._living.get(asker.name)) is not None:
            living[0].kill()
            if (await asyncio.wait({living[1]}, timeout=KILLED_S))[1]:
                raise AgentdError("its hands were killed, and are not gone yet")
        return {}, ()

    async def _start(self, asker: Asker, document: dict[str, Any]) -> Answer:
        """Start hands in the place of those before, and hand their channel over."""
        await self._check(asker, document)
        await self._kill(asker, document)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._started.get(asker.name, -PAUSE_S) + PAUSE_S - loop.time())
        self._started[asker.name] = began = loop.time()
        orders = await in_thread(self._orders, asker)
        with contextlib.ExitStack() as way:  # of their programs to the network
            if orders.permissions.run and orders.permissions.net:
                proxy = await self._fetcher.proxy(orders.permissions.net)
                way.callback(self._fetcher.end_proxy, proxy.number)
                orders = orders.reaching(proxy.url, proxy.port)
            try:
                child = self._spawn(asker.name, orders)
            except OSError as error:
                raise AgentdError(f"hands cannot be started: {error}") from error
            watch = self._parts.jobs.start(self._watch(asker, child, way.pop_all()), last=True)
        self._living[asker.name] = child, watch
        with child.take_control() as control:
            channel = Channel(control)
            try:
                channel.send(orders.document(), deadline_s=0)
                answer = await _first(channel)
            except (TimeoutError, ChannelClosed) as error:
                await self._kill(asker, document)
                raise AgentdError(f"hands did not get ready: {error}") from error
            if isinstance(problem := answer.get("error"), dict):
                raise error_of(problem)
            took_ms = round((loop.time() - began) * 1000, 1)
            self._log.info("hands.started", agent=asker.name, pid=child.pid, duration_ms=took_ms)
            return {}, [control.detach()]  # the worker's alone: they end with it

    def _orders(self, asker: Asker) -> Orders:
        """Read what the version permits, and make an empty scratch folder. In a thread."""
        agent = load_agent(asker.folder(self._paths) / CONFIG)
        scratch = self._paths.hands_scratch(asker.name)
        key = self._parts.config().model.api_key_file
        remove(scratch)
        with contextlib.suppress(OSError):  # a full disk: what needs one fails, the rest does not
            private_folder(scratch)
        closed = Closed.of(self._paths, asker.name, key)
        written = partial(written_in, self._paths)
        own = self._paths.own_folders / asker.name
        return orders_for(
            agent.permissions, closed, scratch, written, require=self._parts.required, own=own
        )

    def _spawn(self, name: str, orders: Orders) -> Child:
        argv = put_into(orders.sandbox, self._parts.commands.hands())
        return self._parts.spawn(f"{name}.hands", argv)

    async def _watch(self, asker: Asker, child: Child, way: contextlib.ExitStack) -> None:
        """See them to their end, and with them the way of their programs to the network."""
        with way:
            ran = await run_to_end(child, self._parts.reaper, None)
        printed = ran.output.decode("utf-8", "replace")[-SHOWN:]
        well = ran.code in (0, -signal.SIGKILL) and not printed
        write = self._log.info if well else self._log.warning
        more = {"printed": printed} if printed else {}
        write("hands.ended", agent=asker.name, pid=child.pid, exit=ran.code, **more)
        with contextlib.suppress(OSError):
            (self._paths.locks / f"{asker.name}.hands.lock").unlink()
        del self._living[asker.name]


async def _first(channel: Channel) -> dict[str, Any]:
    """Return the first frame that comes.

    Raises:
        ChannelClosed, TimeoutError: none does.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(READY_S):
        while (found := channel.receive_now()) is None:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(channel.fileno(), readable.set_result, None)
            try:
                await readable
            finally:
                loop.remove_reader(channel.fileno())
    return found[0]
