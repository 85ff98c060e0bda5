"""`python -m agentd.hands.mcp_discovery NAME`: asks one MCP server which tools it has, and ends it.

For the admission of agents and for `agentd check`, which work without a daemon. Configuration comes
from the home in AGENTD_HOME; the answer is one JSON line. Standard input is the lifeline: whoever
asked closes it when it has the answer, or is gone, and then our whole group ends.
"""

import asyncio
import json
import os
import sys
from typing import Any

from agentd.clock import SystemClock
from agentd.config.daemon import DaemonConfig
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError, ConfigError, PermissionRefused
from agentd.hands.mcp_program import program_of
from agentd.mcp import peer
from agentd.mcp.live_server import reason
from agentd.mcp.over_http import over_http
from agentd.mcp.pipes import Pipes
from agentd.net.exchange import place_of
from agentd.net.wait import Deadline, Waiter
from agentd.paths import Paths, discover
from agentd.process import guardian
from agentd.process.stop import Cancel
from agentd.secret_rules import hide
from agentd.terminal import plain
from agentd.tools.http import addresses, check_url

WORDS_BYTES = 2_000  # in which a server's last words are looked for
WORDS_S = 0.5  # for them to come
LOOK_UP_S = 10.0  # of a server's host


class _Started:
    """A server's process, its pipes and its last words."""

    def __init__(self) -> None:
        self.words = b""
        self._reading: asyncio.Task[None] | None = None

    async def start(self, name: str, daemon: DaemonConfig, paths: Paths) -> Pipes:
        program = program_of(name, daemon, paths)
        (its_input, ours), (answers, its_output) = os.pipe(), os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                stdin=its_input,
                stdout=its_output,
                stderr=asyncio.subprocess.PIPE,
                env=program.env,
                cwd=program.folder,
            )
        finally:
            os.close(its_input)
            os.close(its_output)
        assert process.stderr is not None
        self._reading = asyncio.create_task(self._read(process.stderr))
        return Pipes(answers, ours)

    async def _read(self, stderr: asyncio.StreamReader) -> None:
        while data := await stderr.read(WORDS_BYTES):
            self.words = (self.words + data)[-WORDS_BYTES:]

    async def last_words(self) -> str:
        """Return the last line that it said to people, "" if it said nothing."""
        if self._reading is not None:
            await asyncio.wait({self._reading}, timeout=WORDS_S)
        lines = self.words.decode("utf-8", "replace").strip().splitlines()
        return hide(plain(lines[-1])) if lines else ""


async def tools_of(name: str, daemon: DaemonConfig, paths: Paths) -> dict[str, dict[str, Any]]:
    """Return what a server says of its tools.

    Raises:
        AgentdError: it cannot be started, or does not say.
    """
    started = _Started()
    try:
        if (url := daemon.mcp[name].url) is not None:
            await asyncio.to_thread(_check_public, name, url)
            streams = over_http(url)
        else:
            streams = (await started.start(name, daemon, paths)).streams()
        async with peer.connected(streams) as client:
            return await peer.definitions(client)
    except AgentdError:
        raise
    except Exception as error:  # whatever the library makes of what the server sent
        said = await started.last_words()
        raise AgentdError(f"{reason(error)}: {said}" if said else reason(error)) from error


def _check_public(name: str, url: str) -> None:
    """Raise AgentdError where agents' calls will be refused, as they go by the fetcher."""
    place = place_of(url)
    target = check_url(url, [place])
    try:
        with Waiter.of(Deadline(SystemClock(), LOOK_UP_S), Cancel()) as waiter:
            addresses(target, [place], waiter)
    except PermissionRefused as error:
        hint = "if you mean that server, write its address into `url` in the place of its name"
        raise ConfigError(error.what, where=f"[mcp.{name}]: url", hint=hint) from error


def main(argv: list[str]) -> int:
    """Print what the server NAME has, or what is wrong."""
    guardian.watch(0)
    (name,) = argv
    paths = discover()
    try:
        daemon = effective_config(paths)
        answer: dict[str, Any] = {"tools": asyncio.run(tools_of(name, daemon, paths))}
    except AgentdError as error:
        answer = {"error": error.document()}
    print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
