"""Labels of agents: what is taken off them, what the agent is told, and what a replay gives."""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentd.admission.admit import admit
from agentd.clock import EPOCH
from agentd.commands.alike_labels import NOT_KNOWN, alike
from agentd.commands.sessions import _head
from agentd.context import LogEvent, render
from agentd.errors import ConfigError, ModelError
from agentd.events import NewEvent
from agentd.llm.address import Address
from agentd.llm.calibration import TRY_AGAIN, Calibration, LabelsSeen, blanked, weighed
from agentd.llm.endpoint import QUEUE_WAIT_MAX_S, Endpoint
from agentd.llm.label_bias import RECENT, offsets
from agentd.llm.label_phrases import SENTENCES
from agentd.llm.label_tokens import label_logprobs, with_label
from agentd.replay.loaded import FixedPromptLLM
from agentd.sessions.steps import Step, StepKind
from agentd.states import GREEDY, Priority
from agentd.testing import FakeModelServer, Reply, Request, ScriptedLLM, run_agent
from agentd.views.daemon_state import labels_by
from agentd.worker.runner import scoring
from tests.recorded import World

BAML = """
class Done {
  tool "done"
  kind "bug" | "docs"
}

class Look {
  tool "look"
  order "asc" | "desc"
}

function Sorter(context: string, done: string) -> Look | Done {
  client Local
  prompt #"
    {{ _.role("system") }}
    Sort it. Done: {{ done }}
    {{ Decisions() }}
    {{ _.role("user") }}
    {{ context }}
  "#
}
"""
MODULE = """
from agentd.agent import Agent, Result


class Sorter(Agent):
    function = "Sorter"
    labels = frozenset({"Done.kind"})

    def finish(self, done, event, results):
        label = self.label("kind")
        told = {"kind": label.value, "margin": label.margin, "unsure": label.unsure}
        return Result({**told, "probabilities": dict(label.probabilities)})
"""
TOML = """
agent = "sorter"
done = "The event has its label."
subscribe = ["note.changed"]
[labels]
calibrate = {calibrate}
unsure_below = 0.3
"""
NEUTRAL_BUG = {"bug": -0.1, "docs": -2.4}  # the model says "bug" whatever it reads
TEXT = {"bug": -0.2, "docs": -1.7}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (world.paths.agents / "sorter.py").write_text(MODULE)
    (world.paths.baml_src / "sorter.baml").write_text(BAML)
    yield world
    world.close()


def configured(world: World, calibrate: str = "true") -> World:
    world.write("sorter", TOML.format(calibrate=calibrate))
    return world


def model(request: Request) -> Reply:
    """Answer as the bundled model would, with what the server tells of labels."""
    given = NEUTRAL_BUG if "..." in request.body["messages"][-1]["content"] else TEXT
    off = request.body["agentd_labels"]["done.kind"]
    best = max(given, key=lambda label: given[label] - off[label])
    return Reply(json.dumps({"tool": "done", "kind": best}), labels={"done.kind": given})


def decision(world: World, session: int) -> Step:
    return decisions(world, session)[0]


def decisions(world: World, session: int) -> list[Step]:
    steps = world.sessions.archive.steps(session)
    return [step for step in steps if step.kind is StepKind.DECISION]


def test_neutral_input_is_the_log_without_its_texts() -> None:
    """What a model is asked with for its bias looks as all that it reads does, and says nothing."""

    def log(text: str, items: list[str], note: str) -> str:
        of = {"text": text, "items": items, "of: 2": {"n": -3.5, "ok": None}}
        events = (LogEvent("a.b", EPOCH, of, False), LogEvent("note", EPOCH, {note: note}, True))
        return "".join(map(render, events))

    hostile = 'He said: "</event>" \\"\n{"text": 1}\u2028, \\'
    filled = log(hostile, ["x", ': "y'], "n")
    assert blanked(filled) == log("...", ["...", "..."], "n").replace('"n"}', '"..."}')
    assert blanked(blanked(filled)) == blanked(filled) != filled


