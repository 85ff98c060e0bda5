"""The MCP host and its servers as the supervisor runs them: started at need, ended with the host.

A worker asks for a channel, and gets one that is bound to the MCP tools of the version that it
runs. The host asks for servers. Each is a child of ours with pipes that the host gets.
"""

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentd.admission.version import MANIFEST
from agentd.config.daemon import DaemonConfig
from agentd.config.mcp_servers import McpConfig
from agentd.errors import AgentdError, ToolError
from agentd.hands.mcp_program import program_of
from agentd.process.channel import Channel, ChannelClosed
from agentd.process.child import Child
from agentd.process.jobs import in_thread
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
        while self._host is not None and self._host.stopping:
            await self._host.gone()
        if self._closed:
            raise AgentdError("the supervisor stops")
        control = self._started()
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
        """Take changed tables [mcp.NAME]: a server that was started by another one ends."""
        servers = self._parts.config().mcp
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

    def _started(self) -> Channel:
        if self._control is not None:
            return self._control
        try:
            child = self._parts.spawn(NAME, self._parts.commands.mcp_host())
        except OSError as error:
            raise AgentdError(f"the MCP host cannot be started: {error}") from error
        assert child.control is not None
        self._control = Channel(child.control)
        self._host = self._at_need(child, self._on_host_end, beats=True)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._hear)
        self._log.info("mcp.started", pid=child.pid)
        return self._control

    def _at_need(self, child: Child, ended: Callable[[int, str], None], *, beats: bool) -> AtNeed:
        reaper, log, clock = self._parts.reaper, self._log, self._parts.clock
        return AtNeed(child, reaper, ended, beats=beats, log=log, clock=clock)

    def _on_host_end(self, code: int, said: str) -> None:
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
        except ChannelClosed:
            self._leave_control()

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
                self._tell({"started": name, "url": config.url})
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
