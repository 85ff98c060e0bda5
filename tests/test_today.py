"""Today and the agents' pages: what stands there, and which command each click is."""

import json
import os
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from agentd.approval.signature import person_key
from agentd.bus import Bus
from agentd.cli import main
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.states import DeadReason
from agentd.ui.markdown_text import markdown
from agentd.ui.shown_values import amount, coded, when
from agentd.views.open_questions import open_questions
from agentd.views.overview import overview_of
from agentd.views.result_list import results
from tests.messengers import publish, result
from tests.page_world import QUIET, Forms, ReadHere, asking, browser, commands, running

SORTER = """agent = "task"
description = "Sorts the mail."
done = "Each mail has a label."
subscribe = ["mail.*"]
[params]
instructions = "Label the mail."
publish = "mail.sorted"
[result]
subject = { from = "event.subject" }
[result.kind]
labels = ["work", "home"]
[permissions]
read = ["~/Mail"]
net = ["example.org"]
"""
SORTED = {"title": "1 mail", "subject": "Rent", "kind": "work", "unsure": ["kind"]}
HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(1)>\u202e\x1b[2J{{ 7*7 }}"


class Tags(HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    found = discover()
    found.create()
    found.agents_d.mkdir(parents=True, exist_ok=True)
    Bus(found.database).close()
    return found


@pytest.fixture
def reading(paths: Paths) -> ReadHere:
    return ReadHere(paths)


@pytest.fixture
def page(reading: ReadHere) -> TestClient:
    return browser(reading)


def sorter(paths: Paths) -> None:
    (paths.agents_d / "sorter.toml").write_text(SORTER)
    publish(paths.database, NewEvent("mail.sorted", SORTED), agent="sorter")


def click(page: TestClient, at: str, number: int, **fields: str) -> None:
    """Send a page's form as a browser without JavaScript does."""
    form = {k: v for k, v in Forms(page.get(at).text).found[number].items() if "=" not in k}
    answer = page.post("/act", data={**form, **fields})
    assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, at.split("?")[0])


# --- today


def test_results_stand_newest_first_with_their_markdown(paths: Paths, page: TestClient) -> None:
    """With who came to them and when; older ones are a link away, and none is lost or doubled."""
    publish(paths.database, *(result(f"result {n}.", "so **many**") for n in range(45)))
    first = page.get("/").text
    seen: list[str] = []
    text = first
    for _ in range(3):
        seen += re.findall(r"result (\d+)\.</a>", text)
        older = re.search(r'rel="next" href="([^"]*)"', text)
        text = page.get(older[1].replace("&amp;", "&")).text if older else ""
    assert seen == [str(n) for n in reversed(range(45))]
    assert "so <strong>many</strong>" in first and 'href="/agents/mail_triage"' in first
    assert 'href="/results/45"' in first and page.get("/results/45").status_code == 200
    assert page.get("/results/46").status_code == 404


def test_results_are_found_by_words_and_agent(paths: Paths, page: TestClient) -> None:
    """Both together, and the same as JSON."""
    publish(
        paths.database, result("rent is due", "on Friday"), NewEvent("rent.read", {"n": "rent"})
    )
    publish(paths.database, result("rent was paid"), agent="bank")

    def titles(query: str) -> list[str]:
        shown = re.findall(r'href="/results/\d+">([^<]*)</a></h3>', page.get(f"/?{query}").text)
        assert [one["title"] for one in page.get(f"/api/results?{query}").json()] == shown
        return shown

    assert titles("words=rent") == ["rent was paid", "rent is due"]
    assert titles("words=rent+frid") == ["rent is due"]
    assert titles("agent=bank") == titles("agent=bank&words=RENT") == ["rent was paid"]
    assert titles("words=nothing") == []
    assert "No such results" in page.get("/?words=nothing").text


def test_results_of_a_time(paths: Paths) -> None:
    """From when, and until before when; also among found ones. A blank title is no result."""
    publish(paths.database, result("old rent"), ago=timedelta(days=3))
    publish(paths.database, NewEvent("x.y", {"title": "  "}), result("new rent"))
    bus = Bus(paths.database)
    day_ago = bus.clock.now() - timedelta(days=1)
    for words in ("", "rent"):
        assert [one["title"] for one in results(bus, since=day_ago, words=words)] == ["new rent"]
        assert [one["title"] for one in results(bus, until=day_ago, words=words)] == ["old rent"]
    assert [one["id"] for one in results(bus, limit=2)] == [3, 1]
    bus.close()


def test_a_result_says_what_it_answers(paths: Paths, page: TestClient) -> None:
    """A link to the event that led to it."""
    bus = Bus(paths.database)
    asked = bus.publish("person", NewEvent("note.added", {}))
    assert asked is not None
    bus.publish("hello", result("done"), cause=bus.events.get(asked))
    bus.close()
    assert f'<a href="/events/{asked}">for note.added of person</a>' in page.get("/").text


def test_what_others_wrote_is_text(paths: Paths, page: TestClient) -> None:
    """In each place where it can stand: no markup, no address of a script, nothing invisible."""
    for kind in ("approval", "question"):
        args = {HOSTILE: HOSTILE} if kind == "approval" else {"question": HOSTILE}
        asking(paths.database, "hello", args, approval=kind == "approval")
    bus = Bus(paths.database)
    cause = bus.events.get(1)
    assert cause is not None
    bus.publish(HOSTILE, result(HOSTILE, f"{HOSTILE}\n\n[a](javascript:b)"), cause=cause)
    bus.dead.add("hello", DeadReason.FAILED, HOSTILE, cause)
    bus.close()
    (paths.agents_d / "hello.toml").write_text(f"# {HOSTILE}")
    said = {**QUIET, "agents": [running("hello", reason=HOSTILE, state="BACKOFF")]}
    page = browser(ReadHere(paths, said))
    odd = "%3Cscript%3E"
    for at in ("/", f"/?agent={odd}", "/agents", "/agents/hello", "/results/5", f"/none{odd}"):
        text = page.get(at).text
        tags = Tags(text).found
        assert not {tag for tag, _ in tags} & {"img", "style", "iframe", "b"}, at
        names = {name for _, given in tags for name in given}
        assert not [name for name in names if name.startswith("on") or name == "style"], at
        assert all(given["href"][0] in "/#" for tag, given in tags if tag == "a"), at
        assert [given["src"] for tag, given in tags if tag == "script"] == ["/static/page.js"], at
        assert "\u202e" not in text and "\x1b" not in text
    assert all(word in page.get("/").text for word in ("&lt;script&gt;", "{{ 7*7 }}"))


# --- questions


def test_an_approval_shows_its_arguments_exactly(paths: Paths, page: TestClient) -> None:
    """A text of several lines cannot look like another argument."""
    asking(paths.database, "hello", {"path": "/a\u202e/b", "text": 'one\n\n  path: "/x"\\'})
    text = page.get("/").text
    lines = re.findall(r'<code class="line">(.*?)</code>', text)
    assert lines == ["&#34;/a\\u202e/b&#34;", "one", "", "  path: &#34;/x&#34;\\\\"]
    assert "hello wants to do WriteFile" in text and "1 waits for you" in text


def test_answers_name_what_was_shown(paths: Paths, reading: ReadHere, page: TestClient) -> None:
    """Yes, no with a reason, and words to a question: each with the digest of what stood there."""
    asking(paths.database, "hello", {"path": "a"})
    asking(paths.database, "other", {"question": "milk or tea?"}, approval=False)
    first, second = page.get("/api/questions").json()
    click(page, "/", 0)
    click(page, "/?words=x", 1, why="not -there")
    click(page, "/", 2, words="tea, please")
    head = ["answer", "--asked"]
    assert commands(reading) == [
        [*head, first["asked"], "--", "1", "yes"],
        [*head, first["asked"], "--", "1", "no", "not", "-there"],
        [*head, second["asked"], "--", "2", "tea,", "please"],
    ]


def test_an_answer_to_another_question_is_none(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it is no yes: the session may ask something new by now."""
    asking(paths.database, "hello", {"question": "milk or tea?"}, approval=False)
    assert main(["answer", "--asked", "0" * 64, "--", "1", "tea"]) == 1
    assert "this was another question" in capsys.readouterr().err
    bus = Bus(paths.database)
    (shown,) = open_questions(bus)
    assert shown["answer"] is None
    assert main(["answer", "--asked", shown["asked"], "--", "1", "tea"]) == 0
    (shown,) = open_questions(bus)
    assert shown["answer"] == "tea"
    bus.close()


def test_an_answered_question_asks_no_more(paths: Paths, page: TestClient) -> None:
    """It says what was answered. Only who holds the key tells a forged answer apart."""
    session = asking(paths.database, "hello", {"path": "a"})
    bus = Bus(paths.database)
    (shown,) = open_questions(bus)
    forged = {"session": session, "asked": shown["asked"], "answer": "yes", "mac": "00.00"}
    bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload, target) VALUES (?, ?, ?, ?)",
        ("person", "person.answer", json.dumps(forged), "hello"),
    )
    assert [one["answer"] for one in open_questions(bus, person_key(paths))] == [None]
    bus.close()
    text = page.get("/").text
    assert "Answered: yes. hello has yet to read that." in text and Forms(text).found == []


# --- corrections


def test_a_wrong_label_is_corrected_by_a_click(
    paths: Paths, reading: ReadHere, page: TestClient
) -> None:
    """The command gets field and value, and of a table the row."""
    sorter(paths)
    rows = {"title": "2 mails", "rows": [SORTED, {**SORTED, "kind": "home"}]}
    publish(paths.database, NewEvent("mail.sorted", rows), agent="sorter")
    click(page, "/results/1", 0, value="home")
    click(page, "/results/2", 1, value="work")
    assert commands(reading) == [
        ["correct", "--", "1", "kind", "home"],
        ["correct", "--row", "2", "--", "2", "kind", "work"],
    ]
    text = page.get("/results/1").text
    assert "kind, unsure" in text
    (form,) = Forms(text).found
    assert (form["value=work"], form["value=home"]) == ("true", "false")


def test_what_was_corrected_is_shown(paths: Paths, page: TestClient) -> None:
    """As an example's file has it; a file that is wrong is `agentd eval`'s to tell."""
    sorter(paths)
    file = paths.config / "eval" / "sorter.toml"
    file.parent.mkdir()
    for text, chosen in (
        ('[[case]]\nname = "event 1: kind"\nresult = { kind = "home" }\n', "home"),
        ("[[case]]\nname = 1\nresult = 2\n", "work"),
        ("[[[", "work"),
    ):
        file.write_text(text)
        (form,) = Forms(page.get("/").text).found
        assert form[f"value={chosen}"] == "true"


# --- agents


def test_agents_stand_with_what_they_wait_for(paths: Paths) -> None:
    """State, last result, next run; each leads to its own page."""
    publish(paths.database, result("3 new mails"))
    asking(paths.database, "notes", {"path": "a"})
    agents = [
        running("mail_triage", beat={"next": "2030-01-01T09:00:00.000Z"}),
        running("notes"),
        running("feed", state="PAUSED", paused=True),
    ]
    takes = {"at": 1.0, "of": {"7": {"memory_bytes": 48_000_000}}}
    reading = ReadHere(paths, {**QUIET, "agents": agents, "processes": takes})
    page = browser(reading)
    text = page.get("/agents").text
    rows = dict(re.findall(r'<tr>\n<td><a href="/agents/(\w+)">(.*?)</tr>', text, re.S))
    assert sorted(rows) == ["feed", "mail_triage", "notes"]
    assert all(word in rows["mail_triage"] for word in ("running", "3 new mails", "2030", "48 MB"))
    assert "asks you" in rows["notes"] and "paused" in rows["feed"]
    assert len(page.get("/api/overview").json()["agents"]) == 3
    assert {one["use"] for one in reading.asked} == {True}, "CPU is told between two answers"


def test_an_agents_page_says_all_of_it(paths: Paths) -> None:
    """What wakes it, what it came to, what failed and was missed, what it may do, its file."""
    sorter(paths)
    bus = Bus(paths.database)
    event = bus.events.get(1)
    assert event is not None
    bus.dead.add("sorter", DeadReason.FAILED, "HTTP 401 from example.org", event)
    bus.close()
    log = paths.log("sorter")
    log.parent.mkdir(parents=True)
    skipped = {"event": "schedule.skipped", "schedule": "every 15m", "due": "2026-01-01T00:00:00Z"}
    log.write_text(f"half a line\n{json.dumps({**skipped, 'ts': '2026-01-01T09:00:00.000Z'})}\n")
    triggers = {
        "schedule": "every 15m",
        "missed": "skip",
        "at": [],
        "watch": [],
        "where": {"a": "b"},
    }
    said = {**QUIET, "agents": [running("sorter", triggers={**triggers, "batch": None})]}
    page = browser(ReadHere(paths, said))
    text = page.get("/agents/sorter").text
    for words in (
        *("Sorts the mail.", "1 mail", "HTTP 401 from example.org", "<code>a = b</code>"),
        *("every 15m, due", 'left out by <code>missed = "skip"</code>'),
        *("It reads <code>~/Mail</code>", "It fetches from <code>example.org</code>"),
        *("It writes none of your files.", "It runs no programs.", "The system itself keeps"),
        *(str(paths.agents_d / "sorter.toml"), "[result.kind]"),
    ):
        assert words in text, words
    assert page.get("/api/agents/sorter").json()["module"] == "task"
    assert page.get("/agents/nobody").status_code == 404


def test_an_agents_page_looks_nothing_up_for_others(paths: Paths) -> None:
    """Of 200 agents it took four times as long: `status` is for all, a page of one for one."""
    agents = [running("sorter"), {"name": "other"}]  # of which nothing could be told
    reading = ReadHere(paths, {**QUIET, "agents": agents})
    page = browser(reading)
    assert page.get("/api/agents/sorter").json()["waits_for"] is None
    whole = overview_of({**QUIET, "agents": agents[:1]}, paths)["agents"]
    assert overview_of(reading.said, paths, only="sorter")["agents"] == whole


def test_a_pipe_in_the_place_of_a_log_holds_no_page(paths: Paths) -> None:
    """An agent writes in that folder: what it puts there is neither waited for nor followed."""
    sorter(paths)
    log = paths.log("sorter")
    log.parent.mkdir(parents=True)
    os.mkfifo(log)
    page = browser(ReadHere(paths, {**QUIET, "agents": [running("sorter")]}))
    assert page.get("/api/agents/sorter").json()["skipped"] == []


def test_buttons_of_an_agent_are_commands(paths: Paths) -> None:
    """By its state: what runs is paused, what is paused goes on, what is off is enabled."""
    sorter(paths)
    bus = Bus(paths.database)
    event = bus.events.get(1)
    assert event is not None
    bus.dead.add("sorter", DeadReason.FAILED, "no", event)
    bus.close()
    done = {}
    for name, agent in (
        ("runs", running("sorter")),
        ("paused", running("sorter", state="PAUSED", paused=True)),
        ("off", running("sorter", state="STOPPED", enabled=False)),
    ):
        reading = ReadHere(paths, {**QUIET, "agents": [agent]})
        page = browser(reading)
        for number in range(len(Forms(page.get("/agents/sorter").text).found)):
            click(page, "/agents/sorter", number)
        done[name] = [" ".join(words) for words in commands(reading)]
    dead = ["dead retry -- 1", "dead drop -- 1"]
    assert done == {
        "runs": ["trigger -- sorter", "pause -- sorter", "disable -- sorter", *dead],
        "paused": ["trigger -- sorter", "resume -- sorter", "disable -- sorter", *dead],
        "off": ["enable -- sorter", *dead],
    }


def test_a_file_that_is_wrong_says_so(paths: Paths) -> None:
    """With its text, so that a person sees what is meant."""
    (paths.agents_d / "hello.toml").write_text('agent = "task"\ndoen = "x"\n')
    page = browser(ReadHere(paths, {**QUIET, "agents": [running("hello", state="INVALID")]}))
    text = page.get("/agents/hello").text
    assert "doen" in text and "unknown key" in text


# --- what templates show


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("**a** <b>", "<p><strong>a</strong> &lt;b&gt;</p>\n"),
        ("[a](https://x.org)", '<p><a href="https://x.org" rel="noreferrer noopener">a</a></p>\n'),
        ("[a](javascript:b)", "<p>[a](javascript:b)</p>\n"),
        ("[a](data:text/html,b)", "<p>[a](data:text/html,b)</p>\n"),
        ("[a](/act)", "<p>[a](/act)</p>\n"),
        ("# a", "<h4>a</h4>\n"),
        ("a\u202eb\x1b", "<p>a\\u202eb\\x1b</p>\n"),
        ("a\r\nb\tc", "<p>a\nb   c</p>\n"),
    ],
)
def test_markdown_is_safe(text: str, shown: str) -> None:
    """No HTML, no images, links to the web alone; what cannot be seen is written out."""
    assert markdown(text) == shown
    assert "<img" not in markdown("![a](https://x.org/a.png)")


def test_values_as_people_read_them() -> None:
    """Amounts in their unit, commands as code, and a time that is none as it stands."""
    assert [amount(n) for n in (None, 0, 48_000_000, 2.5e13)] == ["", "0 B", "48 MB", "25.0 TB"]
    assert coded("try `a <b>` now") == "try <code>a &lt;b&gt;</code> now"
    assert when("sometime\x1b") == "sometime\\x1b"
    assert 'datetime="2020-' in when("2020-06-01T12:00:00.000Z")
