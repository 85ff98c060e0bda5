"""What a server says of its tools is asked in a process of its own, accepted once, and held to."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentd.admission.admit import admit
from agentd.admission.version import import_version
from agentd.commands.mcp_checks import server_advice, server_problem
from agentd.config.daemon import load_daemon
from agentd.errors import AgentdError, ConfigError, ToolsChanged
from agentd.mcp import pins as pins_module
from agentd.mcp.definitions import pinned
from agentd.mcp.pins import Pins, ServerDown
from agentd.paths import Paths, discover
from agentd.sandbox.level import reached
from agentd.supervisor.mcp_discovery import tools_of
from agentd.testing import wait_for
from tests.commandline import write_agent
from tests.fake_mcp_server import READS, TEXT, tool

FAKE = Path(__file__).with_name("fake_mcp_server.py")
AGENT = """agent = "{module}"
done = "All was tried."
[params]
{params}
[permissions]
read = ["/tmp"]
"""
MODULE = """
from agentd.agent import Agent

class Own(Agent):
    function = "Own"
    uses = ("fake.echo", "ReadFile")
    {more}
"""
BAML = """
class Done {
  tool "done"
  text string
}
function Own(context: string, done: string) -> FakeEcho | ReadFile | Done {
  client Local
  prompt #"
    {{ _.role("system") }}
    Done: {{ done }}
    {{ Decisions() }}
    {{ _.role("user") }}
    {{ context }}
  "#
}
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = discover({"AGENTD_HOME": str(tmp_path / "home")})
    made.create()
    write(made, tmp_path)
    tools(tmp_path, tool("echo", TEXT, annotations=READS), tool("take"))
    return made


def write(paths: Paths, folder: Path, **env: str) -> None:
    env = {"FAKE_TOOLS": str(folder / "tools"), "FAKE_LOG": str(folder / "log"), **env}
    told = ", ".join(f'{key} = "{value}"' for key, value in env.items())
    (folder / "log").touch()
    paths.daemon_file.write_text(
        f"[mcp.fake]\ncommand = '{sys.executable}'\nargs = ['{FAKE}']\nenv = {{ {told} }}\n"
        f"[mcp.fake.permissions]\nread = ['{FAKE}', '{folder}/tools']\nwrite = ['{folder}/log']\n"
    )


def tools(folder: Path, *definitions: dict[str, Any]) -> None:
    (folder / "tools").write_text(json.dumps(definitions))


