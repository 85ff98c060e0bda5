"""The parts of the test kit that run a whole agent, and what keeps tests from real models."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agentd.errors import ConfigError, ModelError, RecordingError
from agentd.events import NewEvent
from agentd.llm import wire
from agentd.net.wait import Deadline
from agentd.recordings.recording_file import load
from agentd.sessions.steps import StepKind
from agentd.states import SessionState
from agentd.testing import (
    FakeModelServer,
    ManualClock,
    Offline,
    RandomModel,
    Reply,
    offline,
    recorded,
    run_agent,
)
from tests.repository import Repository
from tests.test_reading import EVENTS, META, rss

NOTE: dict[str, Any] = {
    "done": "The note is read.",
    "params": {
        "instructions": "Read it.",
        "tools": ["ReadFile", "HttpGet", "AskPerson"],
        "publish": "note.read",
    },
}
EVENT = NewEvent("note.changed", {"path": "a.txt"})


def config(folder: Path) -> dict[str, object]:
    (folder / "a.txt").write_text("buy milk")
    return {**NOTE, "permissions": {"read": [str(folder)], "net": ["example.invalid"]}}


def test_one_agent_on_one_event(tmp_path: Path) -> None:
    """Its real module, prompt, tools and loop; the test says the decisions and reads the events."""
    run = run_agent(
        "task",
        EVENT,
        [("ReadFile", {"path": "a.txt", "start": None}), {"tool": "done", "result": "milk"}],
        config=config(tmp_path),
    )
    assert run.state is SessionState.ENDED and run.outcome == {"result": "milk"}
    assert [name for name, _ in run.decisions] == ["ReadFile", "Done"]
    assert run.results[0]["text"] == "buy milk" and "buy milk" in run.log
    assert run.events("note.read") == [{"result": "milk"}]


def test_a_shipped_agent_with_typed_classes_and_facts(tmp_path: Path) -> None:
    """Generated classes are matched as in a worker; what it remembers is given and returned."""
    repo = Repository(tmp_path / "repo")
    first = repo.commit("start", a__py="1\n")
    second = repo.commit("more", a__py="2\n")
    known = {"last_commit": {"repo": str(repo.path), "id": first}}
    run = run_agent(
        "repo_fetch",
        NewEvent("agent.trigger", {}, target="repo_fetch"),
        [("FetchRepo", {}), ("Done", {"kind": "code"})],
        config={
            "params": {"repo": str(repo.path)},
            "permissions": {"read": [str(repo.path)]},
        },
        facts=known,
    )
    (changed,) = run.events("repo.changed")
    assert (changed["since"], changed["head"]) == (first, second)
    assert run.facts["last_commit"]["id"] == second


def test_pages_are_read_as_from_the_web(tmp_path: Path) -> None:
    """As HTML, feeds and calendars; what a tool remembers comes with the session's end."""
    base = "http://example.invalid"
    host = base.removeprefix("http://")
    pages = {f"{base}/a": META, f"{base}/feed": rss("b", "a"), f"https://{host}/a.ics": EVENTS}
    tools = ["ReadPage", "ReadFeed", "ReadCalendar"]
    read: list[Any] = [
        ("ReadPage", {"url": f"{base}/a", "start": None}),
        ("ReadFeed", {"url": f"{base}/feed"}),
        ("ReadCalendar", {"source": f"webcal://{host}/a.ics", "days": None}),
        {"tool": "done", "result": "read"},
    ]
    settings = {**config(tmp_path), "params": {**NOTE["params"], "tools": tools}}
    run = run_agent("task", EVENT, read, config=settings, pages=pages)
    page, feed, _ = run.results
    assert page["date"] == "2026-11-27" and "<" not in page["text"] and not feed["items"]
    assert list(run.facts) == [f"feed:{base}/feed"]
    pages[f"{base}/feed"] = rss("c", "b", "a")
    steps = [read[1], read[3]]
    again = run_agent("task", EVENT, steps, config=settings, pages=pages, facts=run.facts)
    assert [item["title"] for item in again.results[0]["items"]] == ["c <b> it"]


