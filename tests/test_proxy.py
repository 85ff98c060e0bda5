"""What programs go by: git, curl and Python against servers of this test, through the proxy."""

import http.server
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentd.fetcher import proxy
from agentd.net.connection import look_up
from agentd.sandbox.level import reached
from agentd.testing import wait_for
from tests.test_fetcher import Fetching
from tests.test_hands import Hand, home, orders

__all__ = ["home"]

NAMES = ("git.example", "evil.example")
SYSTEM_PYTHON = "/usr/bin/python3"
URLLIB = (
    "import ssl, sys, urllib.request as u; c = ssl.create_default_context(cafile=sys.argv[1]); "
    "print(u.urlopen(sys.argv[2], timeout=20, context=c).read().decode())"
)
sandboxed = pytest.mark.skipif(
    sys.platform != "linux" or reached().name != "full", reason="no whole sandbox here"
)


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


class Site(http.server.SimpleHTTPRequestHandler):
    """Files; what it is sent is noted."""

    seen: ClassVar[list[tuple[str, dict[str, str]]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.path, dict(self.headers)))
        super().do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, dict(self.headers)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class World:
    """A server with TLS and one without, of a repository and a text; and one agent's proxy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = make_certificate(folder)
        self.site = folder / "site"
        self.site.mkdir()
        (self.site / "text").write_text("the text")
        handler = partial(Site, directory=str(self.site))
        self._servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in "ab"]
        tls, plain = self._servers
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        tls.socket = context.wrap_socket(tls.socket, server_side=True)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        self.tls, self.plain = tls.server_port, plain.server_port
        self.fetching = Fetching()
        self.ports: list[int] = []

    def proxy(self, *net: str) -> str:
        """Return the URL of a proxy for an agent that may reach these hosts."""
        secret = secrets.token_urlsafe(16)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            document = {"proxy": port, "secret": secret, "net": net}
            self.fetching.control.send(document, [listening.fileno()])
        return f"http://agentd:{secret}@127.0.0.1:{port}"

    @property
    def listed(self) -> tuple[str, ...]:
        """What allows both servers by the name that is theirs; both are on this machine."""
        own = (f"127.0.0.1:{self.tls}", f"127.0.0.1:{self.plain}")
        return (f"git.example:{self.tls}", f"git.example:{self.plain}", *own)

    def curl(self, *args: str, proxy: str) -> str:
        """Run curl with a proxy and without a sandbox, as any program of this machine."""
        done = subprocess.run(
            ["curl", "-sS", "-w", " %{http_code}", *args],
            env={"PATH": "/usr/bin:/bin", "http_proxy": proxy},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    def close(self) -> None:
        self.fetching.close()
        for server in self._servers:
            server.shutdown()
            server.server_close()


def make_certificate(folder: Path) -> Path:
    file = folder / "both.pem"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=git.example", "-addext", f"subjectAltName={names}"),
            *("-keyout", str(file), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    file.write_text(file.read_text() + (folder / "cert.pem").read_text())
    return file


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.close()


@pytest.fixture
def world(_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Both names lead to this machine, wherever they are asked for: by the proxy alone."""

    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host in NAMES else look_up(host, port)

    monkeypatch.setattr("agentd.net.connection.look_up", resolve)
    Site.seen.clear()
    return _world


@pytest.fixture(scope="module")
def repository(_world: World) -> str:
    """Return the path of a repository that is served as files are."""
    bare, work = _world.site / "r.git", _world.folder / "work"
    author = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    for line in (
        ("init", "-q", "--bare", str(bare)),
        ("init", "-q", str(work)),
        ("-C", str(work), *author, "commit", "-q", "--allow-empty", "-m", "first"),
        ("-C", str(work), "push", "-q", str(bare), "HEAD:refs/heads/main"),
        ("-C", str(bare), "update-server-info"),
    ):
        subprocess.run(["git", *line], check=True, capture_output=True)
    return "r.git"