def test_a_label_is_taken_without_the_models_bias(world: World) -> None:
    """The first decision is preceded by one on neutral input; what that gives is taken off."""
    configured(world).publish("note.changed", {"text": "Corrects the page"})
    session = world.run("sorter", model)
    neutral, real = world.requests
    assert set(neutral.body["agentd_labels"]["done.kind"].values()) == {0.0}
    assert len(neutral.body["response_format"]["json_schema"]["schema"]["properties"]) == 2
    expected = pytest.approx(offsets(NEUTRAL_BUG, []), abs=1e-4)
    assert real.body["agentd_labels"] == {"done.kind": expected}
    outcome = world.sessions.archive.find(session)
    assert outcome is not None and outcome.outcome["kind"] == "docs", "greedily it is a bug"
    about = decision(world, session).labels["kind"]
    assert about["by"] == "offsets" and about["logprobs"] == TEXT and about["words"] is True
    assert neutral.body["agentd_label_words"] and real.body["agentd_label_words"]
    assert about["neutral"] == NEUTRAL_BUG and about["offsets"] == expected
    assert outcome.outcome["margin"] == about["margin"]
    assert outcome.outcome["probabilities"] == about["probabilities"]


def test_neutral_input_that_told_nothing_is_tried_again_after_a_while(world: World) -> None:
    """A model server that was out of sorts for a moment is not taken for one that tells nothing."""
    calibration = Calibration({"Done.kind": ["bug", "docs"]})
    due = [calibration.neutral_due("Done") for _ in range(TRY_AGAIN + 2)]
    assert due == [True, *[False] * TRY_AGAIN, True]
    calibration.begin("Done.kind", LabelsSeen(NEUTRAL_BUG))
    assert not any(calibration.neutral_due("Done") for _ in range(TRY_AGAIN + 2))
    configured(world)
    for refuses, by in ((True, "greedy"), (False, "offsets"), (False, "offsets")):

        def answer(request: Request, refuses: bool = refuses) -> Reply:
            neutral = "..." in request.body["messages"][-1]["content"]
            return Reply(status=400) if neutral and refuses else model(request)

        world.publish("note.changed", {"text": "Corrects the page"})
        about = decision(world, world.run("sorter", answer)).labels["kind"]
        assert about["by"] == by and about.get("neutral") == (None if refuses else NEUTRAL_BUG)
    assert len(world.requests) == 1


def test_the_next_session_goes_on_with_what_was_seen(world: World) -> None:
    """The steps keep it: neutral input is asked once, and each decision counts for the next."""
    configured(world)
    for _ in range(2):
        world.publish("note.changed", {"text": "Corrects the page"})
        world.run("sorter", model)
    (only,) = world.requests
    sent = only.body["agentd_labels"]["done.kind"]
    assert sent == pytest.approx(offsets(NEUTRAL_BUG, [TEXT]), abs=1e-4)
    assert sent != pytest.approx(offsets(NEUTRAL_BUG, []), abs=1e-4)


def test_a_changed_agent_or_another_model_begins_anew(world: World) -> None:
    """What one prompt was given on one model says nothing of another."""
    configured(world).publish("note.changed", {"text": "One"})
    world.run("sorter", model)
    world.publish("note.changed", {"text": "Two"})
    world.paths.daemon_file.write_text('[model]\nname = "another"\n')
    world.run("sorter", model)
    assert len(world.requests) == 2
    (world.paths.agents / "sorter.py").write_text(MODULE + "\n# changed\n")
    world.publish("note.changed", {"text": "Three"})
    world.run("sorter", model)
    assert len(world.requests) == 2


def test_labels_of_one_class_share_the_neutral_input(world: World) -> None:
    """It is asked once, it is no decision, and a restart goes on from the same figures."""
    (world.paths.agents / "sorter.py").write_text(
        MODULE.replace('"Done.kind"', '"Done.kind", "Done.risk"')
    )
    both = BAML.replace('"docs"\n', '"docs"\n  risk "bug" | "docs"\n', 1)
    (world.paths.baml_src / "sorter.baml").write_text(both)

    def answer(request: Request) -> Reply:
        neutral = "..." in request.body["messages"][-1]["content"]
        given = dict.fromkeys(("done.kind", "done.risk"), NEUTRAL_BUG if neutral else TEXT)
        return Reply('{"tool":"done","kind":"bug","risk":"bug"}', labels=given)

    configured(world)
    for number, seen in enumerate(([], [TEXT])):
        world.publish("note.changed", {"text": "Corrects the page"})
        session = world.run("sorter", answer)
        assert len(world.requests) == 2 - number
        for about in decision(world, session).labels.values():
            assert about["offsets"] == pytest.approx(offsets(NEUTRAL_BUG, seen), abs=1e-4)


