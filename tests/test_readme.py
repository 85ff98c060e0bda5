"""The README: every command in it exists, every example in it runs, every key is documented."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from agentd import cli
from agentd.admission.admit import admit
from agentd.admission.version import load_version
from agentd.bus import Bus
from agentd.config.agent import AgentConfig
from agentd.config.daemon import DaemonConfig
from agentd.config.toml import Strict
from agentd.errors import ConfigError
from agentd.events import NewEvent
from agentd.paths import Paths, discover

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Return each agentd command line of the README, in blocks and in text."""
    lines = [line.partition("#")[0] for block in blocks("sh") for line in block.splitlines()]
    found = [line.strip().removeprefix("uv run ") for line in lines]
    found += re.findall(r"`(agentd [a-z][^`]*)`", README)
    return sorted({line for line in found if line.startswith("agentd ")})


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    return paths


@pytest.mark.parametrize("line", commands())
def test_command_is_one_that_agentd_knows(line: str) -> None:
    """Each command line of the README is accepted by the real parser (nothing is run)."""
    line = re.sub(r"\[[^]]*\]", "", line)  # `agentd logs [-f] [NAME]` shows what may be left out
    words = shlex.split(line.replace(" ID", " 1").replace("TYPE JSON", "a.b '{}'"))
    if ">" in words:
        words = words[: words.index(">")]
    command = next(command for command in cli.COMMANDS if command.name == words[1])
    module = importlib.import_module(f"agentd.commands.{command.module}")
    cli.command_parser(command, module).parse_args(words[2:])


def test_every_command_is_in_the_readme() -> None:
    """A command that nobody can find is not there."""
    known = {line.split()[1] for line in commands()}
    assert {command.name for command in cli.COMMANDS} == known


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every configuration key, dotted."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Strict):
            found += keys(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", [*keys(AgentConfig), *keys(DaemonConfig)])
def test_every_key_is_in_the_readme(key: str) -> None:
    """Every setting is documented."""
    assert f"| `{key}` |" in README


def test_no_other_key_is_in_the_readme() -> None:
    """A setting that does not exist is not documented."""
    documented = re.findall(r"^\| `([a-z_.]+)` \| (?:`|required|none)", README, re.MULTILINE)
    assert sorted(documented) == sorted([*keys(AgentConfig), *keys(DaemonConfig)])


def test_agent_by_configuration(paths: Paths) -> None:
    """The first example can be dropped in as it stands."""
    (paths.agents_d / "note_tasks.toml").write_text(blocks("toml")[0])
    accepted = admit("note_tasks", paths)
    assert accepted.config.subscribe == ("note.changed",)
    assert load_version(accepted.folder).members == ("ReadFile", "Done")


def test_agent_by_code(paths: Paths) -> None:
    """The three files of the second example are accepted as they stand, and not one by one."""
    (paths.agents_d / "word_count.toml").write_text(blocks("toml")[1])
    with pytest.raises(ConfigError, match=r"agents/word_count\.py"):
        admit("word_count", paths)
    (paths.agents / "word_count.py").write_text(blocks("python")[0])
    (paths.baml_src / "word_count.baml").write_text(blocks("baml")[0])
    version = load_version(admit("word_count", paths).folder)
    assert version.function == "WordCount"
    assert list(version.publishes) == ["text.counted"]


def test_agents_test(tmp_path: Path) -> None:
    """The example of the test kit passes as it stands, beside the example agent's files."""
    for name, text in (
        ("agents/word_count.py", blocks("python")[0]),
        ("baml_src/word_count.baml", blocks("baml")[0]),
        ("test_word_count.py", blocks("python")[1]),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={tmp_path}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "21 passed" in done.stdout, done.stdout


def test_query_on_the_bus(paths: Paths) -> None:
    """Anyone can read the bus with the query as it stands."""
    bus = Bus(paths.database)
    bus.publish("repo_fetch", NewEvent("repo.changed", {"files": 1}))
    (query,) = re.findall(r'sqlite3 "\$\(agentd paths database\)" "(SELECT [^"]+)"', README)
    assert bus.db.run(query) == [(1, "repo.changed", '{"files":1}')]
    bus.close()


def test_readme_has_no_dead_file() -> None:
    """Files that the README names are there."""
    for name in re.findall(r"`((?:agentd|agents|config|tests|baml_src|\.ci)/[\w./]+)`", README):
        if "word_count" not in name and "NAME" not in name:
            assert (ROOT / name).exists(), name
