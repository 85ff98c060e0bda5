"""Evaluation: cases are read, run on a real server, scored; the shipped ones fit their agents."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd import cli
from agentd.config.agent import load_agent
from agentd.errors import ConfigError
from agentd.evaluate.cases import find_cases, load_cases, shipped_cases
from agentd.evaluate.evaluate import Setting, evaluate
from agentd.evaluate.score import fits
from agentd.llm.address import Address
from agentd.llm.endpoint import Endpoint
from agentd.paths import discover, shipped
from agentd.replay.code import Workshop
from agentd.testing import FakeModelServer, Reply, Request
from tests.commandline import agentd

CASES = """
[agent]
agent = "task"
done = "The question is answered."
limits = { turns = 3, decision_tokens = 48 }
permissions = { read = ["/project"] }
[agent.params]
instructions = "Answer the question."
tools = ["ReadFile", "ListFiles"]

[[case]]
name = "reads and answers"
event = "question.asked"
payload = { path = "/project/a.txt" }
files = { "a.txt" = "four" }
expect = [
  { tool = "ReadFile", args = { path = "/project/a.txt" } },
  { tool = "Done", args = { result = { contains = "Four" } } },
]

[[case]]
name = "lists"
event = "question.asked"
expect = [{ tool = "ListFiles", args = { path = ["", "/project"] } }, { tool = "Done" }]
"""
READ = {"tool": "read_file", "path": "/project/a.txt", "start": None}
LIST = {"tool": "list_files", "path": "/project"}


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with Workshop() as workshop:
        yield workshop


def run(
    workshop: Workshop, server: FakeModelServer, cases: str = CASES, **options: Any
) -> list[dict[str, Any]]:
    """Evaluate cases on the fake server; return the rows as --json shows them."""
    path = workshop.folder / "cases.toml"
    path.write_text(cases)
    address = Address(server.url, server.model, server.token)
    endpoint = Endpoint(lambda: address, own=True)
    paths = discover({"AGENTD_HOME": str(workshop.folder / "home")})
    setting = Setting(endpoint, "fake", paths, workshop, 30.0)
    files = options.pop("files", None) or {"cases": load_cases(path)}
    return [row.document() for row in evaluate(files, setting, **options)]


def test_what_a_model_gets_right_is_counted(workshop: Workshop) -> None:
    """Tool, arguments and end are scored by position; paths are the cases' own."""

    def answer(request: Request) -> Any:
        log = request.body["messages"][-1]["content"]
        if "/project/a.txt" in log:
            return {"tool": "done", "result": "it is four"} if '"text":"four"' in log else READ
        return READ  # wrong, again and again

    with FakeModelServer(answer, window=4096) as server:
        (row,) = run(workshop, server)
        prompts = [json.dumps(request.body["messages"]) for request in server.requests]
    score = row["score"]
    assert (score["legal"], score["legal_of"]) == (4, 5), "at the last turn only Done is legal"
    assert (score["tool"], score["tool_of"]) == (2, 4)
    assert (score["args"], score["args_of"]) == (2, 3)
    assert (score["ended"], score["cases"]) == (1, 2)
    assert row["wrong"] == ["lists"] and (row["mask"], row["fill"]) == (True, 0)
    assert all("agentd-" not in prompt for prompt in prompts), "no folder of this machine"


def test_a_window_is_filled_before_the_case(workshop: Workshop) -> None:
    """Neutral events take the asked share of the window, before the case's own; no limit cuts."""
    with FakeModelServer([LIST, {"tool": "done", "result": ""}], window=4096) as server:
        rows = run(workshop, server, fills=(20, 60))
        logs = [request.body["messages"][-1]["content"] for request in server.requests]
    assert [row["fill"] for row in rows] == [0, 20, 60]
    assert "sensor.read" not in logs[0]
    shares = [len(log.encode()) / 4 / 4096 for log in logs if "sensor.read" in log]
    assert min(shares) > 0.17 and 0.57 < max(shares) < 0.68
    assert logs[-1].rindex("sensor.read") < logs[-1].index('type="question.asked"')


