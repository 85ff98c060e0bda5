"""The fetcher: calls by descriptors, each with its agent's list; many at a time, none for ever."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.fetcher.agent_calls import CALLS_MAX
from agentd.fetcher.fetcher import Fetcher
from agentd.process.channel import BYE, Channel
from agentd.process.heart import Heart
from agentd.process.stop import Cancel
from agentd.sandbox.level import reached
from agentd.testing import wait_for
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.handlers import HANDLERS, handler
from agentd.tools.remote import Remote
from tests.test_tools_http import SEEN, server

__all__ = ["server"]
DEADLINE_S = 20.0


def channel_to(control: Channel, name: str, *net: str) -> socket.socket:
    """Hand one end of an agent's channel to a fetcher; return the other one."""
    ours, theirs = socket.socketpair()
    with theirs:
        control.send({"agent": name, "net": net}, [theirs.fileno()])
    return ours


class Ending:
    """A stop that a test asks for."""

    def __init__(self) -> None:
        self.asked = False
        self._bell, self._rope = socket.socketpair()
        self.fileno = self._bell.fileno

    def ask(self) -> None:
        self.asked = True
        self._rope.close()


class Fetching:
    """A fetcher in a thread, and what the supervisor does with it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.control, self.stop = Channel(ours), Ending()
        read, write = os.pipe()
        os.set_blocking(write, False)
        self.heart = os.fdopen(read)

        def run() -> None:
            with theirs:
                Fetcher(theirs, Heart(write)).run(self.stop)  # type: ignore[arg-type]
            os.close(write)

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def beat(self, **wanted: Any) -> dict[str, Any]:
        """Return the next beat that says this."""
        for line in self.heart:
            found: dict[str, Any] = json.loads(line)
            if wanted.items() <= found.items():
                return found
        raise AssertionError("it has ended")

    def channel(self, name: str, *net: str) -> Channel:
        """Return an agent's channel, as the supervisor hands it to its worker."""
        return Channel(channel_to(self.control, name, *net))

    def remote(self, name: str, *net: str) -> Remote:
        """Return what a worker has of it."""

        class Link:
            asked = 0

            def ask(link, *_: Any) -> tuple[dict[str, Any], list[int]]:
                link.asked += 1
                return {}, [self.channel(name, *net)._socket.detach()]

        remote = Remote(Link(), "fetcher")  # type: ignore[arg-type]
        return remote

    def end(self) -> None:
        """Stop it in order, as the supervisor does."""
        self.stop.ask()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.end()
        self.control.close()
        self.heart.close()


@pytest.fixture
def fetching() -> Iterator[Fetching]:
    found = Fetching()
    yield found
    found.close()


def get(remote: Remote, url: str, deadline_s: float = DEADLINE_S, **more: Any) -> Any:
    return remote.call("HttpGet", {"url": url}, deadline_s, more.pop("cancel", Cancel()), **more)


def test_it_knows_each_tool_whose_place_it_is() -> None:
    """What it is declared with carries it out there, too; what more there is are inner calls."""
    for place, names in HANDLERS.items():
        found = {name: handler(place, name) for name in names}
        tools = {name: tool.run for name, tool in REGISTRY.items() if tool.place == place}
        assert found == {**found, **tools}
        assert all(name in tools or name not in REGISTRY for name in found)


def test_a_page_by_way_of_the_fetcher(fetching: Fetching, server: str) -> None:
    """The result is what the tool gives, marked as others' words."""
    result = get(fetching.remote("one", server), f"http://{server}/text")
    assert result.value == {"url": f"http://{server}/text", "text": "café"}
    assert not result.trusted


def test_each_agent_has_its_own_list(fetching: Fetching, server: str) -> None:
    """Who asks is the channel: what one may fetch, another may not, whatever it says."""
    one, two = fetching.remote("one", server), fetching.remote("two", "example.com")
    get(one, f"http://{server}/text")
    before = len(SEEN)
    with pytest.raises(PermissionRefused, match=r"may not be fetched; only example\.com"):
        get(two, f"http://{server}/text")
    channel = fetching.channel("three")
    forged = {"id": 1, "call": "HttpGet", "args": {"url": f"http://{server}/text"}, "net": [server]}
    channel.send({**forged, "agent": "one", "deadline_s": 5})
    assert channel.receive(DEADLINE_S)[0]["error"]["kind"] == "refused"
    assert len(SEEN) == before
    channel.close()


