"""Pages of sessions, events, the model and the log: what stands in them, and what must not."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from agentd.bus import Bus
from agentd.clock import SystemClock, iso
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.ui.bar_chart import BarChart
from tests.page_client import open_page
from tests.page_world import QUIET, ReadHere, browser
from tests.recorded import World
from tests.supervised import daemon
from tests.test_newest_logs import write
from tests.test_views_sessions import PARAMS, READ, a_session, turns

# What would run, load or forge something if it were not shown as text.
EVIL = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\x1b[31m{{ 7*7 }}"
MODEL: dict[str, Any] = {  # as the supervisor tells of it
    **{"name": "m", "url": "http://127.0.0.1:1/v1", "external": False, "state": "STARTING"},
    **{"pid": None, "since": "2026-01-15T10:30:00.000Z", "restarts": 0, "reason": ""},
    **{"beat": {}, "problem": None},
}


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = discover({"AGENTD_HOME": str(tmp_path)})
    found.create()
    yield found


@pytest.fixture
def bus(paths: Paths) -> Iterator[Bus]:
    made = Bus(paths.database)
    yield made
    made.close()


def pages(paths: Paths, **said: Any) -> TestClient:
    return browser(ReadHere(paths, {**QUIET, "model": MODEL, **said}))


def text(client: TestClient, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    shown = answer.text
    assert "<script>alert" not in shown and "<img" not in shown and "\x1b" not in shown
    assert "\u202e" not in shown and "49" not in re.findall(r"\[31m(\S*)", shown)
    assert not re.search(r"\sstyle=|\son\w+=\"", shown.replace(EVIL, "")), "the CSP forbids it"
    return shown


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_a_session_is_a_timeline(world: World) -> None:
    """Its turns with arguments and results, the way to each prompt, and the replay command."""
    (world.notes / "a.txt").write_text(EVIL)
    world.write("reader", READ + PARAMS.format(notes=world.notes))
    world.publish("note.changed", {"path": EVIL})
    read = {"tool": "read_file", "path": str(world.notes / "a.txt"), "start": None}
    session = world.run("reader", [read, {"tool": "done", "result": EVIL}])
    client = pages(world.paths)
    shown = text(client, f"/sessions/{session}")
    names = re.findall(r"(?s)<h3[^>]*>(.*?)</h3>", shown)
    heads = [" ".join(re.sub(r"<[^>]*>", "", name).split()) for name in names]
    assert heads == ["Opening", "1 ReadFile", "2 Done"]
    assert f'href="/sessions/{session}/turns/2/prompt"' in shown
    assert f"agentd replay {session}" in shown and 'data-copy="replay"' in shown
    assert "&lt;script&gt;" in shown and "from outside" in shown
    assert shown.count('class="decides"') >= 2 and "% of the window" in shown
    prompt = text(client, f"/sessions/{session}/turns/2/prompt")
    asked = world.requests[-1].body["messages"]
    assert [m["role"] for m in asked] == re.findall(r"<h2[^>]*>(\w+)</h2>", prompt)
    assert "Exactly what the model was asked with" in prompt
    told = client.get(f"/api/sessions/{session}/turns/2").json()
    assert told["messages"] == asked


def test_a_long_session_stays_a_page_that_opens_at_once(paths: Paths, bus: Bus) -> None:
    """Two hundred turns with results of half a megabyte: some at a time, and long ones closed."""
    session = a_session(bus)
    turns(bus, session, 200, {"text": "x" * 500_000})
    client = pages(paths)
    shown = text(client, f"/sessions/{session}")
    assert len(shown) < 600_000 and shown.count('<article class="turn"') == 51
    assert f"/sessions/{session}?from=51" in shown
    last = text(client, f"/sessions/{session}?from=151")
    assert "Later turns" not in last and "Earlier turns" in last
    assert "Nothing is recorded of it from turn 900 on" in text(client, "/sessions/1?from=900")
    text(client, "/sessions/1?from=-1")
    text(client, "/sessions/1?from=9999999999999")


def test_what_is_not_there_is_said_so(paths: Paths, bus: Bus) -> None:
    """A link to something that was pruned, or never was, is no fault of ours."""
    client = pages(paths)
    for address in ("/events/9", f"/events/{10**30}", f"/sessions/{10**30}"):
        assert client.get(address).status_code == 404, address
    assert "no such session" in client.get("/sessions/9").text
    session = a_session(bus, event_id=50)
    turns(bus, session, 1)
    assert "its prompt is not kept" in client.get(f"/sessions/{session}/turns/1/prompt").text
    assert "not kept any more" in text(client, f"/sessions/{session}")
    assert "This is what came of it" in text(client, "/events/50")


def test_an_event_shows_its_payload_and_its_tree(paths: Paths, bus: Bus) -> None:
    """With links to what it answers and what came of it."""
    first = bus.publish("one", NewEvent("a.b", {"title": EVIL, "n": [EVIL]}))
    assert first is not None
    answer = bus.publish(
        "two", NewEvent("a.c", {"title": "An answer"}), cause=bus.events.get(first)
    )
    session = a_session(bus, first, state="failed")
    client = pages(paths)
    shown = text(client, f"/events/{answer}")
    tree = re.findall(r'href="(/(?:events|sessions)/\d+)"', shown)
    assert tree == [f"/events/{first}", f"/sessions/{session}", f"/events/{answer}"]
    assert "An answer" in shown
    text(client, f"/events/{first}")
    document = client.get(f"/api/events/{first}").json()
    assert document["event"]["payload"]["n"] == [EVIL]


def test_the_models_use_is_charts_and_words(paths: Paths, bus: Bus) -> None:
    """Over an hour or a day, each chart with what it says in words; with what is loaded."""
    now = SystemClock().now()
    tokens = {"prompt_tokens": 1000, "cached_tokens": 900, "completion_tokens": 20}
    times = {"queue_ms": 100.0, "ttft_ms": 600.0, "duration_ms": 1600.0}
    one = {"event": "request.finished", "agent": EVIL, **times, **tokens}
    for ago in (7200, 90, 60):
        write(paths.log("model"), {"ts": iso(now - timedelta(seconds=ago)), **one})
    problem = {"what": EVIL, "where": EVIL, "hint": EVIL}
    beat = {"state": "busy", "running": 2, "waiting": 1}
    model = {**MODEL, "name": EVIL, "reason": EVIL, "pid": 7, "beat": beat, "problem": problem}
    client = pages(paths, model=model)
    shown = text(client, "/model")
    assert "2 requests, 2,000 tokens read (90 % known from before), 40 written" in shown
    assert shown.count('role="img"') == 6 and "busy: 2 running, 1 waiting" in shown
    assert 'aria-label="Time to the first token: at most 0.6 s, 0.6 s lately"' in shown
    assert "3 requests" in text(client, "/model?span=day")
    assert client.get("/api/model?span=day").json()["use"]["total"]["requests"] == 3


def test_a_model_that_is_not_there_yet_has_a_page(paths: Paths, bus: Bus) -> None:
    """While it starts, without a log, and where an external server is used."""
    assert "none in this time" in text(pages(paths), "/model")
    external = {**MODEL, "external": True, "url": "http://host/v1"}
    assert "a server of your own" in text(pages(paths, model=external), "/model")


def test_the_log_is_chosen_by_level_agent_and_session(paths: Paths, bus: Bus) -> None:
    """Newest first, each line as text, with the way to its session."""
    lines = [
        {"ts": f"2026-01-15T10:30:{n:02}.000Z", "level": level, "event": "a.b", "agent": "one"}
        for n, level in enumerate(("info", "warning", "error"))
    ]
    write(paths.log("one"), *({**line, "why": EVIL, "session_id": 5} for line in lines))
    write(paths.log("two"), {**lines[2], "agent": "two", "exception": EVIL})
    client = pages(paths)
    shown = text(client, "/log")
    assert re.findall(r'class="entry (\w+)"', shown) == ["error", "error", "warning", "info"]
    assert 'href="/sessions/5"' in shown and 'data-every="2"' in shown
    assert text(client, "/log?level=warning&agent=one").count('class="entry') == 2
    assert text(client, "/log?session=5").count('class="entry') == 3
    older = text(client, "/log?before=2026-01-15T10:30:01.000Z")
    assert older.count('class="entry') == 1 and "data-every" not in older
    for odd in ("/log?level=x&agent=../../etc&session=abc", f"/log?session={10**25}"):
        text(client, odd)
    assert json.loads(client.get("/api/log?level=error").text)["lines"][0]["level"] == "error"


def test_an_open_log_costs_little_where_nothing_is_logged(paths: Paths, bus: Bus) -> None:
    """It is asked for again every two seconds: without a new line nothing is read or made."""
    line = {"ts": "2026-01-15T10:30:00.000Z", "level": "info", "event": "a.b", "agent": "one"}
    write(paths.log("one"), line)
    client = pages(paths)
    seen = {"If-None-Match": client.get("/log").headers["etag"]}
    again = client.get("/log", headers=seen)
    assert (again.status_code, again.text) == (304, "")
    write(paths.log("one"), line)
    assert client.get("/log", headers=seen).text.count('class="entry') == 2


def test_many_lines_are_paged(paths: Paths, bus: Bus) -> None:
    """A page is bounded; the older ones are a link away, with the same choice."""
    line = {"level": "info", "event": "a.b", "agent": "one"}
    times = [f"2026-01-15T10:{n // 60:02}:{n % 60:02}.000Z" for n in range(500)]
    write(paths.log("one"), *({"ts": ts, **line} for ts in times))
    client, address, seen = pages(paths), "/log?agent=one", 0
    while address:
        shown = text(client, address)
        seen += shown.count('class="entry')
        found = re.search(r'rel="next" href="([^"]*)"', shown)
        address = found.group(1).replace("&amp;", "&") if found else ""
    assert seen == 500


def test_a_chart_has_a_round_top_and_says_what_it_shows() -> None:
    """Bars stay inside of it, whatever the values are."""
    chart = BarChart("Wait", "s", ["a", "b", "c"], [0.3, None, 4.1], [0.1, None, 2.0])
    assert (chart.most, chart.summary) == (5, "at most 4.1 s, 4.1 s lately")
    assert [(bar.x, bar.words) for bar in chart.bars] == [
        (0, "0.1 s in the middle, 0.3 s high"),
        (20, "2 s in the middle, 4.1 s high"),
    ]
    assert all(0 < bar.inner < bar.top <= 100 for bar in chart.bars)
    assert BarChart("x", "", [], []).bars == [] and BarChart("x", "", ["a"], [0.0]).most == 1
    assert BarChart("x", "", ["a"], [12_345]).amount(12_345) == "12,345"


def test_the_pages_work_in_their_sandbox(tmp_path: Path) -> None:
    """The process may read logs and the database, and what it shows of them is the daemon's own."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page:
            for address in ("/log?agent=agentd", "/model", "/model?span=day", "/events/1"):
                assert page.get(address).status_code == 200, page.get(address).text
            assert "supervisor.started" in page.get("/log?agent=agentd").text
