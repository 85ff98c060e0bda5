"""The commands against a running daemon, with one agent and a fake model."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.commands.status_text import BOUND
from agentd.sandbox.level import reached
from agentd.testing import FakeModelServer, wait_for
from tests.commandline import DEADLINE_S, HELLO, agentd, write_agent


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a real daemon, one `task` agent, hello, and a fake model that greets."""
    home = tmp_path_factory.mktemp("home")
    with FakeModelServer([{"tool": "done", "result": "Hello!"}], token="") as model:
        write_agent(home, "hello")
        (home / "config" / "agentd.toml").write_text(f"[model]\nurl = '{model.url}'\n")
        with subprocess.Popen(
            [sys.executable, "-m", "agentd", "run"],
            env={**os.environ, "AGENTD_HOME": str(home)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wait_for(lambda: state_of(home, "hello") == "RUNNING", seconds=DEADLINE_S)
                yield home
                process.terminate()
                assert process.wait(DEADLINE_S) == 0, "SIGTERM stops everything in order"
            finally:
                process.kill()


# It waits in short pieces: Python runs a handler between two of its own steps, and a signal that
# comes just before a long system call would be heeded only after it.
STOPS_AT_IMPORT = """
import select, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            print(name, flush=True)
            while not select.select([sys.stdin], [], [], 0.05)[0]:
                pass
sys.meta_path.insert(0, Finder())
from agentd.cli import main
sys.exit(main(["run"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["agentd.commands.run", "agentd.supervisor.supervisor"])
def test_a_stop_in_the_first_moments_is_a_clean_one(
    tmp_path: Path, module: str, number: signal.Signals
) -> None:
    """launchd starts again whatever does not exit with 0, and nothing has begun yet."""
    with subprocess.Popen(
        [sys.executable, "-c", STOPS_AT_IMPORT, module],
        env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == module
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0


def state_of(home: Path, name: str) -> str:
    """Return an agent's state as `status` shows it."""
    done = agentd(home, "status", "--json")
    agents = json.loads(done.stdout)["agents"]
    return next((a["state"] for a in agents if a["name"] == name and done.returncode == 0), "")


def test_status_names_the_sandbox_that_there_is(running: Path) -> None:
    """Who relies on one sees that it is there, or why not."""
    told = json.loads(agentd(running, "status", "--json").stdout)["sandbox"]
    assert (told["level"], told["why"]) == (reached().name, reached().why)
    assert told["wanted"] == "require"
    line = f"sandbox  {told['level']}: {told['why'] or BOUND}"
    assert f"\n{line}\n" in agentd(running, "status").stdout


def test_an_event_is_answered(running: Path) -> None:
    """What `send` writes reaches the agent, and its answer is seen by events, sessions, status."""
    done = agentd(running, "send", "note.added", '{"name": "Ada"}')
    assert done.returncode == 0 and done.stderr == ""
    event_id = int(done.stdout.split()[1])

    def answer() -> Any:
        lines = agentd(running, "events", "--json", "--type", "greeting.*").stdout.splitlines()
        return next((e for e in map(json.loads, lines) if e["cause_id"] == event_id), None)

    assert wait_for(answer, seconds=DEADLINE_S)["payload"] == {"result": "Hello!"}
    (session,) = json.loads(agentd(running, "sessions", "--json", "--limit", "1").stdout)
    assert (session["agent"], session["state"]) == ("hello", "ended")
    shown = json.loads(agentd(running, "status", "--json").stdout)
    assert shown["running"] is True
    agent = next(agent for agent in shown["agents"] if agent["name"] == "hello")
    assert agent["last_session"]["id"] == session["id"] and agent["dead_letters"] == 0
    assert agent["waiting"] == {"direct": 0, "subscribed": 0}
    assert "hello" in agentd(running, "status").stdout
    assert "RUNNING" in agentd(running, "status", "hello").stdout


def test_pause_and_resume(running: Path) -> None:
    """`pause` returns when the agent has stopped, its events wait, `resume` starts it again."""
    assert "PAUSED" in agentd(running, "pause", "hello").stdout
    assert state_of(running, "hello") == "PAUSED"
    done = agentd(running, "trigger", "hello")
    assert done.returncode == 0 and "paused" in done.stderr
    assert agentd(running, "resume", "hello").returncode == 0
    wait_for(lambda: state_of(running, "hello") == "RUNNING", seconds=DEADLINE_S)
    unknown = agentd(running, "pause", "nobody")
    assert unknown.returncode == 1 and "nobody" in unknown.stderr


def test_one_agent_is_started_anew(running: Path) -> None:
    """`restart NAME` returns when another process runs; what rests is not woken by it."""

    def pid() -> int:
        return int(json.loads(agentd(running, "status", "hello", "--json").stdout)["pid"])

    before = pid()
    told = json.loads(agentd(running, "restart", "hello", "--json").stdout)
    assert told == {"done": "restarted", "agent": "hello", "state": "RUNNING"}
    assert pid() != before
    assert agentd(running, "pause", "hello").returncode == 0
    paused = agentd(running, "restart", "hello")
    assert paused.returncode == 1 and "agentd resume hello" in paused.stderr
    assert state_of(running, "hello") == "PAUSED"
    assert agentd(running, "resume", "hello").returncode == 0
    assert agentd(running, "restart", "nobody").returncode == 1


def test_reload_and_a_second_daemon(running: Path) -> None:
    """`reload` is carried out by the daemon; a second `run` in this home is refused, exit 1."""
    done = agentd(running, "reload")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: state_of(running, "hello") == "RUNNING", seconds=DEADLINE_S)
    second = agentd(running, "run")
    assert second.returncode == 1
    assert "another" in second.stderr and "Traceback" not in second.stderr


def test_logs(running: Path) -> None:
    """`logs` merges all processes by time for people, and prints the lines themselves as JSON."""
    shown = agentd(running, "logs").stdout
    assert "supervisor.started" in shown and "worker.started" in shown
    lines = [json.loads(line) for line in agentd(running, "logs", "--json").stdout.splitlines()]
    assert all({"ts", "level", "event", "agent"} <= line.keys() for line in lines)
    assert [line["ts"] for line in lines] == sorted(line["ts"] for line in lines)
    only = agentd(running, "logs", "hello", "--json").stdout.splitlines()
    assert {json.loads(line)["agent"] for line in only} == {"hello"}
    assert agentd(running, "logs", "-n", "1").stdout.count("\n") == 1


def test_following_logs(running: Path) -> None:
    """`logs -f` goes on with what is logged from now on, without repeating a line."""
    with subprocess.Popen(
        [sys.executable, "-m", "agentd", "logs", "-f", "-n", "1", "--json"],
        env={**os.environ, "AGENTD_HOME": str(running)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        last = process.stdout.readline()
        agentd(running, "trigger", "hello")
        following = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    assert json.loads(following)["ts"] >= json.loads(last)["ts"]
    assert following != last


def test_model_status_of_an_external_server(running: Path) -> None:
    """With [model] url, `model status` names that server and has no metrics of our own."""
    document = json.loads(agentd(running, "model", "status", "--json").stdout)
    assert document["external"] is True and document["metrics"] is None
    assert "http://127.0.0.1" in agentd(running, "model", "status").stdout


def test_what_schedules_will_run(running: Path) -> None:
    """`later --runs` shows the next run of each schedule, in the order of time, and when it was."""
    schedule = 'schedule = { every = "1h" }\n[params]'
    file = write_agent(running, "hourly", HELLO.replace("[params]", schedule))

    def runs(*words: str) -> list[Any]:
        found: list[Any] = json.loads(agentd(running, "later", "--runs", "--json", *words).stdout)
        return found

    try:
        wait_for(runs, seconds=DEADLINE_S)
        (run,) = runs("--until", "+2h", "--agent", "hourly")
        assert (run["id"], run["agent"], run["what"]) == (None, "hourly", "every 1h")
        assert run["due"] > run["last"], "it counts from when the agent came"
        assert runs("--until", "+1m") == runs("--agent", "hello") == []
        assert json.loads(agentd(running, "later", "--json").stdout) == []
        table = agentd(running, "later", "--runs").stdout.splitlines()
        assert table[0].split() == ["ID", "DUE", "IN", "AGENT", "LAST", "WHAT"]
        assert table[1].startswith("-") and table[1].endswith("every 1h")
    finally:
        file.unlink()


def test_commands_to_the_daemon_tell_programs(running: Path) -> None:
    """With --json: what was done, to whom, and what state that left."""
    for word, done in (("pause", "paused"), ("resume", "resumed")):
        told = json.loads(agentd(running, word, "hello", "--json").stdout)
        assert (told["done"], told["agent"]) == (done, "hello")
        assert (told["state"] == "PAUSED") is (word == "pause")
    assert json.loads(agentd(running, "reload", "--json").stdout)["done"] == "reloaded"
