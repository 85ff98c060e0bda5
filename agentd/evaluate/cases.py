"""Labelled cases, read from TOML: an agent, events, and the decisions that would be right.

    [agent]                      # as in agents.d/NAME.toml
    agent = "task"
    done = "The question is answered."
    [agent.params]
    instructions = "Answer the question from the notes."
    tools = ["ReadFile"]
    [agent.permissions]
    read = ["/project"]

    [[case]]
    name = "reads the file that is named"
    event = "question.asked"
    payload = { path = "/project/a.txt" }
    files = { "a.txt" = "The answer is 4." }
    expect = [
      { tool = "ReadFile", args = { path = "/project/a.txt" } },
      { tool = "Done", args = { result = { contains = "4" } } },
    ]

`/project` is an empty folder with the case's `files`, and with its `commits` a git repository;
`events` are what other agents published before. Both may stand at the top, for all cases. An
argument is right if it equals the label, is in the labelled list, or contains the labelled text.

A file without [agent] has examples of the person's own agent of the file's name, or of the shipped
one; `agentd correct` writes such ones. Of an example its `result` is looked at: the fields of the
result's first row.

    [[case]]
    name = "event 412, row 3: category"
    event = "mail.triaged"
    payload = { rows = [{ text = "Your invoice" }] }
    result = { category = "work" }
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from agentd.config.agent import AgentConfig, load_agent
from agentd.config.agent_files import EXAMPLES as CASES
from agentd.config.agent_files import examples_file
from agentd.config.toml import Strict, read_toml, validate
from agentd.errors import ConfigError
from agentd.events import EVENT_TYPE
from agentd.paths import Paths, shipped
from agentd.process.environment import PROGRAM_PATH
from agentd.replay.folder_map import unsafe
from agentd.task_agent.row_examples import example_agent

AGENTS = "config/agents.d"  # of agentd itself
PROJECT = "/project"
GIT_S = 30.0
GIT = {
    "PATH": PROGRAM_PATH,
    "HOME": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.invalid",
    "GIT_AUTHOR_DATE": "2026-01-15T10:00:00Z",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.invalid",
    "GIT_COMMITTER_DATE": "2026-01-15T10:00:00Z",
}


def _is_type(value: str) -> str:
    if not EVENT_TYPE.fullmatch(value):
        raise ValueError(f'{value!r} is no event type; write "note.changed"')
    return value


EventType = Annotated[str, AfterValidator(_is_type)]


class Expected(Strict):
    """A decision that would be right. `args` are those that are looked at."""

    tool: str
    args: dict[str, Any] = Field(default_factory=dict)


class CaseCommit(Strict):
    """A commit of the case's repository."""

    subject: str
    files: dict[str, str]


class CaseEvent(Strict):
    """An event that another agent published before."""

    agent: str
    type: EventType
    payload: dict[str, Any]


class Case(Strict):
    """One case: an event, what lies in the project's folder, and the right decisions in order."""

    name: str
    event: EventType
    payload: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    commits: tuple[CaseCommit, ...] = ()
    events: tuple[CaseEvent, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)
    expect: tuple[Expected, ...] = ()
    result: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _expects(self) -> Self:
        if not (self.expect or self.result):
            raise ValueError("write what would be right, as `expect` or `result`")
        return self


class CaseFile(Strict):
    """A file of cases for one agent."""

    agent: AgentConfig
    files: dict[str, str] = Field(default_factory=dict)  # of all cases
    events: tuple[CaseEvent, ...] = ()
    case: tuple[Case, ...] = Field(min_length=1)


def find_cases(name: str, folder: str = CASES, paths: Paths | None = None) -> Path:
    """Return a file of cases: a path, or the name of a person's own or of shipped ones.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    if paths is not None and (path := examples_file(path.name, paths)).is_file():
        return path
    own = shipped_cases(folder)
    if name in own:
        return own[name]
    raise ConfigError(
        "there are no such cases", where=name, hint=f"name a TOML file, or one of {', '.join(own)}"
    )


def shipped_cases(folder: str = CASES) -> dict[str, Path]:
    """Return the cases that come with agentd in this folder of its configuration, by name."""
    return {path.stem: path for path in sorted((shipped() / "config" / folder).glob("*.toml"))}


def load_cases(path: Path, paths: Paths | None = None) -> CaseFile:
    """Read a file of cases. One without [agent] is of the agent of the file's name.

    That is the one in `paths`, or else the shipped one.

    Raises:
        ConfigError: naming file, line or key, and the next step.
    """
    return cases_of(read_toml(path), path, paths)


def cases_of(table: dict[str, Any], path: Path, paths: Paths | None = None) -> CaseFile:
    """Return the cases of a file's contents; see `load_cases`, also for what it raises."""
    if "agent" not in table:
        name = f"{path.stem}.toml"
        file = shipped() / AGENTS / name
        if paths is not None and ((own := paths.agents_d / name).is_file() or not file.is_file()):
            file = own
        if file.is_file() or paths is not None:
            table = {"agent": example_agent(load_agent(file)), **table}
    read = validate(CaseFile, table, path)
    return read.model_copy(update={"case": tuple(_with_all(read, case) for case in read.case)})


def _with_all(file: CaseFile, case: Case) -> Case:
    """Return a case with what its file has for all cases."""
    shared = {"files": {**file.files, **case.files}, "events": file.events + case.events}
    return case.model_copy(update=shared)


def write_project(case: Case, folder: Path) -> None:
    """Write the case's commits and files into its folder.

    Raises:
        ConfigError: a path leads out of the folder, or git fails.
    """
    folder.mkdir()
    if case.commits:
        _git(folder, "init", "-q", "-b", "main")
    for commit in case.commits:
        _write(commit.files, folder)
        _git(folder, "add", "-A")
        _git(folder, "commit", "-q", "--allow-empty", f"--message={commit.subject}")
    _write(case.files, folder)


def _write(files: Mapping[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        if (
            "\0" in name
            or not path.resolve().is_relative_to(folder.resolve())
            or any(map(unsafe, name.split("/")))
        ):
            raise ConfigError(
                "leads out of the project's folder, or into git's own",
                where=f"files: {name}",
                hint="name files of the project",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _git(folder: Path, *args: str) -> None:
    try:
        subprocess.run(
            ["git", *args], cwd=folder, env=GIT, check=True, capture_output=True, timeout=GIT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"git {args[0]} failed: {error}", where="commits") from error
