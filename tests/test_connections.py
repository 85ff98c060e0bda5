"""HTTP at its edges: what is malformed, odd, too large or never ends. Nothing is left hanging."""

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from agentd.model_server.calls import Advance, Call
from agentd.model_server.http import connection_limits
from agentd.model_server.http import server as http_server
from agentd.testing.tiny_model import ScriptedEngine
from tests.raw_http import ask, connected, one_reply, status, to_end
from tests.serving import TOKEN, Serving, chat_body, serving, wait_for

BODY = json.dumps(chat_body()).encode()
KEY = f"Authorization: Bearer {TOKEN}\r\n".encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + KEY
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + KEY
END = b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(lambda _language: ScriptedEngine(), body_bytes_max=300_000) as server:
        yield server


def alive(server: Serving) -> bool:
    return server.get("/health")[0] == 200 and server.chat()[0] == 200


def test_an_idle_server_does_not_look_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten looks a second were most of what an idle page took. A stop waits for no look."""
    monkeypatch.setattr(http_server, "TICK_S", 1000.0)
    ticks: list[int] = []
    monkeypatch.setattr(http_server.HttpServer, "on_tick", counting(ticks))
    with serving(lambda _language: ScriptedEngine()) as server:
        began = time.monotonic()
        wait_for(lambda: alive(server) and time.monotonic() - began > 0.5)
    assert len(ticks) == 2, "as it begins and as it ends"


def counting(ticks: list[int]) -> Callable[..., Awaitable[bool]]:
    tick = http_server.HttpServer.on_tick

    async def counted(self: http_server.HttpServer, counter: int) -> bool:
        ticks.append(counter)
        return await tick(self, counter)

    return counted


ODD: dict[str, tuple[bytes, int]] = {
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)), 400),
    "an HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(40), 505),
    "HTTP/9.9": (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "empty lines": (b"\r\n\r\n\r\n", 400),
    "NUL in a header": (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400),
    "NUL in a path": (b"GET /hea\x00lth HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "UTF-8 in a path": ("GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "a space before the colon": (b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "a long header": (GET + b"A: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "a long path": (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
    "many headers": (GET + b"".join(b"A%d: b\r\n" % n for n in range(8000)) + b"\r\n", 431),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "a signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a length without end": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "both lengths": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    "another encoding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "garbage for a chunk": (CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n", 400),
    "a negative chunk": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk that is too long": (CHUNKED + b"3\r\nhello\r\n0\r\n\r\n", 400),
    "garbage behind a refusal": (
        CHUNKED.replace(KEY, b"") + b"1\r\na\r\nzz\r\n",
        400,
    ),
    "a broken path": (b"GET /v1/%zz%ff%00 HTTP/1.1\r\nHost: x\r\n" + KEY + END, 404),
    "a path out of the root": (b"GET /../health HTTP/1.1\r\nHost: x\r\n" + KEY + END, 404),
    "the absolute form": (b"GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n" + KEY + END, 404),
    "everything": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + KEY + END, 404),
    "a tunnel": (b"CONNECT a:443 HTTP/1.1\r\nHost: x\r\n" + KEY + END, 404),
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\nHost: x\r\n" + KEY + END, 405),
    "a slash too many": (b"GET /metrics/ HTTP/1.1\r\nHost: evil.example\r\n" + KEY + END, 404),
    "a key of another kind": (
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eA==\r\n" + END,
        401,
    ),
    "a caller that is no ASCII": (
        POST + "X-Agentd-Agent: é\r\nContent-Length: 2\r\n".encode() + END + b"{}",
        400,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_http_is_refused_and_ends(server: Serving, name: str) -> None:
    """Each is a 4xx or 5xx and a closed connection, and harms nobody."""
    data, wanted = ODD[name]
    reply = ask(server.port, data)
    assert status(reply) == wanted
    assert alive(server)


def test_plain_requests_in_old_and_odd_dress(server: Serving) -> None:
    """HTTP/1.0, a lower-case scheme, repeated equal lengths and unasked upgrades are served."""
    assert status(ask(server.port, b"GET /health HTTP/1.0\r\n\r\n")) == 200
    lower = KEY.replace(b"Authorization: Bearer", b"authorization: bearer")
    assert status(ask(server.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + lower + END)) == 200
    length = b"Content-Length: %d\r\n" % len(BODY)
    assert status(ask(server.port, POST + length * 2 + END + BODY)) == 200
    for upgrade in (b"websocket", b"h2c"):
        asked = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nUpgrade: %s\r\n" % upgrade + KEY
        reply = ask(server.port, asked + b"Connection: Upgrade, close\r\n\r\n")
        assert status(reply) == 200
    reply = ask(server.port, GET.replace(b"GET", b"HEAD", 1) + b"\r\n")
    assert status(reply) == 200 and reply.endswith(b"\r\n\r\n")
    trailer = b"%x\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(BODY), BODY)
    closing = CHUNKED.replace(b"\r\n\r\n", b"\r\n" + END)
    assert status(ask(server.port, closing + trailer)) == 200


def test_no_page_of_another_origin_gets_in(server: Serving) -> None:
    """A browser's preflight is refused, and no answer carries a header that lets a page read it."""
    for key in (b"", KEY):
        preflight = b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: http://evil\r\n"
        reply = ask(server.port, preflight + key + END)
        assert status(reply) == (405 if key else 401)
        assert b"access-control" not in reply.lower()
    reply = ask(server.port, GET + b"Origin: http://evil\r\n\r\n")
    assert status(reply) == 200 and b"access-control" not in reply.lower()


