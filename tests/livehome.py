"""A home with the real daemon, one real agent and a fake model, for tests of the whole."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from agentd.paths import Paths, discover
from agentd.testing import FakeModelServer, Request, wait_for
from tests.commandline import agentd, write_agent
from tests.supervised import remove_sockets, said_by

DEADLINE_S = 40.0


class Home:
    """A home with one `task` agent, hello, that greets; a fake model, and a real daemon."""

    agents: Sequence[str] = ("hello",)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: Paths = discover({"AGENTD_HOME": str(root)})
        self.gate = threading.Event()  # while it is cleared, the model thinks
        self.gate.set()
        self.model = FakeModelServer(self._answer, token="")
        self.command = [sys.executable, "-m", "agentd", "run"]
        self.process: subprocess.Popen[str] | None = None

    def _answer(self, request: Request) -> Any:
        assert self.gate.wait(DEADLINE_S)
        return {"tool": "done", "result": "Hello!"}

    def start(self) -> None:
        """Start the daemon, and wait until its agents run: they read from their start on."""
        self.launch()
        self.until(self._all_run, "all agents run")

    def _all_run(self) -> bool:
        states = {a["name"]: a.get("state") for a in self.document()["agents"]}
        return all(states.get(name) == "RUNNING" for name in self.agents)

    def drop(self) -> None:
        """Write the agents' files."""
        for name in self.agents:
            write_agent(self.root, name)

    def configure(self) -> None:
        """Write the daemon's file."""
        self.paths.daemon_file.write_text(
            f"[model]\nurl = '{self.model.url}'\n[bus]\npoll = '200ms'\n"
        )

    def launch(self) -> None:
        self.drop()
        self.configure()
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, "AGENTD_HOME": str(self.root)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> tuple[int, str]:
        """Wait for the daemon's end; return its exit code and what it said."""
        assert self.process is not None
        _, said = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.ended()

    def document(self) -> dict[str, Any]:
        return said_by(self.paths) or {"agents": [], "storage": {}}

    def agent(self) -> dict[str, Any]:
        return next((a for a in self.document()["agents"] if a["name"] == "hello"), {})

    def problem(self) -> dict[str, str]:
        """The agent's own problem, {} for none."""
        return self.agent().get("problem") or {}

    def send(self, text: str = "Ada") -> "subprocess.CompletedProcess[str]":
        return agentd(self.root, "send", "note.added", json.dumps({"name": text}))

    def rows(self, query: str) -> list[Any]:
        with contextlib.closing(apsw.Connection(str(self.paths.database))) as db:
            db.set_busy_timeout(10_000)
            return db.execute(query).fetchall()

    def answered(self) -> list[int]:
        """The ids of the events that were answered, once for each answer."""
        answers = "SELECT cause_id FROM outbox WHERE event_type = 'greeting.written' ORDER BY id"
        return [row[0] for row in self.rows(answers)]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, seconds=DEADLINE_S, what=what)


H = TypeVar("H", bound=Home)


def a_home(root: Path) -> "contextlib.AbstractContextManager[Home]":
    return living(Home(root))


@contextlib.contextmanager
def living(home: H) -> Iterator[H]:
    with home.model:
        try:
            yield home
        finally:
            home.gate.set()
            if home.process is not None and home.process.poll() is None:
                home.process.kill()
                home.process.communicate()
            remove_sockets(home.paths)
