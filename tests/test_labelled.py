"""Labelled texts: read strictly, counted exactly, the shipped sets held apart from development."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agentd import cli
from agentd.config.daemon import ModelConfig
from agentd.errors import ConfigError
from agentd.evaluate import choosing
from agentd.evaluate.cases import shipped_cases
from agentd.evaluate.choosers import ask
from agentd.evaluate.choosing import evaluate_labels
from agentd.evaluate.evaluate import Setting
from agentd.evaluate.labelled import LABELLED, Labelled, load_labelled
from agentd.evaluate.tally import Tally, by_majority, by_rule
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.paths import discover
from agentd.replay.code import Workshop
from agentd.testing import FakeModelServer, Reply, Request

NOTES = """
[labelled]
instructions = "Label the note by its kind."
event = "note.written"
field = "note"
cases = { task = ["Buy milk", "Call Ann", "Pay rent"], idea = ["A game of rivers"] }
development = { task = ["Sweep"], idea = ["A book of doors"] }
rule = { task = ["buy", "call"], idea = ["game"] }
phrases = { task = "To do: ", idea = "Ideas: " }
"""


def read(tmp_path: Path, text: str) -> Labelled:
    path = tmp_path / "notes.toml"
    path.write_text(text)
    return load_labelled(path)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('event = "note.written"', 'event = "note"', "labelled.event: .* is no event type"),
        ('"Label the note by its kind."', '" "', "labelled.instructions: must not be blank"),
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
    read(tmp_path, NOTES)
    with pytest.raises(ConfigError, match=error) as raised:
        read(tmp_path, NOTES.replace(old, new))
    assert str(tmp_path / "notes.toml") in str(raised.value)


def test_the_shipped_sets_are_what_the_figures_need() -> None:
    """Several kinds of text, 200 held out, as many for each label, and some for development."""
    sets = {name: load_labelled(path) for name, path in shipped_cases(LABELLED).items()}
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
    tally = Tally.of_answers(wanted, ["a", "b", "c", "?"], ["a", "c", "c", "?"], list("abcc"))
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


def scripted(answers: Mapping[str, Mapping[str, Sequence[str]]]) -> Any:
    """What asks, and is told each text's labels by way of choosing, a label for each order."""

    def ask(_labelled: Labelled, texts: Sequence[str], *_: Any) -> dict[str, list[list[str]]]:
        said = [answers[text] for text in texts]
        return {
            way: [list(column) for column in zip(*(one[way] for one in said), strict=True)]
            for way in said[0]
        }

    return ask


def test_ways_of_choosing_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set, and all together; a way that only one set has is not pooled."""
    monkeypatch.setattr(
        choosing,
        "ask",
        scripted(
            {
                "Buy milk": {"greedy": ("task", "idea"), "calibrated": ("task", "task")},
                "Call Ann": {"greedy": ("task", "idea"), "calibrated": ("task", "task")},
                "Pay rent": {"greedy": ("task", "idea"), "calibrated": ("idea", "idea")},
                "A game of rivers": {"greedy": ("task", "task"), "calibrated": ("idea", "task")},
            }
        ),
    )
    first = read(tmp_path, NOTES)
    second = first.model_copy(update={"rule": {}})
    setting = SimpleNamespace(model="m")
    rows = list(evaluate_labels({"a": first, "b": second}, cast(Setting, setting)))
    assert [row.name for row in rows] == ["a", "b", "pooled"]
    assert rows[0].ways == {
        "majority": Tally(3, 4),
        "rule": Tally(4, 4),
        "greedy": Tally(3, 4, 1),
        "calibrated": Tally(3, 4, 3),
    }
    assert rows[2].ways["calibrated"] == Tally(6, 8, 6) and "rule" not in rows[2].ways
    assert rows[2].document() == {
        "model": "m",
        "set": "pooled",
        "ways": {way: tally.document() for way, tally in rows[2].ways.items()},
    }


def test_texts_come_in_one_mixed_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration learns as they come: the order is the same in every run, and mixes the labels."""
    told: list[str] = []

    def ask(_labelled: Labelled, texts: Sequence[str], *_: Any) -> dict[str, Any]:
        told.extend(texts)
        return {}

    monkeypatch.setattr(choosing, "ask", ask)
    file = read(tmp_path, NOTES)
    for _ in range(2):
        list(evaluate_labels({"a": file}, cast(Setting, SimpleNamespace(model="m"))))
    of_file = list(chain(*file.cases.values()))
    assert told[:4] == told[4:] != of_file and sorted(told[:4]) == sorted(of_file)
    list(evaluate_labels({"a": file}, cast(Setting, SimpleNamespace(model="m")), development=True))
    assert sorted(told[8:]) == ["A book of doors", "Sweep"]
    bare = file.model_copy(update={"development": {}})
    with pytest.raises(ConfigError, match="no texts for development"):
        list(evaluate_labels({"a": bare}, cast(Setting, None), development=True))


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


def tells(request: Request) -> Reply:
    """A model with its first label for all, and a little less so where the second one is right.

    To it the game is an idea, and in the opposite order Ann as well. It knows that by words alone.
    """
    first, second = request.body["agentd_labels"]["label"]
    log = request.body["messages"][-1]["content"]
    idea = "game" in log or ("Ann" in log and first == "idea")
    if not request.body["agentd_label_words"]:
        return Reply(f'{{"label":"{first}"}}', labels={"label": {first: -0.1, second: -3.0}})
    given = -6.0 if "..." in log else -3.0 if idea == (second == "idea") else -7.0
    return Reply(f'{{"label":"{first}"}}', labels={"label": {first: -0.1, second: given}})


