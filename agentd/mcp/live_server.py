"""A server that the host keeps: started at the first call, again after it ended, with backoff."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mcp import Client

from agentd.errors import AgentdError, ToolError
from agentd.events import UNKNOWN
from agentd.json_schema.canonical import json_digest
from agentd.mcp import peer
from agentd.mcp.over_http import ServerUrl
from agentd.mcp.pins import tools_changed
from agentd.mcp.pipes import Pipes
from agentd.terminal import plain

BACKOFF_S = 0.5  # after a server ended unasked; doubled each time that it did so soon
BACKOFF_MAX_S = 60.0
HEALTHY_S = 30.0  # up for this long, the count of its ends begins anew
IDLE_S = 300.0  # without a call, after which it is ended
LIST_AGAIN_S = 300.0  # between looks at its tools, where there are calls
PROBE_S = 5.0  # for a server whose call took too long to say that it lives
REASON_CHARACTERS = 300

Start = Callable[[str], Awaitable[Pipes | ServerUrl]]  # gives a new process's pipes, or an address
Tell = Callable[[str, str], None]  # a server's name, and what there is to say


class LiveServer:
    """One server. Its client lives in a task of its own, so that no other server feels its end.

    `changed` is called when a tool is not what was accepted, `ended` at each end.
    """

    def __init__(self, name: str, start: Start, changed: Tell, ended: Tell) -> None:
        self.name = name
        self._start, self._changed, self._ended = start, changed, ended
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._pipes: Pipes | None = None
        self._probe: asyncio.Task[None] | None = None
        self._why = ""  # of its end, where it is ours
        self._ends, self._not_before, self._blamed = 0, 0.0, True
        self._digests: dict[str, str] = {}
        self._listed, self._used, self._calls = 0.0, time.monotonic(), 0

    @property
    def alive(self) -> bool:
        """Whether there is a client, or is about to be one."""
        return self._task is not None

    @property
    def idle(self) -> bool:
        """Whether nobody has called it for long."""
        return not self._calls and time.monotonic() - self._used > IDLE_S

    async def call(
        self, tool: str, accepted: str, arguments: Mapping[str, Any], deadline_s: float
    ) -> dict[str, Any]:
        """Return what a call came to. `accepted`: the digest of the tool's definition.

        Raises:
            ToolsChanged: the tool is not what was accepted.
            ToolError: it failed, or the server did.
        """
        self._calls += 1
        client, outcome = None, ""
        try:
            async with asyncio.timeout(deadline_s):
                client = await self._connected()
                await self._check(client, tool, accepted)
                outcome = f": {UNKNOWN}"
                return await peer.call(client, tool, arguments)
        except TimeoutError as error:
            self._doubt(client)
            late = f"took longer than {deadline_s:g} s and was cancelled"
            raise ToolError(late + outcome) from error
        except AgentdError:
            if self._pipes is None:  # nothing else tells that a server at a URL is another by now
                self._doubt(client)
            raise
        except Exception as error:  # whatever the library makes of an answer is this call's error
            self._doubt(client)
            odd = f"{self.name} answers oddly: {reason(error)}"
            raise ToolError(odd + outcome) from error
        finally:
            self._calls -= 1
            self._used = time.monotonic()

    def end(self, why: str, *, blamed: bool = False) -> None:
        """End it, with all that is being called; the next call starts it again.

        `blamed`: as after an end of its own, only once its backoff is over.
        """
        if self._task is not None and not self._task.cancelling():  # once: it has to close
            self._why, self._blamed = why, blamed
            self._task.cancel()

    async def gone(self) -> None:
        """Return when its client is gone."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _connected(self) -> Client:
        if self._task is None:
            wait_s = self._not_before - time.monotonic()
            if wait_s > 0:
                raise ToolError(f"{self.name} {self._why}; it is started again in {wait_s:.0f} s")
            self._ready = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._live())
        return await asyncio.shield(self._ready)

    async def _live(self) -> None:
        since = time.monotonic()
        self._why, self._blamed = "", True
        why = ""
        try:
            why = await self._serve()
        except asyncio.CancelledError:
            why = self._why or "was ended"
        except Exception as error:  # whatever the library makes of what a server sent is its end
            why = f"cannot be used: {reason(error)}"
        self._task = None
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None
        if not self._ready.done():
            self._ready.set_exception(ToolError(f"{self.name} {why}"))
            self._ready.exception()  # whoever waited may be gone
        soon = self._blamed and time.monotonic() - since < HEALTHY_S
        self._ends = self._ends + 1 if soon else 0
        wait_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(self._ends, 10)) if self._blamed else 0.0
        self._not_before, self._why = time.monotonic() + wait_s, why
        self._ended(self.name, why)

    async def _serve(self) -> str:
        """Be its client to its end, and return why it ended."""
        async with asyncio.timeout(peer.START_S):
            opened = await self._start(self.name)
        if isinstance(opened, Pipes):
            self._pipes = opened
        async with peer.connected(opened.streams()) as client:
            await self._list(client)
            self._ready.set_result(client)
            if self._pipes is None:
                await asyncio.Event().wait()  # ends by cancellation
            else:
                await self._pipes.ended.wait()
        assert self._pipes is not None
        return self._pipes.why

    def _doubt(self, client: Client | None) -> None:
        """See beside all else whether it still answers."""
        if client is not None and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._try(client))

    async def _try(self, client: Client) -> None:
        """End it if it does not even list its tools: it hangs, and a new one may not."""
        try:
            async with asyncio.timeout(PROBE_S):
                await self._list(client)
        except Exception:  # whatever it answered instead
            self.end("says nothing any more", blamed=True)

    async def _check(self, client: Client, tool: str, accepted: str) -> None:
        told = self._pipes is not None and self._pipes.tools_changed
        if told or time.monotonic() - self._listed > LIST_AGAIN_S:
            await self._list(client)
        if self._digests.get(tool) != accepted:
            self._changed(self.name, tool)
            raise tools_changed(self.name, [tool])

    async def _list(self, client: Client) -> None:
        if self._pipes is not None:
            self._pipes.tools_changed = False
        found = await peer.definitions(client)
        self._digests = {name: json_digest(told) for name, told in found.items()}
        self._listed = time.monotonic()


def reason(error: BaseException) -> str:
    """Return an error of the library in a line; of a group the first one's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    what = error.what if isinstance(error, AgentdError) else str(error)
    if isinstance(error, TimeoutError):
        what = f"it did not answer within {peer.START_S:g} s"
    return plain(what[:REASON_CHARACTERS]) or type(error).__name__
