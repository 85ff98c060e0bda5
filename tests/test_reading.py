"""Pages, feeds, calendars and PDF files: what a reader sees of them, and what nobody may do."""

import gzip
import random
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pypdf
import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, Stopped, ToolError
from agentd.events import Result
from agentd.testing import ManualClock
from agentd.tools import calendar, feed, page, pdf
from agentd.tools.base import TEXT_CHARACTERS, ToolCall
from agentd.tools.session_view import SessionView
from agentd.tools.time_limit import TooSlow, time_limit
from agentd.tools.toolbox import Toolbox
from tests.pdf_files import pdf as pdf_of
from tests.pdf_files import text
from tests.site import Site, site
from tests.time_zone import local_time

NOISE = random.Random(7).randbytes(100_000)
SOON = datetime(2026, 11, 29, 17, 0, tzinfo=UTC)


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as there:
        yield there


@pytest.fixture
def call(web: Site, tmp_path: Path) -> Callable[..., Result]:
    """Call a tool of an agent that may reach the site and read the folder."""

    def made(name: str, memory: dict[str, Any] | None = None, **args: Any) -> Result:
        permissions = Permissions(net=(web.host,), read=(str(tmp_path),))
        tools = Toolbox(permissions, clock=ManualClock(SOON))
        tools.session = SessionView(memory=memory or {})
        result = tools.call(name, args)
        assert not result.trusted
        return result

    return made


Call = Callable[..., Result]

PAGE = """<!doctype html><html><head><title>The comet &amp; I</title>
<link rel="alternate" href="/feed"><script>steal()</script>
<meta property="article:published_time" content="2026-11-27T08:00:00Z"></head>
<body><nav><a href="/">Home</a></nav><article><h1>The comet</h1>
<p>Last night I saw it from the roof, with nothing but a pair of old binoculars, café in hand.</p>
<ul><li>binoculars</li><li>patience</li></ul></article><footer>Cookies</footer></body></html>"""

META = PAGE.replace("<head>", '<head><meta charset="latin-1">')


def test_a_page_is_its_title_date_and_text(web: Site, call: Call) -> None:
    """No tags of its head, no menu, no scripts: what its reader came for."""
    url = web.url("/a", "text/html; charset=latin-1", PAGE.encode("latin-1"))
    found = dict(call("ReadPage", url=url).value)
    shown = found.pop("text")
    assert found.pop("characters") == len(shown)
    assert found == {"url": url, "title": "The comet", "date": "2026-11-27", "start": 0}
    assert "# The comet" in shown and "café in hand" in shown and "- binoculars" in shown
    assert not [word for word in ("Home", "Cookies", "steal", "link", "<") if word in shown]


@pytest.mark.parametrize(
    ("kind", "body", "seen"),
    [
        ("text/html", META.encode("latin-1"), "café"),
        ("text/html", PAGE.encode("utf-16"), "café"),
        ("text/html", b"\xef\xbb\xbf" + PAGE.encode(), "café"),
        ("text/html; charset=no-such", PAGE.encode(), "café"),
        ("text/html", PAGE.encode("cp1252"), "café"),
        ("text/plain", b"<b>as it is</b>", "<b>as it is</b>"),
        ("application/ld+json", b'{"a": 1}', '{"a": 1}'),
        ("", b"<p>one</p><p>two</p>", "one"),
    ],
)
def test_a_page_is_read_as_it_is_written(
    web: Site, call: Call, kind: str, body: bytes, seen: str
) -> None:
    """By its mark, its server, its head; and what is no HTML comes as it is."""
    assert seen in call("ReadPage", url=web.url("/a", kind or "text/html", body)).value["text"]


