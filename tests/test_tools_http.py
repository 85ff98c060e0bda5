"""HttpGet against a real server on loopback: listed hosts, public addresses, bounded text."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentd.config import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.testing import ManualClock, wait_for
from agentd.tools import Toolbox, http
from agentd.tools.base import Call

SEEN: list[tuple[str, dict[str, str]]] = []


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        SEEN.append((self.path, dict(self.headers)))
        name = self.path.partition("?")[0].strip("/")
        getattr(self, f"page_{name}", self.page_missing)()

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content_Type": "text/html; charset=latin-1"} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def page_text(self) -> None:
        self.answer("café".encode("latin-1"))

    def page_missing(self) -> None:
        self.answer(b"", 404)

    def page_big(self) -> None:
        self.answer(b"z" * (http.BODY_BYTES + 10))

    def page_binary(self) -> None:
        self.answer(b"a\0b")

    def page_image(self) -> None:
        self.answer(b"...", Content_Type="image/png")

    def page_packed(self) -> None:
        self.answer(b"...", Content_Encoding="gzip")

    def page_near(self) -> None:
        self.answer(b"", 302, Location="/text?again=1")

    def page_away(self) -> None:
        self.answer(b"", 302, Location=f"http://localhost:{self.server.server_port}/text")  # type: ignore[attr-defined]

    def page_file(self) -> None:
        self.answer(b"", 302, Location="file:///etc/passwd")

    def page_loop(self) -> None:
        self.answer(b"", 302, Location="/loop")

    def page_slow(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"begun")
        self.wfile.flush()
        self.connection.settimeout(20)
        self.connection.recv(1)  # until the client is gone

    def page_junk(self) -> None:
        self.wfile.write(b"this is no HTTP\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as served:
        served.daemon_threads = True
        threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield f"127.0.0.1:{served.server_port}"
        served.shutdown()


def get(listed: str, url: str, **more: Any) -> dict[str, Any]:
    tools = Toolbox(Permissions(net=(listed,)), **more)
    result = tools.call("HttpGet", {"url": url})
    assert not result.trusted
    return dict(result.value)


def test_a_page(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text comes in its own charset; no credentials or proxy of the environment take part."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert get(server, f"http://{server}/text?q=a%20b") == {
        "url": f"http://{server}/text?q=a%20b",
        "text": "café",
    }
    path, headers = SEEN[-1]
    assert path == "/text?q=a%20b" and headers["Host"] == server
    assert not {"Authorization", "Cookie", "Referer"} & headers.keys()


def test_only_listed_hosts_and_ports(server: str) -> None:
    """A host that is not listed, or another port of one, is refused before any connection."""
    before = len(SEEN)
    for listed, url in (
        ("example.com", f"http://{server}/text"),
        ("127.0.0.1", f"http://{server}/text"),
        ("127.0.0.1:1", f"http://{server}/text"),
        (server, "http://127.0.0.1.evil.example/text"),
        ("example.com", "http://example.com.evil.example/"),
        ("example.com", "http://example.com:8080/"),
    ):
        with pytest.raises(PermissionRefused, match="may not be fetched"):
            get(listed, url)
    assert len(SEEN) == before


def test_names_that_lead_to_private_addresses_are_refused(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listed name may not point into the machine or its network, unless the address is listed."""
    port = int(server.split(":")[1])

    def resolve(address: str) -> Any:
        return lambda host, port, *_more, **_named: [(2, 1, 6, "", (address, port))]

    for address in (
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "224.0.0.1"),
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ):
        monkeypatch.setattr("socket.getaddrinfo", resolve(address))
        with pytest.raises(PermissionRefused, match="not public"):
            get("name.example", "http://name.example/")
    monkeypatch.setattr("socket.getaddrinfo", resolve("127.0.0.1"))
    tools = Toolbox(Permissions(net=(f"name.example:{port}", server)))
    assert tools.call("HttpGet", {"url": f"http://name.example:{port}/text"}).value["text"]


def test_redirects_stay_among_listed_hosts(server: str) -> None:
    """A redirect is followed inside the list only, and not for ever."""
    assert get(server, f"http://{server}/near")["url"] == f"http://{server}/text?again=1"
    with pytest.raises(PermissionRefused, match="localhost"):
        get(server, f"http://{server}/away")
    with pytest.raises(ToolError, match="not a URL"):
        get(server, f"http://{server}/file")
    with pytest.raises(ToolError, match="redirects more than 5 times"):
        get(server, f"http://{server}/loop")
    port = server.split(":")[1]
    both = Toolbox(Permissions(net=(server, f"localhost:{port}")))
    assert both.call("HttpGet", {"url": f"http://{server}/away"}).value["text"] == "café"


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("missing", "answered 404"),
        ("image", "no text but image/png"),
        ("packed", "compressed"),
        ("binary", "is binary"),
        ("junk", "failed"),
    ],
)
def test_what_is_no_page_is_told(server: str, page: str, why: str) -> None:
    """Errors and anything but text become a ToolError that says which."""
    with pytest.raises(ToolError, match=why):
        get(server, f"http://{server}/{page}")


def test_a_big_page_is_cut_visibly(server: str) -> None:
    """Neither the transfer nor the text is unbounded."""
    value = get(server, f"http://{server}/big")
    assert "...[cut " in value["text"] and "first 1000000 bytes" in value["more"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "http://user:pw@127.0.0.1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nHost: x",
        "http://[::1/",
        "http://127.0.0.1:99999/",
        "http:///path",
        "//127.0.0.1/",
    ],
)
def test_odd_urls_are_refused(url: str) -> None:
    """Other schemes, passwords, control characters and broken URLs never reach a socket."""
    with pytest.raises(ToolError):
        get("127.0.0.1", url)


def test_a_slow_server_meets_the_deadline(server: str) -> None:
    """A server that dribbles is cut off at the call's deadline."""
    with pytest.raises(ToolError, match=r"longer than 0\.3 s"):
        get(server, f"http://{server}/slow", deadline_s=0.3)


def test_a_socket_that_is_late_first_is_the_deadline_too() -> None:
    """The socket's own time ends with the call's; either may be the first to say so."""
    clock = ManualClock()
    call = Call(deadline_s=60, clock=clock)
    with pytest.raises(ToolError, match="longer than 60 s"), call.interrupting(lambda: None):
        clock.advance(61)
        raise TimeoutError("timed out")


def test_a_stop_interrupts(server: str) -> None:
    """`close` from another thread ends a fetch at once."""
    tools = Toolbox(Permissions(net=(server,)))
    raised: list[BaseException] = []

    def work() -> None:
        try:
            tools.call("HttpGet", {"url": f"http://{server}/slow?stop"})
        except Stopped as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: any(path == "/slow?stop" for path, _ in SEEN))
    tools.close()
    thread.join(5)
    assert raised


def test_nobody_listens() -> None:
    """A refused connection is a ToolError."""
    with pytest.raises(ToolError, match="cannot be reached"):
        get("127.0.0.1:1", "http://127.0.0.1:1/")
