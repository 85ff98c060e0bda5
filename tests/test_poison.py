"""Events that bring their worker down, with everything real but the model's words."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus
from agentd.bus.dead import DeadLetter
from agentd.bus.wake import socket_path
from agentd.events import NewEvent
from agentd.paths import discover
from agentd.sessions.attempts import CRASHES_IN_A_ROW_MAX
from agentd.sessions.sessions import Sessions
from agentd.states import DeadReason, SessionState
from agentd.testing import FakeModelServer, wait_for
from tests.commandline import DEADLINE_S, agentd, one_decision

BAML = one_decision("Bomb", "Light")
MODULE = """
import os, signal
from agentd.agent import Agent, NoParams, Result

class Bomb(Agent[NoParams]):
    function = "Bomb"
    idempotent = frozenset({"Light"})

    def begin(self, event, results):
        self.how = event.payload["how"]

    def dispatch(self, decision):
        return self.explode()

    def explode(self):
        if self.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "exit":
            os._exit(0)
        if self.how == "raise":
            raise LookupError("no fuse")
        return Result({"lit": True})
"""
TOML = """
agent = "bomb"
done = "The fuse was lit."
subscribe = ["fuse.laid"]
"""
DAEMON = """
[model]
url = '{url}'
[supervisor]
backoff_first = '50ms'
backoff_max = '100ms'
crashes = 50  # of several such events in a row; else the agent would be parked
[bus]
poll = '200ms'
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A daemon with one agent that explodes as its event says, and a model that lights it."""
    tmp_path = tmp_path_factory.mktemp("home")
    for file, text in (
        ("agents/bomb.py", MODULE),
        ("baml_src/bomb.baml", BAML),
        ("config/agents.d/bomb.toml", TOML),
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)

    def answer(request: Any) -> Any:
        return {"tool": "done" if "lit" in str(request.body["messages"][-1]) else "light"}

    with FakeModelServer(answer, token="") as model:
        (tmp_path / "config" / "agentd.toml").write_text(DAEMON.format(url=model.url))
        with subprocess.Popen(
            [sys.executable, "-m", "agentd", "run"],
            env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        ) as process:
            try:
                socket = socket_path(discover({"AGENTD_HOME": str(tmp_path)}).wake, "bomb")
                wait_for(socket.exists, seconds=DEADLINE_S)
                yield tmp_path
                process.terminate()
                assert process.wait(DEADLINE_S) == 0
            finally:
                process.kill()


@pytest.fixture
def bus(home: Path) -> Iterator[Bus]:
    paths = discover({"AGENTD_HOME": str(home)})
    bus = Bus(paths.database, wake=paths.wake)
    yield bus
    bus.close()


def lay(bus: Bus, how: str) -> int:
    event_id = bus.publish("person", NewEvent("fuse.laid", {"how": how}))
    assert event_id is not None
    return event_id


def letter(bus: Bus, event_id: int) -> DeadLetter:
    def found() -> DeadLetter | None:
        return next((one for one in bus.dead.list() if one.event_id == event_id), None)

    one = wait_for(found, seconds=60)
    assert isinstance(one, DeadLetter)
    return one


def wait_ended(bus: Bus, event_id: int) -> None:
    sessions = Sessions(bus)

    def ended() -> bool:
        rows = sessions.archive.list(state=SessionState.ENDED)
        return any(row.event_id == event_id for row in rows)

    wait_for(ended, seconds=DEADLINE_S)


def test_an_event_that_crashes_its_worker_is_given_up_and_the_next_is_answered(bus: Bus) -> None:
    """Its letter says how the worker died, where, and in which session; the agent is not parked."""
    event_id, following = lay(bus, "crash"), lay(bus, "well")
    found = letter(bus, event_id)
    assert found.reason is DeadReason.CRASHED
    assert "5 times in a row" in found.error and "killed by SIGSEGV" in found.error
    assert "bomb.py" in found.error and "in explode" in found.error
    assert found.session_id is not None
    wait_ended(bus, following)
    assert following not in [one.event_id for one in bus.dead.list()]


def test_an_event_that_ends_its_worker_without_a_word_is_given_up(bus: Bus) -> None:
    """An exit with 0 in the middle of a session is no orderly stop."""
    found = letter(bus, lay(bus, "exit"))
    assert found.reason is DeadReason.CRASHED and "exited unasked" in found.error


def test_a_worker_that_is_killed_again_and_again_answers_in_the_end(bus: Bus) -> None:
    """More often than crashes would be forgiven, before it recorded anything: no dead letter."""
    event_id = lay(bus, "well")
    seen: set[int] = set()
    while len(seen) < CRASHES_IN_A_ROW_MAX + 2:

        def attempt() -> int | None:
            # How long it waits between such attempts is not what this is about.
            bus.db.run("UPDATE deliveries SET next_at = NULL WHERE event_id = ?", (event_id,))
            rows = bus.db.run("SELECT pid FROM deliveries WHERE event_id = ?", (event_id,))
            pid = rows[0][0] if rows else None
            return pid if pid not in seen else None

        pid = wait_for(attempt, seconds=DEADLINE_S)
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
    bus.db.run("UPDATE deliveries SET next_at = NULL")
    wait_ended(bus, event_id)
    assert event_id not in [one.event_id for one in bus.dead.list()]


def test_a_failing_event_says_where_it_failed(home: Path, bus: Bus) -> None:
    """The letter names the agent's own line; `dead show`, `retry` and `drop` work on it."""
    found = letter(bus, lay(bus, "raise"))
    assert found.reason is DeadReason.FAILED
    assert found.error.startswith("LookupError: no fuse (bomb.py:")
    assert "in explode" in found.error
    shown = json.loads(agentd(home, "dead", "show", str(found.id), "--json").stdout)
    assert (shown["error"], shown["session_id"]) == (found.error, found.session_id)
    done = agentd(home, "dead", "retry", str(found.id))
    assert done.returncode == 0
    again = letter(bus, int(done.stdout.split()[-2]))
    assert again.event_type == "fuse.laid" and again.error == found.error
    assert agentd(home, "dead", "drop", str(again.id)).returncode == 0
    assert again.id not in [one.id for one in bus.dead.list()]
