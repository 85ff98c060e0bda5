"""A server at a URL: its own host alone, by the fetcher's proxy, and no answer without end."""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError, SandboxUnavailable
from agentd.mcp import peer
from agentd.mcp.host_policy import host_policy
from agentd.mcp.over_http import over_http
from agentd.paths import Paths, discover
from agentd.sandbox import level
from agentd.sandbox.level import Reached, reached
from agentd.sandbox.seatbelt import Profile
from agentd.supervisor.mcp_discovery import tools_of
from agentd.tools import http
from tests.fake_mcp_server import TOOLS
from tests.mcp_hosting import agent, hosting, left, say
from tests.test_net import certificate, needs_openssl, trusted

__all__ = ["certificate", "trusted"]


class Server(BaseHTTPRequestHandler):
    """Streamable HTTP, answered by JSON; what it is asked for says how it misbehaves."""

    protocol_version = "HTTP/1.1"
    elsewhere = ""
    seen: list[tuple[int, dict[str, str]]]  # of each request the server's port, and its fields
    asking: dict[str, bool]  # our modules that run while it is asked, and whether in a sandbox

    def do_POST(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append((self.server.server_port, fields))
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
            self.asking.update(_sandboxed())
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
        self.close_connection = False  # whatever was asked: it would like to hear more

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


def _sandboxed() -> dict[str, bool]:
    """Our modules that run beside this process, and whether each is in a sandbox."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(OSError, ValueError, psutil.Error):
            argv = process.cmdline()
            status = Path(f"/proc/{process.pid}/status").read_text()
            found[argv[argv.index("-m") + 1]] = "Seccomp:\t2" in status
    return found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    monkeypatch.setattr(Server, "seen", [], raising=False)
    monkeypatch.setattr(Server, "asking", {}, raising=False)
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


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = discover({"AGENTD_HOME": str(tmp_path / "home")})
    made.create()
    return made


def at(paths: Paths, url: str) -> None:
    paths.daemon_file.write_text(f"[mcp.fake]\nurl = '{url}'\n")


async def until_said(host: Any, of: Any, word: str) -> None:
    """Call until a word is in what comes of it: a call is told of an end that comes just then."""
    async with asyncio.timeout(40):
        while word not in await say(host, of, "echo", text="hi"):
            await asyncio.sleep(0.05)


def test_the_daemon_reaches_it_by_the_fetchers_proxy(
    paths: Paths, serve: Callable[[], str]
) -> None:
    """Each connection is the proxy's, which keeps its secret; a changed URL has a new host."""
    old, new = serve(), serve()
    at(paths, f"{old}/mcp")
    of = agent(paths, "echo")
    before = set(psutil.Process().children())  # such as the one that multiprocessing keeps

    async def scenario() -> None:
        async with hosting(paths) as host:
            Server.seen.clear()
            assert await say(host, of, "echo", text="Grüße") == "Grüße"
            at(paths, f"{new}/mcp")
            host.reread()
            await until_said(host, of, "hi")
            assert {port for port, _ in Server.seen} == {
                int(url.rpartition(":")[2]) for url in (old, new)
            }
            assert all(fields["connection"] == "close" for _, fields in Server.seen)
            assert not [f for _, f in Server.seen if "proxy-authorization" in f]
            if reached().name == "full" and sys.platform == "linux":
                helpers = set(psutil.Process().children()) - before
                assert helpers
                for process in helpers:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    assert "Seccomp:\t2" in status, process.cmdline()

    asyncio.run(scenario())


def test_its_tools_are_asked_for_as_they_are_called(paths: Paths, serve: Callable[[], str]) -> None:
    """By a fetcher's proxy, and who reads what it says is in a sandbox; nothing is left of them."""
    at(paths, f"{serve()}/mcp")
    before = left()
    assert list(tools_of("fake", load_daemon(paths.daemon_file), paths)) == ["echo"]
    assert left()[1] == before[1]
    assert Server.seen and all(fields["connection"] == "close" for _, fields in Server.seen)
    assert not [fields for _, fields in Server.seen if "proxy-authorization" in fields]
    if reached().name == "full" and sys.platform == "linux":
        assert Server.asking == {"agentd.fetcher": True, "agentd.mcp.discovery": True}


def test_without_a_sandbox_no_tools_are_asked_for(
    paths: Paths, serve: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one is required the check fails closed, says why and what to do."""
    at(paths, f"{serve()}/mcp")
    with monkeypatch.context() as patched:
        patched.setattr(level, "reached", lambda: Reached("checks", "it was taken away"))
        with pytest.raises(SandboxUnavailable, match="no sandbox: it was taken away") as raised:
            tools_of("fake", load_daemon(paths.daemon_file), paths)
    assert 'level = "checks"' in raised.value.hint and not Server.seen


@needs_openssl
def test_a_server_under_tls_is_reached_by_the_proxy(
    paths: Paths, serve: Callable[[], str], trusted: Path
) -> None:
    """By CONNECT, with certificates that the sandbox lets the host read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted)
    web = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    web.socket = context.wrap_socket(web.socket, server_side=True)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    at(paths, f"https://localhost:{web.server_port}/mcp")

    async def scenario() -> None:
        of = agent(paths, "echo")
        async with hosting(paths) as host:
            assert await say(host, of, "echo", text="Grüße") == "Grüße"

    try:
        asyncio.run(scenario())
    finally:
        web.shutdown()
        web.server_close()


def test_a_redirect_of_a_running_server_leads_nowhere(
    paths: Paths, serve: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that turned hostile after it was accepted: nothing else hears of a call."""
    url, other = serve(), serve()
    monkeypatch.setattr(Server, "elsewhere", f"{other}/mcp")
    at(paths, f"{url}/mcp")
    of = agent(paths, "echo")
    at(paths, f"{url}/moved")

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert "redirect" in (await say(host, of, "echo", text="hi")).lower()

    asyncio.run(scenario())
    assert {port for port, _ in Server.seen} == {int(url.rpartition(":")[2])}


def test_without_a_sandbox_there_is_no_host_where_one_is_required(
    paths: Paths, serve: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails closed, with the reason: also where it needs no proxy."""
    at(paths, f"{serve()}/mcp")
    of = agent(paths, "echo")
    paths.daemon_file.write_text("")
    monkeypatch.setattr(level, "reached", lambda: Reached("checks", "it was taken away"))

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert "no sandbox: it was taken away" in await say(host, of, "echo", text="hi")

    asyncio.run(scenario())


IN_SANDBOX = """
import json, pathlib, socket, ssl, subprocess, sys
from agentd.mcp.host_policy import host_policy
from agentd.paths import discover
from agentd.sandbox.enter import enter
secret, proxy, other = sys.argv[1], *map(int, sys.argv[2:])
enter(host_policy(discover(), proxy or None))
def tried(attempt):
    try:
        return attempt() or "done"
    except OSError as error:
        return type(error).__name__
def connect():
    with socket.create_connection(("127.0.0.1", other)) as made:
        return made.getpeername()[1] == proxy and "at the proxy"
print(json.dumps({
    "reads": tried(lambda: open(secret) and None),
    "writes": tried(lambda: open(secret + ".new", "w") and None),
    "runs": tried(lambda: subprocess.run(["/bin/true"]) and None),
    "listens": tried(lambda: socket.create_server(("127.0.0.1", 0)) and None),
    "sends": tried(lambda: socket.socket(type=socket.SOCK_DGRAM) and None),
    "connects": tried(connect),
    "trusts": len(ssl.create_default_context().get_ca_certs()),
}))
"""


@pytest.mark.skipif(
    reached().name != "full" or sys.platform != "linux", reason="no whole sandbox to enter here"
)
@pytest.mark.parametrize("proxied", [True, False])
def test_its_hosts_sandbox_has_one_way_out(paths: Paths, tmp_path: Path, proxied: bool) -> None:
    """To the proxy, whatever it connects to; without a URL there is none. No file, no program."""
    (tmp_path / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as proxy, socket.create_server(("", 0)) as other:
        ports = [str(sock.getsockname()[1]) for sock in (proxy, other)]
        ports[0] = ports[0] if proxied else "0"
        argv = [sys.executable, "-P", "-c", IN_SANDBOX, str(tmp_path / "secret"), *ports]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            other.accept()
    found = json.loads(done.stdout or done.stderr)
    assert found.pop("trusts") == len(ssl.create_default_context().get_ca_certs())
    refused = dict.fromkeys(("reads", "writes", "runs", "listens", "sends"), "PermissionError")
    way = "at the proxy" if proxied else "PermissionError"
    assert found == {**refused, "connects": way}


def test_on_a_mac_its_profile_has_one_way_out(paths: Paths) -> None:
    """The proxy's port, and no socket at all without a URL."""
    way = '(allow network-outbound (remote ip "localhost:4321"))'
    text = Profile(host_policy(paths, 4321), sys.executable).text
    assert way in text and text.count("network-outbound") == 1
    assert "network-outbound" not in Profile(host_policy(paths, None), sys.executable).text


def test_a_host_that_agents_may_not_reach_is_told_when_its_tools_are_asked_for(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name, and not first by their calls, which go by the fetcher; an address is meant."""
    monkeypatch.setattr(http, "look_up_in_time", lambda *_: ["10.0.0.7"])
    paths.daemon_file.write_text("[mcp.fake]\nurl = 'http://tools.invalid/mcp'\n")
    with pytest.raises(
        ConfigError, match=r"tools\.invalid leads to 10\.0\.0\.7, which is not public"
    ):
        tools_of("fake", load_daemon(paths.daemon_file), paths)