def test_a_long_page_is_read_in_parts(web: Site, call: Call) -> None:
    """Each part says where the next one begins; a guess beyond the end gives the last."""
    url = web.url("/a", "text/plain", "".join(f"line {n}\n" for n in range(5_000)))
    first, start = call("ReadPage", url=url).value, TEXT_CHARACTERS - page.MARK_CHARACTERS
    assert len(first["text"]) <= TEXT_CHARACTERS
    assert first["text"].endswith(f"read on with start={start}]")
    second = call("ReadPage", url=url, start=start).value
    joined = first["text"].partition("\n...[cut")[0] + second["text"].partition("\n...[cut")[0]
    assert joined == "".join(f"line {n}\n" for n in range(5_000))[: 2 * start]
    last = call("ReadPage", url=url, start=9_999_999).value["text"]
    assert last.startswith("...[no character 9999999") and last.endswith("line 4999\n")


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("image/png", b"x", "is no page but image/png"),
        ("text/html", b"", "has no text to read"),
        ("text/html", b"<div>" * 100_000 + b"deep", "has no text to read"),
        ("text/html", b"<table><tr><td>" * 20_000, "has no text to read"),
        ("text/html", NOISE, "is binary"),
        ("text/html", gzip.compress(b"<p>x</p>" * 9_000_000), "is binary|has no text"),
        ("text/html", b"<html><body><script>" + b"x" * 100_000, "has no text to read"),
    ],
)
def test_a_page_that_is_none_says_so(
    web: Site, call: Call, kind: str, body: bytes, problem: str
) -> None:
    """One clear error, soon; nothing is unpacked that was not asked for."""
    with pytest.raises(ToolError, match=problem):
        call("ReadPage", url=web.url("/a", kind, body))


def test_a_page_beyond_its_size_is_cut(web: Site, call: Call, monkeypatch: Any) -> None:
    """And says so; what is cut within a character is read all the same."""
    monkeypatch.setattr(page, "PAGE_BYTES", 1_001)
    found = call("ReadPage", url=web.url("/a", "text/plain", "é" * 1_000)).value
    assert found["text"].startswith("é" * 500) and found["more"].endswith("1001 bytes were fetched")


# --- feeds


def rss(*names: str) -> str:
    items = (
        f"<item><title>{name} &amp;lt;b&amp;gt; it</title><guid>{name}</guid><link>/{name}</link>"
        f"<pubDate>Sat, 28 Nov 2026 09:00:00 GMT</pubDate><description>&lt;p&gt;Of &lt;i&gt;{name}"
        "&lt;/i&gt;&lt;script&gt;steal()&lt;/script&gt;&lt;/p&gt;</description></item>"
        for name in names
    )
    return f"<rss version='2.0'><channel><title>News</title>{''.join(items)}</channel></rss>"


def test_a_feed_gives_what_is_new(web: Site, call: Call) -> None:
    """Nothing of old at first, then each item once; what did not change is not sent again."""
    url = web.url("/feed", "application/rss+xml", rss("b", "a"))
    first = call("ReadFeed", url=url)
    assert first.value["items"] == []
    assert first.value["first"] == "read for the first time: its 2 items are not new"
    known = dict(first.remember)
    same = call("ReadFeed", known, url=url)
    assert (same.value, same.remember) == ({"url": url, "title": "News", "items": []}, {})
    assert web.answered[-1] == ("/feed", 304)
    web.url("/feed", "application/rss+xml", rss("c", "b", "a"))
    found = call("ReadFeed", known, url=url)
    item = {
        "title": "c <b> it",
        "link": f"http://{web.host}/c",
        "date": "2026-11-28T09:00:00Z",
        "summary": "Of c",
    }
    assert found.value == {"url": url, "title": "News", "items": [item]}
    assert call("ReadFeed", known, url=url).value["items"] == [item], "the session was cut off"
    assert call("ReadFeed", dict(found.remember), url=url).value["items"] == []
    web.url("/feed", "application/rss+xml", rss("d"))  # the feed dropped the others for a while
    later = call("ReadFeed", dict(found.remember), url=url)
    web.url("/feed", "application/rss+xml", rss("d", "c", "b"))
    assert call("ReadFeed", dict(later.remember), url=url).value["items"] == []


