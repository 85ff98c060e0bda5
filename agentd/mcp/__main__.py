"""`python -m agentd.mcp`: the MCP host, started by the supervisor at need.

In this order: a guardian, orders, the sandbox, threads. The orders are the first document of the
control socket: `{"sandbox": POLICY, "require": BOOL}`. What it brings after that are agents'
channels and servers' pipes, each as a document with descriptors:

* `{"serve": {CLASS: {"server", "tool", "digest"}}, "agent": NAME}`: an agent's channel and tools.
* `{"started": NAME}` with the pipes of a server that we asked for by `{"start": NAME}`, or with its
  `url` and the `proxy` that leads there, or with why there is none (`error`).
* `{"end": NAME, "why": TEXT}`: a server is to be ended.

We tell `{"ended": NAME, "why": TEXT}` and `{"changed": NAME, "tool": TOOL}`.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from agentd.errors import AgentdError, ToolError
from agentd.mcp.host import Bound, Host
from agentd.mcp.over_http import ServerUrl
from agentd.mcp.pipes import Pipes
from agentd.process.channel import Channel, ChannelClosed, close_all
from agentd.process.child import CONTROL_VARIABLE, child_side, inherited
from agentd.process.heart import STOPPING, Heart
from agentd.sandbox.enter import enter
from agentd.sandbox.policy import SandboxPolicy
from agentd.states import Exit
from agentd.terminal import note, say

ORDERS_S = 20.0  # for the supervisor to send them
IDLE_S = 60.0  # without a server, after which the host ends
BEAT_S, PROMISE_S = 5.0, 30.0


class _Hosting:
    """The host with its control socket."""

    def __init__(self, heart: Heart, control: Channel) -> None:
        self._heart, self._control = heart, control
        self._loop = asyncio.get_running_loop()
        self._starting: dict[str, asyncio.Future[Pipes | ServerUrl]] = {}
        self._host = Host(self._start, self._tell)
        self._gone = asyncio.Event()  # the supervisor, or its wish that we run

    async def run(self) -> None:
        """Run until nothing is left to do, or a signal."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._gone.set)
        self._loop.add_reader(self._control.fileno(), self._hear)
        beating = asyncio.create_task(self._beat())
        ends = [
            asyncio.create_task(self._host.until_idle(IDLE_S)),
            asyncio.create_task(self._gone.wait()),
        ]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        beating.cancel()
        self._heart.beat(PROMISE_S, STOPPING)
        self._loop.remove_reader(self._control.fileno())
        await self._host.close()

    async def _beat(self) -> None:
        while True:
            self._heart.beat(PROMISE_S)
            await asyncio.sleep(BEAT_S)  # ends by cancellation

    async def _start(self, name: str) -> Pipes | ServerUrl:
        self._starting[name] = self._loop.create_future()
        self._tell({"start": name})
        return await self._starting[name]

    def _tell(self, document: Mapping[str, str]) -> None:
        with suppress(ChannelClosed, TimeoutError):  # then it is gone, and so are we soon
            self._control.send(document, deadline_s=1.0)

    def _hear(self) -> None:
        try:
            while (found := self._control.receive_now()) is not None:
                self._obey(*found)
        except ChannelClosed:
            self._loop.remove_reader(self._control.fileno())
            self._gone.set()

    def _obey(self, document: Mapping[str, object], fds: list[int]) -> None:
        match document:
            case {"serve": dict() as tools, "agent": str() as agent} if len(fds) == 1:
                bound = {name: Bound(**tool) for name, tool in tools.items()}
                self._host.serve(agent, socket.socket(fileno=fds[0]), bound)
            case {"started": str() as name}:
                self._started(name, document, fds)
            case {"end": str() as name, "why": str() as why}:
                self._host.end(name, why)
            case _:
                close_all(fds)

    def _started(self, name: str, document: Mapping[str, object], fds: list[int]) -> None:
        waiting = self._starting.pop(name, None)
        if waiting is None or waiting.done():  # it took too long: nobody waits any more
            close_all(fds)
            self._tell({"ended": name, "why": "was not waited for"})
        elif "error" in document:
            waiting.set_exception(ToolError(str(document["error"])))
        elif "url" in document:
            waiting.set_result(ServerUrl(str(document["url"]), str(document["proxy"])))
        else:
            waiting.set_result(Pipes(*fds))


def main() -> int:
    """Be the host; returns the exit code."""
    fd = inherited(os.environ, CONTROL_VARIABLE)
    if fd is None:
        say("agentd.mcp is started by the supervisor", file=sys.stderr)
        return Exit.USAGE
    control = Channel(socket.socket(fileno=fd))

    def enter_sandbox() -> None:
        orders: Mapping[str, Any] = control.receive(ORDERS_S)[0]
        if sys.platform == "linux":  # on macOS it was started in it
            enter(SandboxPolicy.of(orders["sandbox"]), require=orders["require"])

    try:
        heart = child_side(before_threads=enter_sandbox)
    except AgentdError as error:
        note(*error.lines())
        return Exit.CONFIG

    async def run() -> None:
        await _Hosting(heart, control).run()

    asyncio.run(run())
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