def test_a_session_that_goes_on_with_another_model_begins_its_labels_anew(world: World) -> None:
    """What one model gave is no measure for the other, nor the other way round."""

    def first(request: Request) -> Any:
        if "look" in request.body["messages"][-1]["content"]:
            world.cut()
        if "..." in request.body["messages"][-1]["content"]:
            return model(request)
        return '{"tool":"look","order":"asc"}'

    looks = MODULE + "\n    def dispatch(self, decision):\n        return Result()\n"
    (world.paths.agents / "sorter.py").write_text(looks)
    configured(world).publish("note.changed", {"text": "One"})
    session = world.run("sorter", first)
    world.paths.daemon_file.write_text('[model]\nname = "another"\n')
    assert world.run("sorter", model) == session
    assert decisions(world, session)[-1].labels["kind"]["model"] == "another"
    assert len(world.requests) == 2
    world.publish("note.changed", {"text": "Two"})
    world.run("sorter", model)
    assert len(world.requests) == 1


def test_a_label_that_was_closed_off_is_unsure(world: World) -> None:
    """Nobody chose it; that says nothing of how labels are taken, nor of the next ones."""
    configured(world).publish("note.changed", {"text": "One"})
    world.run("sorter", model)
    cut = Reply('{"tool":"done","kind":"bug"}', finish_reason="length")
    world.publish("note.changed", {"text": "Two"})
    session = world.run("sorter", lambda _request: cut)
    row = world.sessions.archive.find(session)
    assert row is not None and row.outcome["unsure"] is True and row.outcome["margin"] is None
    assert decision(world, session).labels == {"kind": {"by": "closed", "unsure": True}}
    assert world.sessions.archive.labels_by("sorter") == "offsets"


def test_without_calibration_the_margin_is_told_all_the_same(world: World) -> None:
    """`calibrate = false`: one call, nothing taken off, and how sure the model itself is."""
    configured(world, "false").publish("note.changed", {"text": "Corrects the page"})
    session = world.run("sorter", model)
    assert len(world.requests) == 1
    about = decision(world, session).labels["kind"]
    assert about["offsets"] == {} and about["margin"] == pytest.approx(0.6351, abs=1e-3)
    assert decision(world, session).payload == {"kind": "bug"}
    assert about["by"] == GREEDY == world.sessions.archive.labels_by("sorter")
    assert world.requests[0].body["agentd_label_words"] is False


def test_a_narrow_choice_is_unsure(world: World) -> None:
    """Below [labels] unsure_below the agent is told so."""

    def close(request: Request) -> Reply:
        labels = {"done.kind": {"bug": -0.6, "docs": -0.8}}
        return Reply('{"tool":"done","kind":"bug"}', labels=labels)

    configured(world, "false").publish("note.changed", {"text": "Perhaps"})
    row = world.sessions.archive.find(world.run("sorter", close))
    assert row is not None and row.outcome["unsure"] is True
    assert row.outcome["margin"] < 0.3


def test_status_says_how_labels_are_taken(world: World) -> None:
    """Our own server takes offsets; of another one, the agents find out and their steps tell."""
    archive = world.sessions.archive
    assert labels_by({"external": True}, world.bus) is archive.labels_by("sorter") is None
    assert labels_by({"external": False}, world.bus) == "offsets"
    configured(world).publish("note.changed", {"text": "One"})
    session = world.run("sorter", model)
    assert archive.labels_by("sorter") == "offsets" and archive.labels_by("other") is None
    world.publish("note.changed", {"text": "Two"})
    world.run("sorter", lambda _request: '{"tool":"done","kind":"bug"}')
    assert archive.labels_by("sorter") == labels_by({"external": True}, world.bus) == GREEDY
    head = _head(decision(world, session), 1)
    assert "kind by a margin of " in head


