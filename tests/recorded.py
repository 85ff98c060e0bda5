"""Sessions for replay tests: run by the worker's code in this process, on a fake model server."""

import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from agentd.admission.admit import admit
from agentd.bus import Bus
from agentd.clock import Clock
from agentd.config.daemon import load_daemon
from agentd.events import Event, NewEvent
from agentd.logs.logger import Logger
from agentd.paths import discover, shipped
from agentd.process.heart import Heart
from agentd.process.stop import Stop
from agentd.recordings.recording import Recording
from agentd.replay.code import Workshop
from agentd.replay.loaded import Quiet
from agentd.replay.recorder import record_session
from agentd.replay.replay import Outcome, Replay
from agentd.sessions.sessions import Sessions
from agentd.states import Priority
from agentd.testing import FakeModelServer, Request
from agentd.worker.worker import Worker
from tests.person import PersonLink, answer
from tests.repository import Repository
from tests.supervised import remove_sockets

PLACEHOLDER = "/path/to/your/repository"
Answers = Sequence[Mapping[str, Any]] | Callable[[Request], Any]


class World:
    """A home with a repository, a folder of notes, and agents that run to order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = discover({"AGENTD_HOME": str(root / "home")})
        self.paths.create()
        self.paths.create_private()
        self.bus = Bus(self.paths.database)
        self.sessions = Sessions(self.bus)
        self.repo = Repository(root / "repo")
        self.notes = root / "notes"
        self.notes.mkdir()
        self.workshop = Workshop()

    def close(self) -> None:
        self.bus.close()
        self.workshop.close()
        remove_sockets(self.paths)

    def write(self, name: str, toml: str) -> None:
        (self.paths.agents_d / f"{name}.toml").write_text(toml)

    def shipped(self, name: str, **changes: str) -> None:
        """Configure a shipped agent for this world's repository."""
        toml = (shipped() / "config" / "agents.d" / f"{name}.toml").read_text()
        toml = toml.replace(PLACEHOLDER, str(self.repo.path)).replace("enabled = false", "")
        toml = toml.replace("# days = 7 ", "days = 0 ")  # the first look takes a commit
        for old, new in changes.items():
            toml = toml.replace(old, new)
        self.write(name, toml)

    def publish(self, kind: str, payload: Mapping[str, Any], target: str | None = None) -> None:
        event = NewEvent(kind, payload, target=target)
        self.bus.publish("person", event, priority=Priority.PERSON, system=True)

    def answer(self, session: int, said: Any) -> None:
        """Let a person answer."""
        answer(self.bus, self.paths, session, said)

    def run(
        self,
        name: str,
        answers: Answers,
        *,
        window: int = 8192,
        clock: Clock | None = None,
        **server: Any,
    ) -> int:
        """Answer the agent's next event; return its session's id."""
        accepted = admit(name, self.paths)
        self.bus.accept(name, accepted.hash, subscribe=accepted.config.subscribe, start="beginning")
        given = answers if callable(answers) else list(map(json.dumps, answers))
        server.setdefault("scores", lambda _head, item: -float(len(item)))
        with FakeModelServer(given, window=window, **server) as model:
            model.write_address(self.paths.run)
            self.requests = model.requests
            daemon = load_daemon(self.paths.daemon_file)
            log = cast(Logger, Quiet())
            link = PersonLink(self.paths, name)
            others = set(threading.enumerate())
            worker = Worker(accepted, self.paths, daemon, Heart(None), log, link=link, clock=clock)
            self.worker = worker
            try:
                worker.work()
            finally:
                worker.ear.close()
                worker.bus.close()
                end_stop(worker.stop, [t for t in threading.enumerate() if t not in others])
        return self.sessions.archive.list(agent=name)[0].id

    def cut(self) -> None:
        """End the running call to the model, as an orderly stop does."""
        assert self.worker._runner is not None
        self.worker._runner.interrupt()

    def take(self, session: int, **options: Any) -> tuple[Recording, Outcome]:
        return record_session(self.sessions.archive, session, self.paths, self.workshop, **options)

    def replay(self, recording: Recording, **options: Any) -> Outcome:
        """Replay with the agent's code as it is in this home."""
        code = self.workshop.current(recording.config.agent, self.paths, "test")
        return Replay(recording, code, self.workshop, **options).run()

    def events(self, kind: str) -> Sequence[Event]:
        return self.bus.events.list(event_type=kind)


def end_stop(stop: Stop, threads: Sequence[threading.Thread]) -> None:
    """Stop what a worker still holds, and give its descriptors back: its process would end now."""
    os.close(signal.set_wakeup_fd(-1))  # the end of what signals are read from is a stop, too
    for thread in threads:
        if thread.name == "stop":
            thread.join()
    for fd in (stop._asked_read, stop._asked_write, stop._signal_read):
        os.close(fd)


TOOLS = ["ListFiles", "ReadFile", "SearchText", "WriteFile", "HttpGet", "RunCommand", "AskPerson"]
READING = ["ReadPage", "ReadFeed", "ReadCalendar", "ReadPdf", "WriteFile", "RunCommand"]
READER = """agent = "task"
done = "The note that was asked for is read."
subscribe = ["note.changed"]
[params]
instructions = "Read the note."
tools = {tools}
publish = "note.read"
[limits]
attempts = 1
turns = {turns}
[permissions]
read = ["{folder}"]
write = ["{folder}"]
net = ["{host}"]
run = ["date", "true"]
[approve]
i_accept_the_risk = true
WriteFile = "allow"
RunCommand = "allow"
"""
FETCH = {"tool": "fetch_repo"}
FETCHED = [FETCH, {"tool": "done", "kind": "code"}]


def done(result: str = "read") -> dict[str, str]:
    return {"tool": "done", "result": result}


def read(path: str, start: int | None = None) -> dict[str, Any]:
    return {"tool": "read_file", "path": path, "start": start}


def reader_toml(
    folder: Path, *, host: str = "localhost:1", turns: int = 8, tools: Sequence[str] = TOOLS
) -> str:
    """Return the file of a task agent that may do anything in a folder, and asks nobody."""
    return READER.format(folder=folder, host=host, turns=turns, tools=json.dumps(tools))


def reader(
    world: World,
    answers: Answers,
    *,
    host: str = "localhost:1",
    turns: int = 8,
    tools: Sequence[str] = TOOLS,
    window: int = 8192,
) -> int:
    """Run a task agent that reads notes; return its session."""
    world.write("reader", reader_toml(world.notes, host=host, turns=turns, tools=tools))
    world.publish("note.changed", {"path": "a.txt"}, target="reader")
    return world.run("reader", answers, window=window)


def finding(note: str) -> dict[str, str]:
    return {"tool": "finding", "note": note}


def fetch(world: World) -> int:
    """Run repo_fetch once over two commits; return its session."""
    world.repo.commit("start", a__py="1\n", b__md="x\n")
    world.repo.commit("more", a__py="1\n2\n", c__py="3\n")
    world.shipped("repo_fetch")
    world.publish("agent.trigger", {}, target="repo_fetch")
    return world.run("repo_fetch", FETCHED)


def review(world: World) -> int:
    """Run repo_review on what repo_fetch published, with words; return its session."""
    world.shipped(
        "repo_review", **{"words = false": "words = true", "max_files = 5": "max_files = 2"}
    )
    return world.run(
        "repo_review",
        [
            finding("Adds a line to the file."),
            finding("Adds the new file here."),
            {"tool": "done"},
        ],
    )