def likely(head: str, item: str) -> float:
    """Games are likelier after ideas; any text makes a task likely, and a game an idea."""
    if head.startswith("Label the note"):
        return -1.0 if item == " task" else -1.5 if "game" in head else -9.0
    return -5.0 if "Ideas" not in head else -3.0 if "game" in item else -9.0


def setting_of(workshop: Workshop, server: FakeModelServer) -> Setting:
    address = Address(server.url, server.model, server.token)
    paths = discover({"AGENTD_HOME": str(workshop.folder / "home")})
    return Setting(Endpoint(lambda: address, own=True), "fake", paths, workshop, 30.0)


def test_a_model_is_asked_in_both_orders(tmp_path: Path, workshop: Workshop) -> None:
    """Greedily it says its first label to all; its bias taken off, the game is no task."""
    labelled = read(tmp_path, NOTES)
    with FakeModelServer(tells, scores=likely) as server:
        (row,) = evaluate_labels({"notes": labelled}, setting_of(workshop, server))
        prompts = [request.body["messages"][0]["content"] for request in server.requests]
        bodies = [request.body for request in server.requests]
    assert row.ways["greedy"] == Tally(3, 4, 0)
    assert row.ways["calibrated"] == Tally(4, 4, 3)
    assert row.ways["scored"] == Tally(4, 4)
    assert len(prompts) == 18, "two calls a text and order, and one each with neutral input"
    assert [body["agentd_label_words"] for body in bodies[:9]] == [False] * 4 + [True] * 5
    blank = '<event type="note.written" ts="2026-01-15T08:00:00Z" trusted="no">\n{"note":"..."}'
    assert bodies[4]["messages"][-1]["content"].startswith(blank)
    ask = 'Label the note by its kind.\nDone: The label fits.\nAnswer:\n{"tool":"done","label":'
    assert set(prompts) == {ask + '"task"|"idea"}', ask + '"idea"|"task"}'}
    enums = [b["response_format"]["json_schema"]["schema"]["properties"]["label"] for b in bodies]
    assert [enums[at]["enum"] for at in (0, 9)] == [["task", "idea"], ["idea", "task"]]


def test_a_server_that_tells_nothing_is_an_error(tmp_path: Path, workshop: Workshop) -> None:
    """Figures of another way of choosing would be taken for those of labels."""
    with FakeModelServer() as server, pytest.raises(ConfigError, match="does not tell"):
        list(evaluate_labels({"notes": read(tmp_path, NOTES)}, setting_of(workshop, server)))


def test_the_command_prints_shares_with_their_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of one's own by its path; options of the other evaluation are refused."""
    path = tmp_path / "notes.toml"
    path.write_text(NOTES)
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path / "home"))
    config = ModelConfig(name="fake")
    monkeypatch.setattr(
        "agentd.commands.eval.live_model", lambda paths: (Endpoint.discover(paths, config), config)
    )
    ask = ["eval", "labels", str(path)]
    with FakeModelServer(tells, scores=likely) as server:
        server.write_address(discover().run)
        assert cli.main(ask) == 0
        head, line = capsys.readouterr().out.splitlines()
        assert cli.main([*ask, "--json", "--development"]) == 0
        (document,) = json.loads(capsys.readouterr().out)
    assert re.split(r"  +", head)[3:] == [
        *("MAJORITY", "RULE", "GREEDY", "SAME", "CALIBRATED", "SAME", "SCORED")
    ]
    assert re.split(r"  +", line) == [
        *("fake", "notes", "4", "75 % (30-95)", "100 % (51-100)", "75 % (30-95)", "0 %"),
        *("100 % (51-100)", "75 %", "100 % (51-100)"),
    ]
    assert document["set"] == "notes" and document["ways"]["majority"]["of"] == 2
    for wrong in (["--fill", "20"], ["--no-mask"]):
        assert cli.main([*ask, *wrong]) == 2
    assert cli.main(["eval", "task", "--development"]) == 2


def test_calibration_goes_by_the_texts_before(tmp_path: Path, workshop: Workshop) -> None:
    """What every text gains behind a phrase is found out as they come; the first ones are wrong."""
    texts = {label: tuple(f"{label} {n}" for n in range(40)) for label in ("task", "idea")}
    labelled = read(tmp_path, NOTES).model_copy(
        update={"cases": texts, "phrases": {"task": "T", "idea": "I"}, "rule": {}}
    )

    def alike(head: str, item: str) -> float:
        if item.startswith(" "):
            return 0.0  # a label after a text
        return (4.0 if head == "I" else 0.0) + (3.9 if item[0].upper() == head else 0.0)

    mixed = list(chain(*zip(*texts.values(), strict=True)))
    with FakeModelServer(tells, scores=alike) as server:
        (scored,) = ask(labelled, mixed, setting_of(workshop, server), lambda: None)["scored"]
    right = [label == text.split()[0] for label, text in zip(scored, mixed, strict=True)]
    assert right[:4] == [False, True, False, True] and all(right[-40:])
