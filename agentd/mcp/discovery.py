"""`python -m agentd.mcp.discovery`: asks one server which tools it has, in the MCP host's sandbox.

Its orders are one JSON document on standard input: `{"sandbox": POLICY, "require": BOOL}` with the
server's `url` and the `proxy` that leads there, or with its `pipes`: the descriptors of its input,
its output and its errors. The answer is one JSON line: `{"tools": ...}` or `{"error": ...}`.
"""

import asyncio
import json
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

from agentd.errors import AgentdError
from agentd.mcp import peer
from agentd.mcp.live_server import reason
from agentd.mcp.over_http import over_http
from agentd.mcp.pipes import Pipes
from agentd.sandbox.enter import enter
from agentd.sandbox.policy import SandboxPolicy
from agentd.terminal import plain

WORDS_BYTES = 2_000  # in which a server's last words are looked for
WORDS_S = 0.5  # for them to come


class _Words:
    """What a server says to people: read to its end, so that it never waits for a reader."""

    def __init__(self, fd: int) -> None:
        self._fd, self._last = fd, b""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        while data := os.read(self._fd, WORDS_BYTES):
            self._last = (self._last + data)[-WORDS_BYTES:]

    def last(self) -> str:
        """Return the last line, "" if it said nothing."""
        self._reading.join(WORDS_S)
        lines = self._last.decode("utf-8", "replace").strip().splitlines()
        return plain(lines[-1]) if lines else ""


async def _tools(orders: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    words = None
    try:
        if "url" in orders:
            streams = over_http(orders["url"], orders["proxy"])
        else:
            its_input, answers, errors = orders["pipes"]
            words = _Words(errors)
            streams = Pipes(answers, its_input).streams()
        async with peer.connected(streams) as client:
            return await peer.definitions(client)
    except AgentdError:
        raise
    except Exception as error:  # whatever the library makes of what the server sent
        said = words.last() if words is not None else ""
        raise AgentdError(f"{reason(error)}: {said}" if said else reason(error)) from error


def main() -> int:
    """Print what the server has, or what is wrong."""
    orders = json.load(sys.stdin)
    try:
        if sys.platform == "linux":  # on macOS it was started in it
            enter(SandboxPolicy.of(orders["sandbox"]), require=orders["require"])
        answer: dict[str, Any] = {"tools": asyncio.run(_tools(orders))}
    except AgentdError as error:
        answer = {"error": error.document()}
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
