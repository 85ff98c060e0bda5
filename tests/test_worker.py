"""The worker: a real process on a real bus, with a real version and a fake model server."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentd import testing
from agentd.admission.admit import admit
from agentd.bus import Bus
from agentd.config.last_good import keep
from agentd.events import Event, NewEvent
from agentd.paths import Paths, discover
from agentd.process.child import CONTROL_VARIABLE
from agentd.sessions.sessions import Sessions
from agentd.states import Exit, Priority, SessionState
from agentd.testing import FakeModelServer, Reply, Request
from tests.person import answer as answer_it
from tests.person import vouch
from tests.supervised import remove_sockets, whole_lines

TASK = """\
agent = "task"
done = "The note that was asked for is read."
subscribe = ["note.asked"]
[params]
instructions = "Read the note."
tools = ["ReadFile", "AskPerson"]
publish = "note.read"
[permissions]
read = ["{folder}"]
"""
POLL = '[bus]\npoll = "200ms"\n'
DEADLINE_S = 40.0  # far above what it takes, and below the deadline of a call that hangs
wait_for = partial(testing.wait_for, seconds=DEADLINE_S)


class Home:
    """A temporary home with one accepted task agent and its worker process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: Paths = discover({"AGENTD_HOME": str(root / "home")})
        self.paths.create()
        self.paths.create_private()
        self.notes = root / "notes"
        self.notes.mkdir()
        (self.notes / "a.txt").write_text("buy milk")
        self.paths.daemon_file.write_text(POLL)
        self.bus = Bus(self.paths.database, wake=self.paths.wake)
        self.sessions = Sessions(self.bus)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.accept(TASK.format(folder=self.notes))

    def accept(self, toml: str) -> None:
        (self.paths.agents_d / "reader.toml").write_text(toml)
        self.accepted = admit("reader", self.paths)
        self.bus.accept("reader", self.accepted.hash, subscribe=self.accepted.config.subscribe)

    def start(self, control: socket.socket | None = None) -> "subprocess.Popen[bytes]":
        """Start the worker; with the socket by which it asks its supervisor."""
        fds = [] if control is None else [control.fileno()]
        told = {} if control is None else {CONTROL_VARIABLE: str(control.fileno())}
        worker = subprocess.Popen(
            [sys.executable, "-m", "agentd.worker", "reader", "--version", self.accepted.hash],
            env={**os.environ, "AGENTD_HOME": str(self.paths.data), **told},
            pass_fds=fds,
        )
        self.workers.append(worker)
        return worker

    def ask(self) -> None:
        self.bus.publish("tester", NewEvent("note.asked", {"name": "a.txt"}))

    def events(self, event_type: str) -> Sequence[Event]:
        return self.bus.events.list(event_type=event_type)

    def log(self, name: str) -> list[dict[str, Any]]:
        return [line for line in whole_lines(self.paths.log("reader")) if line["event"] == name]

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.bus.close()
        remove_sockets(self.paths)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def serve(home: Home, answers: Callable[[Request], Any]) -> FakeModelServer:
    server = FakeModelServer(answers)
    server.write_address(home.paths.run)
    return server


def reads_then_done(home: Home) -> Callable[[Request], Any]:
    def answer(request: Request) -> Any:
        if "buy milk" in str(request.body["messages"]):
            return {"tool": "done", "result": "milk"}
        return {"tool": "read_file", "path": str(home.notes / "a.txt"), "start": 1}

    return answer


def test_event_in_event_out(home: Home) -> None:
    """An event on the bus is answered by tools and model, with its cause and class kept."""
    with serve(home, reads_then_done(home)):
        home.start()
        home.bus.publish("person", NewEvent("note.asked", {}), priority=Priority.PERSON)
        (note,) = wait_for(lambda: home.events("note.read"))
    assert note.payload == {"result": "milk"}
    assert (note.agent, note.cause_id, note.depth) == ("reader", 1, 1)
    assert note.priority is Priority.PERSON
    (row,) = home.sessions.archive.list()
    assert (row.state, row.turns) == (SessionState.ENDED, 2)
    assert [line["decision"] for line in home.log("turn.decided")] == ["ReadFile", "Done"]
    assert "buy milk" not in home.paths.log("reader").read_text(), "content in the log"


