"""The fetcher: calls by descriptors, each with its agent's list; many at a time, none for ever."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.fetcher import agent_calls
from agentd.fetcher.fetcher import READY, Fetcher
from agentd.process.channel import BYE, Channel
from agentd.process.heart import Heart
from agentd.process.stop import Cancel
from agentd.testing import wait_for
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.remote import Remote
from tests.test_tools_http import SEEN, server

__all__ = ["server"]
DEADLINE_S = 20.0


class Fetching:
    """A fetcher in a thread, and what the supervisor does with it."""

    def __init__(self, idle_s: float = 60.0) -> None:
        ours, theirs = socket.socketpair()
        self.control = Channel(ours)
        fetcher = Fetcher(theirs, Heart(None), idle_s=idle_s)

        def run() -> None:
            with theirs:
                fetcher.run()

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert self.control.receive(DEADLINE_S)[0] == {READY: True}

    def channel(self, name: str, *net: str) -> Channel:
        """Return an agent's channel, as the supervisor hands it to its worker."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.control.send({"agent": name, "net": net}, [theirs.fileno()])
        return Channel(ours)

    def remote(self, name: str, *net: str) -> Remote:
        """Return what a worker has of it."""

        class Link:
            asked = 0

            def ask(link, *_: Any) -> tuple[dict[str, Any], list[int]]:
                link.asked += 1
                return {}, [self.channel(name, *net)._socket.detach()]

        remote = Remote(Link(), "fetcher")  # type: ignore[arg-type]
        return remote

    def close(self) -> None:
        self.control.close()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def fetching() -> Iterator[Fetching]:
    found = Fetching()
    yield found
    found.close()


def get(remote: Remote, url: str, deadline_s: float = DEADLINE_S, **more: Any) -> Any:
    return remote.call("HttpGet", {"url": url}, deadline_s, more.pop("cancel", Cancel()), **more)


def test_it_knows_each_tool_whose_place_it_is() -> None:
    """One that needs `net` runs nowhere else."""
    placed = {name for name, tool in REGISTRY.items() if tool.place == "fetcher"}
    assert placed == set(agent_calls.HANDLERS)
    assert placed == {name for name, tool in REGISTRY.items() if tool.permission == "net"}


def test_a_page_by_way_of_the_fetcher(fetching: Fetching, server: str) -> None:
    """The result is what the tool gives, marked as others' words."""
    result = get(fetching.remote("one", server), f"http://{server}/text")
    assert result.value == {"url": f"http://{server}/text", "text": "café"}
    assert not result.trusted and not result.effect


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
    """One that makes calls without end has so many at a time; another one is served at once."""
    greedy = fetching.channel("greedy", server)
    for number in range(agent_calls.CALLS_MAX + 3):
        url = f"http://{server}/slow"
        greedy.send({"id": number, "call": "HttpGet", "args": {"url": url}, "deadline_s": 60})
    refused = [greedy.receive(DEADLINE_S)[0] for _ in range(3)]
    assert {answer["id"] for answer in refused} == set(
        range(agent_calls.CALLS_MAX, agent_calls.CALLS_MAX + 3)
    )
    assert "under way already" in refused[0]["error"]["what"]
    assert get(fetching.remote("two", server), f"http://{server}/text").value["text"] == "café"
    greedy.close()


def test_a_new_channel_takes_the_place_of_the_old_one(fetching: Fetching, server: str) -> None:
    """So an agent has one, however often its worker asks: calls by the old one are stopped."""
    old, begun = fetching.channel("one", server), len(SEEN)
    old.send(
        {"id": 1, "call": "HttpGet", "args": {"url": f"http://{server}/slow"}, "deadline_s": 60}
    )
    wait_for(lambda: len(SEEN) > begun, what="it has begun")
    assert get(fetching.remote("one", server), f"http://{server}/text").value["text"] == "café"
    with pytest.raises(ConnectionError):
        old.receive(DEADLINE_S)


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


def test_it_ends_when_nobody_needs_it(server: str) -> None:
    """It says so, and the next call goes to another one, of which nobody notices."""
    first = Fetching(idle_s=0.2)
    channel = first.channel("one", server)
    assert channel.receive(DEADLINE_S)[0] == {BYE: True}
    first.thread.join(DEADLINE_S)
    with pytest.raises(ConnectionError):
        channel.send({"id": 1})
    first.close()


def test_it_does_not_end_over_a_call(server: str) -> None:
    """However long that takes."""
    fetching = Fetching(idle_s=0.05)
    begun, channel = len(SEEN), fetching.channel("one", server)
    channel.send(
        {"id": 1, "call": "HttpGet", "args": {"url": f"http://{server}/slow"}, "deadline_s": 1}
    )
    wait_for(lambda: len(SEEN) > begun, what="it has begun")
    assert channel.receive(DEADLINE_S)[0]["id"] == 1
    assert channel.receive(DEADLINE_S)[0] == {BYE: True}
    fetching.close()


def test_it_ends_when_its_resolvers_files_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sandbox has the files that were there: with another network it would find no host."""
    fetching = Fetching()
    channel = fetching.channel("one")
    monkeypatch.setattr("agentd.fetcher.fetcher.resolver_state", lambda: ("another",))
    channel.send({"cancel": 1})  # so that it looks
    assert channel.receive(DEADLINE_S)[0] == {BYE: True}
    fetching.close()