def test_many_new_items_come_in_parts(web: Site, call: Call) -> None:
    """The oldest first, so that none is lost; what had no room is asked for again."""
    url = web.url("/feed", "text/xml", rss())
    known = dict(call("ReadFeed", url=url).remember)
    names = [str(number) for number in range(120, 0, -1)]
    web.url("/feed", "text/xml", rss(*names))
    seen: list[str] = []
    for left in (70, 20, 0):
        found = call("ReadFeed", known, url=url)
        known = dict(found.remember)
        assert found.value.get("more", "0 ").startswith(f"{left} ")
        seen = [item["title"].split()[0] for item in found.value["items"]] + seen
    assert seen == names
    assert call("ReadFeed", known, url=url).value["items"] == []
    assert web.answered[-1][1] == 304


def test_what_is_remembered_of_a_feed_is_bounded(web: Site, call: Call) -> None:
    """As is what is looked at, and what a result holds."""
    url = web.url("/feed", "text/xml", rss(*map(str, range(600))))
    known = dict(call("ReadFeed", url=url).remember)
    assert len(known[f"feed:{url}"]["ids"]) == feed.ENTRIES_MAX
    web.url("/feed", "text/xml", rss(*(f"{n} {'long' * 300}" for n in range(600))))
    found = call("ReadFeed", known, url=url)
    assert sum(len(str(item)) for item in found.value["items"]) < 2 * TEXT_CHARACTERS
    assert len(dict(found.remember)[f"feed:{url}"]["ids"]) <= feed.ENTRIES_MAX


BOMB = "".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
ENTITIES = "<?xml version='1.0'?><!DOCTYPE r [{}]><rss version='2.0'><channel><title>t&{};</title>"
ENTRY = "<item><title>new &i;&x;</title></item></channel></rss>"
SECRET = "the content of a file"


def test_a_hostile_feed_opens_and_fetches_nothing(web: Site, call: Call, tmp_path: Path) -> None:
    """No entity of it is followed or multiplied; a link leads to pages alone."""
    (tmp_path / "secret").write_text(SECRET)
    outside = f'<!ENTITY x SYSTEM "file://{tmp_path}/secret">'
    for entities in (f'<!ENTITY a "lol">{BOMB}', outside, outside.replace("file://", "http://")):
        url = web.url("/feed", "text/xml", ENTITIES.format(entities, "i") + ENTRY)
        found = call("ReadFeed", {f"feed:{url}": {"ids": []}}, url=url)
        assert SECRET not in str(found.value) and len(str(found.value)) < 1_000
    assert [path for path, _ in web.answered] == ["/feed"] * 3
    for link in ("javascript:steal()", "file:///etc/passwd", "http://[", "data:text/html,x"):
        body = rss("a").replace("<link>/a</link>", f"<link>{link}</link>")
        url = web.url("/feed", "text/xml", body)
        (item,) = call("ReadFeed", {f"feed:{url}": {"ids": []}}, url=url).value["items"]
        assert item["link"] == ""


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><body>no feed</body></html>", NOISE, gzip.compress(rss("a").encode() * 1_000)],
)
def test_what_is_no_feed_says_so(web: Site, call: Call, body: bytes) -> None:
    """And is not remembered as one."""
    with pytest.raises(ToolError, match="is no feed"):
        call("ReadFeed", url=web.url("/feed", "text/xml", body))


def test_a_broken_feed_is_read_as_far_as_it_goes(web: Site, call: Call) -> None:
    """Cut off, with stray signs, in another encoding: as half of all feeds are."""
    body = "<?xml version='1.0' encoding='iso-8859-1'?>" + rss("café", "b & c")[:-60]
    url = web.url("/feed", "text/xml", body.encode("latin-1"))
    found = call("ReadFeed", {f"feed:{url}": {"ids": []}}, url=url).value
    assert [item["title"].split(" ")[0] for item in found["items"]] == ["café", "b"]


# --- calendars