def test_without_the_mask_the_answer_is_free(
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No schema is sent, and what is no decision counts as illegal; by the command."""
    path = tmp_path / "cases.toml"
    path.write_text(CASES)
    home = discover({"AGENTD_HOME": str(tmp_path / "home")})
    home.config.mkdir(parents=True)
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path / "home"))
    with FakeModelServer([Reply("I would read the file.")], window=4096) as server:
        (tmp_path / "key").write_text(server.token)
        key = f'api_key_file = "{tmp_path / "key"}"'
        home.daemon_file.write_text(f'[model]\nname = "other"\nurl = "{server.url}"\n{key}\n')
        assert cli.main(["eval", str(path), "--no-mask"]) == 0
        assert all("response_format" not in request.body for request in server.requests)
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["MODEL", "AGENT", "MASK", "FILL"]
    assert line.split()[:4] == ["other", "cases", "no", "-"] and line.count("0 %") == 4


def test_shipped_cases_fit_their_agents() -> None:
    """Each shipped agent has cases, with its own prompt's words for done."""
    cases = shipped_cases()
    assert {"repo_fetch", "repo_review", "task"} <= cases.keys()
    for name, path in cases.items():
        file = load_cases(path)
        assert len({case.name for case in file.case}) == len(file.case)
        agent = shipped() / "config" / "agents.d" / f"{name}.toml"
        if agent.exists():
            assert file.agent.done == load_agent(agent).done


def test_shipped_cases_are_complete(workshop: Workshop) -> None:
    """Files, repositories and parameters are there as the agents need them."""

    def answer(request: Request) -> Any:
        tools = request.body["messages"][0]["content"]
        if "fetch_repo" in tools and '"commits"' not in request.body["messages"][-1]["content"]:
            return {"tool": "fetch_repo"}
        if '"finding"' in tools:
            reviewed = request.body["messages"][-1]["content"].count('"next":')
            if request.body["messages"][-1]["content"].endswith('"next":"done"}\n</event>\n'):
                return {"tool": "done"}
            return {"tool": "finding", "note": f"Adds the thing {'x' * reviewed}."}
        return (
            {"tool": "done", "kind": "code"}
            if '"kind"' in tools
            else {
                "tool": "done",
                "result": request.body["messages"][-1]["content"][-200:],
            }
        )

    with FakeModelServer(answer, scores=lambda _head, item: -float(len(item))) as server:
        files = {name: load_cases(path) for name, path in shipped_cases().items()}
        rows = run(workshop, server, files=files)
    scores = {row["agent"]: row["score"] for row in rows}
    assert scores.keys() == shipped_cases().keys()
    assert scores["repo_fetch"]["tool"] == 8 and scores["repo_fetch"]["args"] == 1
    assert scores["repo_review"]["tool"] == 9 and scores["repo_review"]["ended"] == 4
    assert scores["recall"]["args"] == 5


@pytest.mark.parametrize(
    ("label", "value", "ok"),
    [
        ("a", "a", True),
        ("a", "b", False),
        (["a", "b"], "b", True),
        (["a", "b"], "c", False),
        ({"contains": "Paris"}, "in paris.", True),
        ({"contains": "Paris"}, "in Rome", False),
        ({"contain": "zzz"}, "in paris", False),
        ({"a": 1}, "x", False),
        ({"a": 1}, {"a": 1}, True),
        ({"contains": "x", "a": 1}, "x", False),
        (["-l"], ["-l"], True),
        (4, "4", False),
    ],
)
def test_labels(label: Any, value: Any, ok: bool) -> None:
    """Equal, one of a list, or containing a text."""
    assert fits({"x": label}, {"x": value}) is ok


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1", "agent: is missing"),
        (CASES.replace('event = "question.asked"', 'event = "question"'), "is no event type"),
        (CASES.replace("expect = [{", "expects = [{"), "unknown key"),
    ],
)
def test_wrong_cases_are_one_clear_error(tmp_path: Path, text: str, error: str) -> None:
    """The key, and the file."""
    path = tmp_path / "cases.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=error) as raised:
        load_cases(path)
    assert str(path) in str(raised.value)
    with pytest.raises(ConfigError, match="no such cases"):
        find_cases("nothing")


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"ListFiles", args', '"ListFile", args', "lists: expect: the agent has no tool ListFile"),
        ("result = {", "text = {", "reads and answers: expect: Done has no argument text"),
        ("result = {", "tool = {", "Done has no argument tool"),
        ("{ contains =", "{ contain =", "Done.result is no table"),
    ],
)
def test_labels_that_nothing_can_fit_are_the_files_mistake(
    workshop: Workshop, old: str, new: str, error: str
) -> None:
    """A tool, an argument or a form that is unknown is said before the model is asked."""
    with FakeModelServer([LIST]) as server:
        with pytest.raises(ConfigError, match=error) as raised:
            run(workshop, server, CASES.replace(old, new))
        assert not server.requests and raised.value.hint


def test_a_server_of_its_own(tmp_path: Path, tiny_model: Path) -> None:
    """Without a daemon a model server is started, used and stopped; its mask makes all legal."""
    (tmp_path / "cases.toml").write_text(CASES.split("[[case]]")[0] + ONE_CASE)
    done = agentd(
        tmp_path / "home",
        "eval",
        str(tmp_path / "cases.toml"),
        "--json",
        "--model",
        str(tiny_model),
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["model"] == str(tiny_model)
    assert row["score"]["legal"] == row["score"]["legal_of"] > 0


ONE_CASE = """[[case]]
name = "anything"
event = "question.asked"
expect = [{ tool = "Done" }]
"""


def test_a_model_that_is_not_here(tmp_path: Path) -> None:
    """Without a daemon and without the model's files the next step is said."""
    done = agentd(tmp_path, "eval", "recall", "--model", "smollm2-135m")
    assert done.returncode == 1 and "agentd model pull smollm2-135m" in done.stderr
