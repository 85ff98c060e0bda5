"""Labelled texts: read strictly, counted exactly, the shipped sets held apart from development."""

from pathlib import Path

import pytest

from agentd.errors import ConfigError
from agentd.evaluate.cases import shipped_cases
from agentd.evaluate.labelled import LABELLED, load_labelled
from agentd.evaluate.tally import Tally, by_majority, by_rule

LABELLED_NOTES = """
[agent]
agent = "task"
done = "The note has its label."
[agent.params]
instructions = "Label the note."
[agent.params.labels]
task = "Something to do:"
idea = "An idea:"

[labelled]
event = "note.written"
field = "note"
decision = "Done.label"
cases = { task = ["Buy milk", "Call Ann", "Pay rent"], idea = ["A game of rivers"] }
development = { task = ["Sweep"], idea = ["A book of doors"] }
rule = { task = ["buy", "call"], idea = ["game"] }
"""


def read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.toml"
    path.write_text(text)
    load_labelled(path)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('event = "note.written"', 'event = "note"', "labelled.event: .* is no event type"),
        ('"Done.label"', '"label"', "labelled.decision"),
        ("rule = {", "rules = {", 'labelled.rules: unknown key; did you mean "rule"'),
        ('["A game of rivers"]', "[]", "labelled.cases.idea"),
        ('"Buy milk"', '" "', "labelled.cases.task.0: must not be blank"),
        ("cases = {", "cases = { task = ['x'] } #", "labelled.cases"),
        ('idea = ["game"]', 'ideas = ["game"]', "rule has not the labels of cases: task, idea"),
        ('"Sweep"', '"Call Ann"', "a text stands here 2 times: 'Call Ann'"),
        ("[labelled]", "[labeled]", "labelled: is missing"),
    ],
)
def test_a_wrong_set_is_one_clear_error(tmp_path: Path, old: str, new: str, error: str) -> None:
    """The key and the file; a text of the development may not be held out as well."""
    read(tmp_path, LABELLED_NOTES)
    with pytest.raises(ConfigError, match=error) as raised:
        read(tmp_path, LABELLED_NOTES.replace(old, new))
    assert str(tmp_path / "notes.toml") in str(raised.value)


def test_the_shipped_sets_are_what_the_figures_need() -> None:
    """Several kinds of text, 200 held out, as many for each label, and some for development."""
    sets = {name: load_labelled(path).labelled for name, path in shipped_cases(LABELLED).items()}
    assert sets.keys() == {"commits", "headlines", "mails", "notes", "requests"}
    assert sum(len(texts) for one in sets.values() for texts in one.cases.values()) >= 200
    for one in sets.values():
        for part in (one.cases, one.development):
            assert len({len(texts) for texts in part.values()}) == 1
        assert one.rule


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (61, 98, 0.5236, 0.7121),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_an_interval_is_wilsons(right: int, of: int, low: float, high: float) -> None:
    """As tables of the Wilson score interval have it, also at 0 and 1."""
    assert Tally(right, of).interval() == pytest.approx((low, high), abs=5e-5)


def test_answers_are_counted() -> None:
    """Right by the file's own order of the labels; the same only where every order agrees."""
    wanted = ["a", "b", "b", "c"]
    tally = Tally.of_answers(wanted, ["a", "b", "c", None], ["a", "c", "c", None], list("abcc"))
    assert tally == Tally(2, 4, 2)
    assert Tally.of_answers(wanted, wanted) == Tally(4, 4, None)
    assert tally + tally == Tally(4, 8, 4)
    assert tally + Tally(1, 1) == Tally(3, 5, None)
    document = {"right": 8, "of": 10, "low": 0.4902, "high": 0.9433, "same": None}
    assert Tally(8, 10).document() == document


def test_what_a_model_is_compared_with() -> None:
    """A constant that says the most frequent label, and words at the beginning of words."""
    assert by_majority(["a", "b", "b"]) == ["b", "b", "b"]
    rule = {"task": ["call", "todo"], "question": ["?", "why"]}
    texts = ["Calling Ann, todo: why?", "so: why?", "nothing", "recall why", "CALL"]
    assert by_rule(rule, texts) == ["task", "question", "task", "question", "task"]
