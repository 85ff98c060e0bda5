"""The processes that carry tools out for workers, each started when a worker first needs it."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from agentd.clock import Clock
from agentd.config.daemon import DaemonConfig
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.jobs import Jobs
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import KILLED_S, Reaper
from agentd.supervisor.fetcher_host import FetcherHost
from agentd.supervisor.hands_host import HandsHost
from agentd.supervisor.requests import Asker, Handler
from agentd.supervisor.restart import Life


class Helpers:
    """All agents' hands, and the fetcher. `config` gives agentd.toml as it is now."""

    def __init__(
        self,
        paths: Paths,
        config: Callable[[], DaemonConfig],
        commands: Commands,
        life: Life,
        reaper: Reaper,
        jobs: Jobs,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self._fetcher = FetcherHost(paths, config, commands, life, reaper, log=log, clock=clock)
        self._hands = HandsHost(
            paths, config, commands, reaper, jobs, self._fetcher, log=log, clock=clock
        )

    def handlers(self) -> Mapping[str, Handler]:
        """Return what workers may ask for."""
        return {**self._hands.handlers(), **self._fetcher.handlers()}

    def leave(self, asker: Asker) -> None:
        """End what only a worker that is gone has used. Returns at once."""
        self._hands.leave(asker)

    def poll(self) -> None:
        """Stop what nobody needs any more."""
        self._fetcher.poll()

    def kill(self) -> None:
        """Kill what workers share; hands go with them."""
        self._fetcher.managed.kill()

    async def stop(self) -> None:
        """Stop them, once the workers are gone; return when they are, or after a moment."""
        await self._hands.gone()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILLED_S):
                await self._fetcher.stop()
