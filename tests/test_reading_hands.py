"""Pages, feeds, calendars and PDF files where they are read for real: in sandboxed processes."""

import base64
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentd.sandbox.level import reached
from agentd.tools import calendar
from agentd.tools.page import PAGE_BYTES
from tests.pdf_files import pdf, text
from tests.site import Site, site
from tests.supervised import IDLE_VARIABLE, Daemon, daemon
from tests.test_hands import Hand, home, orders, start
from tests.test_reading import EVENTS, HOSTILE, META, rss

__all__ = ["home", "start"]
pytestmark = pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")

HEAVY = ("feedparser", "htmldate", "icalendar", "lxml", "pypdf", "recurring_ical_events")


def packed(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def test_hands_import_what_they_parse_with_at_the_first_call() -> None:
    """So that they are ready as soon as before."""
    names = (*HEAVY, "trafilatura", "agentd.tools.page", "agentd.tools.pdf")
    code = f"import sys, agentd.hands.__main__; print([n for n in {names!r} if n in sys.modules])"
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


def test_hands_without_a_permission_can_parse(start: Callable[..., Hand], home: Path) -> None:
    """The libraries and their data can be read there, and they open nothing else."""
    hand = start(orders(home, read=(), write=()))
    given = {"url": "http://a/", "charset": "", "data": packed(META.encode("latin-1"))}
    page = hand.value("ParsePage", **given, type="text/html", cut=False, start=0)
    assert (page["date"], "café in hand" in page["text"]) == ("2026-11-27", True)
    found = hand.value("ParseFeed", url="http://a/", charset="", data=packed(rss("a")))
    assert [entry["title"] for entry in found["entries"]] == ["a <b> it"]
    span = {"first": "2026-11-29", "days": 7}
    events = hand.value("ParseCalendar", source="a.ics", data=packed(EVENTS), **span)["events"]
    assert "Stand-up" in [event["title"] for event in events]
    assert hand.error("ParseCalendar", source="a.ics", **span)[0] == "refused"
    assert hand.error("ReadPdf", path=str(home / "secret" / "a.pdf"), pages=None)[0] == "refused"


def test_files_are_read_within_their_bounds(start: Callable[..., Hand], home: Path) -> None:
    """A PDF and a calendar of a listed folder; what would take for ever is left after a moment."""
    (home / "in" / "a.pdf").write_bytes(pdf([text("An invoice"), b"3 Tr " + text("unseen")]))
    (home / "in" / "a.ics").write_text(HOSTILE)
    hand = start()
    shown = hand.value("ReadPdf", path="a.pdf", pages=None)["text"]
    assert "An invoice" in shown and "[hidden text: unseen]" in shown
    found = hand.value("ParseCalendar", source="a.ics", first="2026-11-29", days=7)
    assert found["skipped"].startswith("5 ") and "well" in str(found["events"])
    late = hand.call("ParseCalendar", 0.2, source="a.ics", first="2026-11-29", days=7)
    assert late["error"]["what"].endswith("takes too long to read")
    assert hand.value("ReadPdf", path="a.pdf", pages="1")["pages"] == 2, "they live on"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Daemon, Site]]:
    """A supervisor with a worker that may reach a site, and touch nothing else."""
    with daemon(tmp_path / "home", {IDLE_VARIABLE: "0.1"}) as one, site() as there:
        one.drop("one", "call", f'[permissions]\nnet = ["{there.host}"]\n')
        one.start()
        one.wait_state("one", "RUNNING")
        yield one, there


def test_what_is_fetched_is_parsed_elsewhere(running: tuple[Daemon, Site]) -> None:
    """Through worker, fetcher and hands, each with what it may; what is large fits a frame."""
    one, there = running
    page = there.url("/a", "text/html; charset=latin-1", META.encode("latin-1"))
    assert "café in hand" in one.called("one", "ReadPage", url=page)["text"]
    told = one.called("one", "ReadPage", url=there.url("/b", "text/plain", "é" * 2_000_000))
    assert told["characters"] == PAGE_BYTES // 2
    feed = there.url("/feed", "text/xml", rss("a"))
    assert one.called("one", "ReadFeed", url=feed)["first"].startswith("read for the first time")
    days = there.url("/a.ics", "text/calendar", EVENTS)
    assert one.called("one", "ReadCalendar", source=days)["days"] == calendar.DAYS
    refused = one.called("one", "ReadPage", url="http://example.com/")
    assert refused["raised"] == "PermissionRefused"
    assert one.called("one", "ReadCalendar", source="/a.ics")["raised"] == "PermissionRefused"