def test_a_recordings_decisions_are_a_model(tmp_path: Path) -> None:
    """What a real model decided once can be played to the agent on a like event."""
    path = sorted((Path(__file__).parent / "recordings").glob("repo_review-*.recording"))[0]
    known = load(path)
    payload = {**known.head.event.payload, "repo": str(tmp_path)}
    settings = {"params": known.config.params, "permissions": {"read": [str(tmp_path)]}}
    run = run_agent(
        "repo_review", NewEvent("repo.changed", payload), recorded(path), config=settings
    )
    assert run.state is SessionState.ENDED, run.error
    names = [step.type for step in known.steps if step.kind is StepKind.DECISION]
    assert [name for name, _ in run.decisions] == names


def test_places_are_written_as_texts(tmp_path: Path) -> None:
    """As README writes them: a recording, a TOML file and a home by their names."""
    path = next((Path(__file__).parent / "recordings").glob("repo_fetch-*.recording"))
    assert recorded(str(path)) == recorded(path) != []
    file = tmp_path / "task.toml"
    file.write_text('agent = "task"\ndone = "It is so."\n[params]\ninstructions = "Do it."\n')
    answers = [("Done", {"result": "x"})]
    run = run_agent("task", EVENT, answers, config=str(file), home=str(tmp_path))
    assert run.outcome == {"result": "x"}, run.error


def test_a_wrong_configuration_is_one_clear_error(tmp_path: Path) -> None:
    """As in a daemon: the key, where it stands, what is wrong with it."""
    with pytest.raises(ConfigError, match=r"config of task: limits\.turns: "):
        run_agent("task", EVENT, [], config={**config(tmp_path), "limits": {"turns": 0}})
    file = tmp_path / "task.toml"
    file.write_text('turn = 1\ndone = "It is so."\n')
    with pytest.raises(ConfigError, match=r"task\.toml: line 1: turn: unknown key"):
        run_agent("task", EVENT, [], config=str(file))