@pytest.fixture
def hands(world: World, home: Path) -> Iterator[Hand]:
    """Hands of an agent that may run these programs, and reach both servers by their name."""
    url = world.proxy(*world.listed)
    run = ("git", "curl", SYSTEM_PYTHON)
    given = orders(home, run=run, net=world.listed, read=(str(world.certificate),))
    hand = Hand(given.reaching(url, int(url.rpartition(":")[2])), home / "locks")
    yield hand
    hand.end()


@sandboxed
@needs("git")
def test_git(world: World, hands: Hand, repository: str) -> None:
    """It fetches from a listed host, by its name, and from no other one."""
    url = f"https://git.example:{world.tls}/{repository}"
    trusted = f"http.sslCAInfo={world.certificate}"
    assert "refs/heads/main" in hands.run("git", "-c", trusted, "ls-remote", url)
    assert "Cloning into" in hands.run("git", "-c", trusted, "clone", url, "here")
    evil = url.replace("git.example", "evil.example")
    assert "403" in hands.run("git", "-c", trusted, "ls-remote", evil)


@sandboxed
@needs("curl")
def test_curl(world: World, hands: Hand) -> None:
    """With TLS and without; also what is sent with a body."""
    curl = partial(hands.run, "curl", "-sS", "--cacert", str(world.certificate))
    assert curl(f"https://git.example:{world.tls}/text") == "the text"
    assert curl(f"http://git.example:{world.plain}/text") == "the text"
    assert curl("-d", "x=1", f"http://git.example:{world.plain}/post") == "x=1"
    path, headers = Site.seen[-1]
    assert path == "/post" and headers["Host"] == f"git.example:{world.plain}"
    assert not any("proxy" in name.lower() for name in headers)
    seen = len(Site.seen)
    for url in (
        f"https://evil.example:{world.tls}/text",
        f"https://git.example:{world.plain + 1}/text",
        f"https://localhost:{world.tls}/text",
        f"https://[::1]:{world.tls}/text",
    ):
        assert "403" in curl(url), url
    told = curl(f"http://evil.example:{world.plain}/text")
    assert "agentd: evil.example" in told and "may not be fetched" in told
    assert len(Site.seen) == seen


@sandboxed
@needs(SYSTEM_PYTHON)
def test_urllib(world: World, hands: Hand) -> None:
    """What Python programs use by themselves."""
    python = partial(hands.run, SYSTEM_PYTHON, "-c", URLLIB, str(world.certificate))
    assert python(f"https://git.example:{world.tls}/text") == "the text\n"
    assert python(f"http://git.example:{world.plain}/text") == "the text\n"
    assert "403" in python(f"https://evil.example:{world.tls}/text")


@sandboxed
@needs("curl", SYSTEM_PYTHON)
def test_there_is_no_way_around_it(world: World, hands: Hand) -> None:
    """Not to a listed host either, not by name or address, and not by UDP."""
    for host in ("127.0.0.1", "git.example"):
        url = f"http://{host}:{world.plain}/text"
        assert "the text" not in hands.run("curl", "-sS", "--noproxy", "*", url)
    assert Site.seen == []
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    assert "PermissionError" in hands.run(SYSTEM_PYTHON, "-c", code)


@needs("curl")
def test_anothers_secret_is_refused(world: World) -> None:
    """Who can reach the port, as any program of this machine outside of a sandbox, shows it."""
    url = f"http://git.example:{world.plain}/text"
    one, two = world.proxy(*world.listed), world.proxy("example.com")
    port = one.rpartition(":")[2]
    stolen = two.rpartition(":")[0] + f":{port}"
    for wrong in (stolen, f"http://127.0.0.1:{port}", f"http://agentd@127.0.0.1:{port}"):
        answer = world.curl(url, proxy=wrong)
        assert answer.endswith("407") and "the text" not in answer
    assert world.curl(url, proxy=one) == "the text 200"


def test_an_ended_proxy_lets_nobody_through(world: World) -> None:
    """Its hands are gone: what they left running has no connection any more."""
    url = world.proxy(*world.listed)
    port = int(url.rpartition(":")[2])
    with tunnel(world, url) as sock:
        assert ask(sock) == b"HTTP/1.0 200 OK"
        with tunnel(world, url) as open_one:
            world.fetching.control.send({"end": port})
            assert open_one.recv(1) == b""
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=20)


def tunnel(world: World, url: str, to: str = "") -> socket.socket:
    """Return a connection to the server without TLS, by CONNECT."""
    sock = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)
    sock.sendall(head(f"CONNECT {to or f'git.example:{world.plain}'} HTTP/1.1", url))
    assert sock.recv(200) == b"HTTP/1.1 200 Connected\r\n\r\n"
    return sock


def head(line: str, url: str, *more: str) -> bytes:
    import base64

    given = url.removeprefix("http://").partition("@")[0]
    basic = base64.b64encode(given.encode()).decode()
    lines = (line, f"Proxy-Authorization: Basic {basic}", *more, "", "")
    return "\r\n".join(lines).encode()


def ask(sock: socket.socket) -> bytes:
    sock.sendall(b"GET /text HTTP/1.0\r\n\r\n")
    found = b""
    while piece := sock.recv(4096):
        found += piece
    assert found.endswith(b"the text")
    return found.partition(b"\r\n")[0]


BAD: Mapping[str, Callable[[World, str], bytes]] = {
    "no request": lambda world, url: b"SSH-2.0-x\r\n\r\n",
    "a path alone": lambda world, url: head("GET /text HTTP/1.1", url),
    "another scheme": lambda world, url: head("GET ftp://git.example/ HTTP/1.1", url),
    "no port": lambda world, url: head("CONNECT git.example HTTP/1.1", url),
    "a path behind the port": lambda world, url: head("CONNECT git.example:1/x HTTP/1.1", url),
    "two hosts": lambda world, url: head("CONNECT git.example:1@evil.example:2 HTTP/1.1", url),
    "a folded field": lambda world, url: head("CONNECT a.example:1 HTTP/1.1", url, "A: 1", " b"),
    "a space before the colon": lambda world, url: head(
        "CONNECT a.example:1 HTTP/1.1", url, "A : 1"
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_request_is_refused(world: World, kind: str) -> None:
    """In one answer, and the proxy goes on."""
    url = world.proxy(*world.listed)
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(BAD[kind](world, url))
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")
    with tunnel(world, url) as sock:
        assert ask(sock)


def test_an_endless_head_ends(world: World) -> None:
    """It is held no longer than a head may be."""
    port = int(world.proxy(*world.listed).rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as sock,
        pytest.raises(ConnectionError),
    ):
        while True:
            sock.sendall(b"A: 1\r\n" * 1000)


def test_a_name_that_leads_to_a_private_address_is_refused(world: World) -> None:
    """As for HttpGet: a listed name is no way into this machine or its network."""
    url = world.proxy(f"git.example:{world.plain}")
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as sock:
        sock.sendall(head(f"CONNECT git.example:{world.plain} HTTP/1.1", url))
        answer = sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 403 ") and b"which is not public" in answer


def test_programs_starve_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that ask nothing are few, and end; another agent's programs go on meanwhile."""
    monkeypatch.setattr(proxy, "HEAD_S", 3.0)  # who asks has time for it on a busy machine, too
    greedy, other = world.proxy(*world.listed), world.proxy(*world.listed)
    port = int(greedy.rpartition(":")[2])
    silent = [
        socket.create_connection(("127.0.0.1", port), timeout=20)
        for _ in range(proxy.CONNECTIONS_MAX + 5)
    ]
    for sock in silent[proxy.CONNECTIONS_MAX :]:
        assert sock.recv(1) == b""
    with tunnel(world, other) as sock:
        assert ask(sock)
    for sock in silent:
        assert sock.recv(1) == b""
        sock.close()
    with tunnel(world, greedy) as sock:
        assert ask(sock)


def test_large_answers_come_whole_and_slow_readers_cost_no_memory(world: World) -> None:
    """Bytes are passed on as they are taken."""
    data = os.urandom(5_000_000)
    (world.site / "large").write_bytes(data)
    url = world.proxy(*world.listed)
    with tunnel(world, url) as sock:
        sock.sendall(b"GET /large HTTP/1.0\r\n\r\n")
        wait_for(lambda: Site.seen, what="it is asked")
        found = b""
        while piece := sock.recv(65_536):
            found += piece
    assert found.endswith(data)