@pytest.fixture
def local() -> Iterator[None]:
    """The clock of New York, five hours behind."""
    with local_time("America/New_York"):
        yield


def ics(*events: str) -> str:
    bodies = (
        f"BEGIN:VEVENT\nUID:{number}\nDTSTAMP:20260101T000000Z\n{body}\nEND:VEVENT\n"
        for number, body in enumerate(events)
    )
    return f"BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:x\n{''.join(bodies)}END:VCALENDAR\n"


EVENTS = ics(
    "SUMMARY:Stand-up\nLOCATION:Room\\, 1\nDTSTART;TZID=Europe/Berlin:20260105T150000\n"
    "DURATION:PT15M\nRRULE:FREQ=WEEKLY;BYDAY=MO\nEXDATE;TZID=Europe/Berlin:20261207T150000",
    "SUMMARY:Lunch\nDTSTART:20261130T120000\nDTEND:20261130T130000",
    "SUMMARY:Holiday\nDTSTART;VALUE=DATE:20261129\nDTEND;VALUE=DATE:20261201",
    "SUMMARY:Journey\nDTSTART;VALUE=DATE:20260601\nDTEND;VALUE=DATE:20261202",
    "SUMMARY:Call\nDTSTART:20261130T020000Z",
    "SUMMARY:Call off\nSTATUS:CANCELLED\nDTSTART:20261130T020000Z",
    "SUMMARY:Earlier today\nDTSTART:20261129T060000Z",
    "SUMMARY:Long ago\nDTSTART:20251130T020000Z\nDTEND:20251130T030000Z",
    "SUMMARY:Later\nDTSTART:20261207T050000Z\nDTEND:20261207T060000Z",
)


def test_a_line_that_goes_on_ends_no_event(call: Call, tmp_path: Path, local: None) -> None:
    """Who invites cannot cut an event in two, and with it the calendar: a blank goes on a line."""
    long_ago = "DTSTART:20251130T020000Z\nDESCRIPTION:" + "x" * 63 + "\n END:VEVENT\nSUMMARY:a"
    (tmp_path / "a.ics").write_text(ics(long_ago, "SUMMARY:Lunch\nDTSTART:20261130T120000"))
    assert rows(call("ReadCalendar", source="a.ics")) == ["2026-11-30 12:00 Lunch"]


def rows(found: Result) -> list[str]:
    return [f"{event['start']} {event['title']}" for event in found.value["events"]]


def test_the_days_of_a_calendar(call: Call, tmp_path: Path, local: None) -> None:
    """From today's midnight, in order, by the clock here: zoned, floating, whole days, repeated."""
    (tmp_path / "a.ics").write_text(EVENTS.replace("\n", "\r\n"))
    found = call("ReadCalendar", source="a.ics")
    assert rows(found) == [
        "2026-06-01 Journey",
        "2026-11-29 Holiday",
        "2026-11-29 01:00 Earlier today",
        "2026-11-29 21:00 Call",
        "2026-11-30 09:00 Stand-up",
        "2026-11-30 12:00 Lunch",
    ]
    ends = {event["title"]: event["end"] for event in found.value["events"]}
    assert ends["Holiday"] == "2026-11-30" and ends["Stand-up"] == "2026-11-30 09:15"
    assert found.value["events"][4]["place"] == "Room, 1"
    assert found.value["source"].endswith("a.ics") and found.value["days"] == 7
    two_weeks = rows(call("ReadCalendar", source="a.ics", days=14))
    assert two_weeks[6:] == ["2026-12-07 00:00 Later"], "that Monday is left out"
    assert len(rows(call("ReadCalendar", source="a.ics", days=1))) == 4


