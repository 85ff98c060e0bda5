"""What a turn of the loop costs without the model, durable writes included.

A session of eight turns from its event to its closing, divided by eight: reading the lane, opening,
every record, the log lines, the closing transaction.
"""

import http.client
import io
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel

from agentd import context
from agentd.agent import Agent, Kit, Result
from agentd.approval.approval import Policy
from agentd.bus import Bus
from agentd.clock import SystemClock
from agentd.config.agent import Limits
from agentd.config.daemon import LogConfig
from agentd.events import Lane, NewEvent
from agentd.llm import wire
from agentd.llm.address import Address, fetch
from agentd.llm.baml import BamlLLM, load_client
from agentd.llm.decision import LLM, Choice
from agentd.llm.endpoint import Endpoint
from agentd.llm.union import Union
from agentd.logs import logger as logs
from agentd.loop import Loop
from agentd.net.exchange import Response
from agentd.net.wait import Deadline
from agentd.paths import Paths
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.task_agent.configured import TaskResult
from agentd.testing import ScriptedLLM

from . import raw
from .home import ROOT, Home
from .table import Figure, Turns

TURNS = 8
SESSIONS, SESSIONS_QUICK = 120, 25
LANE = Lane("reader", False, ("bench.asked",))
TURNS_MAX = 200  # of any session
LIMITS = Limits(turns=TURNS + 2, context_share=1.0, sessions_per_hour=10**6)
WINDOW = 32_768
BARE = "bare loop, two raw commits a turn"
SPENT_S = 10.0  # for the fake server to say what it took itself
TEXT = "def main() -> None:\n    print('hello')\n" * 12  # about 500 characters
CLOCK = SystemClock()


class Reader(Agent[Any]):
    """An agent whose only tool costs nothing."""

    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {}

    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(nothing, Kit("reader", "it is read", nothing, nothing, nothing))

    def dispatch(self, decision: Choice) -> Result:
        return Result({"path": decision.args["path"], "text": TEXT}, trusted=False)


def next_answer(log: str, turns: int = TURNS) -> dict[str, Any]:
    """Decide by the log, as a model does: another file, or Done in the last turn."""
    turn = log.count('<event type="read_file"')
    if turn >= turns - 1:
        return {"tool": "done", "result": "all read"}
    return {"tool": "read_file", "path": f"src/file{turn}.py", "start": 1}


