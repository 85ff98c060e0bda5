"""How a server's program is started: by its table in agentd.toml, in a sandbox of its own."""

import asyncio
import json
import sys
from pathlib import Path

import psutil
import pytest

from agentd.config.daemon import load_daemon
from agentd.errors import ConfigError
from agentd.hands.mcp_program import fetches, program_of
from agentd.paths import Paths, discover
from agentd.supervisor.children import Reaper
from tests.mcp_hosting import DEADLINE_S, agent, hosting, left, say
from tests.supervised import threads, wait_for

FAKE = Path(__file__).with_name("fake_mcp_server.py")
STARTS = 12


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = discover({"AGENTD_HOME": str(tmp_path / "home")})
    made.create()
    return made


def write(paths: Paths, text: str) -> None:
    paths.daemon_file.write_text(text)


def fake(paths: Paths, more: str = "", writes: str = "") -> None:
    write(
        paths,
        f"[mcp.fake]\ncommand = '{sys.executable}'\nargs = ['{FAKE}']\n{more}\n"
        f"[mcp.fake.permissions]\nread = ['{FAKE}']\nwrite = [{writes}]\n",
    )


def test_a_server_touches_what_its_table_lists(paths: Paths, tmp_path: Path) -> None:
    """Its own folder and what is listed; nothing of agentd, no other file, no network."""
    listed, other = tmp_path / "listed", tmp_path / "other"
    for folder in (listed, other):
        folder.mkdir()
        (folder / "a.txt").write_text("a")
    fake(paths, writes=f"'{listed}'")
    of = agent(paths, "open", "make", "connect", "env")

    async def scenario() -> None:
        async with hosting(paths) as host:
            closed = [other / "a.txt", paths.daemon_file, paths.mcp / "fake.json"]
            assert await say(host, of, "open", path=str(listed / "a.txt")) == "a"
            assert await say(host, of, "make", path=str(listed / "b.txt")) == "made"
            own = paths.mcp / "fake" / "kept"
            assert await say(host, of, "make", path=str(own)) == "made" == own.read_text()
            for file in closed:
                assert await say(host, of, "open", path=str(file)) == "PermissionError", file
            for file in (other / "b.txt", paths.agents_d / "evil.toml", paths.mcp / "fake.json"):
                assert await say(host, of, "make", path=str(file)) == "PermissionError", file
            assert await say(host, of, "connect") == "PermissionError"
            environment = json.loads(await say(host, of, "env"))
            assert set(environment) - {"LC_CTYPE"} == {
                *("PATH", "HOME", "TMPDIR", "LANG", "TERM", "GIT_CONFIG_NOSYSTEM")
            }

    asyncio.run(scenario())