def pins(paths: Paths) -> Pins:
    found = Pins("fake", load_daemon(paths.daemon_file).mcp["fake"], paths)
    found.forget_seen()
    return found


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server says, without the seconds that asking it takes."""

    def ask(name: str, paths: Paths) -> dict[str, Any]:
        listed = json.loads((tmp_path / "tools").read_text())
        return {"tools": {told["name"]: pinned(told) for told in listed}}

    monkeypatch.setattr(pins_module, "_ask", ask)


def task(paths: Paths, *named: str, name: str = "x") -> None:
    params = f'instructions = "Try."\ntools = {json.dumps(named)}'
    write_agent(paths.user, name, AGENT.format(module="task", params=params))


def test_what_an_agent_names_is_accepted_at_first(paths: Paths, tmp_path: Path) -> None:
    """No other tool of its server is; a name that the server does not have is an error."""
    task(paths, "fake.echo")
    version = import_version(admit("x", paths))
    assert list(version.mcp) == ["FakeEcho"] and list(pins(paths).accepted()) == ["echo"]
    task(paths, "fake.echo", "fake.take")
    asks = admit("x", paths).asks
    assert list(asks) == ["FakeTake"], "what does not say that it only reads is asked about"
    task(paths, "fake.ecko")
    with pytest.raises(ConfigError, match='fake has no tool ecko; did you mean "echo"'):
        admit("x", paths)
    task(paths, "fke.echo", "fake.echo")
    with pytest.raises(ConfigError, match='no MCP server fke; did you mean "fake"'):
        admit("x", paths)
    paths.daemon_file.write_text("")
    with pytest.raises(ConfigError, match=r"there is no tool fke\.echo, fake\.echo") as raised:
        admit("x", paths)
    assert "[mcp.NAME]" in raised.value.hint


@pytest.mark.parametrize("name", ["write.file", "run.command", "done._"])
@pytest.mark.usefixtures("said")
def test_a_tool_cannot_stand_for_one_of_ours(paths: Paths, tmp_path: Path, name: str) -> None:
    """Its class is made of its names: it would be asked about, allowed and shown as ours."""
    server, _, its = name.partition(".")
    paths.daemon_file.write_text(paths.daemon_file.read_text().replace("mcp.fake", f"mcp.{server}"))
    tools(tmp_path, tool(its, TEXT, annotations=READS))
    task(paths, name)
    with pytest.raises(ConfigError, match="which is agentd's own") as raised:
        admit("x", paths)
    assert "another name" in raised.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        tool("echo", TEXT, annotations=READS) | {"description": "Other."},
        tool("echo", {**TEXT, "required": []}, annotations=READS),
        tool("echo", TEXT, annotations={"readOnlyHint": False}),
        tool("echo", TEXT),
    ],
)
@pytest.mark.usefixtures("said")
def test_each_change_that_matters_is_noticed(
    paths: Paths, tmp_path: Path, changed: dict[str, Any]
) -> None:
    """What the model is told, what it may answer, and what our own rules go by."""
    accepted = pins(paths).of(["echo"])
    tools(tmp_path, changed)
    with pytest.raises(ToolsChanged, match=r"fake\.echo") as raised:
        pins(paths).of(["echo"])
    assert raised.value.hint.startswith("`agentd check --accept fake` shows")
    assert pins(paths).accepted() == accepted, "nothing is accepted by looking"
    lines, now = pins(paths).difference()
    assert lines[0] == "--- fake.echo (accepted)" and any(line.startswith("+ ") for line in lines)
    pins(paths).accept(now)
    assert pins(paths).of(["echo"]) == now != accepted


@pytest.mark.usefixtures("said")
def test_what_nobody_goes_by_may_change(paths: Paths, tmp_path: Path) -> None:
    """Titles, schemas of results, the order of keys, other tools."""
    pins(paths).of(["echo"])
    schema = dict(reversed(TEXT.items()))
    more = {"title": "Echo!", "outputSchema": {"type": "object"}, "_meta": {"a": 1}}
    tools(tmp_path, tool("echo", schema, annotations={**READS, "title": "E"}, **more), tool("new"))
    pins(paths).of(["echo"])
    assert pins(paths).difference()[0] == []


@pytest.mark.usefixtures("said")
def test_a_tool_that_is_gone_is_told(paths: Paths, tmp_path: Path) -> None:
    """It is no longer accepted, and whoever names it hears what there is."""
    pins(paths).of(["echo", "take"])
    tools(tmp_path, tool("take"))
    lines, now = pins(paths).difference()
    assert lines[:2] == ["--- fake.echo (accepted)", "+++ fake.echo (now)"]
    pins(paths).accept(now)
    assert list(pins(paths).accepted()) == ["take"]


def test_agents_of_one_server_ask_it_once(paths: Paths, tmp_path: Path) -> None:
    """A daemon's start checks all agents: ten of them do not start a server ten times."""
    names = ["a", "b", "c"]
    for name in names:
        task(paths, "fake.echo", name=name)
    errors: list[BaseException] = []

    def one(name: str) -> None:
        try:
            admit(name, paths)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and (tmp_path / "log").read_text().count("started") == 1


