"""The commands in general, and those that need no database and no daemon."""

import io
import json
import os
import plistlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.cli import COMMANDS, GROUPS
from agentd.commands.checked import Checked
from agentd.commands.output import ProgressLine, duration, plain, shorten
from agentd.commands.seed import seed
from agentd.commands.subscriptions import cycles
from agentd.paths import discover
from agentd.sandbox.level import reached
from agentd.testing import wait_for
from tests.commandline import DEADLINE_S, HELLO, agentd, write_agent


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_explains_itself(name: str, tmp_path: Path) -> None:
    """`agentd COMMAND --help` says in a sentence what it does, its arguments, and an example."""
    done = agentd(tmp_path / "none", name, "--help")
    summary = next(c.summary for c in COMMANDS if c.name == name)
    assert done.returncode == 0
    assert summary in " ".join(done.stdout.split())
    assert "example:" in done.stdout
    assert f"agentd {name}" in done.stdout.split("example:")[1]
    assert not (tmp_path / "none").exists(), "asking for help creates nothing"


@pytest.mark.parametrize("word", ["sessions show", "dead retry", "events --limit", "logs -n"])
@pytest.mark.parametrize("number", ["9" * 30, "x"])
def test_a_number_that_is_none_is_a_usage_error(tmp_path: Path, word: str, number: str) -> None:
    """SQLite's integers end at 2^63; beyond is a mistake of typing, not of ours."""
    done = agentd(tmp_path, *word.split(), number)
    assert done.returncode == 2
    assert "error: argument" in done.stderr and "Traceback" not in done.stderr


def test_closed_standard_streams_are_like_dev_null(tmp_path: Path) -> None:
    """As cron and `>&-` start programs: nothing is printed, and no file takes stdout's number."""
    command = f'"{sys.executable}" -m agentd paths <&- >&- 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has this device")
def test_a_full_disk_behind_stdout_is_one_error(tmp_path: Path) -> None:
    """`agentd paths > file` on a full disk fails, and says why."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "agentd", "paths"],
            env={**os.environ, "AGENTD_HOME": str(tmp_path)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "agentd: standard output: No space left on device\n"


def test_version_and_overview(tmp_path: Path) -> None:
    """A bare `agentd` lists all commands and exits 2; --version is one line."""
    assert agentd(tmp_path, "--version").stdout.startswith("agentd ")
    bare = agentd(tmp_path)
    assert bare.returncode == 2
    assert all(f"  {command.name} " in bare.stdout for command in COMMANDS)
    assert all(f"\n\n  {group[0].name} " in bare.stdout for group in GROUPS[1:])


@pytest.mark.parametrize("words", [("nonsense",), ("status", "--nonsense"), ("trigger",)])
def test_usage_errors_exit_2(words: tuple[str, ...], tmp_path: Path) -> None:
    """A wrong word is a usage error: exit 2, one message, no traceback."""
    done = agentd(tmp_path, *words)
    assert done.returncode == 2
    assert "error:" in done.stderr and "Traceback" not in done.stderr


def test_paths(tmp_path: Path) -> None:
    """`paths` tells where everything lives; one path alone can go into a script."""
    listing = json.loads(agentd(tmp_path, "paths", "--json").stdout)
    assert listing["database"] == str(tmp_path / "db" / "agentd.db")
    assert agentd(tmp_path, "paths", "logs").stdout == f"{tmp_path / 'logs'}\n"
    assert agentd(tmp_path, "paths", "nonsense").returncode == 2


def test_a_relative_home_is_refused(tmp_path: Path) -> None:
    """AGENTD_HOME must be absolute: the daemon and its commands may have other working folders."""
    done = agentd(Path("relative"), "paths")
    assert done.returncode == 1
    assert "absolute" in done.stderr and "Traceback" not in done.stderr


def test_rings_of_agents_are_found() -> None:
    """Agents that wake each other for ever are found once each; a chain is no ring."""
    ring = [
        Checked("a", None, subscribe=("c.done",), publishes=("a.done",)),
        Checked("b", None, subscribe=("a.*",), publishes=("b.done",)),
        Checked("c", None, subscribe=("b.done",), publishes=("c.done", "c.more")),
        Checked("reader", None, subscribe=("c.*", "a.done")),
        Checked("own", None, subscribe=("own.*",), publishes=("own.done",)),
    ]
    assert cycles(ring) == [["a", "b", "c", "a"]]


def test_text_from_outside_cannot_drive_the_terminal() -> None:
    """Control characters and direction marks in printed text come out escaped, on one line."""
    assert plain("a\x1b[2Jb\r\nc\x9bd\u202ee é") == r"a\x1b[2Jb\r\nc\x9bd\u202ee é"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2s"), (42, "42s"), (185, "3m 05s"), (7800, "2h 10m"), (273600, "3d 4h")],
)
def test_durations(seconds: float, text: str) -> None:
    """A length of time is shown in at most two units."""
    assert duration(seconds) == text
    assert shorten("abcdef", 4) == "abc…"


def test_check_lists_every_problem(tmp_path: Path) -> None:
    """Each wrong file is listed with file, key and hint; the good ones do not suffer; exit 1."""
    write_agent(tmp_path, "good")
    write_agent(tmp_path, "unknown_key", "colour = 1\n" + HELLO)
    write_agent(tmp_path, "half", HELLO[:20])
    write_agent(tmp_path, "no_module", HELLO.replace('"task"', '"nowhere"'))
    write_agent(tmp_path, "bad_cron", "schedule = { cron = '61 * * * *' }\n" + HELLO)
    (tmp_path / "config" / "agentd.toml").write_text("[model]\nport = 70000\n")
    done = agentd(tmp_path, "check", "--json")
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    problems = {problem["name"]: problem for problem in document["problems"]}
    assert problems.keys() == {"agentd", "unknown_key", "half", "no_module", "bad_cron"}
    assert document["ok"] is False and "good" in document["checked"]
    assert problems["no_module"]["waiting"] is True
    assert "colour" in problems["unknown_key"]["what"]
    assert "model.port" in problems["agentd"]["what"]
    assert all(p["where"] and p["hint"] for p in problems.values())
    shown = agentd(tmp_path, "check")
    assert shown.returncode == 1 and "61" in shown.stdout and "Traceback" not in shown.stderr


def test_check_of_one_file(tmp_path: Path) -> None:
    """One file is checked wherever it lies, against the home's own modules; a missing one is 2."""
    draft = tmp_path / "drafts" / "hello.toml"
    draft.parent.mkdir()
    draft.write_text(HELLO)
    home = tmp_path / "home"
    assert agentd(home, "check", str(draft)).returncode == 0
    draft.write_text(HELLO.replace("task", "nowhere"))
    assert agentd(home, "check", str(draft)).returncode == 1
    assert agentd(home, "check", str(tmp_path / "none.toml")).returncode == 2
    assert not home.exists()


