"""Events in words."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agentd.events import Event
from agentd.states import Priority
from agentd.views.event_line import LINE_MAX, WORDS, event_line

AGENT = {"agent": "hello", "reason": "it is too slow"}


def line(kind: str, payload: Any) -> str:
    """Return the words of an event of this type."""
    fate = (None, Priority.EVENT, None, 0, None)
    return event_line(Event(1, "hello", kind, payload, datetime.now(UTC), *fate))


@pytest.mark.parametrize(
    ("kind", "payload", "words"),
    [
        (
            "agent.started",
            {**AGENT, "version": "0123456789", "pid": 7},
            "hello runs, version 01234567",
        ),
        ("agent.crashed", AGENT, "hello crashed: it is too slow"),
        ("agent.parked", AGENT, "hello rests: it is too slow"),
        ("agent.refused", AGENT, "hello cannot be used: it is too slow"),
        ("agent.expired", {**AGENT, "events": 2}, "2 events for hello given up: it is too slow"),
        ("agent.trigger", {}, "run now"),
        ("agent.trigger", {"text": "and why"}, "text: and why"),
        ("agentd.pause", {"agent": "hello"}, "pause hello"),
        ("agentd.resume", {"agent": "hello"}, "resume hello"),
        ("agentd.restart", {"agent": "hello"}, "restart hello"),
        ("agentd.reload", {}, "reload all"),
        ("agentd.token", {}, "the model server's token is another one"),
        ("agentd.ui", {}, "open the page"),
        ("schedule.fired", {"schedule": "every 1h", "due": "x", "late_s": 0.2}, "every 1h"),
        (
            "schedule.fired",
            {"schedule": "every 1h", "due": "x", "late_s": 70},
            "every 1h, 70 s late",
        ),
        (
            "file.changed",
            {"path": "/a/b.pdf", "name": "b.pdf", "size": 1234, "folder": "/a"},
            "b.pdf, 1,234 bytes, in /a",
        ),
        (
            "events.batch",
            {"events": [{"type": "a.b"}, {"type": "c.d"}, {"type": "a.b"}]},
            "3 events: 2 a.b, 1 c.d",
        ),
        ("later.due", {"what": "look again", "due": "x"}, "look again"),
        (
            "person.asked",
            {"kind": "approval", "tool": "Move", "args": {"to": "/b"}, "question": "?"},
            "wants to do Move: to: /b",
        ),
        ("question.asked", {"question": "When is it due?", "before": "x"}, "When is it due?"),
        ("person.asked", {"kind": "question", "question": "Which one?"}, "asks: Which one?"),
        ("person.answer", {"session": 7, "answer": "yes"}, "to session 7: yes"),
        ("person.answer", {"session": 7, "answer": "no", "why": "late"}, "to session 7: no, late"),
        ("agentd.deliver", {"ways": ["ntfy"]}, "a test by ntfy"),
        (
            "repo.changed",
            {"total_files": 1, "uncommitted": False, "head": "0123456789abcdef"},
            "1 file in 0123456789",
        ),
        ("note.tasks", {"title": "Three\ntasks", "rows": []}, "Three tasks"),
        (
            "note.added",
            {"text": "a", "n": 3, "ok": True, "tags": ["x", "y"], "rows": [{}], "in": {"a": 1}},
            "text: a, n: 3, ok: yes, tags: x, y, rows: 1 item, in: 1 field",
        ),
        ("note.added", {"none": None, "empty": "", "text": "a"}, "text: a"),
        ("note.added", {}, ""),
    ],
)
def test_words(kind: str, payload: dict[str, Any], words: str) -> None:
    """What people want to know of it; what nobody here knows is told field by field."""
    assert line(kind, payload) == words


@pytest.mark.parametrize("kind", [*WORDS, "note.added"])
@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"agent": {}, "reason": [], "events": "no", "version": 3, "late_s": "x", "size": None},
        {"events": [3], "kind": 3, "args": [], "ways": 3, "total_files": [], "head": 3},
        {"late_s": 10**400, "schedule": "x", "size": 10**30, "name": "n", "folder": [[[]]]},
        {"title": "\x1b[2J\u202e" * 900, "what": "\x1b[2J\n" * 900, "agent": "a" * 9000},
        {f"name {n}": "x" * 200 for n in range(1000)},
    ],
)
def test_any_payload_is_one_bounded_line(kind: str, payload: dict[str, Any]) -> None:
    """Payloads are others' text, or by hand: no error, no second line, nothing for a terminal."""
    found = line(kind, payload)
    assert found.isprintable() and len(found) <= LINE_MAX