def test_a_call_ends_by_its_deadline_and_by_its_cancel(fetching: Fetching, server: str) -> None:
    """Whatever the server does; others go on meanwhile."""
    one, two = fetching.remote("one", server), fetching.remote("two", server)
    with pytest.raises(ToolError, match=r"stopped|timed out"):
        get(one, f"http://{server}/slow", deadline_s=0.3)
    cancel, begun = Cancel(), len(SEEN)
    failed: list[BaseException] = []

    def slow() -> None:
        try:
            get(one, f"http://{server}/slow", cancel=cancel)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    wait_for(lambda: len(SEEN) > begun, what="it has begun")
    assert get(two, f"http://{server}/text").value["text"] == "café"
    cancel.stop()
    thread.join(DEADLINE_S)
    assert isinstance(failed[0], Stopped)
    assert get(one, f"http://{server}/text").value["text"] == "café"


def test_an_agent_starves_nobody(fetching: Fetching, server: str) -> None:
    """One whose own code makes calls without end has its channel closed; others are served."""
    greedy, begun = fetching.channel("greedy", server), len(SEEN)
    url = f"http://{server}/slow"
    for number in range(CALLS_MAX):
        greedy.send({"id": number, "call": "HttpGet", "args": {"url": url}, "deadline_s": 60})
    wait_for(lambda: len(SEEN) == begun + CALLS_MAX, what="all are under way")
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"
    greedy.send({"id": 99, "call": "HttpGet", "args": {"url": url}, "deadline_s": 60})
    with pytest.raises(ConnectionError):
        while True:
            assert greedy.receive(DEADLINE_S)[0]["error"]["kind"] == "stopped"
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"


def test_calls_that_no_worker_makes_end(fetching: Fetching, server: str) -> None:
    """Arguments and deadlines may be anything: each is answered, and none lasts for ever."""
    odd = fetching.channel("odd", server)
    url = f"http://{server}/text"
    args: list[Any] = [{"url": ["h"]}, {"url": None}, {"other": url}, [url], "x", None]
    for number, arg in enumerate(args):
        odd.send({"id": number, "call": "HttpGet", "args": arg})
        assert odd.receive(DEADLINE_S)[0]["error"]["kind"] == "tool"
    for number, deadline in enumerate((1e999, 1e300, float("nan"), 10**400, "x", None)):
        odd.send({"id": number, "call": "HttpGet", "args": {"url": url}, "deadline_s": deadline})
        assert odd.receive(DEADLINE_S)[0]["id"] == number
    assert fetching.beat(state="idle")["state"] == "idle"
    odd.close()


def test_frames_without_end_keep_nobody_out(fetching: Fetching, server: str) -> None:
    """Of an agent's own code, faster than they can be read."""
    greedy, ends = channel_to(fetching.control, "greedy", server), threading.Event()
    frames = (b"\0\0\0\x0d" + b'{"cancel":99}') * 10_000

    def flood() -> None:
        with contextlib.suppress(OSError):
            while not ends.is_set():
                greedy.sendall(frames)

    thread = threading.Thread(target=flood)
    thread.start()
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"
    ends.set()
    greedy.close()
    thread.join(DEADLINE_S)


def test_who_reads_no_answer_begins_nothing_more(fetching: Fetching, server: str) -> None:
    """Its calls fail at once, and their answers stay in its way: that were threads without end."""
    silent, before = fetching.channel("silent"), threading.active_count()
    with pytest.raises(ConnectionError):
        for number in range(5_000):
            silent.send({"id": number, "call": "x" * 80, "args": {}}, deadline_s=DEADLINE_S)
    assert threading.active_count() < before + 20
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"


def test_who_reads_no_answer_holds_nobody_up(fetching: Fetching, server: str) -> None:
    """Its answers wait in its channel, and no longer than that has room."""
    silent = fetching.channel("silent", server)
    for number in range(200):
        args = {"url": f"http://{server}/big"}
        try:
            silent.send(
                {"id": number, "call": "HttpGet", "args": args, "deadline_s": 5}, deadline_s=1
            )
        except (ConnectionError, TimeoutError):
            break
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"


def test_a_new_channel_takes_the_place_of_the_old_one(fetching: Fetching, server: str) -> None:
    """So an agent has one, however often its worker asks: calls by the old one are stopped."""
    old, begun = fetching.channel("one", server), len(SEEN)
    old.send(
        {"id": 1, "call": "HttpGet", "args": {"url": f"http://{server}/slow"}, "deadline_s": 60}
    )
    wait_for(lambda: len(SEEN) > begun, what="it has begun")
    assert get(fetching.remote("one", server), f"http://{server}/text").value["text"] == "café"
    with pytest.raises(ConnectionError):
        while True:
            assert old.receive(DEADLINE_S)[0]["error"]["kind"] == "stopped"