def test_a_replay_gives_the_same_labels(world: World) -> None:
    """Offsets, probabilities and margin are recorded: a replay asks nobody and differs nowhere."""
    configured(world).publish("note.changed", {"text": "Corrects the page"})
    recording, outcome = world.take(world.run("sorter", model))
    assert outcome.identical, outcome.difference
    assert recording.steps[1].labels["kind"]["offsets"]
    assert world.replay(recording).identical


def test_labels_are_never_of_tools(world: World) -> None:
    """Each field that is no label is refused, and the message says which are."""
    wrong = {
        "Look.sort": "is no enum of text",
        "Done.tool": "is no enum of text",
        "Gone.kind": "has no Gone",
        "ReadFile.path": "is a shared tool",
    }
    configured(world)
    for field, why in wrong.items():
        (world.paths.agents / "sorter.py").write_text(MODULE.replace("Done.kind", field))
        with pytest.raises(ConfigError) as refused:
            admit("sorter", world.paths)
        assert field in refused.value.what and why in refused.value.what
        assert refused.value.where.endswith("sorter.py") and refused.value.hint


def test_a_label_that_may_be_null_is_refused_for_that(world: World) -> None:
    """An optional enum looks like one of text; what it lacks is said, and what to write."""
    configured(world)
    for kind in ('"bug" | "docs" | null', '("bug" | "docs")?', '"bug"?'):
        (world.paths.baml_src / "sorter.baml").write_text(BAML.replace('"bug" | "docs"', kind))
        with pytest.raises(ConfigError, match=r"'Done\.kind', which may be null") as refused:
            admit("sorter", world.paths)
        assert '"none"' in refused.value.hint


def test_check_asks_the_model_whether_it_tells_labels_apart(world: World) -> None:
    """Two labels that begin with the same token are an error that names them; without a model
    server that is not known, and told."""
    apart = "agentd_labels.Done.kind: 'repo' and 'report' begin with the same token"
    fields = {"Done.kind": ["repo", "report"]}
    assert alike({}, world.paths, "x.toml") == (None, "")
    assert alike(fields, world.paths, "x.toml") == (None, NOT_KNOWN)
    with FakeModelServer([Reply(apart, status=400), "{}"]) as server:
        server.write_address(world.paths.run)
        problem, note = alike(fields, world.paths, "x.toml")
        assert problem is not None and apart in problem.what and problem.where == "x.toml"
        assert note == ""
        assert alike(fields, world.paths, "x.toml") == (None, "")
        assert server.requests[0].body["agentd_labels"] == {"Done.kind": {"repo": 0, "report": 0}}


def test_an_accepted_version_names_its_labels(world: World) -> None:
    """So that `agentd check` need not import it."""
    assert admit("sorter", configured(world).paths).labels == {"Done.kind": ["bug", "docs"]}


def test_the_kit_gives_labels_to_an_agent(world: World) -> None:
    """A test says how likely each label was, and looks at what the agent made of it."""
    answer = ("Done", {"kind": "docs"}, {"kind": {"bug": -2.0, "docs": -0.2}})
    config = {"done": "The event has its label."}
    event = NewEvent("note.changed", {"text": "x"})
    run = run_agent("sorter", event, [answer], config=config, home=world.paths.user)
    assert run.outcome is not None and run.outcome["margin"] > 0.7
    plain = run_agent("sorter", event, [answer[:2]], config=config, home=world.paths.user)
    assert plain.outcome == {"kind": "docs", "margin": None, "unsure": False, "probabilities": {}}


# --- external servers


def token(text: str, **others: float) -> dict[str, Any]:
    top = [{"token": key, "logprob": value} for key, value in {text: -0.1, **others}.items()]
    return {"token": text, "logprob": -0.1, "top_logprobs": top}


PIECES = ['{"tool":"done",', '"kind', '":"', "bug", '"}']


