"""Tools that are put together in the worker: inner calls, what was remembered, what will be."""

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentd.bus import Bus
from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.events import Result
from agentd.llm.decision import Choice
from agentd.sessions.sessions import Sessions
from agentd.testing import ScriptedLLM
from agentd.tools.base import ToolCall
from agentd.tools.declared_tools import Args, Tool
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox
from tests.test_fetcher import Fetching, fetching
from tests.test_loop import DONE, NAMES, Reader, begin, bus, loop
from tests.test_tools_http import SEEN, server

__all__ = ["bus", "fetching", "server"]
TAGGED = {"etag": '"one"', "modified": "Sat, 28 Nov 2026 09:00:00 GMT"}


class ReadNews(Args):
    """A tool of this test."""

    url: str


def read_news(call: ToolCall, url: str) -> Result:
    known = call.session.memory.get("news", {})
    found = call.inner("fetcher", "Fetch", {"url": url, "limit": 5, **known}).value
    tags = {key: found[key] for key in ("etag", "modified")}
    return Result(found, trusted=False, remember={"news": tags} if found["data"] else {})


TOOLS = {"ReadNews": Tool(ReadNews, "net", read_news, "head", effect="none")}
Ask = Callable[..., Result]


@pytest.fixture(params=["here", "fetcher"])
def ask(request: pytest.FixtureRequest, fetching: Fetching, server: str) -> Iterator[Ask]:
    """Call the tool with its inner call in this process, and by way of the fetcher."""

    def call(page: str, memory: dict[str, Any] | None = None, listed: str = server) -> Result:
        remotes = {"fetcher": fetching.remote("one", listed)} if request.param != "here" else {}
        tools = Toolbox(Permissions(net=(listed,)), tools=TOOLS, remotes=remotes)
        tools.session = SessionView(memory=memory or {})
        return tools.call("ReadNews", {"url": f"http://{server}/{page}"})

    yield call


def test_bytes_come_as_they_are_and_capped(ask: Ask, server: str) -> None:
    """With what the server says of them; a redirect is followed within the list."""
    found = ask("tagged")
    assert found.value == {
        "url": f"http://{server}/tagged",
        "status": 200,
        "type": "application/atom+xml",
        "charset": "utf-8",
        **TAGGED,
        "data": base64.b64encode(b"\0\xff<fe").decode(),
        "cut": True,
    }
    assert not found.trusted and found.remember == {"news": TAGGED}
    assert ask("near").value["url"] == f"http://{server}/text?again=1"
    assert ask("near").value["charset"] == "cp1252"
    with pytest.raises(PermissionRefused, match="localhost"):
        ask("away")
    with pytest.raises(ToolError, match="more than 5 times"):
        ask("loop")
    with pytest.raises(ToolError, match="answered 404"):
        ask("missing")
    with pytest.raises(ToolError, match="compressed"):
        ask("packed")
    with pytest.raises(PermissionRefused, match="may not be fetched"):
        ask("text", listed="example.com")


def test_what_is_known_is_not_sent_again(ask: Ask) -> None:
    """The server is told what was remembered, and gives no bytes."""
    again = ask("tagged", {"news": TAGGED})
    assert (again.value["status"], again.value["data"], again.remember) == (304, "", {})
    told = SEEN[-1][1]
    assert told["If-None-Match"] == TAGGED["etag"]
    assert told["If-Modified-Since"] == TAGGED["modified"]
    assert ask("tagged", {"news": {"etag": '"two"'}}).value["status"] == 200
    with pytest.raises(ToolError, match="failed"):  # what was remembered goes into no header as is
        ask("tagged", {"news": {"etag": "a\r\nHost: b"}})


def test_only_the_worker_composes() -> None:
    """A handler that runs in hands or the fetcher has no inner calls."""
    with pytest.raises(ToolError, match="by the worker alone"):
        ToolCall().inner("fetcher", "Fetch", {})
    tools = Toolbox(
        Permissions(net=("a",)), tools={"ReadNews": Tool(ReadNews, "net", _lost, "head")}
    )
    with pytest.raises(ToolError, match="there is no tool 'Nothing' in hands"):
        tools.call("ReadNews", {"url": ""})


def _lost(call: ToolCall, url: str) -> Result:
    return call.inner("hands", "Nothing", {})


class Newsreader(Reader):
    """Its tool remembers something."""

    def dispatch(self, decision: Choice) -> Result:
        return Result({"path": decision.args["path"]}, remember={"news": decision.args["path"]})


def test_what_a_tool_remembers_waits_for_the_end(bus: Bus) -> None:
    """It is recorded with the result, outlives a cut, and takes effect with Done alone."""
    session = begin(bus)
    script: list[Any] = [("ReadFile", {"path": "a"}), Stopped("now")]
    with pytest.raises(Stopped):
        loop(bus, session, Newsreader(), ScriptedLLM(script, names=NAMES)).run()
    assert Sessions(bus).archive.show(session.id)[1][-1].remember == {"news": "a"}
    assert bus.facts.of("reader") == {}
    cut = begin(bus)
    ending = loop(bus, cut, Newsreader(), ScriptedLLM([DONE], names=NAMES)).run()
    assert bus.facts.of("reader") == {}
    Sessions(bus).closing.close(cut, publish=ending.result.publish)
    assert bus.facts.of("reader") == {"news": "a"}