@pytest.mark.parametrize("way", ["text", "one line", "path", "Path", "bare path"])
def test_a_configuration_is_a_file_or_its_content(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is content, unless it is written like a path or there is such a file."""
    text = 'done = "The note is read."\n[params]\ninstructions = "Read."\n'
    (tmp_path / "reader.toml").write_text(text)
    (tmp_path / "settings").write_text(text)
    monkeypatch.chdir(tmp_path)
    given: dict[str, str | Path] = {
        "text": text,
        "one line": 'params = { instructions = "Read." }',
        "path": str(tmp_path / "reader.toml"),
        "Path": Path("reader.toml"),
        "bare path": "settings",
    }
    run = run_agent("task", EVENT, [("Done", {"result": "read"})], config=given[way])
    assert run.state == "ended"


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ("", "config of task"),
        ("limits = ", "config of task"),
        ("missing.toml", "missing.toml"),
        ("x" * 5000, "config of task"),
        ("\0", "config of task"),
        ("\ud800", "config of task"),
        ("[limits]\nturns = 0", "config of task"),
    ],
)
def test_a_wrong_configuration_says_whose_it_is(config: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_agent("task", EVENT, [], config=config)
    assert caught.value.where == where and caught.value.hint


def test_pages_are_the_whole_web(tmp_path: Path) -> None:
    """A page is what the test says; all others are errors that the model is told."""
    run = run_agent(
        "task",
        EVENT,
        [
            ("HttpGet", {"url": "http://example.invalid/a"}),
            ("HttpGet", {"url": "http://example.invalid/b"}),
            ("Done", {"result": ""}),
        ],
        config=config(tmp_path),
        pages={"http://example.invalid/a": "hello"},
    )
    assert run.results[0] == {"url": "http://example.invalid/a", "text": "hello"}
    assert "not among the recorded pages" in run.results[1]["error"]


def test_programs_say_what_the_test_says(tmp_path: Path) -> None:
    """None runs for real, also where the permissions list it; an installed one is not needed."""
    marker = tmp_path / "marker"
    settings = {
        "params": {"instructions": "Do it.", "tools": ["RunCommand"]},
        "permissions": {"run": ["touch", "brew-coffee"]},
    }
    calls = [
        ("touch", [str(marker)]),
        ("brew-coffee", ["--strong"]),
        ("brew-coffee", ["a b"]),
        ("rm", []),
    ]
    script = [("RunCommand", {"program": program, "args": args}) for program, args in calls]
    run = run_agent(
        "task",
        EVENT,
        [*script, ("Done", {"result": ""})],
        config=settings,
        programs={"brew-coffee --strong": "ready", "brew-coffee 'a b'": (2, "no such coffee")},
        approve="allow",
    )
    assert "is not among the programs of this test" in run.results[0]["error"]
    assert not marker.exists()
    assert run.results[1] == {"exit": 0, "output": "ready"}
    assert run.results[2] == {"exit": 2, "output": "no such coffee"}
    assert "'rm' may not be run" in run.results[3]["error"]


def test_a_person_answers_or_does_not(tmp_path: Path) -> None:
    """Without an answer the session stays parked on its question."""
    script = [("AskPerson", {"question": "Which?"}), ("Done", {"result": "it"})]
    parked = run_agent("task", EVENT, script, config=config(tmp_path))
    assert (parked.state, parked.question) == (SessionState.PARKED, "Which?")
    ended = run_agent("task", EVENT, script, config=config(tmp_path), answers=["this one"])
    assert ended.state is SessionState.ENDED and ended.results[-1] == {"answer": "this one"}


def test_a_person_allows_or_does_not(tmp_path: Path) -> None:
    """All, nothing, or one by one; without a word of it the session waits, with what it asks."""
    (tmp_path / "a.txt").write_text("before")
    settings = {
        "params": {"instructions": "Write.", "tools": ["WriteFile", "ReadFile"]},
        "permissions": {"read": [str(tmp_path)], "write": [str(tmp_path)]},
    }
    write = ("WriteFile", {"path": "a.txt", "text": "after"})
    script = [write, ("Done", {"result": "it"})]
    parked = run_agent("task", EVENT, script, config=settings)
    assert parked.state is SessionState.PARKED and parked.asked is not None
    assert (parked.asked.tool, parked.asked.args) == write
    ways: list[tuple[Any, str]] = [
        ("deny", "a person said no"),
        (lambda tool, args: f"not {args['path']}", "a person said no: not a.txt"),
        (lambda tool, args: tool != "WriteFile", "a person said no"),
    ]
    for approve, told in ways:
        denied = run_agent("task", EVENT, script, config=settings, approve=approve)
        assert denied.results[0]["error"] == told and denied.state is SessionState.ENDED
    assert (tmp_path / "a.txt").read_text() == "before"
    allowed = run_agent("task", EVENT, script, config=settings, approve="allow")
    assert "error" not in allowed.results[0] and (tmp_path / "a.txt").read_text() == "after"


def test_what_no_mask_would_allow_is_a_mistake_of_the_test(tmp_path: Path) -> None:
    """A wrong class, a wrong field and an empty script are said, not played."""
    run = run_agent("task", EVENT, [{"tool": "fly"}], config=config(tmp_path))
    assert run.state is SessionState.FAILED and "only ['AskPerson'," in str(run.error)
    run = run_agent("task", EVENT, [("Dne", {})], config=config(tmp_path))
    assert "the model answered Dne, but only ['AskPerson'," in str(run.error)
    run = run_agent("task", EVENT, [], config=config(tmp_path))
    assert "no further answer" in str(run.error)
    with pytest.raises(RecordingError, match="no agent `gone`"):
        run_agent("gone", EVENT, [])


def test_an_agent_over_http_with_faults(tmp_path: Path) -> None:
    """The same agent over the real wire: a slow, a broken and a full server, then an answer."""
    answers = [
        Reply('{"tool":"read_file","path":"a.txt","start":null}', pause_s=0.01),
        Reply('{"tool":"done"', cut=True),
        Reply(status=503, headers={"Retry-After": "0"}),
        Reply(garbage=b"data: {}\n\n"),
        Reply('{"tool":"done","result":"milk"}'),
    ]
    with FakeModelServer(answers) as server:
        run = run_agent("task", EVENT, server, config=config(tmp_path))
    assert run.outcome == {"result": "milk"} and len(server.requests) == 5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"answers": [Reply(hang=True)]}, "did not answer within 1 s"),
        ({"answers": [Reply(status=503, headers={"Retry-After": "1"})]}, "cannot be used"),
        ({"loading": True}, "the model server cannot be used"),
    ],
)
def test_a_fault_that_lasts_costs_no_more_than_a_test_says(
    fault: dict[str, Any], error: str, tmp_path: Path
) -> None:
    """A hanging, a full and a loading server: the next try in a second would be beyond 0.9."""
    with FakeModelServer(**fault) as server:
        run = run_agent("task", EVENT, server, config=config(tmp_path), call_deadline_s=0.9)
    assert run.state is SessionState.FAILED and error in str(run.error)
    assert len(server.requests) == (0 if server.loading else 1)
    assert len(server.tokenized) == 1 or not server.loading


@pytest.mark.parametrize("seed", range(20))
def test_a_random_model_answers_anything_legal(seed: int, tmp_path: Path) -> None:
    """Every session ends in order, whatever is decided; the same seed decides the same."""
    kwargs = {"config": config(tmp_path), "answers": ["yes"] * 8}
    first = run_agent("task", EVENT, RandomModel(seed), **kwargs)  # type: ignore[arg-type]
    assert first.state is SessionState.ENDED, first.error
    again = run_agent("task", EVENT, RandomModel(seed), **kwargs)  # type: ignore[arg-type]
    assert again.decisions == first.decisions


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 50},
        {"type": "string", "pattern": r"^\w+\s\d{3}$"},
        {"type": "string", "pattern": r"^\S\W\D$"},
        {"type": "string", "pattern": "^[a-z]+$", "minLength": 30, "maxLength": 200},
        {"type": "string", "pattern": "^[a-z]+$", "minLength": 200, "maxLength": 200},
        {"type": "string", "pattern": "^([^a]{2,9}|[^0-9b]*)-x?$", "minLength": 5, "maxLength": 12},
        {
            "type": "string",
            "pattern": r"^(Adds|Fixes) (the|a)( [A-Za-z]{1,14}){1,7}\.$",
            "minLength": 16,
            "maxLength": 60,
        },
        {"type": "array", "items": {"type": "null"}, "minItems": 7, "maxItems": 20},
        {"type": "array", "items": {"type": "null"}, "maxItems": 2},
        {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 22},
        {"type": "integer", "minimum": 500},
        {"type": "integer", "maximum": -500},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1_000_000_000},
        {"type": "number", "exclusiveMinimum": 0, "minimum": 0, "exclusiveMaximum": 0.002},
        {"type": "number", "minimum": 0.00001, "maximum": 0.00002},
        {"type": "number", "multipleOf": 0.25, "minimum": -1, "maximum": 1},
        {"type": "number", "multipleOf": 0.1, "minimum": 0, "maximum": 1},
        {
            "type": "object",
            "additionalProperties": {"type": "boolean"},
            "minProperties": 2,
            "maxProperties": 3,
        },
    ],
    ids=str,
)
def test_a_random_value_is_what_its_schema_says(schema: dict[str, Any]) -> None:
    """Bounds, steps, patterns and maps hold, by another validator, and values differ."""
    validator = jsonschema.Draft202012Validator(schema)
    values = [RandomModel(seed).value(schema) for seed in range(200)]
    for value in values:
        validator.validate(value)
    assert len(set(map(repr, values))) > 1 or schema.get("exclusiveMaximum") == 5


def test_a_test_of_the_kit_reaches_no_real_model() -> None:
    """This module imports the kit, so only fake servers may be called, and only this machine."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    deadline = Deadline(ManualClock(), 1)
    with pytest.raises(ModelError, match="no fake server"):
        wire.Wire().send("GET", f"http://127.0.0.1:{sock.getsockname()[1]}/", deadline)
    with pytest.raises(Offline, match=r"192\.0\.2\.1 may not be reached"):
        socket.create_connection(("192.0.2.1", 80), 0.01)
    sock.close()


@pytest.mark.agentd_online
def test_a_marked_test_may_reach_what_it_wants() -> None:
    """The mark lifts both."""
    assert wire.only is None
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", 9), 0.01)
    with offline(), pytest.raises(Offline):
        socket.create_connection(("127.0.0.1", 9), 0.01)


def test_other_projects_tests_are_left_alone(tmp_path: Path) -> None:
    """Without the kit and without recordings the plugin imports nothing and forbids nothing."""
    (tmp_path / "test_other.py").write_text(
        "import sys, socket\n"
        "def test_it():\n"
        "    names = [n for n in sys.modules if n.startswith('agentd')]\n"
        "    assert names == ['agentd', 'agentd.testing', 'agentd.testing.plugin'], names\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout
