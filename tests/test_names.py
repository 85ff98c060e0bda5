"""Names that become paths, producers or lookups: only what was meant fits, whole."""

import json
from pathlib import Path

import pytest

from agentd.admission.admit import admit
from agentd.admission.precheck import find_module_and_prompt
from agentd.config.__main__ import schemas
from agentd.config.agent import check_agent_name, load_agent
from agentd.config.duration import parse
from agentd.errors import ConfigError
from agentd.evaluate.cases import Case, write_project
from agentd.events import NewEvent
from agentd.models import huggingface, store
from agentd.paths import discover
from agentd.testing import run_agent
from tests.commandline import agentd
from tests.test_admission import MODULE, drop

# What a pattern without its ends, `$` in the place of the end, or a letter's look lets through.
ODD = [
    *("../../mod/evil", "/etc/passwd", "task/../../evil", "./task", "a/b", "..", ""),
    *("task\n", "\ntask", "task ", "task\0", "task.py", "Task", "TASK", "t\u0430sk", "1task"),
    *("ta\u017fk", "task\u200b", "-task", "_task", "x" * 49, "task\r\n../evil", "evil;task"),
]
EVIL = "from pathlib import Path\nPath({mark!r}).touch()\n"


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_is_no_module(tmp_path: Path, name: str) -> None:
    """Neither in a file, nor in the schema that editors use, nor past it, in a recording."""
    file = tmp_path / "reader.toml"
    file.write_text(f'agent = {json.dumps(name)}\ndone = "Something is done."\n')
    with pytest.raises(ConfigError, match="agent: "):
        load_agent(file)
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="cannot name a module") as caught:
        find_module_and_prompt(name, paths, "a recording")
    assert caught.value.hint
    pattern = json.loads(schemas()["agent.schema.json"])["properties"]["agent"]["pattern"]
    assert pattern.startswith("^") and pattern.endswith("$")


@pytest.mark.parametrize("name", [*ODD, "agentd", "person", "model"])
def test_an_odd_name_is_no_agents(name: str) -> None:
    """An agent's name is a producer, a lane, a socket and a file."""
    with pytest.raises(ConfigError, match="cannot name an agent"):
        check_agent_name(name)


@pytest.mark.parametrize("way", ["check", "dropped", "run_agent"])
def test_a_path_in_agent_runs_nothing(tmp_path: Path, way: str) -> None:
    """`agentd check FILE` of a downloaded file must not run the module that lies beside it."""
    home, mark = tmp_path / "home", tmp_path / "ran"
    paths = discover({"AGENTD_HOME": str(home)})
    paths.create()
    (tmp_path / "mod").mkdir()
    for name in ("evil.py", "evil.baml"):
        (tmp_path / "mod" / name).write_text(EVIL.format(mark=str(mark)))
    text = 'agent = "../../mod/evil"\ndone = "Something is done."\n'
    draft = (paths.agents_d if way == "dropped" else tmp_path) / "reader.toml"
    draft.write_text(text)
    if way == "run_agent":
        with pytest.raises(ConfigError):
            run_agent("../../mod/evil", NewEvent("a.b"), [], home=home)
    else:
        done = agentd(home, "check", *([str(draft)] if way == "check" else []))
        assert done.returncode == 1 and "agent: " in done.stdout
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "org/../evil", "a/b/c", "org/name\n", "\u043erg/name", "org/na\u0301me"),
        *("org--x/name", "org/..", "/name", "org/", "o/" + "x" * 95, "org/na me", ".org/name"),
    ],
)
def test_an_odd_name_is_no_models(tmp_path: Path, name: str) -> None:
    """A letter that looks like another must not fetch another's model, nor a name leave ours."""
    assert not huggingface.is_name(name)
    with pytest.raises(ConfigError, match="no model"):
        store.pull(name, tmp_path)


def test_a_misspelt_model_is_answered_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        store.resolve("SmolLM2-135m", tmp_path)
    assert 'did you mean "smollm2-135m"?' in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [".git/config", ".GIT/config", "a/.Git/hooks/x", ".g\u200cit/config", "../x", "/x", "a\0b"],
)
def test_a_cases_file_is_no_setting_of_git(tmp_path: Path, name: str) -> None:
    """Cases may come from somebody else, and git runs what its settings name."""
    case = Case.model_validate(
        {"name": "x", "event": "a.b", "files": {name: "x"}, "expect": [{"tool": "Done"}]}
    )
    with pytest.raises(ConfigError, match="leads out of"):
        write_project(case, tmp_path / "project")


def test_a_duration_is_written_in_one_script() -> None:
    """The schema that editors use knows no other digits either."""
    with pytest.raises(ValueError, match="write a duration"):
        parse("\u0663s")


@pytest.mark.parametrize("function", ['"request"', '"__init__"', '"Greet\\n"', "None", "7"])
def test_a_function_is_one_of_the_prompts(tmp_path: Path, function: str) -> None:
    """The generated client has methods of its own; none of them is a model call."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    drop(paths, module=MODULE.replace('"Greet"', function))
    with pytest.raises(ConfigError, match=r"no BAML function|does not name its BAML function"):
        admit("greeter", paths)
