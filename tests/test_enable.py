"""`agentd enable`, `disable` and `remove`: an agent's own file, changed with care."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.bus import Bus
from agentd.config.key_lines import line_of, with_enabled
from agentd.paths import discover
from tests.commandline import HELLO, agentd, write_agent
from tests.supervised import Daemon

COMMENTED = """#:schema ../agent.schema.json
# Greets. To use it, set `enabled` to true.
enabled = false   # not yet
agent = "task"
done = '''
enabled = false
'''

[params]
enabled = false
"""


def test_one_word_of_the_file_changes_and_nothing_else() -> None:
    """Comments, spaces, order, and keys of that name elsewhere are a person's."""
    on = with_enabled(COMMENTED, True)
    assert on == COMMENTED.replace("enabled = false   #", "enabled = true   #")
    assert with_enabled(on, False) == COMMENTED


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_without_the_key_gets_it_above_every_table(end: str) -> None:
    """Where a comment stands first, it stays first; lines end as they did."""
    text = end.join(["# about it", "", 'agent = "task"', "[params]", "enabled = 1", ""])
    off = with_enabled(text, False)
    assert off is not None and off.startswith(f"# about it{end}{end}enabled = false{end}agent")
    assert tomllib.loads(off)["params"] == {"enabled": 1}
    assert ("\r" in end) is all(line.endswith("\r") for line in off.split("\n")[:-1])


def test_a_line_that_only_looks_like_the_key_is_left() -> None:
    """Inside a text over several lines it is somebody's prose."""
    text = 'done = """\nenabled = true\n"""\nenabled = true\n'
    assert with_enabled(text, False) == text[: text.rindex("true")] + "false\n"


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("enabled",), 3),
        (("done",), 5),
        (("params", "enabled"), 10),
        (("params", "missing"), 9),
        (("missing",), None),
        (("server", 1, "port"), 5),
        (("a", "b", "c"), 7),
        (("a", "x y"), 8),
        (("a", "b"), 7),
        (("a", "read", 0), 9),
    ],
)
def test_the_line_of_a_key(key: tuple[str | int, ...], line: int | None) -> None:
    """What is missing is told by what it would stand in; a list's item by the list."""
    tables = '\n[[server]]\nport=1\n[[server]]\nport = 2\n[a]\nb.c = 3\n"x y" = 4\nread = [\n 5 ]\n'
    text = tables if key[0] in ("server", "a") else COMMENTED
    assert line_of(text, key) == line


