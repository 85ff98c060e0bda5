"""The pages: every command in them exists, every example runs, every link leads somewhere."""

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentd import cli
from agentd.admission.admit import admit
from agentd.admission.version import load_version
from agentd.agent import Agent, Kit, Label, Result, Scores
from agentd.bus import Bus
from agentd.commands import dead, sessions, status
from agentd.config.agent import load_agent
from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError
from agentd.evaluate.cases import load_cases
from agentd.evaluate.labelled import load_labelled
from agentd.events import NewEvent
from agentd.paths import Paths, discover
from agentd.sessions.archive import SessionRow
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason, Exit, WorkerState
from agentd.testing import run_agent
from agentd.tools.declared_tools import REGISTRY
from agentd.views.session_turns import step_fields
from tests.pages import FILES, FOLDERS, NAME, PAGES, ROOT, page, pages

FIRST, AGENTS, TESTING, RUNNING = page(""), page("agents"), page("agentd/testing"), page("launchd")
# What a line of a shell block may begin with.
PROGRAMS = {"agentd", "uv", "curl", "sqlite3", "pytest", "git"}


def shell_lines() -> list[list[str]]:
    """Return each command line of the pages' shell blocks as words, without its comment."""
    blocks = [block for found in pages() for block in found.blocks("sh")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def commands() -> list[str]:
    """Return each agentd command line of the pages, in blocks and in text."""
    lines = [words[2:] if words[:2] == ["uv", "run"] else words for words in shell_lines()]
    found = [shlex.join(words) for words in lines if words[0] == "agentd"]
    for each in pages():
        found += re.findall(r"`(agentd [a-z][^`]*)`", each.prose)
    return sorted(set(found))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    return paths


def test_first_page_lists_all_pages() -> None:
    """A newcomer reads one page, and finds every other page from it."""
    tops = {Path(folder).parts[0] for folder in FOLDERS if folder}
    found = {file.parent for top in tops for file in (ROOT / top).rglob(NAME)}
    assert found == {ROOT / folder for folder in FOLDERS if folder}
    assert {f"{folder}/{NAME}" for folder in FOLDERS if folder} <= set(FIRST.links())
    assert set(FILES) <= set(FIRST.links())
    assert f"launchd/{NAME}#commands" in FIRST.links()


@pytest.mark.parametrize("folder", PAGES)
def test_links_lead_somewhere(folder: str) -> None:
    """Each relative link names a file that is there, each anchor a heading of its page."""
    here = page(folder)
    for link in here.links():
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (here.path.parent / target).resolve() if target else here.path
        assert file.exists(), link
        if anchor:
            named = file.relative_to(ROOT).as_posix()
            folder = file.parent.relative_to(ROOT).as_posix().strip(".")
            assert anchor in page(named if named in FILES else folder).anchors(), link


@pytest.mark.parametrize("folder", PAGES)
def test_each_section_is_in_the_pages_contents(folder: str) -> None:
    """The contents at the top of a page name all its sections, in their order."""
    here = page(folder)
    contents = [link[1:] for link in here.links() if link.startswith("#")]
    sections = here.anchors("##")
    assert contents[: len(sections)] == sections
    assert len(set(here.anchors())) == len(here.anchors())


def test_named_files_are_there() -> None:
    """Files of the project that the pages name are there."""
    folders = "agentd|agents|config|launchd|tests|baml_src|\\.ci"
    for each in pages():
        for name in re.findall(rf"`((?:{folders})/[\w./]+)`", each.prose):
            if "word_count" not in name and "NAME" not in name:
                assert (ROOT / name).exists(), f"{each.path}: {name}"


def spelt_out() -> list[str]:
    """Return the command lines without the parts in brackets, and with each of these alone."""
    found = set()
    for line in commands():
        parts = re.findall(r" \[([^]]*)\]", line)
        line = re.sub(r" \[[^]]*\]", "", line)
        line = line.replace(" ID", " 1").replace("TYPE JSON", "a.b '{}'")
        found |= {line, *(f"{line} {part}" for part in parts)}
    return sorted(found - {"agentd COMMAND --help"})


@pytest.mark.parametrize("line", spelt_out())
def test_command_is_one_that_agentd_knows(line: str) -> None:
    """Each command line of the pages is accepted by the real parser (nothing is run)."""
    _, name, *words = shlex.split(line)
    command = next(command for command in cli.COMMANDS if command.name == name)
    module = importlib.import_module(f"agentd.commands.{command.module}")
    cli.command_parser(command, module).parse_args(words)


def test_every_command_is_in_the_table() -> None:
    """A command that nobody can find is not there."""
    table = re.findall(r"^\| (`agentd .*?) \| ", RUNNING.text, re.MULTILINE)
    known = {name for row in table for name in re.findall(r"`agentd ([a-z-]+)", row)}
    assert {command.name for command in cli.COMMANDS} == known


def test_other_command_lines_are_known() -> None:
    """A line of a shell block begins with a program that is expected; our modules are there."""
    for words in shell_lines():
        assert words[0] in PROGRAMS, words
        if "-m" in words:
            name, *options = words[words.index("-m") + 1 :]
            place = ROOT / name.replace(".", "/")
            files = [place.with_suffix(".py"), *place.rglob("*.py")]
            source = "".join(file.read_text() for file in files if file.exists())
            assert source, name
            for option in options:
                assert not option.startswith("--") or f'"{option}"' in source, words


def test_exit_codes_and_states_are_documented() -> None:
    """Every exit code and every state of an agent stands in its table."""
    codes = re.findall(r"^\| (\d+) \| ", RUNNING.text, re.MULTILINE)
    assert [int(code) for code in codes] == sorted(Exit)
    states = dict(re.findall(r"^\| `([A-Z]+)` \| (.*) \|$", RUNNING.text, re.MULTILINE))
    assert states.pop("UNKNOWN") in status.EXAMPLES
    assert states == {state.value: state.meaning for state in WorkerState}
    assert all(f"  {state.value:8}  {state.meaning}\n" in status.EXAMPLES for state in WorkerState)


def test_the_help_names_all_that_json_has() -> None:
    """Each key of a session and of its steps, each reason of a dead letter."""
    head, steps = sessions.EXAMPLES.split("--json prints")[1].split("steps: ")
    assert {field.name for field in fields(SessionRow)} <= set(re.findall(r"\w+", head))
    named = set(re.findall(r"\w+", steps))
    assert step_fields(Step(StepKind.NOTE, "note", {})).keys() <= named
    reasons = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\w", dead.EXAMPLES, re.MULTILINE)
    assert reasons == [reason.value for reason in DeadReason]


def test_no_block_is_left_out() -> None:
    """Each block of code in the pages is run or read by a test, here or in test_docs_model.py."""
    held = {AGENTS: (3, 1), TESTING: (1, 0), page("agentd/model_server"): (1, 0)}
    for each in pages():
        languages = set(re.findall(r"^```(\w+)$", each.text, re.MULTILINE))
        assert languages <= {"text", "sh", "toml", "json", "python", "baml"}
        counts = len(each.blocks("python")), len(each.blocks("baml"))
        assert counts == held.get(each, (0, 0)), each.folder


def toml_blocks() -> list[str]:
    return [block for each in pages() for block in each.blocks("toml")]


@pytest.mark.parametrize("text", toml_blocks())
def test_toml_example_is_right(text: str, tmp_path: Path, paths: Paths) -> None:
    """Each example is an agent, cases, or a daemon's configuration, and passes its check."""
    table = tomllib.loads(text)
    file = tmp_path / "example.toml"
    file.write_text(text)
    if "case" in table:
        load_cases(file)
    elif "labelled" in table:
        load_labelled(file)
    elif table.get("agent") == "task":
        (paths.agents_d / "example.toml").write_text(text)
        admit("example", paths)
    elif "agent" in table:  # its code is in the next test but one
        load_agent(file)
    else:
        load_daemon(file)


# The model server's are bodies, which test_docs_model.py sends.
LOG_LINES = [
    t for each in pages() if each.folder != "agentd/model_server" for t in each.blocks("json")
]


@pytest.mark.parametrize("text", LOG_LINES)
def test_json_example_is_right(text: str) -> None:
    """A log line has the keys that the page promises."""
    assert {"ts", "level", "event", "agent"} <= json.loads(text).keys()


def test_agent_in_twelve_lines(paths: Paths) -> None:
    """The first page's agent can be dropped in as it stands."""
    (text,) = FIRST.blocks("toml")
    assert len(text.splitlines()) == 12
    (paths.agents_d / "note_tasks.toml").write_text(text)
    accepted = admit("note_tasks", paths)
    assert accepted.config.subscribe == ("note.changed",)
    assert load_version(accepted.folder).members == ("ReadFile", "Done")


def test_agent_in_twelve_lines_does_what_the_page_says(tmp_path: Path) -> None:
    """The event that the page sends leads to the result that it names."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "today.md").write_text("- [ ] water the plants\n")
    (send,) = [line for line in commands() if line.startswith("agentd send note.changed")]
    payload = json.loads(shlex.split(send)[-1].replace("~", str(tmp_path)))
    (text,) = FIRST.blocks("toml")
    config = tomllib.loads(text.replace("~", str(tmp_path)))
    read = ("ReadFile", {"path": payload["path"], "start": None})
    run = run_agent(
        "task",
        NewEvent("note.changed", payload),
        [read, ("Done", {"result": "water the plants"})],
        config=config,
    )
    assert "water the plants" in str(run.results)
    assert run.events("note.tasks") == [{"result": "water the plants"}]


def test_agent_by_code(paths: Paths) -> None:
    """The three files of the example are accepted as they stand, and not one by one."""
    blocks = AGENTS.blocks("toml")
    file = next(block for block in blocks if block.startswith('agent = "word_count"'))
    (paths.agents_d / "word_count.toml").write_text(file)
    with pytest.raises(ConfigError, match=r"agents/word_count\.py"):
        admit("word_count", paths)
    (paths.agents / "word_count.py").write_text(AGENTS.blocks("python")[0])
    (paths.baml_src / "word_count.baml").write_text(AGENTS.blocks("baml")[0])
    version = load_version(admit("word_count", paths).folder)
    assert version.function == "WordCount"
    assert list(version.publishes) == ["text.counted"]


def test_the_label_of_an_agent(paths: Paths) -> None:
    """The example of a label goes with the example agent's prompt, and tells what is unsure."""
    (paths.agents / "word_count.py").write_text(AGENTS.blocks("python")[1])
    (paths.baml_src / "word_count.baml").write_text(AGENTS.blocks("baml")[0])
    event = NewEvent("text.written", {"text": "one two three"})
    close = ("Done", {"length": "long"}, {"length": {"short": -0.7, "long": -0.69}})
    config = {"done": "The text has its label.", "labels": {"calibrate": False}}
    run = run_agent("word_count", event, [close], config=config, home=paths.user)
    assert run.outcome == {"length": "unsure"}


def test_the_ranking_of_the_page() -> None:
    """The example of scores puts first what gains most from the reader's interest."""
    likes = {"A comet returns": 2.0, "Rates rise": 0.0, "New telescope": 1.0}

    class Scoring:
        def score(self, heads: list[str], items: list[str]) -> Scores:
            return Scores(
                heads,
                items,
                [[likes[i] * ("astronomy" in h) - len(i) for i in items] for h in heads],
            )

    example: dict[str, Any] = {}
    exec(AGENTS.blocks("python")[2], example)
    ranked = example["ranked"](Scoring(), list(likes))
    assert ranked == ["A comet returns", "New telescope", "Rates rise"]


def test_agents_test(tmp_path: Path) -> None:
    """The example of the test kit passes as it stands, beside the example agent's files."""
    for name, text in (
        ("agents/word_count.py", AGENTS.blocks("python")[0]),
        ("baml_src/word_count.baml", AGENTS.blocks("baml")[0]),
        ("test_word_count.py", TESTING.blocks("python")[0]),
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


def _documented(heading: str) -> set[str]:
    """Return the names in the first column of a table of the page on agents."""
    table = heading + AGENTS.text.split(heading, 1)[1].split("\n\n")[0]
    first = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    return {name for cell in first[1:] for name in re.findall(r"`(\w+)", cell)}


def test_the_whole_contract_is_documented() -> None:
    """Each member of `Agent`, `Result` and `Kit`, and each shared tool, has its row."""
    members = {name for name in vars(Agent) if not name.startswith("_")}
    variables = _documented("| class variable |")
    methods = _documented("| method |")
    assert members <= variables | methods and not variables & methods
    assert _documented("| field of `Label` |") == set(Label.__dataclass_fields__)
    assert _documented("| field of `Result` |") == set(Result.__dataclass_fields__)
    assert _documented("| member of `self.kit` |") == set(Kit.__dataclass_fields__)
    assert _documented("| tool | fields |") == set(REGISTRY)
    for name, tool in REGISTRY.items():
        row = next(line for line in AGENTS.text.splitlines() if line.startswith(f"| `{name}` |"))
        assert set(tool.args.model_fields) <= set(re.findall(r"`(\w+)`", row.split("|")[2]))
        assert (not tool.needs) == (not row.split("|")[3].strip())


def test_run_agents_options_are_documented() -> None:
    """Each option of `run_agent` that the page names exists."""
    known = run_agent.__kwdefaults__ or {}
    named = set(re.findall(r"`(\w+)=`", TESTING.text))
    assert named <= known.keys() and {"config", "facts", "pages", "programs", "home"} <= named


def test_demos_output_is_the_demos() -> None:
    """What the first page shows of the demo is still worded so by the demo's code."""
    (output,) = [text for text in FIRST.blocks("text") if text.startswith("agentd demo on")]
    files = (ROOT / "agentd" / "commands" / "demo").glob("*.py")
    source = "".join(file.read_text() for file in files)
    for words in (
        *("agentd demo on", "What of this is for you?", "An agent of ten lines ranks"),
        *("nothing for you", "What is new in ", "The week up to the latest commit"),
        *("of them failed", "prompt tokens", "the demo took"),
    ):
        assert words in output and words in source, words


def test_query_on_the_bus(paths: Paths) -> None:
    """Anyone can read the bus with the query as it stands."""
    bus = Bus(paths.database)
    bus.publish("repo_fetch", NewEvent("repo.changed", {"files": 1}))
    (query,) = [words[-1] for words in shell_lines() if words[0] == "sqlite3"]
    assert bus.db.run(query) == [(1, "repo.changed", '{"files":1}')]
    bus.close()


def test_tables_of_the_database_are_documented(paths: Paths) -> None:
    """The page names every table."""
    bus = Bus(paths.database)
    tables: list[Any] = bus.db.run("SELECT name FROM sqlite_master WHERE type = 'table'")
    bus.close()
    section = page("agentd").text.split("\n## The database\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    inner = ("sqlite_", "outbox_words_")  # an index of words is made of tables of SQLite's own
    assert {name for (name,) in tables if not name.startswith(inner)} <= named


def test_log_events_are_written_somewhere() -> None:
    """An event name that the page promises is one that the code logs."""
    section = page("agentd").text.split("\n## Logs\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    sources = [ast.parse(file.read_text()) for file in (ROOT / "agentd").rglob("*.py")]
    written = {
        node.value
        for tree in sources
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert named and named <= written


def test_rooms_are_documented() -> None:
    """Each module and folder of the package has its row, and no other."""
    section = page("agentd").text.split("\n## Rooms\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    package = ROOT / "agentd"
    modules = {file.stem for file in package.glob("*.py")} - {"__init__"}
    assert named == modules | {file.parent.name for file in package.glob("*/__init__.py")}


def test_rooms_name_no_file_that_is_gone() -> None:
    """A file that a room's docstring names is in that room."""
    for init in (ROOT / "agentd").rglob("__init__.py"):
        about = ast.get_docstring(ast.parse(init.read_text())) or ""
        for name in re.findall(r"`(\w+\.py)`", about):
            assert (init.parent / name).exists(), f"{init}: {name}"