def test_a_wrong_agentd_toml_stops_no_worker(home: Home) -> None:
    """It works on with the last one that was right."""
    keep(home.paths)
    home.paths.daemon_file.write_text("half a fi")
    with serve(home, reads_then_done(home)):
        home.start()
        home.ask()
        wait_for(lambda: home.events("note.read"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_in_the_middle_of_a_call(home: Home, number: int) -> None:
    """A stop interrupts a call that hangs, exits 0, costs no attempt, and the session resumes."""
    with serve(home, lambda request: Reply(hang=True)) as server:
        worker = home.start()
        home.ask()
        wait_for(lambda: [r for r in server.requests if r.path.endswith("/chat/completions")])
        worker.send_signal(number)
        assert worker.wait(DEADLINE_S) == Exit.OK
    (row,) = home.sessions.archive.list()
    assert row.state is SessionState.RUNNING
    assert home.bus.db.run("SELECT attempts, total_attempts FROM deliveries") == [(0, 0)]
    with serve(home, reads_then_done(home)):
        home.start()
        wait_for(lambda: home.events("note.read"))
    (row,) = home.sessions.archive.list()
    assert (row.state, row.attempt) == (SessionState.ENDED, 2)


def test_kill_in_the_middle_resumes(home: Home) -> None:
    """After kill -9 the session goes on from its last step: nothing is asked or run twice."""
    asked: list[Request] = []

    def hang_after_reading(request: Request) -> Any:
        asked.append(request)
        answer = reads_then_done(home)(request)
        return Reply(hang=True) if answer["tool"] == "done" else answer

    with serve(home, hang_after_reading):
        worker = home.start()
        home.ask()
        wait_for(lambda: len(asked) == 2)
        worker.kill()
        worker.wait()
    with serve(home, reads_then_done(home)) as server:
        home.start()
        wait_for(lambda: home.events("note.read"))
        chats = [r for r in server.requests if r.path.endswith("/chat/completions")]
    assert len(chats) == 1, "the recorded decision was asked again"
    assert chats[0].body["messages"] == asked[-1].body["messages"], "the prompt's prefix changed"
    assert len(home.events("note.read")) == 1


def test_no_model_server_costs_nothing(home: Home) -> None:
    """A worker whose model server is away waits; the event is answered when it comes."""
    home.start()
    home.ask()
    wait_for(lambda: home.paths.log("reader").exists() and home.log("session.started"))
    with serve(home, reads_then_done(home)):
        wait_for(lambda: home.events("note.read"))
    assert home.bus.dead.list() == []


def test_failing_session_becomes_a_dead_letter(home: Home) -> None:
    """A model that answers nonsense is tried again as often as allowed, then the event is kept."""
    toml = TASK.format(folder=home.notes) + "[limits]\nattempts = 2\n"
    home.accept(toml)
    with serve(home, lambda request: "no decision at all"):
        home.start()
        home.ask()
        (letter,) = wait_for(home.bus.dead.list)
    assert letter.event_type == "note.asked"
    assert "no decision" in letter.error
    assert len(home.sessions.archive.list()) == 2


def test_question_and_answer(home: Home) -> None:
    """A parked session has stepped its lane, asks on the bus, and a person's answer resumes it."""

    def answer(request: Request) -> Any:
        messages = str(request.body["messages"])
        if "tea" in messages:
            return {"tool": "done", "result": "tea"}
        return {"tool": "ask_person", "question": "milk or tea?"}

    ours, theirs = socket.socketpair()
    vouch(ours, home.paths, "reader")
    with FakeModelServer(answer, token="") as server:
        # Its own model it would reach by a link to it, which this one has not.
        home.paths.daemon_file.write_text(f"[model]\nurl = '{server.url}'\n")
        with theirs:
            home.start(theirs)
        home.ask()
        (asked,) = wait_for(lambda: home.events("person.asked"))
        assert asked.payload["question"] == "milk or tea?"
        (row,) = home.sessions.archive.list()
        assert row.state is SessionState.PARKED
        answer_it(home.bus, home.paths, row.id, "tea")
        (note,) = wait_for(lambda: home.events("note.read"))
    assert note.payload["result"] == "tea"
    assert note.cause_id == 1, "the note answers the first event, not the person's"


def test_unusable_version_is_one_clear_error(home: Home) -> None:
    """A damaged version folder exits 78, with what and where in the log and no traceback."""
    (home.accepted.folder / "agent.py").write_text("changed")
    worker = home.start()
    assert worker.wait(DEADLINE_S) == Exit.CONFIG
    (line,) = home.log("worker.failed")
    assert str(home.accepted.folder) in line["error"]
    assert "Traceback" not in str(line)


def test_event_that_waits_is_found_without_a_wake_up(home: Home) -> None:
    """The poll is the truth: an event written with no wake-up is answered all the same."""
    with serve(home, reads_then_done(home)):
        home.start()
        wait_for(lambda: (home.paths.wake / "reader.sock").exists())
        mute = Bus(home.paths.database)
        mute.publish("tester", NewEvent("note.asked", {}))
        mute.close()
        wait_for(lambda: home.events("note.read"))
