"""HttpGet against a real server on loopback: listed hosts, public addresses, bounded text."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.net.wait import Waiter
from agentd.testing import wait_for
from agentd.tools import http
from agentd.tools.charsets import ENCODINGS
from agentd.tools.public import is_public
from agentd.tools.toolbox import Toolbox

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

    def page_tagged(self) -> None:
        tags = {"ETag": '"one"', "Last_Modified": "Sat, 28 Nov 2026 09:00:00 GMT"}
        known = self.headers["If-None-Match"] == tags["ETag"]
        kind = "application/atom+xml; charset=UTF-8"
        self.answer(
            b"" if known else b"\0\xff<feed/>", 304 if known else 200, Content_Type=kind, **tags
        )

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


@contextmanager
def answering(*pieces: bytes, again: bool = False) -> Iterator[str]:
    """A server on loopback that answers each request with these bytes, and may go on for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listening.accept()
                    with peer, suppress(OSError):
                        peer.recv(65_536)
                        for piece in pieces:
                            peer.sendall(piece)
                        while again:
                            peer.sendall(pieces[-1])

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def page(charset: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={charset}\r\n\r\n"
    return head.encode("utf-8", "surrogateescape") + body


@pytest.mark.parametrize(
    "charset",
    [
        *("idna", "punycode", "unicode_escape", "raw_unicode_escape", "uu_codec", "rot13", "hz"),
        *("utf-7", "undefined", "base64", "zlib", "mbcs", "palmos", "ptcp154", "x" * 30_000, "*"),
        *("\x00", "caf\xe9", "", '"', "utf-8", "UTF8", "iso-2022-jp-ext", "cp037", "bytes"),
    ],
)
def test_what_is_no_encoding_is_read_as_utf8(charset: str) -> None:
    """Python's other codecs raise what a page may not, take minutes, or are no encodings."""
    with answering(page(charset, "café +AGE- \\u0041".encode() + b"\xff")) as server:
        assert get(server, f"http://{server}/")["text"] == "café +AGE- \\u0041\ufffd"


@pytest.mark.parametrize(
    ("charset", "codec", "text"),
    [
        ("windows-1251", "cp1251", "привет"),
        ("KOI8-R", "koi8-r", "привет"),
        ('"Shift_JIS"', "cp932", "日本"),
        ("gb2312; x=y", "gb18030", "中文"),
        ("iso-8859-15", "iso8859-15", "10 €"),
        ("iso-8859-1", "cp1252", "10 € café"),
        ("utf-16le", "utf-16-le", "日本"),
        ("utf-8", "utf-8-sig", "mark"),
    ],
)
def test_real_encodings_are_read(charset: str, codec: str, text: str) -> None:
    """What pages are really written in."""
    with answering(page(charset, text.encode(codec))) as server:
        assert get(server, f"http://{server}/")["text"] == text


def test_every_listed_encoding_is_there() -> None:
    """Each label names a codec of this Python, which takes any bytes."""
    for codec in ENCODINGS.values():
        assert isinstance(bytes(range(256)).decode(codec, "replace"), str)


@pytest.mark.parametrize(
    ("fields", "plain"),
    [
        *((fields, False) for fields in (b"Transfer-Encoding: gzip", b"Transfer-Encoding: x-new")),
        *(
            (fields, False)
            for fields in (b"Transfer-Encoding: gzip, chunked", b"TE: x\r\ncontent-encoding:br")
        ),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: deflate", False),
        (b"Transfer-Encoding: identity, chunked", False),
        (b"Transfer-Encoding: chunked, chunked", False),
        (b"Content-Encoding: identity\r\nContent-Encoding: zstd", False),
        (b"Content-Encoding: gzip, identity", False),
        *((fields, True) for fields in (b"Content-Encoding:", b"Content-Encoding: , ", b"X: y")),
        *((fields, True) for fields in (b"Content-Encoding:  Identity ", b"Transfer-Encoding:")),
        (b"Transfer-Encoding: identity", True),
        (b"Transfer-Encoding: CHUNKED\r\nContent-Encoding: identity,identity", True),
    ],
)
def test_only_what_comes_as_it_is_is_text(fields: bytes, plain: bool) -> None:
    """Each coding that nobody undoes is refused, in whichever field and line; none is none."""
    body = b"5\r\nplain\r\n0\r\n\r\n" if b"chunked" in fields.lower() else b"plain"
    with answering(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n" + body) as server:
        if plain:
            assert get(server, f"http://{server}/")["text"] == "plain"
        else:
            with pytest.raises(ToolError, match="compressed"):
                get(server, f"http://{server}/")


MOVED = b"HTTP/1.1 302 Found\r\nLocation: "


@pytest.mark.parametrize(
    ("again", "answer"),
    [
        (False, MOVED + b"http://[::1/\r\n\r\n"),
        (False, MOVED + "http://caf\u00e9\u2100.example/\r\n\r\n".encode()),
        (False, MOVED + b"http://\xff\xfe/\r\n\r\n"),
        (False, MOVED + b"//x@y@127.0.0.1/\r\n\r\n"),
        (False, MOVED + b"http://" + b"a" * 60_000 + b"/\r\n\r\n"),
        (False, MOVED + b"https://.example/\r\n\r\n"),
        (False, MOVED + b"http://127.0.0.1:99999/\r\n\r\n"),
        (False, MOVED + b"gopher://127.0.0.1/\r\n\r\n"),
        (False, MOVED + b"\x00\r\n\r\n"),
        (False, b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n"),
        (False, b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        (False, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx"),
        (False, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx"),
        (False, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\nx"),
        (False, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b"),
        (False, b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n"),
        (False, b"HTTP/1.1 404 \x1b[2J" + b"n" * 50_000 + b"\r\n\r\n"),
        (False, b"HTTP/1.1 200 OK\r\nContent-Type: image/\x1b[2J" + b"n" * 900 + b"\r\n\r\n"),
        (False, b""),
        (True, b"x" * 1_000),
        (True, b"HTTP/1.1 100 Continue\r\n\r\n"),
        (True, b"HTTP/1.1 102 \r\nA: b\r\n\r\n"),
    ],
)
def test_whatever_a_server_answers_is_one_error(again: bool, answer: bytes) -> None:
    """Broken heads, endless ones, redirects to nowhere: told in one clean line, in time."""
    with answering(answer, again=again) as server:
        with pytest.raises(ToolError) as told:
            get(server, f"http://{server}/", deadline_s=1.0)
        assert len(told.value.what) < 600 and told.value.what.isprintable()


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"])
def test_an_endless_page_ends(chunk: bytes) -> None:
    """By its size, or by the deadline where it drips."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(head, chunk, again=True) as server, suppress(ToolError):
        value = get(server, f"http://{server}/", deadline_s=1.0)
        assert "first 1000000 bytes" in value["more"]


def close_once(asked: threading.Event, tools: Toolbox) -> None:
    asked.wait(20)
    tools.close()


def test_a_look_up_meets_the_deadline_and_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver may take minutes; a call does not."""
    held, asked = threading.Event(), threading.Event()

    def resolve(*_args: Any, **_named: Any) -> Any:
        asked.set()
        held.wait(20)
        raise socket.gaierror(-3, "try again")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    with pytest.raises(ToolError, match=r"longer than 0\.2 s"):
        get("name.example", "http://name.example/", deadline_s=0.2)
    asked.clear()
    tools = Toolbox(Permissions(net=("name.example",)))
    threading.Thread(target=close_once, args=(asked, tools)).start()
    with pytest.raises(Stopped):
        tools.call("HttpGet", {"url": "http://name.example/"})
    held.set()


def test_a_connecting_that_nobody_answers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stop, or at the deadline. Nobody answers a connection that a full queue drops."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        place = f"127.0.0.1:{full.getsockname()[1]}"
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with pytest.raises(ToolError, match=r"longer than 0\.2 s"):
            get(place, f"http://{place}/", deadline_s=0.2)
        asked = threading.Event()
        ready = Waiter.ready

        def seen(waiter: Waiter, sock: socket.socket, event: int, seconds: float) -> bool:
            if event == select.POLLOUT:
                asked.set()
            return ready(waiter, sock, event, seconds)

        monkeypatch.setattr(Waiter, "ready", seen)
        tools = Toolbox(Permissions(net=(place,)), deadline_s=60)
        began = time.monotonic()
        threading.Thread(target=close_once, args=(asked, tools)).start()
        with pytest.raises(Stopped):
            tools.call("HttpGet", {"url": f"http://{place}/"})
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254"),
        *("172.31.255.255", "192.0.0.8", "192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::8.8.8.8", "::ffff:10.0.0.1", "::ffff:192.88.99.1", "::ffff:0:8.8.8.8"),
        *("64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::8.8.8.8", "64:ff9b:1:ffff::1"),
        *("100::1", "100:0:0:1::1", "2001::1", "2001:0:808:808::", "2001:2::1", "2001:10::1"),
        *("2001:db8::1", "2002:808:808::1", "2002:7f00:1::", "3fff::1", "3fff:fff::1", "4000::1"),
        *("5f00::1", "fc00::1", "fd00::1", "fe80::1", "fe80::1%eth0", "2606:4700::1%eth0"),
        *("fec0::1", "feff::1", "ff02::1", "ff0e::1"),
    ],
)
def test_only_global_addresses_are_public(address: str) -> None:
    """As IANA's registries say: what is not given out to everybody is nobody's page."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "93.184.216.34", "192.0.1.1", "100.128.0.1", "172.32.0.1"),
        *("2606:4700:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "64:ff9b::8.8.8.8"),
    ],
)
def test_public_addresses_are(address: str) -> None:
    """Also an IPv4 address behind the prefix of a network without IPv4."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("bücher.example", "http://xn--bcher-kva.example/"),
        ("xn--bcher-kva.example", "http://BÜCHER.example./"),
        ("Example.COM", "http://example.com/"),
        ("[2606:4700::1]:8080", "http://[2606:4700::1]:8080/"),
    ],
)
def test_a_host_is_the_same_however_it_is_written(listed: str, url: str) -> None:
    """Lists hold what people write: capitals, umlauts, brackets."""
    assert http.check_url(url, [listed]).path == "/"


@pytest.mark.parametrize(
    "url",
    [
        *("http://exa\ud800mple.com/", "http://example.com/\ud800", "http://example.com/?q=\udfff"),
        *(
            "http://a..example.com/",
            "http://.example.com/",
            "http://exam$ple.com/",
            "http://\u2024/",
        ),
        *(
            "http://example.com\\@127.0.0.1/",
            "http://" + "a" * 200,
            "http://[v1.x]/",
            "http://%31/",
        ),
    ],
)
def test_hosts_and_paths_that_cannot_be(url: str) -> None:
    """Halves of characters, empty labels, signs: one error before anything is looked up."""
    with pytest.raises(ToolError):
        get("example.com", url)
