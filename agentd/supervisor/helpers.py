"""The processes that carry tools out for workers, each started when a worker first needs it.

And the one that watches folders for them.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from agentd.clock import Clock
from agentd.config.daemon import DaemonConfig
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.jobs import Jobs
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Reaper
from agentd.supervisor.fetcher_host import FetcherHost
from agentd.supervisor.hands_host import HandsHost
from agentd.supervisor.mcp_host import McpHost
from agentd.supervisor.requests import Asker, Handler
from agentd.supervisor.restart import Life
from agentd.supervisor.watcher_host import WatcherHost

STOP_S = 1.5  # for all of them together: a stop takes 10 s at most


class Helpers:
    """All agents' hands, the fetcher, the MCP host with its servers, and the watcher.

    `config` gives agentd.toml as it is now, `versions` the accepted agents with their versions.
    `tools_changed` is called with an MCP server whose tools are not what was accepted. `life` makes
    one for each that is kept running.
    """

    def __init__(
        self,
        paths: Paths,
        config: Callable[[], DaemonConfig],
        versions: Callable[[], Mapping[str, str]],
        commands: Commands,
        life: Callable[[], Life],
        reaper: Reaper,
        jobs: Jobs,
        tools_changed: Callable[[str], None],
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self._fetcher = FetcherHost(paths, config, commands, life(), reaper, log=log, clock=clock)
        self.watcher = WatcherHost(
            paths, config, versions, commands, life(), reaper, log=log, clock=clock
        )
        self._hands = HandsHost(
            paths, config, commands, reaper, jobs, self._fetcher, log=log, clock=clock
        )
        self.mcp = McpHost(
            paths,
            config,
            commands,
            reaper,
            jobs,
            self._fetcher,
            tools_changed,
            log=log,
            clock=clock,
        )

    def handlers(self) -> Mapping[str, Handler]:
        """Return what workers may ask for."""
        own = {"mcp": self.mcp.answer}
        return {**self._hands.handlers(), **self._fetcher.handlers(), **own}

    def leave(self, asker: Asker) -> None:
        """End what only a worker that is gone has used. Returns at once."""
        self._hands.leave(asker)

    def poll(self) -> None:
        """Stop what nobody needs any more; let the watcher follow the agents."""
        self._fetcher.poll()
        self.watcher.poll()

    def kill(self) -> None:
        """Kill what workers share; hands go with them."""
        self.mcp.kill()
        self._fetcher.managed.kill()
        self.watcher.managed.kill()

    async def stop(self) -> None:
        """Stop them, once the workers are gone; return when they are, or after a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                stops = (self._fetcher.stop(), self.mcp.stop(), self.watcher.stop())
                await asyncio.gather(self._hands.gone(), *stops)
        self.kill()
