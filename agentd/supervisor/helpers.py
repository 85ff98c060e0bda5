"""The processes beside workers: hands, fetcher, MCP host, what sends results, watcher, page."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from agentd.supervisor.deliver_host import DeliverHost
from agentd.supervisor.fetcher_host import FetcherHost
from agentd.supervisor.hands_host import HandsHost
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.mcp_host import McpHost
from agentd.supervisor.records import Records
from agentd.supervisor.requests import Asker, Handler
from agentd.supervisor.restart import Life
from agentd.supervisor.ui_host import UiHost
from agentd.supervisor.watcher_host import WatcherHost

STOP_S = 1.5  # for all of them together: a stop takes 10 s at most


class Helpers:
    """All of them.

    `life` makes one for each that is kept running, `versions` gives the accepted agents with their
    versions, `status` what the supervisor says of itself, by True with what its processes take.
    `tools_changed` is called with an MCP server whose tools are not what was accepted.
    """

    def __init__(
        self,
        parts: HostParts,
        records: Records,
        versions: Callable[[], Mapping[str, str]],
        status: Callable[[bool], Coroutine[Any, Any, Mapping[str, Any]]],
        life: Callable[[], Life],
        tools_changed: Callable[[str], None],
    ) -> None:
        self._fetcher = FetcherHost(parts, life())
        self.deliver = DeliverHost(parts, records, self._fetcher, life())
        self.watcher = WatcherHost(parts, versions, life())
        self.ui = UiHost(parts, records, status, life())
        self._hands = HandsHost(parts, self._fetcher)
        self.mcp = McpHost(parts, self._fetcher, tools_changed)

    def handlers(self) -> Mapping[str, Handler]:
        """Return what workers may ask for."""
        own = {"mcp": self.mcp.answer}
        return {**self._hands.handlers(), **self._fetcher.handlers(), **own}

    def leave(self, asker: Asker) -> None:
        """End what only a worker that is gone has used. Returns at once."""
        self._hands.leave(asker)

    def document(self) -> dict[str, Any]:
        """Return what `status` says of those that are kept running."""
        return {
            "deliver": self.deliver.document(),
            "watcher": self.watcher.document(),
            "ui": self.ui.document(),
        }

    def hands(self) -> dict[str, int]:
        """Return the processes of the agents' hands, by agent."""
        return self._hands.pids()

    def poll(self) -> None:
        """Stop what nobody needs any more; let the watcher follow the agents."""
        self._fetcher.poll()
        self.deliver.poll()
        self.watcher.poll()
        self.ui.poll()

    def kill(self) -> None:
        """Kill what workers share; hands go with them."""
        self.mcp.kill()
        self._fetcher.managed.kill()
        self.deliver.managed.kill()
        self.watcher.managed.kill()
        self.ui.managed.kill()

    async def stop(self) -> None:
        """Stop them, once the workers are gone; return when they are, or after a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                kept = (self._fetcher, self.mcp, self.deliver, self.watcher, self.ui)
                await asyncio.gather(self._hands.gone(), *(host.stop() for host in kept))
        self.kill()