def test_a_server_writes_nothing_that_is_obeyed(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its table may list all of a home: what programs run at their start is not in it."""
    home = tmp_path / "person"
    (home / ".config" / "fish").mkdir(parents=True)
    (home / "notes").mkdir()
    (home / ".bashrc").write_text("true\n")
    monkeypatch.setenv("HOME", str(home))
    fake(paths, writes="'~'")
    of = agent(paths, "make")

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert await say(host, of, "make", path=str(home / "notes" / "a")) == "made"
            for name in (".bashrc", ".profile", ".config/fish/config.fish", ".ssh"):
                assert await say(host, of, "make", path=str(home / name)) == "PermissionError", name

    asyncio.run(scenario())
    assert (home / ".bashrc").read_text() == "true\n"


def test_starts_leave_nothing_behind(paths: Paths) -> None:
    """Neither a descriptor nor a process, also where a server left its group."""
    fake(paths)
    of = agent(paths, "echo", "leave")
    me = psutil.Process()
    others = {*me.children(recursive=True)}  # what a test before left may end just now

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert await say(host, of, "echo", text="x") == "x"
            await host.restart("fake")
            before = left()
            for _ in range(STARTS):
                assert await say(host, of, "echo", text="x") == "x"
                await host.restart("fake")
            assert left() == before
        assert {*me.children(recursive=True)} - others == set()

    asyncio.run(scenario())


def test_a_host_that_died_is_followed_by_one(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end may be told late: a call meanwhile waits for it, and no new host is taken for it."""
    fake(paths)
    of = agent(paths, "echo")
    told = asyncio.Event()
    reap = Reaper.reap
    monkeypatch.setattr(Reaper, "reap", lambda self: reap(self) if told.is_set() else None)

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert await say(host, of, "echo", text="x") == "x"
            died = host.host._host
            assert died is not None
            died.child.kill()
            call = asyncio.create_task(say(host, of, "echo", text="y"))
            async with asyncio.timeout(DEADLINE_S):
                while host.host._control is not None:  # who kept it open is gone
                    await asyncio.sleep(0.002)
                while not host.host._starting.locked():  # the call asks for a host
                    await asyncio.sleep(0.002)
            told.set()
            died._reaper.reap()  # of its server, too, that may have died before
            assert await call == "y"
            successor = host.host._host
            assert successor is not None and successor is not died and not successor.stopping

    asyncio.run(scenario())


def test_a_hosts_death_may_be_told_before_its_socket_ends(paths: Paths) -> None:
    """The supervisor stops hearing it then, and goes on."""
    fake(paths)
    of = agent(paths, "echo")

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert await say(host, of, "echo", text="x") == "x"
            died = host.host._host
            assert died is not None
            died.child.kill()
            wait_for(lambda: threads(died.child.pid) == ["Z"], "it is dead")  # no loop runs
            died._reaper.reap()
            assert host.host._control is None
            assert await say(host, of, "echo", text="y") == "y"

    asyncio.run(scenario())


def test_a_changed_table_ends_what_runs_by_the_old_one(paths: Paths) -> None:
    """The next call starts the server anew, with what the table says now."""
    fake(paths, more="env = { WORD = 'old' }")
    of = agent(paths, "env")

    async def scenario() -> None:
        async with hosting(paths) as host:
            assert json.loads(await say(host, of, "env"))["WORD"] == "old"
            fake(paths, more="env = { WORD = 'new' }")
            host.reread()
            async with asyncio.timeout(40):  # a call that runs just then is told of the end
                while '"WORD": "new"' not in await say(host, of, "env"):
                    await asyncio.sleep(0.05)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("command = 'no-such-program'", "no-such-program is not installed in /usr/bin"),
        ("command = 'sh'\nenv = { KEY = 'secret:mail' }", "there is no secret mail"),
    ],
)
def test_what_cannot_be_started_is_told(paths: Paths, table: str, what: str) -> None:
    """With the table's place, before anything is tried."""
    write(paths, f"[mcp.x]\n{table}\n")
    with pytest.raises(ConfigError, match=what) as raised:
        program_of("x", load_daemon(paths.daemon_file), paths)
    assert raised.value.where.startswith("[mcp.x] ") and raised.value.hint


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("", "write either `command` or `url`"),
        ("command = 'a'\nurl = 'http://a/'", "write either `command` or `url`"),
        ("url = 'http://a/'\nargs = ['b']", "`args` is of a program"),
        ("url = 'ftp://a/'", "write `url` as"),
        ("url = 'http://user@a/'", "write `url` as"),
        ("command = 'a'\ncomand = 'b'", 'unknown key; did you mean "command"'),
        ("command = 'a'\npermissions = { reed = [] }", 'unknown key; did you mean "read"'),
        ("command = 'a'\nenv = { '1' = 'b' }", "'1' cannot name a variable"),
    ],
)
def test_wrong_tables_are_errors(paths: Paths, table: str, what: str) -> None:
    """Each says the key and what to write."""
    write(paths, f"[mcp.x]\n{table}\n")
    with pytest.raises(ConfigError) as raised:
        load_daemon(paths.daemon_file)
    assert what in raised.value.what and "mcp.x" in raised.value.what
    with pytest.raises(ConfigError, match="cannot name a server"):
        write(paths, "[mcp.X]\ncommand = 'a'\n")
        load_daemon(paths.daemon_file)


def test_programs_that_fetch_are_known(paths: Paths) -> None:
    """`npx -y` runs what the network has that day: `agentd check` says so."""
    write(paths, "[mcp.x]\ncommand = '/opt/bin/npx'\nargs = ['-y', 'a']\n[mcp.y]\ncommand = 'a'\n")
    servers = load_daemon(paths.daemon_file).mcp
    assert [name for name, config in servers.items() if fetches(config)] == ["x"]
