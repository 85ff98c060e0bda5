"""What sends results posts by the fetcher: to a person's own hosts, and nowhere else."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentd.errors import PermissionRefused, ToolError
from agentd.process.channel import Channel
from agentd.tools.base import Grants, ToolCall
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.handlers import HANDLERS
from agentd.tools.post import ANSWER_BYTES, post
from tests.messengers import TOKEN, Messenger, messenger
from tests.ports import free_port
from tests.test_fetcher import Fetching


@pytest.fixture
def phone() -> Iterator[Messenger]:
    with messenger() as one:
        yield one


def call(url: str, listed: str, **more: Any) -> dict[str, Any]:
    asked = ToolCall(permissions=Grants(net=(listed,)), **more)
    return dict(post(asked, url, {"title": "é😀"}, {"Authorization": "Bearer x"}).value)


def test_it_posts_json_to_a_host_of_this_machine(phone: Messenger) -> None:
    """A server of one's own is often at a private address; any text is safe in JSON."""
    host = phone.url.removeprefix("http://")
    answer = call(f"{phone.url}/topic", host)
    assert answer["status"] == 200 and json.loads(answer["text"])["ok"] is True
    ((path, body, headers),) = phone.posts
    assert (path, body) == ("/topic", {"title": "é😀"})
    assert headers["Authorization"] == "Bearer x" and headers["Content-Type"] == "application/json"


def test_other_hosts_are_refused(phone: Messenger) -> None:
    with pytest.raises(PermissionRefused):
        call(f"{phone.url}/topic", "example.com")
    assert phone.posts == []


def test_no_error_tells_a_token() -> None:
    """It stands in Telegram's URLs."""
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(ToolError, match="cannot be reached") as raised:
        call(f"http://{host}/bot{TOKEN}/sendMessage", host)
    assert "ABC" not in str(raised.value) and host in raised.value.what


class Odd(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))  # unread, its end is a reset
        if self.path == "/away":
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
        else:
            self.send_response(429)
            self.send_header("Retry-After", "17" if self.path == "/later" else "soon")
        self.send_header("Content-Length", str(2 * ANSWER_BYTES if self.path == "/much" else 0))
        self.end_headers()
        if self.path == "/much":
            self.wfile.write(b"x" * 2 * ANSWER_BYTES)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_redirects_are_answers_and_waits_are_told() -> None:
    """No redirect gets a token; too much is an error."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as served:
        served.daemon_threads = True
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        host = f"127.0.0.1:{served.server_port}"
        assert call(f"http://{host}/away", host)["status"] == 307
        assert call(f"http://{host}/later", host)["wait_s"] == 17.0
        assert call(f"http://{host}/x", host)["wait_s"] == 0.0
        with pytest.raises(ToolError, match="too much"):
            call(f"http://{host}/much", host)
        served.shutdown()


def test_no_agent_can_post() -> None:
    """Who asks is the descriptor: an agent's has no `Post`, and this one nothing else."""
    assert "Post" not in HANDLERS["fetcher"] and HANDLERS["deliver"].keys() == {"Post"}
    assert "Post" not in {tool.name for tool in REGISTRY.values()}
    fetching = Fetching()
    channel = fetching.channel("one", "example.com")
    channel.send({"id": 1, "call": "Post", "args": {"url": "http://example.com/"}})
    answer, _ = channel.receive(10)
    assert answer["error"]["what"] == "there is no tool 'Post' in fetcher"
    fetching.stop.ask()
    fetching.thread.join(10)


def test_waiting_is_no_work_and_is_cut_off_at_the_end(phone: Messenger) -> None:
    """A poll that waits all day neither keeps a fetcher from its restart nor delays its end."""
    phone.hold.clear()
    fetching = Fetching()
    ours, theirs = socket.socketpair()
    with theirs:
        host = phone.url.removeprefix("http://")
        document = {"agent": "deliver/updates", "net": [host], "posts": True, "waits": True}
        fetching.control.send(document, [theirs.fileno()])
    channel = Channel(ours)
    args = {"url": f"{phone.url}/x", "body": {}, "headers": {}}
    channel.send({"id": 1, "call": "Post", "args": args, "deadline_s": 60})
    while not phone.posts:
        fetching.beat(state="idle")
    fetching.stop.ask()
    fetching.thread.join(10)
    assert not fetching.thread.is_alive()
    assert channel.receive(10)[0]["error"]["kind"] == "stopped"
    phone.hold.set()
