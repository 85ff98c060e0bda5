"""One connection for a session's calls: kept, and given up before a request could meet its end."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from agentd.clock import SystemClock
from agentd.errors import ModelUnavailable, Stopped
from agentd.llm import wire
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.llm.wire import Wire
from agentd.model_server.http import connection_limits
from agentd.net import kept_connection
from agentd.net.wait import Deadline, Passed
from agentd.testing import FakeModelServer, Reply, wait_for
from agentd.testing.tiny_model import ScriptedEngine

from .serving import serving

pytestmark = pytest.mark.agentd_online  # servers of its own
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
ONE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PAIR_S = 10.0


class Answering:
    """A server that gives each connection's requests the answers listed, then closes it."""

    def __init__(self, *connections: Sequence[bytes]) -> None:
        self.heads: list[bytes] = []  # of the requests that came
        self.closed = threading.Semaphore(0)  # released once per connection that it closed
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, args=(connections,), daemon=True).start()

    def _serve(self, connections: Sequence[Sequence[bytes]]) -> None:
        with suppress(OSError):
            for answers in connections:
                peer, _ = self._listening.accept()
                with suppress(OSError), peer:
                    for answer in answers:
                        head = peer.recv(65_536)
                        while head and b"\r\n\r\n" not in head:
                            head += peer.recv(65_536)
                        if not head:
                            break
                        self.heads.append(head)
                        peer.sendall(answer)
                self.closed.release()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def answering(*connections: Sequence[bytes]) -> Iterator[Answering]:
    server = Answering(*connections)
    try:
        yield server
    finally:
        server.close()


def get(http: Wire, url: str, seconds: float = PAIR_S) -> bytes:
    with http.send("GET", url, Deadline(SystemClock(), seconds)) as reply:
        return reply.body()


def endpoint(server: FakeModelServer) -> Endpoint:
    return Endpoint(lambda: Address(server.url, server.model, server.token), own=True)


def chat(one: Endpoint) -> str:
    return one.chat(HELLO, {}, deadline_s=PAIR_S, progress=lambda: None).text


def test_a_sessions_calls_go_by_one_connection() -> None:
    """Answers that stream, and others."""
    with FakeModelServer(["a", "b"]) as server:
        one = endpoint(server)
        assert [chat(one), chat(one)] == ["a", "b"]
        assert one.tokenize({"content": "x" * 40}) == {"count": 10, "max_model_len": server.window}
        assert chat(one) == "b"
        assert server.connections == 1


def test_the_real_server_keeps_a_connection_by_port_and_by_link() -> None:
    """Its stream ends with what has to be read before the next request can be sent."""
    with serving(lambda _language: ScriptedEngine()) as server:
        url, link = f"http://127.0.0.1:{server.port}/v1", server.link("reader")
        for address in (
            Address(url, "scripted", "test-token"),
            Address(url, "scripted", connect=link.connect),
        ):
            before = len(server.http_side.server_state.connections)
            one = Endpoint(lambda where=address: where, own=True)  # type: ignore[misc]
            assert chat(one) == chat(one)
            assert one.tokenize({"content": "x"})
            assert len(server.http_side.server_state.connections) == before + 1
            one.close()
            wait_for(lambda n=before: len(server.http_side.server_state.connections) == n)  # type: ignore[misc]


def test_our_server_holds_no_connection_that_its_worker_would_not_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds of agents' resting connections would take its descriptors: 256 on macOS."""
    monkeypatch.setattr(connection_limits, "OF_AN_AGENT_IDLE_S", 0.1)
    with serving(lambda _language: ScriptedEngine()) as server:
        address = Address("http://agentd/v1", "scripted", connect=server.link("reader").connect)
        one = Endpoint(lambda: address, own=True)
        before = len(server.http_side.server_state.connections)
        said = chat(one)
        wait_for(lambda: len(server.http_side.server_state.connections) == before)
        assert chat(one) == said, "it is connected to anew"
        one.close()


def test_a_connection_that_the_server_closed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes by a new connection, once; nothing is sent into the closed one."""
    monkeypatch.setattr(wire, "only", None)
    with answering([ONE], [ONE, ONE]) as server:
        http = Wire(keep=True)
        assert get(http, server.url) == b"{}"
        assert server.closed.acquire(timeout=PAIR_S)
        assert get(http, server.url) == get(http, server.url) == b"{}"
        assert len(server.heads) == 3
        http.cut()


def test_what_comes_unasked_ends_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's last word before it closes is not taken for the next request's answer."""
    monkeypatch.setattr(wire, "only", None)
    late = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
    with answering([ONE + late, ONE], [ONE]) as server:
        http = Wire(keep=True)
        assert get(http, server.url) == b"{}"
        assert get(http, server.url) == b"{}"
        http.cut()