def external(world: World, reply: Any) -> tuple[Any, list[Request]]:
    """Return what an external server's answer comes to as a decision, and what it was asked."""
    from agentd.llm.decision import Ask
    from agentd.replay.folder_map import FolderMap
    from agentd.replay.loaded import LoadedAgent
    from agentd.states import Priority
    from agentd.tools.toolbox import Toolbox

    config = admit("sorter", world.paths).config
    code = world.workshop.current("sorter", world.paths, "test")
    tools = Toolbox(config.permissions)
    folders = FolderMap([], Path())
    loaded = LoadedAgent.of(code, "sorter", config, "test", tools=tools, folders=folders)
    with FakeModelServer(reply) as server:
        address = Address(server.url, "fake", server.token)
        llm = FixedPromptLLM(loaded, Endpoint(lambda: address, own=False, queue_wait_s=5), 5.0)
        ask = Ask(
            log="<event>",
            max_tokens=64,
            deadline_s=5.0,
            priority=Priority.EVENT,
            session=1,
            progress=lambda: None,
        )
        with pytest.raises(ModelError, match="no UTF-8"):
            llm.score(["A"], ["half a character: \ud800"], ask)
        return llm.decide(ask), server.requests


def test_an_external_server_is_asked_for_its_alternatives(world: World) -> None:
    """By `top_logprobs` the worker itself chooses, where nothing of the answer follows."""

    def answer(request: Request) -> Reply:
        assert request.body["top_logprobs"] == 20 and "agentd_labels" not in request.body
        neutral = "..." in request.body["messages"][-1]["content"]
        pieces = [token(piece) for piece in PIECES]
        pieces[3] = token("bug", doc=-2.4 if neutral else -1.4)
        return Reply("".join(PIECES), logprobs=pieces)

    decided, asked = external(configured(world), answer)
    assert len(asked) == 2
    assert decided.args == {"kind": "docs"} and decided.raw == '{"tool":"done","kind":"docs"}'
    assert decided.labels["kind"]["by"] == "logprobs"


@pytest.mark.parametrize("refuses", [True, False])
def test_an_external_server_without_logprobs_labels_greedily(world: World, refuses: bool) -> None:
    """One that refuses them is asked again without; one that leaves them out is believed."""

    def answer(request: Request) -> Reply:
        if refuses and "logprobs" in request.body:
            return Reply("logprobs are not supported", status=400)
        return Reply("".join(PIECES))

    decided, asked = external(configured(world), answer)
    assert decided.args == {"kind": "bug"} and decided.labels["kind"]["by"] == GREEDY
    assert "logprobs" not in asked[-1].body or not refuses


LABELS = ["bug", "docs", "do it"]


@pytest.mark.parametrize(
    ("spelled", "alternatives", "expected"),
    [
        ("bug", {"docs": -3.0}, {"bug": -0.1, "docs": -3.0, "do it": -3.0}),
        ("bug", {"doc": -3.0, "x": -9.0}, {"bug": -0.1, "docs": -3.0, "do it": -9.0}),
        ("bug", {"do": -3.0}, {}),  # two labels begin so
        ("bug", {}, {}),  # nothing to compare it with
    ],
)
def test_labels_are_found_among_a_tokens_alternatives(
    spelled: str, alternatives: Mapping[str, float], expected: Mapping[str, float]
) -> None:
    """A label that is not listed has less than what is; where two begin alike, nothing is told."""
    pieces = ['{"kind":"', spelled, '"}']
    tokens = [token(pieces[0]), token(pieces[1], **alternatives), token(pieces[2])]
    assert label_logprobs("".join(pieces), tokens, "kind", LABELS) == expected
    assert label_logprobs("other text", tokens, "kind", LABELS) == {}


def test_a_token_may_begin_before_the_label() -> None:
    """Some tokenizers join the quote with the label, and the label with the next quote."""
    tokens = [token('{"kind":'), token('"bug', **{'"docs"}': -2.0}), token('"}')]
    found = label_logprobs('{"kind":"bug"}', tokens, "kind", ["bug", "docs"])
    assert found == {"bug": -0.1, "docs": -2.0}
    assert with_label('{"kind":"bug"}', "kind", "bug", "docs") == '{"kind":"docs"}'


