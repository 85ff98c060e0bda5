"""The page's addresses over a real database, without a daemon; and what may be shown there."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

from starlette.testclient import TestClient

from agentd.bus import Bus
from agentd.clock import SystemClock
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.paths import Paths
from agentd.process.supervisor_link import SupervisorLink
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.supervisor.one_time_link import ENTER, once
from agentd.ui.access import Access, Door
from agentd.ui.acting import Acting
from agentd.ui.live_stream import LiveStream
from agentd.ui.page_parts import PageParts
from agentd.ui.page_reader import PageReader
from agentd.ui.rendering import Rendering
from agentd.ui.routes import application

T = TypeVar("T")
KEY, PORT = b"k" * 32, 24364
QUIET: dict[str, Any] = {  # what a supervisor says that has no agents
    **{"pid": 1, "since": "2026-01-01T00:00:00.000Z", "version": "1", "problem": None},
    **{"refused_folder": None, "storage": None, "model": None, "refused_unshown": 0},
    **{"sandbox": {"level": "full", "why": "", "wanted": "full"}, "deliver": None},
    **{"watcher": None, "agents": []},
}


class ReadHere(PageReader):
    """Reads in the caller's thread. `said` is the supervisor's, `asked` what it was asked for."""

    def __init__(self, paths: Paths, said: Mapping[str, Any] = QUIET) -> None:
        super().__init__(paths, SupervisorLink(None))
        self.said, self.asked = said, list[Mapping[str, Any]]()

    async def call(self, function: Callable[[Bus], T]) -> T:
        bus = Bus(self.paths.database)
        try:
            return function(bus)
        finally:
            bus.close()

    async def index(self) -> None:
        await self.call(lambda bus: bus.search.find("any", limit=1))

    async def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(question)
        return dict(self.said) if question["ask"] == "status" else {"code": 0, "document": {}}


def browser(reading: ReadHere) -> TestClient:
    """Return a browser that was let in by a link."""
    clock = SystemClock()
    access, acting = Access(KEY, PORT, clock), Acting(reading)
    app = application(PageParts(reading, Rendering(access, acting), acting, LiveStream(reading)))
    door = Door(app, access, lambda: 0)
    client = TestClient(
        door, base_url=access.origin, follow_redirects=False, client=("127.0.0.1", 1)
    )
    soon = clock.now() + timedelta(milliseconds=1)  # no link holds from before a process began
    assert client.get(f"/{ENTER}/{once(KEY, soon)}").status_code < 400
    client.headers["Origin"] = access.origin
    return client


def running(name: str, **more: Any) -> dict[str, Any]:
    """Return what a supervisor says of an agent."""
    return {
        **{"name": name, "state": "RUNNING", "pid": 7, "since": "2026-01-01T00:00:00.000Z"},
        **{"restarts": 0, "crashes": 0, "reason": "", "beat": {}, "version": "v"},
        **{"module": "task", "enabled": True, "paused": False, "checking": False},
        **{"problem": None, "triggers": {}},
        **more,
    }


def asking(path: Path, agent: str, args: dict[str, Any], *, approval: bool = True) -> int:
    """Let an agent's session wait for a person; return its id."""
    bus = Bus(path)
    bus.accept(agent, "v")
    bus.publish("person", NewEvent("note.added", {}, target=agent))
    lane = Lane(agent, direct=True)
    sessions = Sessions(bus)
    event = bus.next(lane)
    assert event is not None
    session = sessions.begin(lane, event, "v", Limits())
    assert isinstance(session, Session)
    sessions.journal.record_opening(session, "note.added", {}, trusted=True)
    tool = "WriteFile" if approval else "AskPerson"
    sessions.journal.record(session, Step(StepKind.DECISION, tool, args, asks=approval))
    if approval:
        sessions.journal.record(session, Step(StepKind.ASKED, tool, {"expires": "1d"}))
    sessions.closing.park(session, "may it?" if approval else str(args["question"]))
    bus.close()
    return session.id


class Forms(HTMLParser):
    """The forms of a page that stand for commands: each with its fields, and a field per button."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self._fields: dict[str, str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("action") == "/act":
            self._fields = {}
            self.found.append(self._fields)
        elif self._fields is not None and tag in ("input", "textarea") and "name" in given:
            self._fields[given["name"]] = given.get("value", "")
        elif self._fields is not None and tag == "button" and "name" in given:
            self._fields[f"{given['name']}={given['value']}"] = given.get("aria-pressed", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._fields = None


def commands(reading: ReadHere) -> list[list[str]]:
    """Return the commands that clicks stood for."""
    return [list(asked["argv"]) for asked in reading.asked if asked["ask"] == "act"]
