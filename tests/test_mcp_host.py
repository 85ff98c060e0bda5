"""The host of MCP servers: whatever a server does, it costs that server's calls and no others."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.events import INTERRUPTED
from agentd.json_schema.canonical import json_digest
from agentd.mcp import host as host_module
from agentd.mcp import live_server
from agentd.mcp.definitions import pinned
from agentd.mcp.host import Bound, Host
from agentd.mcp.pipes import Pipes
from tests.fake_mcp_server import TOOLS

FAKE = Path(__file__).with_name("fake_mcp_server.py")
DEADLINE_S = 20.0


class World:
    """A host with fake servers, and one agent's channel to it."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.told: list[Mapping[str, str]] = []
        self.processes: list[asyncio.subprocess.Process] = []
        self.down = ""
        self.host = Host(self._start, self.told.append)
        self.reader, self.writer = None, None  # type: Any, Any
        self._number = 0

    async def _start(self, name: str) -> Pipes:
        (its_input, ours), (answers, its_output) = os.pipe(), os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(FAKE),
            stdin=its_input,
            stdout=its_output,
            stderr=asyncio.subprocess.DEVNULL,
            env={"FAKE_LOG": str(self.log), **({"FAKE_DOWN": "1"} if name == self.down else {})},
        )
        os.close(its_input)
        os.close(its_output)
        self.processes.append(process)
        return Pipes(answers, ours)

    async def open(self, tools: Mapping[str, Bound], agent: str = "x") -> None:
        theirs, ours = socket.socketpair()
        self.host.serve(agent, theirs, tools)
        self.reader, self.writer = await asyncio.open_unix_connection(sock=ours)

    def send(self, document: Mapping[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.writer.write(len(data).to_bytes(4, "big") + data)

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            return dict(json.loads(await self.reader.readexactly(length)))

    def begin(self, tool: str, deadline_s: float = DEADLINE_S, **args: Any) -> int:
        self._number += 1
        frame = {"id": self._number, "call": tool, "args": args, "deadline_s": deadline_s}
        self.send(frame)
        return self._number

    async def call(self, tool: str, deadline_s: float = DEADLINE_S, **args: Any) -> Any:
        """Return a call's value, or "kind: what" of its error."""
        number = self.begin(tool, deadline_s, **args)
        answer = await self.receive()
        assert answer.pop("id") == number
        if error := answer.get("error"):
            return f"{error['kind']}: {error['what']}"
        assert (answer["trusted"], answer["effect"]) == (False, True)
        return answer["value"]

    async def logged(self, word: str) -> str:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                with suppress(FileNotFoundError):
                    for line in self.log.read_text().splitlines():
                        if line.startswith(word):
                            return line
                await asyncio.sleep(0.02)

    def go_on(self) -> None:
        """Let the calls of "hold" end."""
        with self.log.open("a") as log:
            log.write("go on\n")

    async def ended(self, server: str, why: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not any(t.get("ended") == server and why in t["why"] for t in self.told):
                await asyncio.sleep(0.02)


def bound(server: str, tool: str, **changes: Any) -> Bound:
    told = next(t for t in TOOLS if t["name"] == tool)
    return Bound(server, tool, json_digest(pinned({**told, **changes})))


TOOLS_OF_AGENT = {
    f"{server.title()}{str(t['name']).title()}": bound(server, str(t["name"]))
    for server in ("a", "b")
    for t in TOOLS
} | {"AOther": bound("a", "echo", description="accepted once")}


@asynccontextmanager
async def world(log: Path) -> AsyncIterator[World]:
    made = World(log)
    await made.open(TOOLS_OF_AGENT)
    try:
        yield made
    finally:
        await made.host.close()
        made.writer.close()
        for process in made.processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def run(scenario: Any, tmp_path: Path) -> None:
    async def within() -> None:
        async with world(tmp_path / "log") as made:
            await scenario(made)

    asyncio.run(within())


def test_results_as_the_model_sees_them(tmp_path: Path) -> None:
    """Text and structured content, once and bounded; what is no text is named; errors are told."""

    async def scenario(w: World) -> None:
        assert await w.call("AEcho", text="hi") == {"arguments": {"text": "hi"}, "text": "hi"}
        assert (await w.call("ATake", a=None, b=[1]))["text"] == '{"a": null, "b": [1]}'
        assert (await w.call("AImage"))["text"].splitlines() == [
            "see:",
            "[image: image/png, 3 bytes, not included]",
            "[resource file:///x: x]",
            "[resource file:///t]",
            "inside",
            "[resource file:///b: of no kind, 4 bytes, not included]",
        ]
        only, twice = {"structured": {"a": [1, None]}}, '{"a": [1, null]}'
        assert await w.call("AStructured") == {"arguments": {}, **only}
        assert await w.call("AStructured", twice=True) == {
            "arguments": {"twice": True},
            "text": twice,
        }
        assert (await w.call("ALong"))["text"] == f"{'x' * 16_000}...[cut 84000 characters]"
        assert await w.call("AFail") == "tool: it cannot be done"
        assert await w.call("ARefuse") == "tool: no tools/call"
        assert (await w.call("AOdd")).startswith("tool: a answers oddly: ")
        assert "was cancelled" in await w.call("ADeep", 1.0)
        half = await w.call("AEcho", text="\ud800")
        assert half == "tool: half a character is in an argument, which nobody can send"
        cut = await w.call("AEcho", text="y" * 1_000)
        assert cut["arguments"]["text"] == f"{'y' * 200}...[cut 800 characters]"
        assert len(w.processes) == 1, "one process serves all calls"

    run(scenario, tmp_path)


def test_an_agent_calls_its_own_tools_alone(tmp_path: Path) -> None:
    """The channel is bound: to names, and to what was accepted of each."""

    async def scenario(w: World) -> None:
        assert await w.call("BEnv2") == "refused: BEnv2 is no tool of this agent"
        assert not w.processes, "nothing was started for it"
        assert (await w.call("AOther", text="x")).startswith("changed: the server describes a.echo")
        assert {"changed": "a", "tool": "echo"} in w.told
        assert "called" not in (tmp_path / "log").read_text()

    run(scenario, tmp_path)


def test_a_tool_that_changes_while_its_server_runs_is_refused(tmp_path: Path) -> None:
    """The server says that its list changed: it is read again before the next call."""

    async def scenario(w: World) -> None:
        assert (await w.call("AEcho", text="x"))["text"] == "x"
        await w.call("AChange")
        assert (await w.call("AEcho", text="x")).startswith("changed: ")
        assert (await w.call("BEcho", text="x"))["text"] == "x"

    run(scenario, tmp_path)


def test_a_call_is_cancelled_and_the_server_is_told(tmp_path: Path) -> None:
    """By its deadline, and by who asked; another call of the same server goes on."""

    async def scenario(w: World) -> None:
        await w.call("AEcho", text="x")
        late = "tool: took longer than 0.3 s and was cancelled: it may have happened or not"
        assert await w.call("AHold", 0.3) == late
        assert await w.logged("cancelled") == "cancelled hold"
        number = w.begin("AHang")
        while True:
            w.send({"cancel": number})
            if (answer := await w.receive())["id"] == number:
                break
        assert answer["error"]["kind"] == "stopped"
        assert (await w.call("AEcho", text="x"))["text"] == "x"
        assert len(w.processes) == 1

    run(scenario, tmp_path)


def test_what_a_server_prints_besides_messages_is_left_out(tmp_path: Path) -> None:
    """No JSON, unknown answers, requests for what we do not offer, a megabyte of stderr."""

    async def scenario(w: World) -> None:
        assert (await w.call("ANoise"))["text"] == "was noisy"
        assert (await w.call("AEcho", text="x"))["text"] == "x"

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("tool", "why"),
    [("Die", "ended"), ("Endless", "wrote a line of more than"), ("Flood", "says more than")],
)
def test_a_servers_end_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str, why: str
) -> None:
    """Another server's call that runs meanwhile goes on; this one is started again, later."""
    monkeypatch.setattr(live_server, "BACKOFF_S", 60.0)

    async def scenario(w: World) -> None:
        assert (await w.call("BEcho", text="x"))["text"] == "x"
        before = psutil.Process().memory_info().rss
        other = w.begin("BHold")
        said = await w.call(f"A{tool}")
        assert said == f"tool: {INTERRUPTED}"
        await w.ended("a", why)
        assert psutil.Process().memory_info().rss - before < 60_000_000
        assert "started again in" in await w.call("AEcho", text="x")
        w.go_on()
        assert (await w.receive()) == {
            "id": other,
            "value": {"arguments": {}, "text": "held"},
            "trusted": False,
            "effect": True,
        }
        w.host._servers["a"]._not_before = 0.0  # the time has come
        assert (await w.call("AEcho", text="x"))["text"] == "x"

    run(scenario, tmp_path)


def test_a_server_that_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped or hung: the call ends at its deadline, and a later one has a new process."""
    monkeypatch.setattr(live_server, "PROBE_S", 0.1)

    async def scenario(w: World) -> None:
        await w.call("AEcho", text="x")
        w.processes[0].send_signal(signal.SIGSTOP)
        assert "took longer than 0.5 s" in await w.call("AEcho", 0.5, text="x")
        await w.ended("a", "says nothing any more")

    run(scenario, tmp_path)


def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is told, and the next call waits for the backoff."""
    monkeypatch.setattr(live_server, "BACKOFF_S", 60.0)

    async def scenario(w: World) -> None:
        w.down = "a"
        assert (await w.call("AEcho", text="x")).startswith("tool: a cannot be used")
        assert "started again in" in await w.call("AEcho", text="x")
        assert (await w.call("BEcho", text="x"))["text"] == "x"

    run(scenario, tmp_path)


def test_idle_servers_are_ended_and_then_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that nobody calls ends by the end of its input; the host says goodbye, and ends."""
    monkeypatch.setattr(live_server, "IDLE_S", 0.0)
    monkeypatch.setattr(host_module, "LOOK_S", 0.01)

    async def scenario(w: World) -> None:
        w.begin("ASleep")
        await w.logged("called sleep")
        async with asyncio.timeout(DEADLINE_S):
            await w.host.until_idle(0.2)
            assert await w.processes[0].wait() == 0
        assert (await w.receive())["value"]["text"] == "slept", "a call is no idle time"
        assert {"ended": "a", "why": "was idle"} in w.told
        await w.host.close()
        assert await w.receive() == {"bye": True}

    run(scenario, tmp_path)


def test_an_agent_has_one_channel_and_no_number_twice(tmp_path: Path) -> None:
    """Its own code could ask for channels, and for calls, until nothing is left for others."""

    async def scenario(w: World) -> None:
        reader, writer = w.reader, w.writer
        await w.open(TOOLS_OF_AGENT)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b"", "the one before has ended"
        writer.close()
        for _ in range(2):
            w.send({"id": 1, "call": "ASleep", "args": {}, "deadline_s": DEADLINE_S})
        async with asyncio.timeout(DEADLINE_S):
            await w.reader.read()  # to its end

    run(scenario, tmp_path)


def test_garbage_on_a_channel_closes_that_channel(tmp_path: Path) -> None:
    """It is no worker of ours who sends it; the servers do not feel it."""

    async def scenario(w: World) -> None:
        await w.call("AEcho", text="x")
        reader, writer = w.reader, w.writer
        await w.open(TOOLS_OF_AGENT, "another")
        writer.write(b"\xff\xff\xff\xff")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
        assert (await w.call("AEcho", text="x"))["text"] == "x"

    run(scenario, tmp_path)