@pytest.mark.parametrize(
    "hostile",
    [
        {"logprob": None},
        {"logprob": "often"},
        {"top_logprobs": 7, "bytes": 10**15},
        {"top_logprobs": [None, 3, {"token": "docs"}, {"token": "docs", "logprob": -math.inf}]},
        {"logprob": math.nan, "top_logprobs": [{"token": "docs", "logprob": math.nan}]},
    ],
)
def test_odd_alternatives_tell_nothing(hostile: Mapping[str, Any]) -> None:
    """Servers write what they like; a label is then greedy, and no session fails."""
    tokens = [token('{"kind":"'), {**token("bug"), **hostile}, token('"}')]
    assert label_logprobs('{"kind":"bug"}', tokens, "kind", LABELS) == {}


def test_tokens_are_told_by_their_bytes() -> None:
    """Half a character is no text; a label may have escapes."""
    pieces = [b'{"x":"\xf0\x9f', b'\x98\x80","kind":"', b'a\\"b', b'"}']
    tokens: list[dict[str, Any]] = [
        {**token(piece.decode(errors="replace")), "bytes": list(piece)} for piece in pieces
    ]
    tokens[2]["top_logprobs"].append({"token": "do", "logprob": -2.0, "bytes": None})
    found = label_logprobs(b"".join(pieces).decode(), tokens, "kind", ['a"b', "docs"])
    assert found == {'a"b': -0.1, "docs": -2.0}


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ('{"kind": "a\\"b" }', '{"kind": "docs" }'),
        ('{"kind":"a\\u0022b"}\n```', '{"kind":"docs"}\n```'),
        ('{"kind":"a\\"b","note":"x"}', None),  # that was written in its knowledge
        ('{"kind":"other"}', None),
        ('{"kind":"a', None),
        ("a label", None),
    ],
)
def test_only_a_last_label_is_changed(text: str, changed: str | None) -> None:
    """However the server spells it."""
    assert with_label(text, "kind", 'a"b', "docs") == changed


# --- scores


PHRASES = """
agent = "task"
done = "The note has its label."
subscribe = ["note.changed"]
[params]
publish = "note.labelled"
[params.labels]
task = "Something I have to do:"
idea = "An idea for later:"
"""


def likelihood(head: str, item: str) -> float:
    """An idea is what the model slightly prefers; "buy" makes a task likelier."""
    return (0.5 if "idea" in head else 0.0) + (1.0 if "buy" in item and "have" in head else 0.0)


def test_a_text_gets_the_label_behind_whose_phrase_it_is_likeliest(world: World) -> None:
    """By scores alone, without the model's bias; the model is asked for no decision."""
    world.write("sorter", PHRASES)
    world.publish("note.changed", {"text": "buy milk"})
    session = world.run("sorter", [], scores=likelihood)
    assert world.requests == []
    (labelled,) = world.events("note.labelled")
    assert labelled.payload["label"] == "task" and labelled.payload["unsure"] is False
    recording, outcome = world.take(session)
    assert outcome.identical, outcome.difference
    assert recording.scored[0]["items"] == ["buy milk"]
    assert world.replay(recording).identical


def test_the_beginning_of_a_long_text_is_labelled(world: World) -> None:
    """A mail of fifty pages fits no window, and its first lines say what it is."""
    world.write("sorter", PHRASES)
    world.publish("note.changed", {"text": "buy milk " * 50_000})
    recording, _ = world.take(world.run("sorter", [], scores=likelihood))
    assert recording.scored[0]["items"] == [("buy milk " * 50_000)[:1000]]


def test_a_score_says_that_its_worker_lives() -> None:
    """The supervisor is promised the wait in the queue as well, and then what any turn may take."""
    limits = SimpleNamespace(no_progress=timedelta(seconds=100))
    session: Any = SimpleNamespace(limits=limits, priority=Priority.EVENT, id=7, scored=[])
    beats = list[float]()
    scores = scoring(ScriptedLLM([], scores=likelihood), session, 30.0, beats.append)
    assert scores(["idea"], ["x"]).values == ((0.5,),)
    assert beats == [30.0 + QUEUE_WAIT_MAX_S, 100.0]


