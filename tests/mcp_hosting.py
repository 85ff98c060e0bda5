"""The MCP host with its servers as the daemon runs them, without the rest of a daemon."""

import asyncio
import json
import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil

from agentd.admission.admit import admit
from agentd.admission.version import Accepted, import_version
from agentd.bus import Opening
from agentd.clock import SystemClock
from agentd.config.agent import Permissions
from agentd.config.daemon import load_daemon
from agentd.errors import AgentdError
from agentd.events import Result
from agentd.logs.logger import Logger
from agentd.mcp.definitions import McpTool, decision_of
from agentd.paths import Paths
from agentd.process.jobs import Jobs, in_thread
from agentd.process.supervisor_link import SupervisorLink
from agentd.replay.loaded import Quiet
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Reaper
from agentd.supervisor.helpers import Helpers
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.mcp_host import McpHost
from agentd.supervisor.records import Records
from agentd.supervisor.requests import Asker
from agentd.supervisor.restart import Life, Rules
from agentd.tools.outside_tools import all_tools
from agentd.tools.remote import Remote
from agentd.tools.toolbox import Toolbox
from tests.commandline import write_agent

DEADLINE_S = 60.0
Tools = Mapping[str, McpTool]
AGENT = """agent = "task"
done = "All was tried."
[params]
instructions = "Try."
tools = {tools}
"""
Agent = tuple[Accepted, dict[str, McpTool]]


class Hosting:
    """Calls tools as an agent's worker does: through a Toolbox, and a channel from the host."""

    def __init__(self, host: McpHost) -> None:
        self.host = host
        self.changed: list[str] = []
        self.reread: Callable[[], None] = lambda: None  # take agentd.toml as it is now
        self._loop = asyncio.get_running_loop()

    async def call(
        self, accepted: Accepted, mcp: Mapping[str, McpTool], name: str, args: Any
    ) -> Result:
        """Return what one call comes to, of a worker that makes no other one."""
        return await in_thread(self._call, accepted, mcp, name, args)

    def _call(self, accepted: Accepted, mcp: Mapping[str, McpTool], name: str, args: Any) -> Result:
        remote = Remote(_Link(self, accepted), "mcp")
        try:
            tools = Toolbox(
                Permissions(),
                deadline_s=DEADLINE_S,
                remotes={"mcp": remote},
                tools=all_tools(mcp),
            )
            return tools.call(name, args)
        finally:
            remote._leave()

    def ask(self, accepted: Accepted) -> tuple[dict[str, Any], list[int]]:
        asker = Asker(accepted.name, accepted.hash, os.getpid())
        answering = asyncio.run_coroutine_threadsafe(self.host.answer(asker, {}), self._loop)
        document, fds = answering.result(DEADLINE_S)
        return document, list(fds)

    async def restart(self, server: str) -> None:
        """End a server, so that the next call starts it anew."""
        self.host._tell({"end": server, "why": "it is started again"})
        async with asyncio.timeout(DEADLINE_S):
            while server in self.host._servers:
                await asyncio.sleep(0.002)


class _Link(SupervisorLink):
    def __init__(self, hosting: Hosting, accepted: Accepted) -> None:
        super().__init__(None)
        self._hosting, self._accepted = hosting, accepted

    def ask(self, document: Any, deadline_s: float = 0, cancel: Any = None) -> Any:
        return self._hosting.ask(self._accepted)


@asynccontextmanager
async def hosting(paths: Paths) -> AsyncIterator[Hosting]:
    """Yield the host of a home, ready to be started."""
    clock, log = SystemClock(), cast(Logger, Quiet())
    reaper, errors = Reaper(clock), list[Any]()
    reaper.attach(asyncio.get_running_loop())
    jobs = Jobs(log, errors.append)
    paths.create()
    config = [load_daemon(paths.daemon_file)]
    changed: list[str] = []
    life = Life(Rules.of(config[0].supervisor), clock, random.Random())
    base = HostParts(paths, lambda: config[0], Commands(), reaper, jobs, log, clock)
    records = Records(paths, clock, log, Opening(), jobs)

    async def nothing(_: bool) -> dict[str, Any]:
        return {}

    helpers = Helpers(base, records, dict, nothing, lambda: life, changed.append)
    made = Hosting(helpers.mcp)
    made.changed = changed

    def reread() -> None:
        config[0] = load_daemon(paths.daemon_file)
        helpers.mcp.configure()

    made.reread = reread
    try:
        yield made
    finally:
        await helpers.stop()
        await jobs.end()
    assert not errors, errors


def left() -> tuple[int, int]:
    """Descriptors and child processes of this process."""
    me = psutil.Process()
    return me.num_fds(), len(me.children(recursive=True))


def python_server(file: Path) -> str:
    """The line of a server that is a Python file."""
    return f"command = '{sys.executable}'\nargs = ['{file}']\n"


def agent(paths: Paths, *tools: str) -> Agent:
    """Accept an agent with these tools of the server `fake`."""
    named = [f"fake.{tool}" for tool in tools]
    write_agent(paths.user, "x", AGENT.format(tools=json.dumps(named)))
    accepted = admit("x", paths)
    return accepted, dict(import_version(accepted).mcp)


async def say(host: Hosting, of: Agent, tool: str, **args: Any) -> str:
    """Return the text of a tool's result, or the error that it told."""
    try:
        return str((await host.call(*of, decision_of(f"fake.{tool}"), args)).value["text"])
    except AgentdError as error:
        return error.what