def test_leave_to_send_is_given_only_where_it_helps(server: Serving) -> None:
    """Expect: 100-continue, which curl sends with a large body: yes, or the refusal at once."""
    with connected(server.port) as sock:
        length = b"Content-Length: %d\r\n" % len(BODY)
        sock.sendall(POST + b"Expect: 100-continue\r\n" + length + END)
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(BODY)
        assert status(to_end(sock)) == 200
    expecting = b"Content-Length: 400000\r\nExpect: 100-continue\r\n\r\n"
    assert status(ask(server.port, POST + expecting)) == 413
    assert status(ask(server.port, POST.replace(KEY, b"") + expecting)) == 401


@pytest.mark.parametrize("key", [KEY, b""])
def test_a_refusal_reaches_who_is_still_sending(
    server: Serving, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of some megabytes too many can be sent to its end, and then 413, or 401, is read."""
    monkeypatch.setattr(http_server, "DRAIN_S", 20.0)  # a busy machine takes long over so much
    body = b"x" * 20_000_000  # more than the sockets' buffers hold
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(body)
    with connected(server.port) as sock:
        sock.sendall(head + key + END + body)
        assert status(to_end(sock)) == (413 if key else 401)


def test_a_body_without_end_is_cut_off(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, but sending on and on: the connection is closed in spite of it."""
    monkeypatch.setattr("agentd.model_server.http.server.DRAIN_BYTES_MAX", 1_000_000)
    sent = 0
    with connected(server.port) as sock, pytest.raises(ConnectionError):
        sock.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        while sent < 500_000_000:
            sock.sendall(b"x" * 1_000_000)
            sent += 1_000_000
    assert alive(server)


def test_requests_sent_ahead_are_answered_in_order(server: Serving) -> None:
    """Pipelining works, for a modest number of requests."""
    one = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    reply = ask(server.port, one * 5 + b"GET /health HTTP/1.1\r\nHost: x\r\n" + END)
    assert reply.count(b"HTTP/1.1 200 OK") == 6
    assert reply.endswith(b'{"status":"alive"}')


class Gate:
    """Holds the engine until opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls: list[Call] = []  # of the step that waits

    def __call__(self, calls: Sequence[Call]) -> None:
        self.calls = list(calls)
        assert self.open.wait(20)


@pytest.fixture
def held() -> Iterator[tuple[Serving, Gate]]:
    gate = Gate()
    with serving(lambda _language: ScriptedEngine(before_step=gate)) as server:
        yield server, gate
        gate.open.set()


@pytest.mark.parametrize("ahead", [b"GET /health HTTP/1.1\r\n", b"x", b"GET / HTTP/1.1\r\n" * 99])
def test_who_sends_ahead_and_hangs_up_is_noticed(held: tuple[Serving, Gate], ahead: bytes) -> None:
    """Bytes behind a request do not hide that its client is gone: the slot is freed."""
    server, gate = held
    with connected(server.port) as sock:
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        wait_for(lambda: gate.calls)
        for _ in range(3):
            sock.sendall(ahead)
    wait_for(lambda: gate.calls[0].cancelled, "noticed")
    gate.open.set()
    (line,) = wait_for(lambda: server.log.of("request.finished"))
    assert line["finish_reason"] == "cancelled"


def test_who_sends_too_much_ahead_is_cut_off(held: tuple[Serving, Gate]) -> None:
    """What a client sends behind an unanswered request is not collected without end."""
    server, gate = held
    with connected(server.port) as sock:
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        wait_for(lambda: gate.calls)
        with pytest.raises(ConnectionError):
            for _ in range(500):
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
    gate.open.set()
    wait_for(lambda: server.log.of("request.finished"))


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"G",
        b"GET /health HTTP/1.1\r\nHo",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",  # the second one is half
    ],
)
def test_half_a_head_is_given_up(
    server: Serving, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    """A connection that sends nothing, or begins a request and never ends its head, is closed."""
    with connected(server.port) as sock:
        sock.sendall(begun)
        for _ in range(begun.count(b"\r\n\r\n")):  # before the limit, which is short
            assert status(one_reply(sock)) == 200
        monkeypatch.setattr(connection_limits, "HEAD_S", 0.1)
        assert to_end(sock) == b""


def test_a_head_that_drips_is_given_up(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not start the time anew."""
    monkeypatch.setattr(connection_limits, "HEAD_S", 0.1)
    tick = threading.Event()
    with connected(server.port) as sock, pytest.raises(ConnectionError):
        for _ in range(2000):
            sock.sendall(b"a")
            tick.wait(0.01)


def test_an_idle_connection_is_closed_and_a_used_one_kept() -> None:
    """Between requests a connection may be reused, for a while."""
    with serving(lambda _language: ScriptedEngine()) as server, connected(server.port) as sock:
        for number in range(3):
            for one in connections_of(server):
                assert one.timeout_keep_alive == http_server.IDLE_S
                if number == 2:  # no request comes after this one
                    one.timeout_keep_alive = 0.1
            sock.sendall(HEALTH)
            assert status(one_reply(sock)) == 200
        assert to_end(sock) == b""


def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client takes nothing any more is ended, and its call with it."""
    monkeypatch.setattr(connection_limits, "WRITE_S", 0.3)
    pieces = 4000

    class Fast(ScriptedEngine):
        """Gives 4,000 bytes a step, 16 MB in all: more than any socket's buffer."""

        def step(self) -> list[Advance]:
            found: list[Advance] = []
            for call, _rest in list(self._rows.values()):
                call.completion_tokens += 1
                last = call.completion_tokens >= min(call.max_tokens, pieces)
                found.append(Advance(call, (120,) * 4000, "stop" if last else None))
                if last:
                    self.remove(call)
            return found

    with serving(lambda _language: Fast()) as server:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(20)
            sock.connect(("127.0.0.1", server.port))
            body = json.dumps(chat_body(stream=True, max_tokens=pieces)).encode()
            sock.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
            lines = wait_for(lambda: server.log.of("request.finished"))
            wait_for(lambda: not server.http_side.server_state.connections, "closed")
            assert len(to_end(sock)) < 4000 * pieces
        assert lines
        assert server.chat(max_tokens=5)[0] == 200


def opened(server: Serving, count: int, begun: bytes = b"") -> list[socket.socket]:
    """Open so many connections, and send the same over each."""
    socks = [socket.create_connection(("127.0.0.1", server.port), 20) for _ in range(count)]
    for sock in socks:
        sock.sendall(begun)
    return socks


def connections_of(server: Serving) -> set[Any]:
    """Return the connections that the server holds, as they come and go."""
    return server.http_side.server_state.connections


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
KNOWN = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + KEY + b"\r\n"


@pytest.mark.parametrize(
    "begun",
    {
        "silent": b"",
        "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nHo",
        "a token cut off": POST[:-10],
        "health, kept open": HEALTH,
        "refused, kept open": b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        "a wrong token": b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\n\r\n",
        "a body that never comes": b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
        "an odd request": b"\x16\x03\x01",
    }.items(),
    ids=lambda item: item[0],
)
def test_who_shows_no_token_keeps_nobody_out(server: Serving, begun: tuple[str, bytes]) -> None:
    """Hundreds of connections without a token, however held open: calls are answered as ever."""
    socks: list[socket.socket] = []
    with connected(server.port) as early:
        early.sendall(KNOWN)
        assert status(one_reply(early)) == 200
        try:
            for _ in range(4):
                with contextlib.suppress(ConnectionError):  # closed already
                    socks += opened(server, 90, begun[1])
                assert server.chat()[0] == 200
                assert server.get("/v1/models")[0] == 200
            early.sendall(KNOWN)  # who showed it before keeps its connection
            assert status(one_reply(early)) == 200
            wait_for(
                lambda: len(connections_of(server)) <= connection_limits.STRANGERS_MAX + 1,
                "the oldest are closed",
            )
        finally:
            for sock in socks:
                sock.close()


def test_the_newest_stranger_stays(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that is slow to show its token is not closed while older strangers are there."""
    monkeypatch.setattr(connection_limits, "STRANGERS_MAX", 4)
    old = opened(server, 12)
    with connected(server.port) as slow:
        try:
            slow.sendall(KNOWN[:-30])
            wait_for(lambda: len(connections_of(server)) <= 5, "thinned out")
            assert old[0].recv(1) == b""
            slow.sendall(KNOWN[-30:])
            assert status(one_reply(slow)) == 200
        finally:
            for sock in old:
                sock.close()


def test_an_idle_caller_gives_its_place_to_a_busy_one(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept-alive connections do not fill the places: the one unused for longest is closed."""
    monkeypatch.setattr(connection_limits, "PLACES", 4)
    socks = []
    try:
        for _ in range(6):
            socks += opened(server, 1, KNOWN)
            assert status(one_reply(socks[-1])) == 200
        assert to_end(socks[0]) == to_end(socks[1]) == b""
        socks[2].sendall(KNOWN)
        assert status(one_reply(socks[2])) == 200
    finally:
        for sock in socks:
            sock.close()


def test_callers_are_bounded(held: tuple[Serving, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    """While every place is in use, one more caller is told so; then there is room again."""
    monkeypatch.setattr(connection_limits, "PLACES", 4)
    server, gate = held
    call = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    socks = opened(server, 4, call)
    try:
        wait_for(lambda: sum(c._known for c in connections_of(server)) == 4)
        (late,) = opened(server, 1, KNOWN)
        socks.append(late)
        reply = one_reply(late)
        assert status(reply) == 503
        assert b"retry-after: 1" in reply and b"too_many_connections" in reply
        assert server.get("/health", token=None)[0] == 200
        gate.open.set()
        for sock in socks[:4]:
            assert status(one_reply(sock)) == 200
        assert server.get("/v1/models")[0] == 200
    finally:
        for sock in socks:
            sock.close()


def test_connections_are_bounded_in_all(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood that comes faster than strangers are counted does not open files without end."""
    monkeypatch.setattr(connection_limits, "CONNECTIONS_MAX", 10)
    monkeypatch.setattr(connection_limits, "SETTLE_S", 1000.0)
    socks = opened(server, 60)
    try:
        wait_for(lambda: len(connections_of(server)) <= 10, "bounded")
        assert server.chat()[0] == 200
        assert to_end(socks[0]) == b""
    finally:
        for sock in socks:
            sock.close()


# What curl 7 and 8 send, byte for byte; with more than a megabyte they first ask for leave.
CURL = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: curl/8.5.0\r\n"
    b"Accept: */*\r\n" + KEY + b"Content-Type: application/json\r\nContent-Length: %d\r\n"
)


def curl(server: Serving, body: bytes) -> bytes:
    """Return what the server answers to curl."""
    large = len(body) > 1_000_000
    with connected(server.port) as sock:
        sock.sendall(CURL % len(body) + b"Expect: 100-continue\r\n" * large + b"\r\n")
        if large:
            reply = sock.recv(4096)
            if not reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
                return reply
        sock.sendall(body)
        return one_reply(sock)


def test_curl_is_served() -> None:
    """A small body, one of more than a megabyte, and one that is too large."""
    with serving(lambda _language: ScriptedEngine(), body_bytes_max=3_000_000) as server:
        assert status(curl(server, BODY)) == 200
        large = json.dumps(chat_body("x" * 1_500_000)).encode()
        reply = curl(server, large)
        assert status(reply) == 400 and b"window" in reply
        assert status(curl(server, b"x" * 4_000_000)) == 413
        if path := shutil.which("curl"):  # where it is, the real one must see the same
            for body, wanted in ((BODY, 200), (large, 400), (b"x" * 4_000_000, 413)):
                assert real_curl(path, server, body) == wanted


def real_curl(path: str, server: Serving, body: bytes) -> int:
    done = subprocess.run(
        [
            *(path, "--silent", "--max-time", "20", "--write-out", "\\n%{http_code}"),
            *("-H", f"Authorization: Bearer {TOKEN}", "--data-binary", "@-"),
            f"http://127.0.0.1:{server.port}/v1/chat/completions",
        ],
        input=body,
        capture_output=True,
        timeout=30,
    )
    return int(done.stdout.rpartition(b"\n")[2])