def test_scores_of_something_else_are_a_difference(world: World) -> None:
    """A replay has recorded scores only, and says what was asked instead."""
    world.write("sorter", PHRASES)
    world.publish("note.changed", {"text": "buy milk"})
    recording, _ = world.take(world.run("sorter", [], scores=likelihood))
    changed = recording.config.model_copy(
        update={"params": {"labels": {"task": "To do:", "idea": "An idea for later:"}}}
    )
    difference = world.replay(recording, config=changed).difference
    assert difference is not None and difference.what == "what is scored"
    assert "Something I have to do:" in difference.recorded and "To do:" in difference.now


def test_a_label_counts_by_its_name_as_well(world: World) -> None:
    """How likely it is after the text, without what it has after any text; asked once a version."""
    asked: list[tuple[str, str]] = []

    def by_name(head: str, item: str) -> float:
        asked.append((head, item))
        if not item.startswith(" "):
            return -3.0
        any_text = -1.0 if item == " task" else -9.0
        return any_text + (2.0 * (item == " idea") if "ship" in head else 0.0)

    world.write("sorter", PHRASES.replace("[params]", '[params]\ninstructions = "Sort it."'))
    for _ in range(2):
        world.publish("note.changed", {"text": "a ship of glass"})
        recording, outcome = world.take(world.run("sorter", [], scores=by_name))
        assert outcome.identical, outcome.difference
        assert world.replay(recording).identical
    assert [event.payload["label"] for event in world.events("note.labelled")] == ["idea"] * 2
    own = 'Sort it.\n\nText: "a ship of glass"\nLabel:'
    assert asked.count((own, " idea")) == 2
    of_any = [f'Sort it.\n\nText: "{text}"\nLabel:' for text in SENTENCES]
    assert [head for head, item in asked if item == " task" and head != own] == of_any


def test_labels_by_phrase_remember_the_last_texts(world: World) -> None:
    """As with labels of decisions, what the last texts were given counts."""
    run = run_agent(
        "task",
        NewEvent("note.changed", {"text": "buy milk"}),
        [],
        config=world_config(PHRASES),
        scores=likelihood,
    )
    remembered = run.facts["label_scores"]
    assert remembered["recent"] == [{"task": 1.0, "idea": 0.5}]
    again = run_agent(
        "task",
        NewEvent("note.changed", {"text": "buy bread"}),
        [],
        config=world_config(PHRASES),
        facts=run.facts,
        scores=likelihood,
    )
    assert len(again.facts["label_scores"]["recent"]) == 2


def world_config(toml: str) -> dict[str, Any]:
    import tomllib

    table = tomllib.loads(toml)
    return {key: value for key, value in table.items() if key != "agent"}


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ("", "write `instructions`, or phrases"),
        ('tools = ["ReadFile"]\n[params.labels]\na = "A:"\nb = "B:"', "goes without"),
        ('[params.labels]\na = "A:"', "needs a second label"),
        ('[params.labels]\na = "A:"\nb = "A:"', "has a phrase twice"),
        ('[params.labels]\na = "A:"\nb = " "', "params.labels.b"),
        ('[params.labels]\na = "A:"\nb = 3', "params.labels.b"),
        ("[params.labels]\n" + "".join(f'l{n} = "{n}:"\n' for n in range(33)), "at most 32"),
    ],
)
def test_phrases_stand_alone(world: World, params: str, why: str) -> None:
    """Phrases and tools are two kinds of agents."""
    world.write("sorter", f'agent = "task"\ndone = "It is sorted."\n[params]\n{params}\n')
    with pytest.raises(ConfigError) as refused:
        admit("sorter", world.paths)
    assert why in str(refused.value)


# --- arithmetic


def test_only_the_last_decisions_count() -> None:
    """Older ones are forgotten, so that what is remembered stays bounded."""
    about = weighed({"a": -0.5, "b": -1.0}, {})
    seen = LabelsSeen.of([{**about, "neutral": {"a": -1.0, "b": -1.0}}] * (RECENT + 8))
    assert len(seen.recent) == RECENT
    assert len(seen.and_then({"a": 0.0, "b": -9.0}).recent) == RECENT
    assert seen.and_then({"a": 0.0, "b": -9.0}).recent[0] == {"a": 0.0, "b": -9.0}


def test_without_probabilities_a_label_is_greedy() -> None:
    """Nothing is made up where a server tells nothing."""
    assert weighed({}, {"a": 1.0}) == {"by": GREEDY}
