"""The page's process against what would break it: odd addresses, long texts, broken reads."""

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from starlette.testclient import TestClient

from agentd.bus import Bus
from agentd.errors import StorageError
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.ui import rendering
from agentd.ui.live_stream import LiveStream
from agentd.ui.markdown_text import CELLS_MAX, CHARACTERS_MAX, markdown
from agentd.ui.today import LABELS_MAX
from tests.page_client import TOKEN
from tests.page_world import ReadHere, browser
from tests.test_today import SORTER

KIND = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    found = discover()
    found.create()
    Bus(found.database).close()
    return found


@pytest.fixture
def page(paths: Paths) -> TestClient:
    return browser(ReadHere(paths))


def token(page: TestClient) -> str:
    """Return what forms hold."""
    found = TOKEN.search(page.get("/agents").text)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("digits", [19, 30, 5000])
@pytest.mark.parametrize(
    "address",
    [
        *("/results/{}", "/events/{}", "/ask/{}", "/sessions/{}", "/sessions/1/turns/{}/prompt"),
        *("/api/events/{}", "/api/ask/{}", "/api/sessions/{}", "/api/sessions/1/turns/{}"),
    ],
)
def test_a_number_that_no_id_has_is_no_address(page: TestClient, address: str, digits: int) -> None:
    """Neither SQLite nor Python takes each number, and a person's mistake is no fault of ours."""
    assert page.get(address.format("9" * digits)).status_code == 404


@pytest.mark.parametrize(
    ("back", "place"),
    [
        *(("/agents/a-b.c", "/agents/a-b.c?"), ("/?agent=a&said=b", "/?agent=a&"), ("", "/?")),
        *(
            ("http://[", "/?"),
            ("//evil.test", "/?"),
            ("/\\evil.test", "/?"),
            ("/%0dX", "/%0dX?"),
        ),
        *(("javascript:1", "/?"), ("/a\r\nX: y", "/?"), ("/a//evil.test", "/?")),
    ],
)
def test_a_form_leads_back_to_a_page_of_ours(page: TestClient, back: str, place: str) -> None:
    """What a form says of its page is never another site's, and what was done is told there."""
    form = {"token": token(page), "do": "reload", "said": "Read.", "back": back}
    answer = page.post("/act", content=urlencode(form), headers=KIND)
    assert answer.headers["location"].startswith(place), answer.text
    said = answer.headers["location"].rpartition("said=")[2]
    assert "Read." in page.get(f"/?said={said}").text


WIDE = "|a" * 300 + "\n" + "|-" * 300 + "\n" + "|\n" * 300


def test_a_small_text_makes_no_large_page() -> None:
    """Each row of a table has all columns of its head: a page of 660 kB stood in 1.8 kB."""
    for text in (WIDE, f"{WIDE}\n" * 10, f"> {WIDE}".replace("\n", "\n> ")):
        assert markdown(text).count("<td") <= CELLS_MAX
    rows = CELLS_MAX // 8
    assert markdown("a|b|c\n-|-|-\n" + "1|2|3\n" * rows).count("<td>") == 3 * rows
    assert markdown("x\n\na|b\n-|-\n1|2\n\ny").count("<td>") == 2
    assert "<table>" in markdown("> a|b\n> -|-\n> 1|2")


def test_a_long_text_is_shown_as_it_is_written() -> None:
    """Markdown of a megabyte took the process half a minute, in which it answered nobody."""
    assert markdown("- <b>\n" * 100).count("<li>") == 100
    long = "- <b>\n" * CHARACTERS_MAX
    assert markdown(long).count("- &lt;b&gt;") == CHARACTERS_MAX


def test_a_slow_page_keeps_nobody_waiting(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the event loop nobody would be answered meanwhile, and the heartbeat would be late."""
    bus = Bus(paths.database)
    bus.publish("hello", NewEvent("note.added", {"title": "t", "text": "slow"}))
    bus.close()
    threads: dict[str, int] = {}

    read = ReadHere.call

    async def seen(reading: ReadHere, function: Callable[[Bus], Any]) -> Any:
        threads["loop"] = threading.get_ident()
        return await read(reading, function)

    def slow(text: str) -> str:
        threads[text] = threading.get_ident()
        return text

    monkeypatch.setattr(rendering, "markdown", slow)
    monkeypatch.setattr(ReadHere, "call", seen)
    assert "slow" in browser(ReadHere(paths)).get("/").text
    assert threads["slow"] != threads["loop"]


def test_blank_titles_are_passed_over_by_the_database(paths: Paths) -> None:
    """Where each page of them was read, 300,000 of one agent kept the page from everybody."""
    bus = Bus(paths.database)
    titles = ["true", *(chr(code) for code in range(sys.maxunicode) if chr(code).isspace()), ""]
    for title in titles:
        bus.publish("hello", NewEvent("note.added", {"title": title}))
    assert [event.payload["title"] for event in bus.events.results(limit=1)] == ["true"]
    bus.close()


class Broken(ReadHere):
    """Its reads fail, as long as there are errors."""

    def __init__(self, paths: Paths, *errors: Exception) -> None:
        super().__init__(paths)
        self.errors = [*errors]
        self.reads = 0

    async def call(self, function: Callable[[Bus], Any]) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        self.reads += 1
        return await super().call(function)

    def version(self) -> int:
        return self.reads  # each look finds that something was committed


async def _told(reading: Broken, kind: str) -> str:
    """Return the first message of a kind that a stream tells; "" where it ends before."""
    live = LiveStream(reading)
    async with asyncio.timeout(20):
        async for text in live.stream(None, None):
            if kind in text:
                return text
    return ""


def test_a_stream_goes_on_once_the_database_can_be_read(paths: Paths) -> None:
    """Also where the first look of all failed: every later page shared that look."""
    reading = Broken(paths, StorageError("busy"), StorageError("busy"))
    assert asyncio.run(_told(reading, "event: asks")) != ""
    assert not reading.errors
    assert {one["use"] for one in reading.asked} == {False}, "nothing is measured for it"


def test_a_fault_ends_the_streams(paths: Paths) -> None:
    """A page comes again, and hears of what is new; it heard nothing, and was told nothing."""
    assert asyncio.run(_told(Broken(paths, RuntimeError("a fault")), "event: asks")) == ""


def test_a_result_of_many_rows_makes_no_large_page(paths: Paths, page: TestClient) -> None:
    """60,000 rows in a megabyte made a page of 50 MB; the rest is corrected by the command."""
    (paths.agents_d / "sorter.toml").parent.mkdir(parents=True, exist_ok=True)
    (paths.agents_d / "sorter.toml").write_text(SORTER)
    bus = Bus(paths.database)
    rows = [{"kind": "work"}] * 2000
    many, few = (
        bus.publish("sorter", NewEvent("mail.sorted", {"title": "t", "rows": some}))
        for some in (rows, rows[: LABELS_MAX - 1])
    )
    bus.close()
    text = page.get(f"/results/{many}").text
    assert text.count('name="row"') == LABELS_MAX
    assert f"agentd correct {many} FIELD VALUE --row N" in text
    text = page.get(f"/results/{few}").text
    assert text.count('name="row"') == LABELS_MAX - 1 and "--row N" not in text
    assert 'name="row"' not in page.get("/").text