def scripted(turns: int = TURNS) -> LLM:
    """A model at the loop's edge, with a window for so many turns."""

    def decide(log: str) -> tuple[str, dict[str, Any]]:
        args = next_answer(log, turns)
        return ("Done" if args.pop("tool") == "done" else "ReadFile"), args

    window = WINDOW * -(-turns // TURNS)
    return ScriptedLLM(decide, names=("ReadFile", "Done"), window=window)


class Canned(wire.Wire):
    """A wire without a network: real requests in, real HTTP responses out."""

    def send(
        self,
        method: str,
        url: str,
        deadline: Deadline,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        connect: wire.Connect | None = None,
    ) -> wire.HttpReply:
        """Answer at once."""
        if url.endswith("/tokenize"):
            kind, data = b"application/json", b'{"count":150,"max_model_len":%d}' % WINDOW
        else:
            kind, data = b"text/event-stream", _stream(body or b"")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        response = http.client.HTTPResponse(
            cast(socket.socket, _Bytes(head % (kind, len(data)) + data))
        )
        response.begin()
        return wire.HttpReply(Response(response), lambda _well: None)


class _Bytes:
    """What http.client needs of a socket to read from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_mode: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _stream(body: bytes) -> bytes:
    # Not parsed: the server's cost is not ours.
    turn = body.count(b'<event type=\\"read_file\\"')
    args = {"tool": "read_file", "path": f"src/file{turn}.py", "start": 1}
    text = json.dumps({"tool": "done", "result": "all read"} if turn >= TURNS - 1 else args)
    usage = {"prompt_tokens": 150 * (turn + 1)}  # our own server always tells it
    chunk = {"choices": [{"delta": {"content": text}, "finish_reason": "stop"}], "usage": usage}
    return b": admitted\n\ndata: %s\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode()


def baml(client: Path, endpoint: Endpoint) -> LLM:
    """The real client over an endpoint."""
    union = Union(load_client(client), "Decide", ("ReadFile", "Done"), {"Done": TaskResult})
    messages = union.frame({"done": "it is read", "instructions": "Read the files."})
    return BamlLLM(union, messages, endpoint, agent="reader")


class Bench:
    """A bus with a log beside it, on which sessions run."""

    def __init__(self, paths: Paths) -> None:
        self.bus = Bus(paths.database, wake=paths.wake)
        self.sessions = Sessions(self.bus)
        self.bus.accept("reader", "v", subscribe=LANE.subscribe)
        self.log = logs.configure("reader", paths, LogConfig())

    def session(self, llm: LLM, turns: int = TURNS) -> float:
        """Run one session and return its milliseconds per turn."""
        self.bus.publish("bench", NewEvent("bench.asked", {"folder": "src"}))
        started = time.perf_counter()
        session = self.begin(turns)
        loop = self.loop(session, llm)
        ending = loop.run()
        self.sessions.closing.close(session, outcome=ending.result.value)
        passed = time.perf_counter() - started
        assert loop.guards.turns == turns, loop.guards.turns
        return passed * 1000 / turns

    def begin(self, turns: int = TURNS) -> Session:
        """Open the session of the next event, or resume it."""
        event = self.bus.next(LANE)
        assert event is not None
        limits = LIMITS.model_copy(update={"turns": min(turns + 2, TURNS_MAX)})
        session = self.sessions.begin(LANE, event, "v", limits)
        assert isinstance(session, Session)
        return session

    def loop(self, session: Session, llm: LLM) -> Loop:
        """Return the loop of one run of a session."""
        return Loop(
            session,
            Reader(),
            llm,
            self.sessions.journal,
            idempotent=frozenset({"ReadFile"}),
            policy=Policy(),
            call_deadline_s=60,
            log=self.log.bind(session_id=session.id, event_id=session.event.id),
            beat=lambda promise_s: None,
        )


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield the scripted turn with its parts, and the turn with BAML, without and with HTTP."""
    count = SESSIONS_QUICK if quick else SESSIONS
    home.admit(["plain"])
    client = home.paths.versions / "plain" / home.hashes["plain"] / "baml_client"
    bench = Bench(home.paths)
    db = raw.connect(home.root / "raw.db")
    db.execute("CREATE TABLE steps (seq INTEGER PRIMARY KEY, payload TEXT)")
    llm = scripted()
    base = [_bare(db) for _ in range(count)]
    times = [bench.session(llm) for _ in range(count)]
    bare = statistics.median(base)
    yield Figure(
        "turn: scripted model",
        statistics.median(times),
        "ms",
        bare,
        BARE,
        at_most=1.5,
    )
    for part, milliseconds in _parts(bench, llm, count).items():
        yield Figure(f"turn:   of which {part}", milliseconds, "ms")
    endpoint = Endpoint(lambda: Address("http://canned/v1", "m"), own=True, http=Canned())
    llm = baml(client, endpoint)
    bench.session(llm)
    times = [bench.session(llm) for _ in range(count)]
    note = "request, stream and decision parsed; the network left out"
    ours = statistics.median(times)
    yield Figure("turn: BAML client", ours, "ms", bare, at_most=1.5, note=note)
    yield _over_http(bench, client, count, db)
    bench.bus.close()
    logs.close()


def _over_http(bench: Bench, client: Path, count: int, db: Any) -> Figure:
    """Measure a turn over HTTP, and a bare loop's, without what the server itself takes."""
    sides = Turns()
    with _serving() as address:
        llm = baml(client, Endpoint(lambda: address, own=True))
        ask = _asking(address)
        sessions: dict[str, Callable[[], float]] = {
            "agentd": lambda: bench.session(llm),
            BARE: lambda: _bare(db, ask),
        }
        for number in range(count + 1):
            for side, session in sessions.items():
                whole, own = session(), _spent_ms(address)
                if number:  # the first one of each connects
                    sides.add(side, whole - own)
                    sides.add("server", own)
    own = statistics.median(sides.values["server"])
    note = f"each less the fake server's own {own:.2f} ms"
    return sides.figure("turn: BAML client over HTTP", "ms", "agentd", BARE, at_most=1.6, note=note)


def _asking(address: Address) -> Callable[[str], str]:
    """Return what asks for an answer to a log, by one kept connection and no library."""
    place = urlsplit(address.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)

    def ask(log: str) -> str:
        body = {"model": address.model, "messages": [{"role": "user", "content": log}]}
        connection.request("POST", f"{place.path}/chat/completions", json.dumps(body))
        lines = connection.getresponse().read().split(b"\n\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        return "".join(delta.get("content", "") for delta in deltas)

    return ask


@contextmanager
def _serving() -> Iterator[Address]:
    """Run the fake model server in a process of its own; it says what it took itself."""
    command = [sys.executable, "-m", "tests.bench.peers.chat_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield Address(server.stdout.readline().strip(), "fake")
        finally:
            server.kill()


def _spent_ms(address: Address) -> float:
    """Return the server's own milliseconds a turn since this was last asked."""
    spent = json.loads(fetch(address, "/spent", SPENT_S) or b"{}")
    return float(spent["seconds"]) * 1000 / TURNS


def _bare(db: Any, ask: Callable[[str], str] = lambda log: json.dumps(next_answer(log))) -> float:
    """Run the same turns with nothing around them; return milliseconds per turn."""
    agent, log = Reader(), ['<event type="bench.asked">\n{"folder":"src"}\n</event>\n']
    insert = "INSERT INTO steps (payload) VALUES (?)"
    started = time.perf_counter()
    for _ in range(TURNS):
        raw_text = ask("".join(log))
        args = json.loads(raw_text)
        db.execute(insert, (raw_text,))
        if args["tool"] == "done":
            break
        text = json.dumps(agent.dispatch(Choice("ReadFile", args)).value)
        log.append(f'<event type="read_file">\n{text}\n</event>\n')
        db.execute(insert, (text,))
    return (time.perf_counter() - started) * 1000 / TURNS


def _parts(bench: Bench, llm: LLM, count: int) -> dict[str, float]:
    """Run sessions with stopwatches inside; return each part's milliseconds per turn."""
    spent: dict[str, float] = {}
    undo: list[Callable[[], None]] = []

    def watch(part: str, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] = spent.get(part, 0.0) + time.perf_counter() - started

        undo.append(partial(setattr, owner, name, function))
        setattr(owner, name, timed)

    watch("durable records", bench.sessions, "begin")
    watch("durable records", bench.sessions.journal, "record")
    watch("durable records", bench.sessions.closing, "close")
    watch("counting tokens", llm, "count")
    watch("rendering events", context, "render")
    watch("the model's double", llm, "decide")
    plain_log = bench.log
    bench.log = cast(logs.Logger, _TimedLog(plain_log, spent))
    for _ in range(count):
        bench.session(llm)
    bench.log = plain_log
    for back in undo:
        back()
    return {part: seconds * 1000 / count / TURNS for part, seconds in sorted(spent.items())}


class _TimedLog:
    """A logger with a stopwatch."""

    def __init__(self, log: logs.Logger, spent: dict[str, float]) -> None:
        self._log, self._spent = log, spent

    def bind(self, **keys: Any) -> "_TimedLog":
        return _TimedLog(self._log.bind(**keys), self._spent)

    def info(self, event: str, **keys: Any) -> None:
        started = time.perf_counter()
        self._log.info(event, **keys)
        passed = time.perf_counter() - started
        self._spent["log lines"] = self._spent.get("log lines", 0.0) + passed
