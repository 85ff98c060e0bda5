"""Hands under a real supervisor: started when asked for, and gone with all that they belong to."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.events import INTERRUPTED
from agentd.sandbox.level import reached
from agentd.testing import Request
from tests.commandline import HELLO, write_agent
from tests.livehome import Home, a_home
from tests.supervised import QUICK, Daemon, alive, daemon, wait_for
from tests.test_external import parked

pytestmark = pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    """A supervisor with one worker that calls its hands, which may read and run."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello\n")
    with daemon(tmp_path / "home") as one:
        one.configure(QUICK.replace("stop_grace = '1s'", "stop_grace = '20s'"))  # to say it stopped
        drop(one)
        one.start()
        one.wait_state("caller", "RUNNING")
        yield one


def drop(one: Daemon, more: str = "") -> None:
    folder = one.home.parent / "in"
    permissions = f'[permissions]\nread = ["{folder}"]\nrun = ["sleep", "bash"]\n'
    one.drop("caller", "call", more + permissions)


def read(one: Daemon) -> Any:
    answer = one.called("caller", "ReadFile", path="a.txt", start=None)
    return answer.get("text", answer)


def hands_pid(one: Daemon, number: int = -1) -> int:
    """Return the pid of the hands that were started last, or as the `number`th."""
    pid: int = one.log("hands.started")[number]["pid"]
    return pid


def group(pid: int) -> set[int]:
    """Return the processes of a group."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid="], capture_output=True, text=True)
    rows = (map(int, line.split()) for line in found.stdout.splitlines())
    return {one for one, of in rows if of == pid and alive(one)}


def begin_a_program(one: Daemon) -> tuple[Path, int, set[int]]:
    """Let hands run a program; return where the answer will stand, their pid and their group."""
    assert read(one) == "hello"
    pid = hands_pid(one)
    answer = one.call("caller", "RunCommand", program="sleep", args=["600"])
    wait_for(lambda: len(group(pid)) == 3, "hands, guardian, program")
    return answer, pid, group(pid)


def answered(answer: Path) -> Any:
    return json.loads(wait_for(lambda: answer.exists() and answer.read_text()))


def test_hands_are_started_at_the_first_call(running: Daemon) -> None:
    """Once, and told of; an agent that calls nothing has none."""
    assert running.log("hands.started") == []
    assert read(running) == read(running) == "hello"
    (started,) = running.log("hands.started")
    assert started["agent"] == "caller" and alive(started["pid"])
    assert started["pid"] != running.agent("caller")["pid"]
    refused = running.called("caller", "ReadFile", path="/etc/passwd", start=None)
    assert refused["raised"] == "PermissionRefused"


def test_an_agent_has_a_folder_of_its_own(running: Daemon) -> None:
    """In the sandbox of its hands, over a restart of the daemon; another agent's is closed."""
    own = running.paths.own_folders / "caller"
    assert running.called("caller", "WriteFile", path="a.md", text="kept")["bytes"] == 4
    running.stop()
    running.start()
    running.wait_state("caller", "RUNNING")
    found = running.called("caller", "ReadFile", path=str(own / "a.md"), start=None)
    assert found["text"] == "kept" and own.stat().st_mode & 0o777 == 0o700
    theirs = running.paths.own_folders / "other"
    theirs.mkdir()
    refused = running.called("caller", "WriteFile", path=str(theirs / "a.md"), text="x")
    assert refused["raised"] == "PermissionRefused" and list(theirs.iterdir()) == []


def test_hands_that_die_are_replaced(running: Daemon) -> None:
    """Between two calls nobody notices; in one, what may not run again may have happened."""
    answer, pid, all_of_them = begin_a_program(running)
    os.kill(pid, signal.SIGKILL)
    assert answered(answer) == {"raised": "ToolError", "what": INTERRUPTED}
    wait_for(lambda: not any(map(alive, all_of_them)), "guardian and program as well")
    assert read(running) == "hello"
    os.kill(hands_pid(running), signal.SIGKILL)
    wait_for(lambda: len(running.log("hands.ended")) == 2)
    assert read(running) == "hello"
    assert len({entry["pid"] for entry in running.log("hands.started")}) == 3


def test_hands_that_die_at_once_cost_little(running: Daemon) -> None:
    """A tool that may run again is tried twice, and the model is told; no storm of starts."""
    large = running.home.parent / "in" / "b.txt"
    large.write_text("x" * 7_000_000)
    found: list[Any] = []
    while len(found) < 3:  # killed whenever they are seen, whatever they are at
        answer = running.call("caller", "SearchText", path="", text="hello")
        while not answer.exists():
            for entry in running.log("hands.started"):
                if alive(entry["pid"]):
                    os.kill(entry["pid"], signal.SIGKILL)
        found.append(answered(answer))
    died = {"raised": "ToolError", "what": "SearchText: its process ended in the middle of it"}
    assert all(answer == died or "found" in answer for answer in found), found
    assert len(running.log("hands.started")) <= 6
    assert read(running) == "hello"