def test_a_server_that_closes_without_a_word_is_connected_to_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It closed as the request came: that fails once, and no further one is risked there."""
    monkeypatch.setattr(wire, "only", None)
    with answering([ONE, b""], [ONE], [ONE]) as server:
        http = Wire(keep=True)
        assert get(http, server.url) == b"{}"
        with pytest.raises(OSError):
            get(http, server.url)
        assert get(http, server.url) == get(http, server.url) == b"{}"
        said = [b"Connection: keep-alive" in head for head in server.heads]
        assert said == [True, True, False, False]


def test_a_rest_of_words_behind_an_answer_is_no_servers_other_protocol(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half of an unasked reply came with the answer, half of it later: the call is made again."""
    monkeypatch.setattr(wire, "only", None)
    answer = b'{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}'
    good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)
    with answering([good, b"est Timeout\r\n\r\n"], [good]) as server:
        one = Endpoint(lambda: Address(server.url, "m"), own=False)
        assert [chat(one), chat(one)] == ["ok", "ok"]
        assert len(server.heads) == 3
        one.close()


def test_a_call_is_made_again_where_its_connection_broke() -> None:
    """No call is lost when a server that was called before is another process now."""
    with FakeModelServer(["a", "b"]) as server:
        one = endpoint(server)
        assert chat(one) == "a"
        server._server.end_connections()
        assert chat(one) == "b"
        assert [request.body["messages"] for request in server.requests] == [HELLO["messages"]] * 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"]
)
def test_a_server_that_keeps_nothing(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP/1.0, and a server that says so, get a connection for each request."""
    monkeypatch.setattr(wire, "only", None)
    with answering(*[[head + b"Content-Length: 2\r\n\r\n{}"]] * 3) as server:
        http = Wire(keep=True)
        assert [get(http, server.url) for _ in range(3)] == [b"{}"] * 3
        assert http._kept is None, "it is held no longer than until the answer is read"


@pytest.mark.parametrize("rest", [b"", b"x" * 1_000_000])
def test_a_body_that_nobody_read_ends_a_connection(
    rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What of it is late, or long, is not taken for the next answer."""
    monkeypatch.setattr(wire, "only", None)
    part = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\nbe"
    with answering([part + rest, ONE], [ONE]) as server:
        http = Wire(keep=True)
        with http.send("GET", server.url, Deadline(SystemClock(), PAIR_S)) as reply:
            assert reply.status == 200
        assert get(http, server.url) == b"{}"
        http.cut()


def test_an_old_connection_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers close one that rests: nothing is sent into one that may be closing."""
    monkeypatch.setattr(kept_connection, "IDLE_S", -1.0)
    with FakeModelServer(["a"]) as server:
        one = endpoint(server)
        assert chat(one) == chat(one) == "a"
        assert server.connections == 2


def test_another_server_gets_its_own_connection() -> None:
    """A connection is never taken for one to elsewhere."""
    with FakeModelServer(["a"]) as first, FakeModelServer(["b"]) as second:
        urls = [first.url, second.url, first.url]
        places = iter(urls)
        one = Endpoint(lambda: Address(next(places), "fake", "test-token"), own=True)
        told = []
        for _ in urls:
            told.append(chat(one))
            one._retries._address = None
        assert told == ["a", "b", "a"]
        assert (first.connections, second.connections) == (2, 1)


@pytest.mark.parametrize("when", ["between", "within"])
def test_a_stop_ends_a_kept_connection_at_once(when: str) -> None:
    """Whether a call runs on it or not; no further call is made."""
    with FakeModelServer(["a", Reply(hang=True)]) as server:
        one = endpoint(server)
        assert chat(one) == "a"
        if when == "within":
            ended: list[Exception] = []

            def call() -> None:
                try:
                    chat(one)
                except Exception as error:
                    ended.append(error)

            thread = threading.Thread(target=call)
            thread.start()
            assert server.hanging.acquire(timeout=PAIR_S)
            one.close()
            thread.join(PAIR_S)
            assert isinstance(ended[0], Stopped)
            assert server.gone.acquire(timeout=PAIR_S)
        one.close()
        wait_for(lambda: not server._server._open, what="the server sees that it is closed")
        with pytest.raises(Stopped):
            chat(one)
        assert server.connections == 1


def test_a_deadline_holds_on_a_kept_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exchange has its own time, whatever was left of the one before."""
    monkeypatch.setattr(wire, "only", None)
    with answering([ONE, b"HTTP/1.1 200 OK\r\n", ONE], [ONE]) as server:
        http = Wire(keep=True)
        assert get(http, server.url) == b"{}"
        with pytest.raises(Passed):
            get(http, server.url, 0.2)
        assert get(http, server.url) == b"{}"
        http.cut()


def test_what_nobody_uses_any_more_is_closed() -> None:
    """An endpoint that is let go of leaves no connection open."""
    with FakeModelServer(["a"]) as server:
        chat(endpoint(server))
        wait_for(lambda: not server._server._open, what="the server sees that it is closed")


def test_a_server_that_is_gone_is_told_as_before() -> None:
    """A kept connection to it changes nothing about how it is said."""
    with FakeModelServer(["a"]) as server:
        one = Endpoint(lambda: Address(server.url, "fake", server.token), own=True)
        assert chat(one) == "a"
    with pytest.raises(ModelUnavailable, match="cannot be used"):
        one.chat(HELLO, {}, deadline_s=0.2, progress=lambda: None)
