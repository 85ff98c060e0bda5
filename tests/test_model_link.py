"""Agents and their own model server: real daemon, workers and HTTP, with a scripted engine."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.bus import Bus
from agentd.events import PERSON, NewEvent
from agentd.llm.address import Address, fetch
from tests.commandline import agentd
from tests.linkedhome import LinkedHome, linked_home
from tests.supervised import whole_lines

ROUNDS, EVENTS = 2, 3  # events of each round
RESTS = "[supervisor]\nbackoff_first = '1h'\nbackoff_max = '1h'\n"  # as long as a test looks


@pytest.fixture
def home(tmp_path: Path) -> Iterator[LinkedHome]:
    with linked_home(tmp_path) as found:
        yield found


class Squatter:
    """Another program at the model server's port; it keeps what comes."""

    def __init__(self, port: int) -> None:
        self.heard: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.heard.append(b"somebody")
            with connection:
                connection.settimeout(5)
                self.heard.append(connection.recv(4096))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def test_a_squatter_gets_neither_token_nor_work(tmp_path: Path) -> None:
    """Any local user can take the port of a server that died. Nobody of ours goes there."""
    with linked_home(tmp_path, rules=RESTS) as home:
        port = home.port
        os.kill(home.document()["model"]["pid"], signal.SIGKILL)
        home.until(lambda: home.model_state() == "BACKOFF", "it is dead")
        squatter = Squatter(port)
        home.send()
        home.until(lambda: home.rows("SELECT 1 FROM sessions"), "the session has begun")
        status = json.loads(agentd(home.root, "model", "status", "--json").stdout)
        assert status["metrics"] is None
        home.configure("queue = 65\n")  # a changed server is tried at once
        home.until(home.answered, "it is answered, by another port's server")
        assert home.port != port
        squatter.close()
        assert squatter.heard == []


def test_a_server_that_is_killed_under_load_loses_nothing(tmp_path: Path) -> None:
    """Links end with it; each worker asks for another one, and each event is answered once."""
    with linked_home(tmp_path, "hello", "other", step_s=0.01) as home:
        for _ in range(ROUNDS):
            kill_while_busy(home)
        home.until(lambda: len(home.answered()) >= 2 * ROUNDS * EVENTS, "all is answered")
        assert set(Counter(home.answered()).values()) == {2}  # once by each agent
        assert home.rows("SELECT * FROM dead_letters") == []
        lines = whole_lines(home.paths.log("model"))
        asked = Counter(line["agent"] for line in lines if line["event"] == "request.finished")
        assert set(asked) == {"hello", "other"}


def kill_while_busy(home: LinkedHome) -> None:
    """Give it work, kill the model server over a call, and wait for the next one."""
    lines = home.paths.log("model")
    finished = lines.read_text().count("request.finished")
    with contextlib.closing(Bus(home.paths.database, wake=home.paths.wake)) as bus:
        for number in range(EVENTS):
            bus.publish(PERSON, NewEvent("note.added", {"name": f"Ada {number}"}))
    home.until(lambda: lines.read_text().count("request.finished") > finished, "it works")
    before = home.document()["model"]["pid"]
    os.kill(before, signal.SIGKILL)
    home.until(lambda: home.document()["model"]["pid"] not in (None, before), "another one runs")


def test_commands_come_by_the_socket(home: LinkedHome) -> None:
    """They need no token; a folder that is cleaned has the socket again."""
    home.paths.token.write_text("")  # whoever reads it has nothing
    assert _metrics(home)
    home.paths.model_socket.unlink()
    home.until(home.paths.model_socket.exists, "it is made again")
    assert _metrics(home)
    assert home.paths.model_socket.stat().st_mode & 0o777 == 0o600


def test_a_renewed_token_is_the_one_in_force(home: LinkedHome) -> None:
    """Programs that have the old one are refused at once, agents go on, and it is kept."""
    old = home.paths.token.read_text()
    said = agentd(home.root, "token", "--renew")
    new = home.paths.token.read_text()
    home.paths.token.unlink()  # before the supervisor has looked of itself
    home.until(home.paths.token.exists, "it is written again")
    assert agentd(home.root, "token", "--show").stdout.strip() == new
    assert said.stdout.strip() == str(home.paths.token) and new not in said.stdout + said.stderr
    assert new != old and home.paths.token.stat().st_mode & 0o777 == 0o600
    url = f"http://127.0.0.1:{home.port}/v1"
    assert fetch(Address(url, "", old), "/ready", 5.0) is None
    assert fetch(Address(url, "", new), "/ready", 5.0) is not None
    home.send()
    home.until(home.answered, "the agent's call needs none")


def test_a_token_is_there_before_the_first_run(tmp_path: Path) -> None:
    """Who asks for one too early is told what makes it."""
    early = agentd(tmp_path, "token")
    assert early.returncode == 3 and "agentd token --renew" in early.stderr
    assert agentd(tmp_path, "token", "--renew").returncode == 0
    assert (tmp_path / "run" / "model.token").stat().st_mode & 0o777 == 0o600


def _metrics(home: LinkedHome) -> bool:
    found = agentd(home.root, "model", "status", "--json")
    return json.loads(found.stdout)["metrics"] is not None