@pytest.mark.parametrize("who", ["worker", "supervisor"])
def test_nothing_of_hands_outlives_who_is_killed(running: Daemon, who: str) -> None:
    """In the middle of a call, with the program that they run."""
    _, _, pids = begin_a_program(running)
    os.kill(running.pid if who == "supervisor" else running.agent("caller")["pid"], signal.SIGKILL)
    wait_for(lambda: not any(map(alive, pids)), "all of them are gone")
    if who == "worker":
        running.wait_state("caller", "RUNNING")
        assert read(running) == "hello", "the next worker has hands of its own"


@pytest.mark.parametrize("how", ["stop", "version"])
def test_hands_end_with_a_stop_in_order(running: Daemon, how: str) -> None:
    """Of the supervisor, and of a worker that makes room for a new version."""
    answer, _, pids = begin_a_program(running)
    if how == "stop":
        assert running.stop() == 0
        assert not any(map(alive, pids)), "gone before the supervisor is"
        assert not list(running.paths.locks.glob("*.hands.lock"))
    else:
        drop(running, 'note = "new"\n')
        wait_for(lambda: not any(map(alive, pids)), "the old ones are gone")
        assert read(running) == "hello"
    assert answered(answer)["raised"] == "Stopped"


def test_hands_that_ignore_their_cancel_are_killed(running: Daemon) -> None:
    """By the supervisor, because the worker cannot; they may hang in the kernel."""
    assert read(running) == "hello"
    pid = hands_pid(running)
    os.kill(pid, signal.SIGSTOP)
    answer = running.call("caller", "ReadFile", deadline_s=0.2, path="a.txt", start=None)
    assert answered(answer)["what"] == "ReadFile: took too long and was stopped"
    wait_for(lambda: not alive(pid), "they are killed")
    assert read(running) == "hello"


def test_without_a_sandbox_there_are_none_unless_a_person_says_so(tmp_path: Path) -> None:
    """One clear error with what to do; at level "checks" the tools' own checks have to do."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("hello\n")
    with daemon(tmp_path / "home", {"TEST_NO_SANDBOX": "1"}) as one:
        drop(one)
        one.start()
        one.wait_state("caller", "RUNNING")
        told = read(one)
        assert told == {
            "raised": "SandboxUnavailable",
            "what": "no sandbox: switched off for a test",
        }
        assert one.log("hands.started") == []
        one.configure(QUICK + '[sandbox]\nlevel = "checks"\n')
        wait_for(lambda: one.log("config.reloaded"))
        assert read(one) == "hello"


READER = HELLO.replace("[params]", '[params]\ntools = ["ReadFile"]') + (
    '[permissions]\nread = ["{folder}"]\n'
)
NO_SANDBOX = (
    "import sys; from agentd.sandbox import level\n"
    "level.reached = lambda: level.Reached('checks', 'switched off for a test')\n"
    "from agentd.cli import main; sys.exit(main(['run']))"
)


@contextlib.contextmanager
def a_reader(tmp_path: Path, *code: str) -> Iterator[Home]:
    """A real daemon with an agent that reads a file before it greets."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("buy milk")

    def answer(request: Request) -> Any:
        told = str(request.body["messages"])
        if "buy milk" in told or "error" in told:
            return {"tool": "done", "result": "milk" if "buy milk" in told else "an error"}
        return {"tool": "read_file", "path": "a.txt", "start": None}

    with a_home(tmp_path / "home") as home:
        home.model._answers = answer
        home.command = [sys.executable, *code] if code else home.command
        home.start()
        before = home.agent()["version"]
        write_agent(home.root, "hello", READER.format(folder=tmp_path / "in"))
        home.until(lambda: home.agent().get("version") not in (None, before), "it is accepted")
        home.until(lambda: home.agent().get("state") == "RUNNING", "it runs")
        yield home


def results(home: Home) -> list[str]:
    rows = home.rows("SELECT payload FROM outbox WHERE event_type = 'greeting.written'")
    return [json.loads(payload)["result"] for (payload,) in rows]


def test_a_real_agent_reads_by_its_hands(tmp_path: Path) -> None:
    """From the event to the answer; the daemon's log names who worked."""
    with a_reader(tmp_path) as home:
        home.send()
        assert home.until(lambda: results(home), "it answers") == ["milk"]
        log = home.paths.log("agentd").read_text()
        assert '"event": "hands.started", "agent": "hello"' in log
        home.stop()


def test_an_agent_rests_where_there_is_no_sandbox(tmp_path: Path) -> None:
    """With the reason, before it decides anything; nothing is lost, and a person may accept it."""
    with a_reader(tmp_path, "-c", NO_SANDBOX) as home:
        home.send()
        resting = home.until(lambda: parked(home), "it rests")
        assert "switched off for a test" in resting["reason"] and "[sandbox]" in resting["reason"]
        assert resting["dead_letters"] == 0 and home.model.requests == []
        settings = home.paths.daemon_file.read_text()
        home.paths.daemon_file.write_text(settings + "[sandbox]\nlevel = 'checks'\n")
        assert home.until(lambda: results(home), "it answers") == ["milk"]
        home.stop()
