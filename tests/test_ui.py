"""The page's process, as a browser meets it: real daemon, real sockets."""

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentd.bus import Bus
from agentd.events import NewEvent
from tests.page_client import open_page
from tests.supervised import Daemon, daemon

SEEN = re.compile('data-seen="([0-9]+)"')


def test_a_link_opens_the_page_once(tmp_path: Path) -> None:
    """Who has no cookie sees nothing; a link gives one, and no second browser gets in by it."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page, open_page(one, enter=False) as stranger:
            assert page.get("/").status_code == 200
            assert stranger.get("/").status_code == 401
            assert stranger.get(page.link).status_code == 403
            assert stranger.get("/").status_code == 401


def test_a_click_is_a_command(tmp_path: Path) -> None:
    """What a form stands for is run as its person's command, and what it says comes back."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page:
            told = page.act(do="dead-drop", id="5")
            assert (told["ok"], "no such dead letter" in told["message"]) == (False, True)
            acted = one.log("ui.acted")
            assert [(line["command"], line["code"]) for line in acted] == [("dead", 2)]


def told(lines: Iterator[str], kind: str) -> dict[str, Any]:
    """Return the next message of a kind."""
    for line in lines:
        if line == f"event: {kind}":
            found: dict[str, Any] = json.loads(next(lines).removeprefix("data: "))
            return found
    raise AssertionError(f"the stream ended without {kind}")


def test_an_open_page_hears_of_events(tmp_path: Path) -> None:
    """Each event once, by its id; a page that was away says the last one that it has."""
    with daemon(tmp_path) as one, closing_bus(one) as bus, open_page(one) as page:
        shown = bus.events.last_id()
        with page.client.stream("GET", f"/live?after={shown}") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 1000"
            first = bus.publish("person", NewEvent("note.added", {}))
            while (told_first := told(lines, "event"))["type"] != "note.added":
                pass
        assert told_first == {"id": first, "type": "note.added", "agent": "person"}
        second = bus.publish("person", NewEvent("note.added", {}))
        headers = {"Last-Event-ID": str(first)}
        with page.client.stream("GET", "/live", headers=headers) as stream:
            assert told(stream.iter_lines(), "event")["id"] == second


def test_an_open_page_hears_of_states(tmp_path: Path) -> None:
    """Who reads an agent's state hears that it changed, and reads the page again."""
    with daemon(tmp_path) as one, closing_bus(one):
        one.drop("hello")
        one.wait_state("hello", "RUNNING")
        with open_page(one) as page, page.client.stream("GET", "/live") as stream:
            lines = stream.iter_lines()
            assert told(lines, "asks") == {"count": 0}
            os.kill(one.agent("hello")["pid"], signal.SIGKILL)
            while "hello" not in told(lines, "status")["changed"]:
                pass


def test_a_page_hears_of_what_came_before_its_stream(tmp_path: Path) -> None:
    """Between a page and its stream something is committed: the page is told to read again."""
    with daemon(tmp_path) as one, closing_bus(one) as bus, open_page(one) as page:
        seen = SEEN.findall(page.get("/").text)[0]
        with page.client.stream("GET", f"/live?seen={seen}") as stream:
            lines = stream.iter_lines()
            assert [next(lines), next(lines), next(lines)] != ["retry: 1000", "", "event: again"]
        bus.publish("person", NewEvent("note.added", {}))
        with page.client.stream("GET", f"/live?seen={seen}") as stream:
            assert told(stream.iter_lines(), "again") == {}


@contextmanager
def closing_bus(one: Daemon) -> Iterator[Bus]:
    """Start the daemon, and yield its bus."""
    one.start()
    bus = Bus(one.paths.database, wake=one.paths.wake)
    try:
        yield bus
    finally:
        bus.close()