def test_check_warns_of_rings(tmp_path: Path) -> None:
    """Two agents that wake each other are a warning that names both, and no failure."""
    write_agent(tmp_path, "ping", HELLO.replace("note.*", "pong.sent").replace("greeting", "ping"))
    write_agent(
        tmp_path,
        "pong",
        HELLO.replace("note.*", "ping.*").replace("greeting.written", "pong.sent"),
    )
    done = agentd(tmp_path, "check")
    assert done.returncode == 0
    assert "ping -> pong -> ping" in done.stdout


def test_check_warns_of_programs_and_closed_places(tmp_path: Path) -> None:
    """What programs write may be run, and some places are never opened: said, and no error."""
    agents = tmp_path / "config" / "agents.d"
    agents.mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (agents / "runner.toml").write_text(
        'agent = "task"\ndone = "It is done well."\n[params]\ninstructions = "x"\n'
        'tools = ["RunCommand", "WriteFile", "ReadFile"]\n[permissions]\nrun = ["git", "find"]\n'
        f'read = ["{tmp_path}/notes", "{tmp_path}/logs"]\n'
        f'write = ["{tmp_path}/notes", "{tmp_path}/notes/.git", "~/.zshrc"]\n'
    )
    done = agentd(tmp_path, "check", "--json")
    assert done.returncode == 0, done.stderr
    said = [item["what"] for item in json.loads(done.stdout)["warnings"]]
    (program,) = [what for what in said if "may run git, find: " in what]
    closed = [what for what in said if "in vain" in what]
    no_sandbox = reached().name == "checks"
    assert ("all the rights of this user" if no_sandbox else "a hook of git") in program
    places = (f"{tmp_path}/logs in `read`", f"{tmp_path}/notes/.git in `write`", "~/.zshrc in")
    assert [place in what for place, what in zip(places, closed, strict=True)] == [True] * 3
    assert "may run git, find" in agentd(tmp_path, "check").stdout


def test_a_disabled_agent_fails_nothing(tmp_path: Path) -> None:
    """What a disabled file still lacks is shown, and `check` succeeds: nothing will be started."""
    write_agent(tmp_path, "draft", "enabled = false\n" + HELLO.replace('"task"', '"nowhere"'))
    done = agentd(tmp_path, "check")
    assert done.returncode == 0
    assert "nowhere" in done.stdout


