"""What a question's words find, in events and in notes: any of them, the rarest first."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus
from agentd.bus.question_words import QuestionWords
from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.events import NewEvent
from agentd.testing import ManualClock
from agentd.tools import find_notes, recall
from agentd.tools.find_notes import passages_in
from agentd.tools.session_view import SessionView
from agentd.tools.toolbox import Toolbox

NOTE = """# Garden
- paint the fence
  in green
- the mower is at Becker's

The roses need
cutting back in March.
```
# no heading
```
## Money ##
Rent: 1,140
"""


@pytest.mark.parametrize(
    ("question", "stems"),
    [
        ("When is the dentist's appointment?", ("appointme", "denti")),
        ("Wo ist die Müllabfuhr?", ("die", "ist", "mullabfu", "wo")),
        ("invoices, invoicing", ("invoic",)),  # one begins with the other
        ("2026 or 27, TP5570?", ("2026", "27", "tp5570")),
        ("what is it", ("is", "it", "what")),  # there is nothing else
        ("?!", ()),
    ],
)
def test_a_question_is_read_as_beginnings_of_its_telling_words(
    question: str, stems: tuple[str, ...]
) -> None:
    """Without endings and accents; common words count where there are no others."""
    assert QuestionWords.of(question).stems == stems


def test_words_are_found_at_the_beginning_of_words() -> None:
    """In any case and without accents; the middle of a word is none."""
    words = QuestionWords.of("Is there a Müller in the garages?")
    assert words.within("MULLER's Garage") == {"mull", "garag"}
    assert words.within("the Großmüller; a bigarage") == frozenset()
    assert QuestionWords.of("").within("anything") == frozenset()


def test_a_rare_word_is_worth_more() -> None:
    """All together are worth 1; what stands nowhere counts as the rarest."""
    weights = QuestionWords.of("garage invoice unicorn").weights({"gara": 50, "invoi": 2}, 100)
    assert weights["unico"] > weights["invoi"] > weights["gara"] > 0
    assert sum(weights.values()) == pytest.approx(1)


# --- FindNotes


def notes(folder: Path, words: str) -> dict[str, Any]:
    tools = Toolbox(Permissions(read=(str(folder),)))
    return dict(tools.call("FindNotes", {"path": str(folder), "words": words}).value)


def test_a_note_is_read_by_paragraphs_and_list_items() -> None:
    """Each with its first line and heading; what stands in a fence makes no heading."""
    assert [*passages_in(NOTE)] == [
        (2, "Garden", "- paint the fence in green"),
        (4, "Garden", "- the mower is at Becker's"),
        (6, "Garden", "The roses need cutting back in March."),
        (9, "Garden", "# no heading"),
        (12, "Money", "Rent: 1,140"),
    ]


def test_the_best_passages_of_notes_come_first(tmp_path: Path) -> None:
    """Their file's name and heading count as well; a list's mark is taken off."""
    (tmp_path / "home.md").write_text(NOTE)
    (tmp_path / "code.py").write_text("mower = 1")
    found = notes(tmp_path, "Where in the garden is the mower?")["found"]
    assert found[0] | {"share": 1} == {
        "file": "home.md",
        "line": 4,
        "heading": "Garden",
        "text": "the mower is at Becker's",
        "share": 1,
    }
    assert found[0]["share"] == 1 and all(0 < one["share"] < 1 for one in found[1:])
    assert notes(tmp_path, "piano")["found"] == []
    (tmp_path / "many.md").write_text("- a mower\n" * 100)
    many = notes(tmp_path, "mower")
    assert len(many["found"]) == find_notes.FOUND_MAX and many["more"] == 91


def test_notes_are_read_within_the_permissions(tmp_path: Path) -> None:
    """As by every tool that reads; a binary file is counted, and a long line cut."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.md").write_bytes(b"mower\0\xff")
    (tmp_path / "in" / "b.md").write_text(f"mower \x1b[31m{'x' * 5_000}")
    tools = Toolbox(Permissions(read=(str(tmp_path / "in"),)))
    with pytest.raises(PermissionRefused):
        tools.call("FindNotes", {"path": str(tmp_path), "words": "mower"})
    value = tools.call("FindNotes", {"path": str(tmp_path / "in"), "words": "mower"}).value
    (one,) = value["found"]
    assert value["skipped"] == 1 and len(one["text"]) == find_notes.PASSAGE_CHARACTERS
    assert "\x1b" not in one["text"]