def test_a_calendar_at_a_url(web: Site, call: Call, local: None) -> None:
    """With the way in which calendars are published; a moved occurrence stands where it went."""
    moved = EVENTS.replace(
        "END:VCALENDAR",
        "BEGIN:VEVENT\nUID:0\nSUMMARY:Stand-up late\nRECURRENCE-ID;TZID=Europe/Berlin:"
        "20261130T150000\nDTSTART;TZID=Europe/Berlin:20261201T160000\nEND:VEVENT\nEND:VCALENDAR",
    )
    url = web.url("/a.ics", "text/calendar", moved)
    assert "2026-12-01 10:00 Stand-up late" in rows(call("ReadCalendar", source=url))
    assert "2026-11-30 09:00 Stand-up" not in rows(call("ReadCalendar", source=url))
    with pytest.raises(PermissionRefused, match=r"example\.com"):
        call("ReadCalendar", source="webcal://example.com/a.ics")
    with pytest.raises(PermissionRefused):
        call("ReadCalendar", source="/etc/passwd")


def test_a_private_address_is_not_in_what_is_found(web: Site, call: Call, local: None) -> None:
    """An address may be the key to a calendar or a feed: a result goes on to others."""
    key = "0123456789abcdef" * 2
    url = web.url(f"/{key}/basic.ics", "text/calendar", EVENTS)
    found = call("ReadCalendar", source=url)
    assert found.value["events"] and found.value["source"] == web.host.partition(":")[0]
    url = web.url(f"/feed?key={key}", "text/xml", rss("a"))
    assert key not in str(call("ReadFeed", url=url).value)
    for url in (f"http://{web.host}/none?key={key}", f"http://{web.host}/{key}/none.ics"):
        with pytest.raises(ToolError) as told:
            call("ReadFeed", url=url)
        assert "404" in str(told.value) and key not in str(told.value)


HOSTILE = ics(
    "SUMMARY:1\nDTSTART:20000101T000000Z\nRRULE:FREQ=SECONDLY",
    "SUMMARY:2\nDTSTART:00010101T000000Z\nRRULE:FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30",
    "SUMMARY:3\nDTSTART:20261129T090000Z\nRRULE:FREQ=MINUTELY",
    "SUMMARY:4\nDTSTART:20261129T090000Z\nRRULE:FREQ=DAILY;UNTIL=never",
    "SUMMARY:5\nDTSTART:20269999T090000Z",
    "SUMMARY:6",
    "SUMMARY:7\nDTSTART:20261129T090000Z\nDTEND:19990101T000000Z",
    "SUMMARY:well\nDTSTART:20261129T230000Z\nRRULE:FREQ=DAILY;COUNT=2",
)


def test_a_hostile_event_takes_no_other_with_it(call: Call, tmp_path: Path) -> None:
    """One that repeats each second, never ends to be sought, or makes no sense, is left out."""
    (tmp_path / "a.ics").write_text(HOSTILE)
    found = call("ReadCalendar", source="a.ics")
    assert {event["title"] for event in found.value["events"]} <= {"7", "well"}
    assert [event["title"] for event in found.value["events"]].count("well") == 2
    assert found.value["skipped"] == "5 events cannot be read, or repeat too often"


def test_a_stop_ends_a_calendar() -> None:
    """As a stop, and not as a fault of the file; so does the end of the call's time."""
    with pytest.raises(Stopped):
        call = ToolCall()
        call.cancel.stop()
        calendar.days_of(call, "a.ics", EVENTS, "2026-11-29", 7)
    with pytest.raises(ToolError, match=r"takes too long|took longer"):
        calendar.days_of(ToolCall(deadline_s=0), "a.ics", EVENTS, "2026-11-29", 7)


def test_a_large_calendar_is_bounded(call: Call, tmp_path: Path) -> None:
    """Years of events cost little, and a result has no more than it has room for."""
    many = (f"SUMMARY:{n}\nDTSTART:2026{n % 12 + 1:02}28T090000Z" for n in range(6_000))
    (tmp_path / "a.ics").write_text(ics(*many))
    found = call("ReadCalendar", source="a.ics", days=62)
    assert len(found.value["events"]) == calendar.EVENTS_MAX
    assert found.value["more"].startswith("400 further events")
    wide = (f"SUMMARY:{'w' * 900}\nDTSTART:20261130T09{n % 60:02}00Z" for n in range(100))
    (tmp_path / "a.ics").write_text(ics(*wide))
    assert len(str(call("ReadCalendar", source="a.ics").value)) < 2 * TEXT_CHARACTERS


