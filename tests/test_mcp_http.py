"""A server at a URL: its own host alone, and no answer without end."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentd.mcp import peer
from agentd.mcp.over_http import over_http
from tests.fake_mcp_server import TOOLS


class Server(BaseHTTPRequestHandler):
    """Streamable HTTP, answered by JSON; what it is asked for says how it misbehaves."""

    elsewhere = ""
    seen: list[str]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, number = asked["method"], asked.get("id")
        if self.path == "/moved":
            self._send(307, b"", location=self.elsewhere)
        elif method == "initialize":
            version = asked["params"]["protocolVersion"]
            about = {"name": "fake", "version": "1"}
            told = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
            self._answer(number, told)
        elif method == "tools/list":
            self._answer(number, {"tools": TOOLS[:1]})
        elif method == "tools/call" and asked["params"]["arguments"]["text"] == "endless":
            self._endless("application/json", b"x" * 65_536)
        elif method == "tools/call" and asked["params"]["arguments"]["text"] == "flood":
            self._endless("text/event-stream", b": nothing\n\n" * 100)
        elif method == "tools/call":
            content = [{"type": "text", "text": asked["params"]["arguments"]["text"]}]
            self._answer(number, {"content": content})
        elif number is None:
            self._send(202, b"")
        else:
            error = {"code": -32601, "message": "no such method"}
            self._send(200, json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode())

    def do_GET(self) -> None:
        self._send(405, b"")

    do_DELETE = do_GET

    def _answer(self, number: Any, result: Any) -> None:
        self._send(200, json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode())

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _endless(self, kind: str, part: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.end_headers()
        try:
            while True:
                self.wfile.write(part)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start() -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Server))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_at_a_url_is_asked_and_called(serve: Callable[[], str]) -> None:
    """Its tools have definitions, and a call a result, as those of a program have."""

    async def scenario() -> None:
        async with peer.connected(over_http(f"{serve()}/mcp")) as client:
            assert list(await peer.definitions(client)) == ["echo"]
            assert await peer.call(client, "echo", {"text": "Grüße"}) == {"text": "Grüße"}

    asyncio.run(scenario())


@pytest.mark.parametrize("text", ["endless", "flood"])
def test_an_answer_without_end_is_an_error(serve: Callable[[], str], text: str) -> None:
    """Neither memory nor the time of others is taken by it."""

    async def scenario() -> None:
        async with peer.connected(over_http(f"{serve()}/mcp")) as client:
            async with asyncio.timeout(20):
                await peer.call(client, "echo", {"text": text})

    with pytest.raises(Exception) as raised:
        asyncio.run(scenario())
    assert not isinstance(raised.value, TimeoutError), "it was cut by its size"


def test_no_redirect_leads_to_another_host(
    serve: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What agentd.toml names is reached, and nothing else."""
    monkeypatch.setattr(Server, "elsewhere", f"{serve()}/mcp")

    async def scenario() -> None:
        async with peer.connected(over_http(f"{serve()}/moved")):
            pass

    with pytest.raises(BaseException) as raised:
        asyncio.run(scenario())
    assert "redirect" in str(_first(raised.value)).lower()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
