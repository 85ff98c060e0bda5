"""The page's process seen from the supervisor: when it is there, what it may touch and ask."""

import json
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest

from agentd import cli
from agentd.bus import Bus
from agentd.errors import AgentdError
from agentd.events import NewEvent
from agentd.paths import discover
from agentd.sandbox.level import reached
from agentd.states import Exit
from agentd.supervisor.one_time_link import page_key
from agentd.supervisor.ui_host import allowed
from agentd.supervisor.ui_policy import NAME
from agentd.ui.acting import DOES, argv_of
from tests.page_client import open_page
from tests.supervised import IDLE_VARIABLE, Daemon, daemon, wait_for

FULL = pytest.mark.skipif(
    sys.platform != "linux" or reached().name != "full", reason="no whole sandbox by Landlock here"
)
# What it does in there is told on its standard output, which nobody closes to it.
TRIES = """
import json, socket, subprocess, sys
from pathlib import Path
from agentd.bus import Bus, Opening
from agentd.events import NewEvent
from agentd.paths import discover
from agentd.sandbox.enter import enter
from agentd.supervisor.ui_policy import ui_policy
listening = socket.create_server(("127.0.0.1", 0))
known = socket.create_server(("127.0.0.1", 0))
paths = discover()
enter(ui_policy(paths))
def tried(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "done"
bus = Bus(paths.database, opening=Opening(create=False, read_only=True))
def connect():
    socket.socket().connect(known.getsockname())
print(json.dumps({
    "events": len(bus.events.list()),
    "words": len(bus.search.find("little", limit=5)),
    "listen": tried(lambda: listening.listen(1)),
    "log": tried(lambda: (paths.log("agentd.ui").parent / "x").write_text("x")),
    "publish": tried(lambda: bus.publish("person", NewEvent("a.b", {}))),
    "write": tried(lambda: paths.database.open("r+b")),
    "other log": tried(lambda: paths.log("agentd").open("a")),
    "key": tried((paths.keys / "ui.key").read_bytes),
    "token": tried(paths.token.read_bytes),
    "secret": tried((paths.secrets / "mine").read_bytes),
    "home": tried((paths.user / "mine.txt").read_bytes),
    "config": tried(lambda: paths.daemon_file.open("a")),
    "socket": tried(socket.socket),
    "connect": tried(connect),
    "program": tried(lambda: subprocess.run(["/bin/true"])),
}))
"""


@FULL
def test_the_sandbox_reads_what_is_shown_and_nothing_else(tmp_path: Path) -> None:
    """Whatever hostile text does to this process: no key, no secret, no program, nobody reached."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    page_key(paths)
    paths.secrets.mkdir()
    for path in (paths.secrets / "mine", paths.user / "mine.txt", paths.token, paths.daemon_file):
        path.write_text("x")
    for name in (NAME, "agentd"):
        paths.log(name).parent.mkdir(parents=True)
        paths.log(name).write_text("")
    bus = Bus(paths.database)
    bus.publish("person", NewEvent("note.added", {"title": "a little note"}))
    bus.search.index()
    done = subprocess.run(
        [sys.executable, "-P", "-c", TRIES],
        env={"AGENTD_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    bus.close()
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    can = {"events": 1, "words": 1, "listen": "done", "log": "done"}
    assert {key: told.pop(key) for key in can} == can
    assert told.pop("publish") == "StorageError"
    assert set(told.values()) == {"PermissionError"}, told


@pytest.mark.parametrize(
    "argv",
    [
        *([], "reload", None, [1], ["run"], ["trigger", 1], ["backup", "x"], ["model", "pull"]),
        *(["dead"], ["dead", "list"], ["dead", "show", "retry"], ["token", "--show"], ["x\0"]),
        *(
            ["send", "note.added", "{}"],
            ["trigger", "a\0b"],
            ["trigger", "\ud800"],
            ["answer", "7", "\udcff"],
            ["remove", "hello"],
        ),
    ],
)
def test_the_page_stands_for_few_commands(argv: object) -> None:
    """A process that was taken over can do what its buttons do, and nothing else."""
    with pytest.raises(AgentdError):
        allowed(argv)


def test_the_page_stands_for_these_commands() -> None:
    """What its buttons do."""
    for argv in (["dead", "retry", "1"], ["reload"], ["answer", "--asked", "x", "--", "7", "yes"]):
        assert allowed(argv) == argv


FORM = {
    **{"agent": "hello", "id": "7", "asked": "d" * 64, "words": "yes", "question": "what is new?"},
    **{"thread": "3", "field": "category", "value": "-x", "row": "2"},
}


@pytest.mark.parametrize("do", DOES)
def test_each_form_is_a_command_that_exists(do: str) -> None:
    """A button whose command takes no such words would always answer with an error of usage."""
    name, *words = allowed(argv_of({"do": do, **FORM}))
    command = next(command for command in cli.COMMANDS if command.name == name)
    module = cast(cli.CommandModule, import_module(f"agentd.commands.{command.module}"))
    assert cli.command_parser(command, module).parse_args(["--json", *words]).json


def test_it_ends_when_nobody_looks(tmp_path: Path) -> None:
    """Without [ui] it takes memory while somebody looks, and its port is remembered."""
    with daemon(tmp_path, {IDLE_VARIABLE: "3"}) as one:
        one.start()
        assert one.status()["ui"] is None
        with open_page(one) as page, page.client.stream("GET", "/live"):
            pid = one.status()["ui"]["pid"]
            wait_for(lambda: one.ui().get("beat", {}).get("state") == "shown", "it is looked at")
        wait_for(lambda: one.status().get("ui", "busy") is None, "it ends")
        with open_page(one) as again:
            assert again.origin == page.origin
            assert one.status()["ui"]["pid"] != pid


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    """The daemon runs without its page, says why, and has it once the port is free."""
    with socket.create_server(("127.0.0.1", 0)) as taken, daemon(tmp_path) as one:
        port = taken.getsockname()[1]
        one.configure(f"[supervisor]\nbackoff_max = '100ms'\n[ui]\nport = {port}\n")
        one.start()
        problem = wait_for(lambda: one.ui().get("problem"), "a problem")
        assert problem["what"] == f"port {port} is in use"
        assert problem["where"] == "agentd.toml: ui.port"
        taken.close()
        wait_for(lambda: one.ui().get("state") == "RUNNING", "the page")


def test_the_port_follows_agentd_toml(tmp_path: Path) -> None:
    """A change of [ui] needs no restart of the daemon, and without it the page is gone."""
    with daemon(tmp_path) as one:
        one.start()
        with open_page(one) as page:
            port = int(page.origin.rpartition(":")[2])
        one.configure(f"[ui]\nport = {port}\n")
        wait_for(lambda: one.ui().get("kept"), "it is kept")
        wait_for(lambda: one.ui().get("state") == "RUNNING", "it serves")
        one.configure("")
        wait_for(lambda: one.status().get("ui", "busy") is None, "it is gone")


def run(one: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentd", "ui", *words],
        env={**one.environment, "DISPLAY": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command(tmp_path: Path) -> None:
    """It prints a link, and nothing else; without a daemon it says so and exits 3."""
    with daemon(tmp_path) as one:
        assert run(one).returncode == Exit.NOT_RUNNING
        one.start()
        done = run(one, "--print")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("http://127.0.0.1:") and "/enter/" in done.stdout
