"""Planned steps through the real worker: cut anywhere, resumed, recorded and replayed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import Stopped
from agentd.evaluate.cases import load_cases
from agentd.recordings import recording_file
from agentd.replay.replay import Replay, Tools
from agentd.sessions.journal import Journal
from agentd.sessions.steps import StepKind
from agentd.states import SessionState
from agentd.testing import Request
from tests.commandline import agentd
from tests.recorded import World

SORTER = """agent = "task"
done = "Each line is sorted."
subscribe = ["note.changed"]
[params]
instructions = "Sort the line."
first = [{{ ListFiles = "{folder}" }}, {{ ReadFile = "{{path}}" }}]
each = "ReadFile.text"
publish = "lines.sorted"
[result]
line = {{ from = "name" }}
kind = {{ labels = ["task", "idea"] }}
place = {{ pick = "ListFiles.entries" }}
[limits]
result_tokens = {tokens}
[permissions]
read = ["{folder}"]
"""
LINES = ["buy milk", "call Ada", "a game of rivers"]
STEPS = 11  # opening, two calls with their results, three rows, Done, and a few more for failures


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    (world.notes / "day.md").write_text("".join(f"{line}\n" for line in LINES))
    world.write("sorter", SORTER.format(folder=world.notes, tokens=1000))
    yield world
    world.close()


def sort(request: Request) -> dict[str, Any]:
    """Answer as the row wants it; the picked place is the first that the mask allows."""
    schema = request.body["response_format"]["json_schema"]["schema"]
    place = schema["properties"]["place"]
    picked = place.get("const") or place["enum"][0]
    log = request.body["messages"][-1]["content"]
    return {"tool": "row", "kind": "idea" if "game" in log else "task", "place": picked}


def answered(request: Request) -> str:
    return json.dumps(sort(request))


def identical(world: World, session: int) -> None:
    recording, _ = world.take(session)
    again = recording_file.read(recording_file.write(recording), "x")
    assert again == recording
    code = world.workshop.current("task", world.paths, "x")
    modes: tuple[Tools, ...] = ("fixture", "recorded")
    for tools in modes:
        replayed = Replay(again, code, world.workshop, tools=tools).run()
        assert replayed.difference is None, str(replayed.difference)


def ask(world: World) -> None:
    path = str(world.notes / "day.md")
    world.publish("note.changed", {"path": path}, target="sorter")


@pytest.mark.parametrize("tokens", [1000, 48])
def test_a_planned_session_is_recorded_and_replayed(world: World, tokens: int) -> None:
    """The log is as the model saw it; rows come of all that was read, however much was shown."""
    world.write("sorter", SORTER.format(folder=world.notes, tokens=tokens))
    ask(world)
    session = world.run("sorter", answered)
    (event,) = world.events("lines.sorted")
    assert [row["line"] for row in event.payload["rows"]] == LINES
    assert [row["kind"] for row in event.payload["rows"]] == ["task", "task", "idea"]
    steps = world.sessions.archive.show(session)[1]
    assert [s.type for s in steps if s.planned] == ["ListFiles", "ReadFile", "Done"]
    assert any(step.whole is not None for step in steps) is (tokens == 48)
    identical(world, session)


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_a_session_that_is_cut_at_any_step_resumes(
    world: World, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Nothing is asked twice that was recorded, and one result is published."""
    ask(world)
    written = Journal.record
    count = 0

    def record(self: Journal, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == at:
            raise Stopped("cut")
        return written(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", record)
        session = world.run("sorter", answered)
    asked = len(world.requests)
    assert (world.sessions.archive.show(session)[0].state is SessionState.RUNNING) is (count >= at)
    if count < at:
        return
    assert world.run("sorter", answered) == session
    row, steps = world.sessions.archive.show(session)
    assert row.state is SessionState.ENDED
    (event,) = world.events("lines.sorted")
    assert [row["line"] for row in event.payload["rows"]] == LINES
    calls = [s.type for s in steps if s.kind is StepKind.DECISION]
    assert calls == ["ListFiles", "ReadFile", "Row", "Row", "Row", "Done"]
    chats = asked + len(world.requests)
    assert chats >= 3
    identical(world, session)


def test_sessions_show_what_was_planned(world: World) -> None:
    """A plan is no decision of the model's; the prompt of a row is the row's alone."""
    ask(world)
    session = str(world.run("sorter", answered))
    home = world.paths.user
    shown = agentd(home, "sessions", "show", session).stdout
    assert "turn 1 plan" in shown and "turn 3 decision" in shown and "about" in shown
    prompt = agentd(home, "sessions", "show", session, "--turn", "4").stdout
    assert "call Ada" in prompt and "buy milk" not in prompt
    planned = agentd(home, "sessions", "show", session, "--turn", "1")
    assert planned.returncode == 2 and "no model was asked" in planned.stderr


def test_a_correction_becomes_an_example(world: World) -> None:
    """What was read of the row, with what would have been right; the newest one counts."""
    ask(world)
    world.run("sorter", answered)
    (event,) = world.events("lines.sorted")
    home, number = world.paths.user, str(event.id)

    def correct(*words: str) -> Any:
        return agentd(home, "correct", number, *words)

    for value in ("task", "idea"):
        done = correct("kind", value, "--row", "2")
        assert done.returncode == 0, done.stderr
    assert correct("kind", "task", "--row", "1").returncode == 0
    file = world.paths.agents_d.parent / "eval" / "sorter.toml"
    cases = load_cases(file, world.paths)
    (second, first) = cases.case
    assert second.result == {"kind": "idea"} and second.payload["rows"] == [{"text": "call Ada"}]
    assert second.payload["place"] and first.payload["rows"] == [{"text": "buy milk"}]
    assert cases.agent.params["each"] == "event.rows" and "first" not in cases.agent.params
    wrong = {
        ("kind", "work", "--row", "1"): "kind is never 'work'",
        ("kind", "idea"): "has rows 1 to 3",
        ("kind", "idea", "--row", "4"): "has rows 1 to 3",
        ("line", "x", "--row", "1"): "line is no label that the model chose",
    }
    for words, told in wrong.items():
        refused = correct(*words)
        assert refused.returncode == 2 and told in refused.stderr, refused.stderr
    assert agentd(home, "correct", "9999", "kind", "idea").returncode == 2
    for broken, what in ((b'"caf\xe9"', "is not UTF-8"), (b"case = [", "is not valid TOML")):
        file.write_bytes(broken)
        refused = correct("kind", "task", "--row", "1")
        assert refused.returncode == 1 and what in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr and file.read_bytes() == broken


@pytest.mark.parametrize("ranked", [False, True])
def test_a_correction_is_of_its_own_row(world: World, ranked: bool) -> None:
    """Where facts tell no row from another, its place does; a ranked one's place is another."""
    text = SORTER.replace('from = "name"', 'from = "event.path"')
    text = text.replace('labels = ["task", "idea"]', 'contains = {{ idea = [], task = ["buy"] }}')
    text = text.replace('place = {{ pick = "ListFiles.entries" }}\n', "")
    if ranked:
        text = text.replace("[params]", '[params]\ninterests = ["games", "milk"]')
    world.write("sorter", text.format(folder=world.notes, tokens=1000))
    ask(world)
    world.run("sorter", answered)
    (event,) = world.events("lines.sorted")
    done = agentd(world.paths.user, "correct", str(event.id), "kind", "task", "--row", "2")
    file = world.paths.agents_d.parent / "eval" / "sorter.toml"
    if ranked:
        assert done.returncode and "of several rows" in done.stderr and not file.exists()
        return
    assert done.returncode == 0, done.stderr
    (case,) = load_cases(file, world.paths).case
    assert case.payload["rows"] == [{"text": "call Ada"}]
