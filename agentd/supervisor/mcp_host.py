"""The MCP host and its servers as the supervisor runs them: started at need, ended with the host.

A worker asks for a channel, and gets one that is bound to the MCP tools of the version that it
runs. The host asks for servers. Each is a child of ours with pipes that the host gets.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from agentd.admission.version import MANIFEST
from agentd.config.daemon import DaemonConfig
from agentd.config.mcp_servers import McpConfig
from agentd.errors import AgentdError, ToolError
from agentd.fetcher.proxy_place import ProxyPlace
from agentd.hands.mcp_program import program_of
from agentd.mcp.host_policy import host_policy
from agentd.net.exchange import place_of
from agentd.process.channel import Channel, ChannelClosed
from agentd.process.child import Child
from agentd.process.jobs import in_thread
from agentd.sandbox.enter import put_into
from agentd.sandbox.level import demand
from agentd.supervisor.at_need import AtNeed
from agentd.supervisor.fetcher_host import FetcherHost
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.requests import Answer, Asker

NAME = "mcp.host"
SERVER = "mcp.{}"  # the name of a server's process, and of its lock
GRACE_S = 1.0  # for host and servers to end in order


class McpHost:
    """Runs the host. `changed` is called with a server whose tools are not what was accepted."""

    def __init__(
        self, parts: HostParts, fetcher: FetcherHost, changed: Callable[[str], None]
    ) -> None:
        self._parts, self._fetcher, self._changed = parts, fetcher, changed
        self._paths, self._log = parts.paths, parts.log
        self._host: AtNeed | None = None
        self._control: Channel | None = None
        self._starting = asyncio.Lock()
        self._reached: list[str] = []  # by its proxy
        self._proxy: ProxyPlace | None = None
        self._servers: dict[str, AtNeed] = {}
        self._started_with: dict[str, McpConfig] = {}
        self._closed = False

    async def answer(self, asker: Asker, document: dict[str, Any]) -> Answer:
        """Return a channel to the host for a worker; a `requests.Handler`."""
        file = asker.folder(self._paths) / MANIFEST
        try:
            tools = json.loads(await in_thread(file.read_bytes)).get("mcp", {})
        except (OSError, ValueError) as error:
            raise AgentdError("its version is gone", where=str(file)) from error
        async with self._starting:
            control = await self._started()
        theirs, ours = socket.socketpair()
        try:
            control.send({"serve": tools, "agent": asker.name}, (theirs.fileno(),), deadline_s=1.0)
        except (OSError, ValueError) as error:
            ours.close()
            raise AgentdError(f"the MCP host takes no call: {error}") from error
        finally:
            theirs.close()
        return {}, (ours.detach(),)

    def configure(self) -> None:
        """Take changed tables [mcp.NAME]: a server that was started by another one ends.

        Where URLs lead elsewhere by now, the host ends with all servers, as its sandbox has one way
        out; the next call starts it anew.
        """
        servers = self._parts.config().mcp
        if self._host is not None and self._reached != _places(servers):
            self._host.stop(GRACE_S)
            return
        for name, config in self._started_with.items():
            if servers.get(name) != config:
                self._tell({"end": name, "why": "its configuration changed"})

    def kill(self) -> None:
        """Kill all groups at once."""
        for each in self._all():
            each.child.kill()

    async def stop(self) -> None:
        """End host and servers, and return when they are gone."""
        self._closed = True
        for each in self._all():
            each.stop(GRACE_S)
        await asyncio.gather(*(each.gone() for each in self._all()))

    def _all(self) -> list[AtNeed]:
        return [*([self._host] if self._host else []), *self._servers.values()]

    # --- the host

    async def _started(self) -> Channel:
        # One that lost its control socket is dead, or is about to be: `_hear` saw to that. Its end
        # is told later, and would be taken for its successor's.
        while self._host is not None and (self._host.stopping or self._control is None):
            await self._host.gone()
        if self._control is not None:
            return self._control
        required = self._parts.required
        await in_thread(demand, required)
        places = _places(self._parts.config().mcp)
        with ExitStack() as way:  # to servers at URLs
            proxy = await self._fetcher.proxy(places) if places else None
            if proxy is not None:
                way.callback(self._fetcher.end_proxy, proxy.number)
            policy = host_policy(self._paths, None if proxy is None else proxy.port)
            if self._closed:
                raise AgentdError("the supervisor stops")
            try:
                argv = put_into(policy, self._parts.commands.mcp_host())
                child = self._parts.spawn(NAME, argv)
            except OSError as error:
                raise AgentdError(f"the MCP host cannot be started: {error}") from error
            ended = partial(self._on_host_end, way.pop_all())
        self._control = Channel(child.take_control())
        self._reached, self._proxy = places, proxy
        self._host = self._at_need(child, ended, beats=True)
        self._tell({"sandbox": policy.document(), "require": required})
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._hear)
        self._log.info("mcp.started", pid=child.pid)
        self.configure()  # it may have changed meanwhile
        return self._control

    def _at_need(self, child: Child, ended: Callable[[int, str], None], *, beats: bool) -> AtNeed:
        reaper, log, clock = self._parts.reaper, self._log, self._parts.clock
        return AtNeed(child, reaper, ended, beats=beats, log=log, clock=clock)

    def _on_host_end(self, way: ExitStack, code: int, said: str) -> None:
        way.close()
        self._log.info("mcp.ended", exit=code, said=said)
        self._host = None
        self._leave_control()
        for server in self._servers.values():
            server.stop(GRACE_S)

    def _leave_control(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None

    def _hear(self) -> None:
        assert self._control is not None
        try:
            while self._control is not None and (found := self._control.receive_now()) is not None:
                self._obey(found[0])
        except ChannelClosed:  # it died, or says what is no frame
            self._leave_control()
            if self._host is not None:
                self._host.stop(GRACE_S)

    def _obey(self, told: Mapping[str, Any]) -> None:
        match told:
            case {"start": str() as name}:
                self._parts.jobs.start(self._start(name), f"start {SERVER.format(name)}")
            case {"ended": str() as name, "why": str() as why}:
                self._log.info("mcp.server_ended", server=name, why=why)
                if name in self._servers:
                    self._servers[name].stop(GRACE_S)
            case {"changed": str() as name, "tool": str() as tool}:
                self._log.warning("mcp.changed", server=name, tool=tool)
                self._changed(name)

    def _tell(self, document: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        if self._control is not None:
            try:
                self._control.send(document, fds, deadline_s=1.0)
            except (OSError, ValueError) as error:
                self._log.warning("mcp.deaf", why=str(error))

    # --- servers

    async def _start(self, name: str) -> None:
        """Give the host what it needs to reach a server."""
        daemon = self._parts.config()
        config = daemon.mcp.get(name)
        try:
            if config is None:
                raise ToolError(f"there is no [mcp.{name}] in agentd.toml any more")
            self._started_with[name] = config
            if config.url is not None:
                if self._proxy is None:
                    raise ToolError("the MCP host starts anew for its URL")
                self._tell({"started": name, "url": config.url, "proxy": self._proxy.url})
                return
            if (last := self._servers.get(name)) is not None:
                last.stop(0.0)
                await last.gone()
            (its_input, ours), (answers, its_output) = os.pipe(), os.pipe()
            try:
                await self._spawn(name, daemon, (its_input, its_output))
                self._tell({"started": name}, (answers, ours))
            finally:
                for fd in (its_input, ours, answers, its_output):
                    os.close(fd)
        except (AgentdError, OSError) as error:
            what = error.what if isinstance(error, AgentdError) else str(error)
            self._tell({"started": name, "error": f"{name} cannot be started: {what}"})

    async def _spawn(self, name: str, daemon: DaemonConfig, stdio: tuple[int, int]) -> None:
        net, proxy = daemon.mcp[name].permissions.net, None
        if net:
            proxy = await self._fetcher.proxy(net)
        try:
            way = (proxy.url, proxy.port) if proxy else None
            program = await in_thread(program_of, name, daemon, self._paths, way)
            if self._closed or self._control is None:
                raise AgentdError("nobody waits for it")
            child = Child.spawn(
                SERVER.format(name),
                program.argv,
                self._paths.locks,
                env=program.env,
                cwd=program.folder,
                stdio=stdio,
                clock=self._parts.clock,
            )
        except BaseException:
            if proxy is not None:
                self._fetcher.end_proxy(proxy.number)
            raise

        def ended(code: int, said: str) -> None:
            if proxy is not None:
                self._fetcher.end_proxy(proxy.number)
            self._log.info("mcp.server_gone", server=name, exit=code, said=said)
            if self._servers.get(name) is server:
                del self._servers[name]

        server = self._servers[name] = self._at_need(child, ended, beats=False)
        self._log.info("mcp.server_started", server=name, pid=child.pid)


def _places(servers: Mapping[str, McpConfig]) -> list[str]:
    """Return where URLs lead, each "host:port" once."""
    return sorted({place_of(config.url) for config in servers.values() if config.url is not None})