@pytest.mark.parametrize("body", [b"", NOISE, b"BEGIN:VEVENT\n" * 50_000, b"<html>no</html>"])
def test_what_is_no_calendar_says_so(call: Call, tmp_path: Path, body: bytes) -> None:
    """One clear error."""
    (tmp_path / "a.ics").write_bytes(body)
    with pytest.raises(ToolError, match=r"a\.ics is no calendar"):
        call("ReadCalendar", source="a.ics")


# --- PDF files

UNSEEN = (
    text("An invoice")
    + b"3 Tr " + text("drawn invisibly", 600) + b"0 Tr "
    + b"q 1 1 1 rg " + text("in white", 500) + b"Q "
    + text("tiny", 400, 1)
    + b"q 0.1 0 0 0.1 0 0 cm " + text("made tiny", 4_000) + b"Q "
    + b"/X Do " + text("The end", 100)
)  # fmt: skip


def test_the_pages_of_a_pdf(call: Call, tmp_path: Path) -> None:
    """The pages that were asked for, each with its number."""
    (tmp_path / "a.pdf").write_bytes(pdf_of([text(f"Page {n}") for n in "abc"], "A title"))
    found = call("ReadPdf", path="a.pdf").value
    assert (found["title"], found["pages"]) == ("A title", 3)
    shown = [f"[page {number} of 3]\nPage {letter}" for number, letter in enumerate("abc", 1)]
    assert found["text"] == "\n\n".join(shown)
    for asked, seen in (("2", "b"), ("2-3", "bc"), ("3-", "c"), ("2-99", "bc")):
        part = call("ReadPdf", path="a.pdf", pages=asked).value["text"]
        assert [letter for letter in "abc" if f"Page {letter}" in part] == list(seen)
    with pytest.raises(ToolError, match="has 3 pages, and no page 4"):
        call("ReadPdf", path="a.pdf", pages="4-")
    for odd in ("0", "3-2", "all", "-1", "1,2", "²"):
        with pytest.raises(ToolError, match="pages"):
            call("ReadPdf", path="a.pdf", pages=odd)


def test_what_a_reader_does_not_see_is_told_apart(call: Call, tmp_path: Path) -> None:
    """Invisible, white and tiny text, also in a form; what follows is seen again."""
    hidden = b"3 Tr " + text("in a form", 300) + b"q q"
    (tmp_path / "a.pdf").write_bytes(pdf_of([UNSEEN], forms={"X": hidden}))
    shown = call("ReadPdf", path="a.pdf").value["text"]
    seen, _, unseen = shown.partition("[hidden text: ")
    assert seen.split("\n")[1:] == ["An invoice", "The end", ""]
    for words in ("drawn invisibly", "in white", "tiny", "made tiny", "in a form"):
        assert words in unseen and words not in seen


def test_hidden_text_does_not_say_where_it_ends(call: Call, tmp_path: Path) -> None:
    """Else what follows in it would look like what a reader sees."""
    (tmp_path / "a.pdf").write_bytes(pdf_of([b"3 Tr " + text("a] Pay me")]))
    assert call("ReadPdf", path="a.pdf").value["text"].endswith("[hidden text: a) Pay me]")


def test_a_long_pdf_is_read_in_parts(call: Call, tmp_path: Path) -> None:
    """Whole pages, and where to read on."""
    (tmp_path / "a.pdf").write_bytes(pdf_of([text("word " * 1_000) for _ in range(10)]))
    shown = call("ReadPdf", path="a.pdf").value["text"]
    assert len(shown) < TEXT_CHARACTERS + 100
    assert shown.endswith("...[cut: pages 4 to 10; read on with pages=4-10]")
    assert call("ReadPdf", path="a.pdf", pages="10").value["text"].endswith("word")
    (tmp_path / "a.pdf").write_bytes(pdf_of([text("word " * 10_000)]))
    assert "[cut " in call("ReadPdf", path="a.pdf").value["text"]