def test_a_wrong_file_is_told_with_lines(tmp_path: Path) -> None:
    """Whoever opens it there sees what is meant."""
    text = f'{HELLO}instructions2 = 3\n[permissions]\nread = "~/notes"\n'
    file = write_agent(tmp_path, "hello", text.replace("subscribe = [", 'subscribe = "x" # ['))
    told = agentd(tmp_path, "check", str(file)).stdout
    assert 'line 3: subscribe: must be a list, in brackets: ["...", "..."]' in told
    assert "line 9: permissions.read: must be a list" in told


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a real daemon, whose agents hello and other are off."""
    home = tmp_path_factory.mktemp("home")
    for name in ("hello", "other", "third"):
        write_agent(home, name, f"# mine\nenabled = false\n{HELLO}")
    daemon = Daemon(home)
    environment = {**os.environ, "AGENTD_HOME": str(home)}
    argv = [sys.executable, "-m", "agentd", "run"]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) as process:
        daemon.process = process
        try:
            daemon.wait_state("third", "STOPPED")
            yield home
            process.terminate()
            assert process.wait(20) == 0 and process.stderr
            told = process.stderr.read()
            assert "starts, pid" in told and str(home) in told and "none is on, 1" in told
            assert "smollm2-135m is not here yet" in told and told.endswith("agentd: stopped\n")
        finally:
            process.kill()


def test_an_agent_is_turned_on_and_off(running: Path) -> None:
    """Each command returns when the daemon has followed, and says what became of it."""
    file = running / "config" / "agents.d" / "hello.toml"
    file.chmod(0o640)
    done = agentd(running, "enable", "hello", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (told["done"], told["agent"], told["state"]) == ("enabled", "hello", "RUNNING")
    assert file.read_text().startswith("# mine\nenabled = true\n") and file.stat().st_mode & 0o40
    assert agentd(running, "enable", "hello").stdout == "hello is on: RUNNING\n"
    shown = json.loads(agentd(running, "status", "hello", "--json").stdout)
    assert shown["memory_bytes"] > 1_000_000 and shown["cpu_percent"] is not None
    assert agentd(running, "disable", "hello").stdout == "hello is off: STOPPED\n"
    waits = json.loads(agentd(running, "status", "hello", "--json").stdout)["waits_for"]
    assert "agentd enable hello" in waits


def test_all_agents_are_paused_and_go_on(running: Path) -> None:
    """One command before the machine is needed for something else, and one after."""
    for name in ("hello", "third"):
        assert "RUNNING" in agentd(running, "enable", name).stdout
    told = json.loads(agentd(running, "pause", "--all", "--json").stdout)
    assert told["done"] == "paused"
    assert [(one["agent"], one["state"]) for one in told["agents"]] == [
        ("hello", "PAUSED"),
        ("third", "PAUSED"),
    ]
    assert agentd(running, "pause", "--all").stdout == "no agent to pause\n"
    resumed = agentd(running, "resume", "--all")
    assert resumed.returncode == 0 and resumed.stdout.count("\n") == 2
    assert "PAUSED" not in resumed.stdout
    both = agentd(running, "pause", "--all", "hello")
    assert both.returncode == 2 and agentd(running, "pause").returncode == 2


def test_pausing_what_has_nothing_to_run_is_undone_by_resume(running: Path) -> None:
    """A wrong file keeps its state and reason; resume once waited for it in vain, and failed."""
    write_agent(running, "other", f"subscribe = 3\n{HELLO.replace('subs', '#')}")
    assert agentd(running, "enable", "other").returncode == 1
    told = json.loads(agentd(running, "pause", "--all", "--json").stdout)
    assert {"agent": "other", "state": "INVALID"} in told["agents"]
    shown = json.loads(agentd(running, "status", "other", "--json").stdout)
    assert shown["paused"] is True and shown["state"] == "INVALID" and shown["problem"]
    resumed = agentd(running, "resume", "--all")
    assert resumed.returncode == 0 and "other INVALID" in resumed.stdout, resumed.stderr
    assert agentd(running, "disable", "other").returncode == 0
    assert agentd(running, "pause", "other").stdout == "other STOPPED\n"
    assert agentd(running, "resume", "other").stdout == "other STOPPED\n"


def test_a_daemon_that_hangs_hides_nothing_that_was_done(running: Path) -> None:
    """Whoever is told only that it failed does it again: an event twice, a file in vain."""
    write_agent(running, "fourth", f"enabled = false\n{HELLO}")
    daemon = json.loads(agentd(running, "status", "--json").stdout)["pid"]
    os.kill(daemon, signal.SIGSTOP)
    try:
        sent = agentd(running, "send", "note.added", "{}")
        on, removed = agentd(running, "enable", "fourth"), agentd(running, "remove", "fourth", "-y")
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert sent.returncode == 0 and "the event waits" in sent.stderr
    assert on.returncode == removed.returncode == 1
    assert "`enabled = true` is written in" in on.stderr and "did not answer" in on.stderr
    assert "is put aside as fourth.toml.old" in removed.stderr


def test_every_key_of_status_is_documented(running: Path) -> None:
    """What a program may use stands in the help."""
    help_text = agentd(running, "status", "--help").stdout
    help_text += agentd(running, "model", "--help").stdout
    document = json.loads(agentd(running, "status", "--json").stdout)
    keys = {*document, *(key for agent in document["agents"] for key in agent)}
    missing = {k for k in {*keys, *document["model"]} if not re.search(rf"\b{k}\b", help_text)}
    assert document["agents"] and missing == set()


def test_an_agent_that_cannot_run_says_why(running: Path) -> None:
    """Exit 1: it is on, and that is not enough."""
    write_agent(running, "other", "enabled = false\nsubscribe = 3\n" + HELLO.replace("subs", "#"))
    done = agentd(running, "enable", "other")
    assert done.returncode == 1 and "INVALID" in done.stdout
    assert "line 2: subscribe: must be a list" in done.stdout


def test_all_agents_are_turned_on_and_off(running: Path) -> None:
    """One wrong file holds no other up, and is told of."""
    write_agent(running, "other", f"enabled = false\n{HELLO}")
    write_agent(running, "wrong", "enabled = \n")
    on = agentd(running, "enable", "--all", "--json")
    told = {one["agent"]: one for one in json.loads(on.stdout)["agents"]}
    assert on.returncode == 1 and told.keys() >= {"hello", "other", "third", "wrong"}
    assert {told[name]["state"] for name in ("hello", "other", "third")} == {"RUNNING"}
    assert "wrong.toml" in told["wrong"]["problem"]["where"]
    (running / "config" / "agents.d" / "wrong.toml").unlink()
    off = agentd(running, "disable", "--all")
    assert off.returncode == 0 and "other is off: STOPPED\n" in off.stdout
    assert "RUNNING" not in agentd(running, "status").stdout
    assert agentd(running, "enable", "--all", "hello").returncode == 2


def test_a_removed_agent_leaves_what_is_said(running: Path) -> None:
    """Its file is put aside, not lost; what else stays is named; nothing is overwritten."""
    refused = agentd(running, "remove", "third")
    assert refused.returncode == 2 and "--yes" in refused.stderr
    folder = running / "config" / "agents.d"
    (folder / "third.toml.old").write_text("an earlier one")
    assert "RUNNING" in agentd(running, "enable", "third").stdout
    paths = discover({"AGENTD_HOME": str(running)})
    bus = Bus(paths.database)
    bus.facts.remember("third", {"seen": 1})
    bus.close()
    done = agentd(running, "remove", "third", "--yes", "--json")
    told = json.loads(done.stdout)
    where = {one["what"]: one["where"] for one in told["leaves"]}
    assert done.returncode == 0 and told["done"] == "removed"
    assert where["its file, to put back"] == str(folder / "third.toml.1.old")
    assert "1 fact that it remembered" in where and str(paths.versions / "third") in where.values()
    assert agentd(running, "status", "third", "--json").stdout == ""
    assert (folder / "third.toml.old").read_text() == "an earlier one"


@pytest.mark.parametrize("command", ["enable", "disable", "remove"])
def test_a_wrong_name_says_which_there_are(command: str, tmp_path: Path) -> None:
    """Also where no daemon runs; and nothing is written."""
    write_agent(tmp_path, "hello")
    done = agentd(tmp_path, command, "helo")
    assert done.returncode == 1 and 'did you mean "hello"' in done.stderr


def test_without_a_daemon_the_file_is_written_all_the_same(tmp_path: Path) -> None:
    """It counts from the next start on; a link stays a link."""
    real = tmp_path / "dotfiles.toml"
    real.write_text(HELLO)
    link = write_agent(tmp_path, "hello")
    link.unlink()
    link.symlink_to(real)
    done = agentd(tmp_path, "disable", "hello")
    assert done.returncode == 0 and "no daemon runs" in done.stdout
    assert link.is_symlink() and real.read_text().startswith("enabled = false\n")