# --- FindEvents


@pytest.fixture
def bus(tmp_path: Path) -> Bus:
    return Bus(tmp_path / "agentd.db", clock=ManualClock())


def finder(bus: Bus) -> Toolbox:
    tools = Toolbox(Permissions())
    tools.session = SessionView(passages=partial(bus.search.passages, "assistant"))
    return tools


def events(bus: Bus, words: str, types: tuple[str, ...] = ("*",)) -> list[dict[str, Any]]:
    result = finder(bus).call("FindEvents", {"words": words, "types": list(types)})
    assert not result.trusted
    return [*result.value["found"]]


def publish(bus: Bus, agent: str, kind: str, target: str | None = None, **payload: Any) -> int:
    number = bus.publish(agent, NewEvent(kind, payload, target=target), system=True)
    assert number is not None
    return number


def test_any_word_finds_and_the_best_row_is_shown(bus: Bus) -> None:
    """A result's title counts for its rows; the newer one goes before its equal."""
    rows = [{"subject": "Your parcel"}, {"subject": "Invoice of Miller's Garage", "n": 3}]
    first = publish(bus, "mail", "mail.sorted", title="2 new mails", rows=rows)
    second = publish(bus, "mail", "mail.sorted", title="A garage is for rent", text="a\nb")
    third = publish(bus, "mail", "mail.sorted", title="A garage is for rent", text="a\nb")
    found = events(bus, "Which invoices came from a garage?")
    assert [one["id"] for one in found] == [first, third, second]
    assert found[0]["text"] == "Invoice of Miller's Garage"
    assert (found[0]["agent"], found[0]["title"], found[0]["rows"]) == ("mail", "2 new mails", 2)
    assert found[1]["text"] == "A garage is for rent"
    assert found[0]["share"] > found[1]["share"] > 0


def test_only_what_others_published_for_all_is_found(bus: Bus) -> None:
    """No questions and answers of its own, nothing for somebody else, nothing of the system."""
    publish(bus, "assistant", "question.answered", title="Where is the mower?")
    publish(bus, "person", "question.asked", "assistant", question="Where is the mower?")
    publish(bus, "person", "question.asked", "other", question="Where is the mower?")
    publish(bus, "notes", "notes.told", "other", title="the mower")
    publish(bus, "agentd", "agent.crashed", reason="the mower")
    note = publish(bus, "person", "note.added", text="the mower is at Becker's")
    assert [one["id"] for one in events(bus, "mower")] == [note]
    assert "title" not in events(bus, "mower")[0]
    assert events(bus, "mower", ("mail.*", "note.changed")) == []
    assert [one["id"] for one in events(bus, "mower", ("mail.*", "note.*"))] == [note]


def test_a_question_may_be_anything(bus: Bus) -> None:
    """Its words are words: no operator of the index, no pattern."""
    publish(bus, "notes", "notes.told", title='a OR "quoted" (mower)*')
    for words in ('"', "NOT NEAR(", "mow*r", "a AND b)", "%", "\x00", "x" * 2_000, "ist" * 500):
        events(bus, words)
    for n in range(30):
        publish(bus, "notes", "notes.told", title=f"mower {n}")
    assert len(events(bus, "mower")) == recall.EVENTS


def test_what_is_not_of_the_worker_finds_nothing() -> None:
    """As in a check."""
    with pytest.raises(ToolError, match="no events here"):
        Toolbox(Permissions()).call("FindEvents", {"words": "x", "types": ["*"]})
    with pytest.raises(ToolError, match="types"):
        Toolbox(Permissions()).call("FindEvents", {"words": "x", "types": ["mail*"]})