def test_a_server_that_does_not_answer_is_ended(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that it started, and as a reason that may pass: it is asked again."""
    write(paths, tmp_path, FAKE_HANG="1")
    with monkeypatch.context() as patched, pytest.raises(ServerDown, match="within 3 s"):
        patched.setattr(pins_module, "ANSWER_S", 3.0)
        pins(paths).of(["echo"])
    ours = [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]
    assert not [p for p in ours if "fake_mcp_server" in " ".join(p.cmdline())]
    write(paths, tmp_path, FAKE_DOWN="1")
    with pytest.raises(ServerDown, match="Connection closed: the repository is not there"):
        pins(paths).of(["echo"])
    write(paths, tmp_path)
    pins(paths).of(["echo"])


def test_a_server_has_its_sandbox_when_it_is_asked(paths: Paths, tmp_path: Path) -> None:
    """What its table does not list it cannot read, whoever asks."""
    write(paths, tmp_path, FAKE_TOOLS=str(paths.daemon_file))
    with pytest.raises(ServerDown, match="PermissionError"):
        pins(paths).of(["echo"])


def test_a_server_reaches_its_net_when_it_is_asked(paths: Paths, tmp_path: Path) -> None:
    """By a proxy, as in service: one that needs the network to say what it has can say it."""
    with serving(tmp_path) as url:
        write(paths, tmp_path, FAKE_TOOLS_URL=f"{url}/tools")
        with pytest.raises(ServerDown):
            pins(paths).of(["echo"])
        with paths.daemon_file.open("a") as file:
            file.write(f"net = ['{url.removeprefix('http://')}']\n")
        assert list(pins(paths).of(["echo"])) == ["echo"]


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Yield the address of a server that has the files of a folder."""
    web = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))
    )
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()


def test_who_reads_what_a_program_says_is_in_a_sandbox(paths: Paths, tmp_path: Path) -> None:
    """And its death is an error, not a wait."""
    write(paths, tmp_path, FAKE_HANG="1")
    errors: list[AgentdError] = []

    def ask() -> None:
        try:
            tools_of("fake", load_daemon(paths.daemon_file), paths)
        except AgentdError as error:
            errors.append(error)

    def reader() -> psutil.Process | None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):  # it has just ended
                if "agentd.mcp.discovery" in process.cmdline() and confined(process):
                    return process
        return None

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for(reader, seconds=20).kill()
    asking.join(20)
    assert "who asks it died" in errors[0].what


def confined(process: psutil.Process) -> bool:
    if reached().name != "full" or sys.platform != "linux":
        return True
    return "Seccomp:\t2" in Path(f"/proc/{process.pid}/status").read_text()


def test_an_agent_in_code_names_them_too(paths: Paths) -> None:
    """Its .baml returns the class, which agentd makes; nothing of it can be declared otherwise."""
    (paths.agents / "own.py").write_text(MODULE.format(more=""))
    (paths.baml_src / "own.baml").write_text(BAML)
    write_agent(paths.user, "x", AGENT.format(module="own", params=""))
    accepted = admit("x", paths)
    assert set(accepted.decisions) == {"FakeEcho", "ReadFile", "Done"} and accepted.mcp == ("fake",)
    assert import_version(accepted).uses == ("FakeEcho", "ReadFile")
    (paths.agents / "own.py").write_text(MODULE.format(more='reads = frozenset({"FakeEcho"})'))
    with pytest.raises(ConfigError, match="names FakeEcho, a tool of an MCP server"):
        admit("x", paths)
    (paths.agents / "own.py").write_text(MODULE.format(more=""))
    (paths.baml_src / "own.baml").write_text(BAML + "class FakeEcho {\n  x int\n}\n")
    with pytest.raises(ConfigError, match="FakeEcho"):
        admit("x", paths)


def test_the_check_of_agentd_toml_knows_programs(paths: Paths) -> None:
    """One that is not installed is wrong; one that fetches another each time is told of."""
    text = "[mcp.a]\ncommand = 'npx'\nargs = ['-y', 'x']\n[mcp.b]\ncommand = 'no-such-program'\n"
    paths.daemon_file.write_text(text)
    servers = load_daemon(paths.daemon_file).mcp
    problem = server_problem({"b": servers["b"]}, paths.daemon_file)
    assert problem is not None and "no-such-program is not installed" in problem.what
    assert problem.where == f"{paths.daemon_file}: [mcp.b] command"
    (advice,) = server_advice(servers)
    assert advice.startswith("[mcp.a]: npx fetches its program from the network")
