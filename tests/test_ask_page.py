"""The page's question box: a question is asked, seen at work, answered, and asked on."""

import re

from agentd.commands.ask import ask
from agentd.sessions.steps import StepKind
from tests.page_client import PageClient, open_page
from tests.supervised import Daemon
from tests.test_ask import EVIL, Worker, running, worker

__all__ = ["running", "worker"]  # its fixtures
MARKUP = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


def section(page: PageClient, place: str, name: str) -> str:
    found = re.search(f'<section id="{name}".*?</section>', page.get(place).text, re.S)
    assert found is not None
    return found[0]


def test_a_question_is_asked_answered_and_asked_on(running: Daemon, worker: Worker) -> None:
    """Each state by the same address, also without JavaScript; what others wrote is text."""
    with open_page(running) as page:
        box = page.get("/ask").text
        assert "<option selected>assistant</option>" in box and "<option>other</option>" in box
        assert "resting" not in box  # it is paused
        told = page.act(do="ask", agent="assistant", question=f"Where is {MARKUP}?")
        assert told["ok"], told
        place, number = told["go"], told["document"]["id"]
        assert place == f"/ask/{number}"
        waits = section(page, place, "thread")
        assert "has yet to begin" in waits and 'data-every="1"' in waits
        assert "<script>" not in waits and "&lt;script&gt;" in waits
        assert "<textarea" not in section(page, place, "next")

        _, session = worker.begin()
        worker.record(session, StepKind.DECISION, "FindNotes", {"path": "~/notes", "words": EVIL})
        assert re.search("<li>FindNotes: ~/notes, .* …</li>", section(page, place, "thread"))
        worker.record(session, StepKind.RESULT, "FindNotes", {"found": [{}], "files": 3})
        assert "-&gt; 1 found</li>" in section(page, place, "thread")
        worker.answer(session, f"At **Becker's** [x](javascript:alert(1)) {MARKUP} {EVIL}")
        over = section(page, place, "thread")
        assert "<strong>Becker's</strong>" in over and "data-every" not in over
        assert "javascript:" not in re.findall("href=[^>]*", over)
        assert "<img" not in over and "\x1b" not in over and "\u202e" not in over

        headers = {"Origin": page.origin}
        form = {"token": page.token(), "do": "ask", "thread": str(number), "question": "And then?"}
        answer = page.client.post("/act", data=form, headers=headers, follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"] != place
        event, session = worker.begin()
        assert event.payload["before"]["question"] == f"Where is {MARKUP}?"
        worker.answer(session)
        both = section(page, answer.headers["location"], "thread")
        assert both.count("<article") == 2 and "And then?" in both
        assert "And then?" in section(page, "/ask", "asked")
        listed = page.get("/api/ask").json()
        assert [one["question"] for one in listed[:2]] == ["And then?", f"Where is {MARKUP}?"]


def test_what_stands_in_the_way_is_said(running: Daemon, worker: Worker) -> None:
    """As the command says it: nothing is sent."""
    with open_page(running) as page:
        for agent, question, what in (
            ("resting", "x?", "resting is PAUSED"),
            ("assistant", "  ", "the question is empty"),
            ("assistant", "--thread=1", None),
        ):
            told = page.act(do="ask", agent=agent, question=question)
            assert told["ok"] == (what is None), told
            if what is None:
                worker.answer(worker.begin()[1])
            else:
                assert what in told["message"] and told["go"] is None
        assert page.get("/ask/999999").status_code == 404
        assert page.get("/ask/x").status_code == 404
        assert page.get("/api/ask/999999").status_code == 404


def test_a_question_that_asks_back_leads_to_the_answer(running: Daemon, worker: Worker) -> None:
    """It stands on Today, with its box."""
    number = ask(worker.bus, running.paths, None, "x?")
    _, session = worker.begin()
    worker.sessions.closing.park(session, f"which one? {MARKUP}")
    with open_page(running) as page:
        shown = section(page, f"/ask/{number}", "thread")
        assert f'href="/#asks-{session.id}"' in shown and "<script>" not in shown