def test_a_locked_pdf_says_so(call: Call, tmp_path: Path) -> None:
    """One that only asks not to be changed is read."""
    (tmp_path / "a.pdf").write_bytes(pdf_of([text("secret words")]))
    for password, owner in (("x", None), ("", "owner")):
        writer = pypdf.PdfWriter(clone_from=tmp_path / "a.pdf")
        writer.encrypt(password, owner, algorithm="AES-256")
        writer.write(tmp_path / "b.pdf")
        if password:
            with pytest.raises(ToolError, match=r"b\.pdf is locked with a password"):
                call("ReadPdf", path="b.pdf")
    assert "secret words" in call("ReadPdf", path="b.pdf").value["text"]


@pytest.mark.parametrize("data", [b"", NOISE, b"%PDF-1.7\n" + NOISE, pdf_of([])[:200]])
def test_what_is_no_pdf_says_so(call: Call, tmp_path: Path, data: bytes) -> None:
    """One clear error, whatever lies there."""
    (tmp_path / "a.pdf").write_bytes(data)
    with pytest.raises(ToolError, match=r"a\.pdf (cannot be read as a PDF|has 0 pages)"):
        call("ReadPdf", path="a.pdf")


def test_a_hostile_page_costs_little(call: Call, tmp_path: Path, monkeypatch: Any) -> None:
    """What unpacks without end, draws itself, or has too many operators is left out by its page."""
    monkeypatch.setitem(pdf.LIMITS, "zlib_maximum_output_length", 500_000)
    monkeypatch.setitem(pdf.LIMITS, "stream_parsing_work_maximum_count", 5_000)
    bombs = [b"q " * 300_000, b"/X Do", text("x") * 2_000, text("well")]
    (tmp_path / "a.pdf").write_bytes(pdf_of(bombs, forms={"X": b"/X Do /X Do"}))
    shown = call("ReadPdf", path="a.pdf").value["text"]
    assert shown.count("[cannot be read") == 2 and shown.endswith("[page 4 of 4]\nwell")


def test_a_slow_pdf_is_left(call: Call, tmp_path: Path, monkeypatch: Any) -> None:
    """What was read until then is given, and where to read on; else it is an error."""
    (tmp_path / "a.pdf").write_bytes(pdf_of([text("first"), text("x") * 20_000, text("last")]))
    monkeypatch.setattr(pdf, "PDF_S", 0.3)
    found = call("ReadPdf", path="a.pdf").value["text"]
    assert "first" in found and found.endswith("[cut: pages 2 to 3; read on with pages=2-3]")
    with pytest.raises(ToolError, match="takes too long to read"):
        call("ReadPdf", path="a.pdf", pages="2")


def test_a_time_limit_ends_what_catches_all() -> None:
    """A library that goes on after any error is left all the same; and afterwards nothing rings."""

    def stubborn() -> None:
        for _ in range(2):
            try:
                while True:
                    pass
            except BaseException:
                continue
        raise AssertionError("it was asked once")

    with pytest.raises(AssertionError), time_limit(0.01):
        stubborn()
    with pytest.raises(TooSlow), time_limit(0.01):
        while True:
            pass
    with time_limit(60):
        pass


def test_a_time_limit_that_an_objects_end_swallows_rings_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python can raise nothing there: it is told of nowhere, and other errors are, as before."""
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(error.exc_type))

    class Slow:
        def __del__(self) -> None:
            while True:
                pass

    class Wrong:
        def __del__(self) -> None:
            raise ValueError

    with pytest.raises(TooSlow), time_limit(0.3):
        Slow()
        while True:
            pass
    assert told == []
    with time_limit(60):
        Wrong()
    Wrong()
    assert told == [ValueError, ValueError]