@pytest.mark.parametrize(
    "document",
    [
        {"call": "HttpGet"},
        {"id": 1, "call": "HttpGet", "args": {"url": 7}, "deadline_s": 5},
        {"id": 1, "call": "HttpGet", "args": {"uri": "http://x/"}, "deadline_s": 5},
        {"id": 1, "call": "HttpGet", "args": [], "deadline_s": "soon"},
        {"id": 1, "call": "ReadFile", "args": {"path": "/etc/passwd"}, "deadline_s": 5},
        {"id": [1], "call": None},
        {"cancel": {}},
    ],
)
def test_garbage_fails_nobody_else(fetching: Fetching, server: str, document: Any) -> None:
    """A worker runs an agent's own code: it may send anything."""
    channel = fetching.channel("odd", server)
    channel.send(document)
    with contextlib.suppress(ConnectionError):
        if "cancel" not in document:
            assert "error" in channel.receive(DEADLINE_S)[0]
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"
    channel.close()


def test_it_says_how_long_nobody_needed_it(
    fetching: Fetching, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By that the supervisor stops it; and by what it cannot look up any more."""
    monkeypatch.setattr("agentd.fetcher.fetcher.BEAT_S", 0.01)
    channel = fetching.channel("one", server)
    args = {"url": f"http://{server}/slow"}
    channel.send({"id": 1, "call": "HttpGet", "args": args, "deadline_s": 1})
    assert fetching.beat(state="busy")["idle_s"] == 0
    assert fetching.beat(state="idle")["idle_s"] < 1
    while fetching.beat(state="idle", stale=False)["idle_s"] < 0.1:
        pass
    monkeypatch.setattr("agentd.fetcher.fetcher.resolver_state", lambda: ("another",))
    assert fetching.beat(stale=True)
    channel.close()


def test_it_ends_in_order(server: str) -> None:
    """What was begun is answered, then it says goodbye: what is sent since was not begun."""
    fetching = Fetching()
    begun, channel = len(SEEN), fetching.channel("one", server)
    args = {"url": f"http://{server}/slow"}
    channel.send({"id": 1, "call": "HttpGet", "args": args, "deadline_s": 1})
    wait_for(lambda: len(SEEN) > begun, what="it has begun")
    fetching.stop.ask()
    channel.send({"id": 2, "call": "HttpGet", "args": args, "deadline_s": 1})
    assert channel.receive(DEADLINE_S)[0]["id"] == 1
    assert channel.receive(DEADLINE_S)[0] == {BYE: True}
    with pytest.raises(ConnectionError):
        fetching.channel("late", server)
    assert len(SEEN) == begun + 1
    fetching.close()


def test_it_ends_with_its_supervisor() -> None:
    """Nobody else would end it."""
    fetching = Fetching()
    fetching.control.close()
    fetching.thread.join(DEADLINE_S)
    fetching.close()


IN_SANDBOX = """
import json, os, socket, subprocess, sys
from agentd.fetcher.resolver import fetcher_policy
from agentd.sandbox.enter import enter
enter(fetcher_policy())
def tried(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"
print(json.dumps({
    "reads": tried(lambda: open(sys.argv[1])),
    "writes": tried(lambda: open("/tmp/agentd-fetcher-was-here", "w")),
    "runs": tried(lambda: subprocess.run(["/bin/true"])),
    "looks up": tried(lambda: socket.getaddrinfo("localhost", 80)),
    "connects": tried(lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])))),
    "trusts": len(__import__("ssl").create_default_context().get_ca_certs()) > 0,
}))
"""


@pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")
def test_its_sandbox_has_the_network_and_nothing_of_the_users(server: str, tmp_path: Path) -> None:
    """Names are looked up and certificates read; no file is, and nothing is written or run."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    argv = [sys.executable, "-P", "-c", IN_SANDBOX, str(secret), server.rpartition(":")[2]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout or done.stderr)
    refused = dict.fromkeys(("reads", "writes", "runs"), "PermissionError")
    assert found.pop("trusts") or ssl.create_default_context().get_ca_certs() == []
    assert found == {**refused, "looks up": "done", "connects": "done"}
