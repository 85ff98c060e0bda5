"""The MCP host: one process that holds the clients of all servers, and carries out agents' calls.

Each agent has a channel of its own, which the supervisor opened and bound to that agent's tools.
Nobody else is heard. The supervisor starts servers' processes and gives us their pipes.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agentd.errors import AgentdError, PermissionRefused, ToolError, ToolsChanged
from agentd.mcp.live_server import LiveServer, Start
from agentd.process.channel import BYE, HEAD_BYTES, document_of, frame, length_of
from agentd.terminal import cut

DEADLINE_MAX_S = 600.0  # of one call, whatever is asked for
KINDS = {PermissionRefused: "refused", ToolsChanged: "changed"}  # of errors; others are the tool's
CALLS_MAX = 32  # of one agent at a time
LOOK_S = 5.0  # between looks for what is idle


@dataclass(frozen=True)
class Bound:
    """A tool that an agent may call, and what was accepted of it."""

    server: str
    tool: str
    digest: str


class Host:
    """All servers, and all agents' channels. `tell` passes a document on to the supervisor."""

    def __init__(self, start: Start, tell: Callable[[Mapping[str, str]], None]) -> None:
        self.used = time.monotonic()
        self._start, self._tell = start, tell
        self._servers: dict[str, LiveServer] = {}
        self._agents: dict[str, asyncio.Task[None]] = {}
        self._ends = False

    def serve(self, agent: str, sock: socket.socket, tools: Mapping[str, Bound]) -> None:
        """Carry out the calls that come by this agent's socket, which may be of these tools.

        It takes the place of the one before.
        """
        self.used = time.monotonic()
        if (before := self._agents.get(agent)) is not None:
            before.cancel()
        self._agents[agent] = asyncio.create_task(self._serve(sock, tools))

    def end(self, server: str, why: str) -> None:
        """End a server, as when its configuration changed."""
        if server in self._servers:
            self._servers[server].end(why)

    async def until_idle(self, idle_s: float) -> None:
        """End servers that nobody calls, and return once there was none for `idle_s` seconds."""
        while True:
            for server in self._servers.values():
                if server.alive:  # also one that a call keeps busy for long
                    self.used = time.monotonic()
                if server.alive and server.idle:
                    server.end("was idle")
            if time.monotonic() - self.used >= idle_s:
                return
            await asyncio.sleep(LOOK_S)  # ends by cancellation

    async def close(self) -> None:
        """End everything. What an agent sent and we did not read was not begun: it is told so."""
        self._ends = True
        agents = tuple(self._agents.values())
        for task in agents:
            task.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
        for server in self._servers.values():
            server.end("the host ends")
            await server.gone()

    async def _serve(self, sock: socket.socket, tools: Mapping[str, Bound]) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        calls: dict[Any, asyncio.Task[dict[str, Any]]] = {}
        try:
            while True:
                asked = await _next(reader)
                if "cancel" in asked:
                    if (task := calls.get(asked["cancel"])) is not None:
                        task.cancel()
                    continue
                number = asked["id"]
                if number in calls or len(calls) >= CALLS_MAX:
                    raise ValueError("too many calls at a time")
                await writer.drain()  # who reads no answers gets no more
                calls[number] = asyncio.create_task(self._call(asked, tools))
                calls[number].add_done_callback(partial(_answer, writer, calls, number))
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            pass  # it is gone, or sends what no worker of ours does
        finally:
            for task in calls.values():
                task.cancel()
            if self._ends:
                writer.write(frame({BYE: True}))
            writer.close()

    async def _call(self, asked: Mapping[str, Any], tools: Mapping[str, Bound]) -> dict[str, Any]:
        self.used = time.monotonic()
        bound = tools.get(str(asked.get("call")))
        arguments, deadline_s = asked.get("args"), asked.get("deadline_s")
        if bound is None:
            raise PermissionRefused(f"{asked.get('call')} is no tool of this agent")
        if not isinstance(arguments, dict) or not isinstance(deadline_s, int | float):
            raise ToolError("a call without arguments or deadline")
        try:
            json.dumps(arguments, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ToolError("half a character is in an argument, which nobody can send") from error
        server = self._servers.get(bound.server)
        if server is None:
            server = LiveServer(bound.server, self._start, self._on_change, self._on_end)
            self._servers[bound.server] = server
        limit_s = min(float(deadline_s), DEADLINE_MAX_S)
        value = await server.call(bound.tool, bound.digest, arguments, limit_s)
        return {
            "value": {"arguments": _brief(arguments), **value},
            "trusted": False,
            "effect": True,
        }

    def _on_change(self, server: str, tool: str) -> None:
        self._tell({"changed": server, "tool": tool})

    def _on_end(self, server: str, why: str) -> None:
        self._tell({"ended": server, "why": why})


BRIEF_CHARACTERS = 200  # of an argument in a result: the model sees results, not its own decisions


def _brief(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments for a result: what is long is cut."""
    found = {}
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        found[name] = value if len(text) <= BRIEF_CHARACTERS else cut(text, BRIEF_CHARACTERS)
    return found


def _answer(
    writer: asyncio.StreamWriter,
    calls: dict[Any, asyncio.Task[dict[str, Any]]],
    number: Any,
    call: asyncio.Task[dict[str, Any]],
) -> None:
    calls.pop(number, None)
    if call.cancelled():
        answer: dict[str, Any] = {"error": {"kind": "stopped", "what": "the tool was stopped"}}
    elif isinstance(error := call.exception(), AgentdError):
        kind = next((kind for of, kind in KINDS.items() if isinstance(error, of)), "tool")
        answer = {"error": {"kind": kind, **error.document()}}
    else:
        answer = call.result()
    writer.write(frame({**answer, "id": number}))


async def _next(reader: asyncio.StreamReader) -> dict[str, Any]:
    """Return the next document of a channel."""
    length = length_of(await reader.readexactly(HEAD_BYTES))
    return document_of(await reader.readexactly(length))
