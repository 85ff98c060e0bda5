"""A model server in this process, on a real socket, and a small client for it."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from agentd.clock import SystemClock
from agentd.llm.model_link import ModelLink
from agentd.model_server.engine.thread import EngineThread
from agentd.model_server.http.app import Server
from agentd.model_server.http.handed_over import HandedOver
from agentd.model_server.http.server import http_server
from agentd.model_server.protocols import Engine, Language
from agentd.net.wait import Deadline, Waiter
from agentd.process.channel import Channel
from agentd.process.stop import Cancel
from agentd.testing.tiny_model import ScriptedLanguage

TOKEN = "test-token"
NAME = "scripted"
DEADLINE_S = 60.0


def wait_for(condition: Callable[[], Any], what: str = "") -> Any:
    """Return the condition's first true value; fail after a deadline."""
    end = time.monotonic() + DEADLINE_S
    tick = threading.Event()
    while time.monotonic() < end:
        if value := condition():
            return value
        tick.wait(0.005)
    raise AssertionError(f"never became true: {what or condition}")


class ListLog:
    """Keeps log lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def info(self, event: str, **keys: Any) -> None:
        self.lines.append({"event": event, **keys})

    error = warning = info

    def of(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event]


class Serving:
    """A running server: `post` and `get` make one exchange each."""

    http_side: uvicorn.Server
    control: Channel  # the supervisor's end

    def __init__(self, port: int, runner: EngineThread, log: ListLog) -> None:
        self.port = port
        self.runner = runner
        self.log = log
        self.ended: list[BaseException] = []

    def connect(self, link: ModelLink | None = None) -> http.client.HTTPConnection:
        """Connect by the port, or by an agent's link."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        if link is not None:
            with Waiter.of(Deadline(SystemClock(), DEADLINE_S), Cancel()) as waiter:
                connection.sock = link.connect(waiter)
            connection.sock.settimeout(DEADLINE_S)
        return connection

    def link(self, agent: str) -> ModelLink:
        """Return an agent's link, as the supervisor makes them."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.control.send({"agent": agent}, [theirs.fileno()])
        return ModelLink(ours)

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = TOKEN,
        link: ModelLink | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = self.connect(link)
        try:
            given = dict(headers or {})
            if token is not None and link is None:
                given["Authorization"] = f"Bearer {token}"
            connection.request(method, path, body=body, headers=given)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def get(self, path: str, token: str | None = TOKEN) -> tuple[int, Any]:
        status, _headers, data = self.exchange("GET", path, token=token)
        return status, json.loads(data)

    def post(
        self,
        path: str,
        body: Any,
        headers: Mapping[str, str] | None = None,
        link: ModelLink | None = None,
    ) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _headers, answer = self.exchange("POST", path, data, headers, link=link)
        return status, json.loads(answer)

    def chat(
        self,
        headers: Mapping[str, str] | None = None,
        link: ModelLink | None = None,
        **more: Any,
    ) -> tuple[int, Any]:
        return self.post("/v1/chat/completions", chat_body(**more), headers, link)


def chat_body(content: str = "hello", **more: Any) -> dict[str, Any]:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        **more,
    }


@contextmanager
def serving(
    load_engine: Callable[[Language], Engine],
    load_language: Callable[[], Language] = ScriptedLanguage,
    *,
    queue_size: int = 16,
    wait_ready: bool = True,
    unload_after_s: float | None = None,
    token: Callable[[], str] = lambda: TOKEN,
    **options: Any,
) -> Iterator[Serving]:
    """Serve on a free port until the block ends."""
    log = ListLog()
    ended: list[BaseException] = []
    runner = EngineThread(
        load_language,
        load_engine,
        log,
        queue_size=queue_size,
        on_end=ended.append,
        unload_after_s=unload_after_s,
    )
    server = Server(runner, name=NAME, token=token, **options)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    ours, theirs = map(Channel, socket.socketpair())

    def start() -> None:
        HandedOver(theirs, http_side, lambda: setattr(runner, "agents_here", True))

    http_side = http_server(server.build(), knows=server.knows, stop_s=2, on_start=start)
    thread = threading.Thread(target=lambda: asyncio.run(http_side.serve(sockets=[sock])))
    runner.start()
    thread.start()
    found = Serving(sock.getsockname()[1], runner, log)
    found.ended = ended
    found.http_side = http_side
    found.control = ours
    try:
        if wait_ready:
            wait_for(lambda: runner.progress.ready or ended, "ready")
        yield found
    finally:
        runner.stop(DEADLINE_S)
        http_side.should_exit = True
        thread.join(DEADLINE_S)
        ours.close()
        theirs.close()