def test_the_first_run_writes_the_configuration(tmp_path: Path) -> None:
    """An empty home gets the shipped files, all agents disabled; a later run leaves them alone."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agentd", "run"],
        env={**os.environ, "AGENTD_HOME": str(tmp_path / "home")},
        stderr=subprocess.PIPE,
        text=True,
    )
    home = tmp_path / "home"
    try:
        wait_for(lambda: agentd(home, "status").returncode == 0, seconds=DEADLINE_S)
        agents = home / "config" / "agents.d"
        assert {path.stem for path in agents.glob("*.toml")} >= {"repo_fetch", "repo_review"}
        assert all("enabled = false" in path.read_text() for path in agents.glob("*.toml"))
        assert agentd(home, "check").returncode == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
        assert process.stderr and "shipped configuration" in process.stderr.read()
    finally:
        process.kill()
    (agents / "repo_fetch.toml").unlink()
    assert seed(discover({"AGENTD_HOME": str(home)})) == []


@pytest.mark.parametrize("before", ["new", "dropped", "agentd.toml", "only a schema"])
def test_what_came_before_the_first_run_keeps_no_example_away(tmp_path: Path, before: str) -> None:
    """Nor the schemas, and no file of a person's is overwritten."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    if before == "new":
        assert agentd(tmp_path, "new", "reader").returncode == 0
        own = paths.agents_d / "reader.toml"
        assert (paths.config / "agent.schema.json").is_file(), "its first line names it"
    else:
        own = {
            "dropped": paths.agents_d / "digest.toml",
            "agentd.toml": paths.daemon_file,
            "only a schema": paths.config / "eval" / "task.toml",
        }[before]
        own.parent.mkdir(parents=True)
        own.write_text("# mine\n")
    mine = own.read_text()
    written = {path.relative_to(paths.config).as_posix() for path in seed(paths)}
    assert {"agents.d/repo_fetch.toml", "eval/recall.toml"} <= written
    assert own.read_text() == mine and own.relative_to(paths.config).as_posix() not in written
    shipped_names = {"agent.schema.json", "agentd.schema.json"}
    assert shipped_names <= {path.name for path in paths.config.iterdir()}


def test_later_runs_renew_the_schemas_alone(tmp_path: Path) -> None:
    """An update brings its own; an example that a person removed stays away."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    seed(paths)
    paths.database.parent.mkdir()
    paths.database.touch()
    schema = paths.config / "agent.schema.json"
    text = schema.read_text()
    schema.write_text("{}")
    (paths.agents_d / "digest.toml").unlink()
    assert seed(paths) == [schema] and schema.read_text() == text
    assert seed(paths) == []
    schema.unlink()
    schema.symlink_to(tmp_path / "nowhere")
    assert seed(paths) == [], "a person's link leads where it leads"


@pytest.mark.parametrize("command", ["new reader --code", "run"])
def test_no_umask_opens_a_folder(tmp_path: Path, command: str) -> None:
    """Who may write a folder of the configuration decides what runs; that of the home as well."""
    home = tmp_path / "a" / "home"
    script = f"umask 000; exec {sys.executable} -m agentd {command}"
    environment = {**os.environ, "AGENTD_HOME": str(home)}
    process = subprocess.Popen(["/bin/sh", "-c", script], env=environment)
    try:
        if command == "run":
            wait_for(lambda: agentd(home, "status").returncode == 0, seconds=DEADLINE_S)
            process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    finally:
        process.kill()
    folders = [path for path in (home.parent, *home.parent.rglob("*")) if path.is_dir()]
    files = [path for path in (home / "config").rglob("*") if path.is_file()]
    assert len(folders) > 3 and files
    assert [path for path in (*folders, *files) if path.stat().st_mode & 0o077] == []


def test_run_says_what_is_wrong(tmp_path: Path) -> None:
    """A wrong agentd.toml ends `run` with 78, an unwritable home with 75; one error each."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "agentd.toml").write_text("[model]\nnonsense = 1\n")
    done = agentd(tmp_path, "run")
    assert done.returncode == 78
    assert "nonsense" in done.stderr and "hint" in done.stderr and "Traceback" not in done.stderr
    assert "nonsense" in agentd(tmp_path, "reload").stderr, (
        "commands tell why the last start failed"
    )
    file = tmp_path / "file"
    file.write_text("in the way")
    done = agentd(file / "home", "run")
    assert done.returncode == 75
    assert "Traceback" not in done.stderr


def test_model_list_and_a_wrong_name(tmp_path: Path) -> None:
    """`model list` names the bundled model and how to get it; a wrong name is one error."""
    (model,) = json.loads(agentd(tmp_path, "model", "list", "--json").stdout)
    assert model["name"] == "smollm2-135m" and model["folder"] is None and model["bundled"] is True
    assert "agentd model pull smollm2-135m" in agentd(tmp_path, "model").stdout
    done = agentd(tmp_path, "model", "pull", "nonsense")
    assert done.returncode == 1
    assert "smollm2-135m" in done.stderr and "Traceback" not in done.stderr
    assert agentd(tmp_path, "model", "pull").returncode == 2


def test_plist_is_the_one_for_this_home(tmp_path: Path) -> None:
    """`plist` prints a LaunchAgent that runs this agentd in this home."""
    done = agentd(tmp_path, "plist")
    job = plistlib.loads(done.stdout.encode())
    assert job["ProgramArguments"][-1] == "run"
    assert job["EnvironmentVariables"]["AGENTD_HOME"] == str(tmp_path)


def test_a_progress_bar_only_for_terminals() -> None:
    """Without a terminal a long fetch prints a line at each quarter, and no carriage returns."""
    stream = io.StringIO()
    progress = ProgressLine(stream)
    for done in range(0, 101):
        progress(done * 1_000_000, 100_000_000, "fetching")
    progress(0, 0, "converting")
    progress.done()
    text = stream.getvalue()
    assert len(text.splitlines()) == 6
    assert "\r" not in text and "converting" in text
