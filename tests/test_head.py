"""The head's sandbox: what an agent's own Python reaches, in a real worker under a real daemon."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from agentd.admission.version import read_version
from agentd.bus import Bus
from agentd.clock import SystemClock
from agentd.commands import prove_private
from agentd.errors import StorageError
from agentd.escape.escape import prove
from agentd.events import NewEvent
from agentd.mcp import launch
from agentd.paths import Paths, discover
from agentd.process import environment
from agentd.sandbox.level import Reached, reached
from agentd.supervisor import bytecode
from agentd.supervisor.children import Reaper
from agentd.supervisor.client import query
from agentd.testing import FakeModelServer, Request, wait_for
from agentd.tools import files
from agentd.tools.closed import Closed
from agentd.worker import runner, schedule
from agentd.worker.head import head_command, policy_for
from tests.commandline import DEADLINE_S, agentd, one_decision
from tests.supervised import remove_sockets

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or reached().name != "full",
    reason=f"no whole sandbox by Landlock here: {reached().why or sys.platform}",
)

BAML = one_decision("Prober", "Try")
MODULE = '''
import errno, os, pathlib, socket, ssl, subprocess, tempfile

from pydantic import BaseModel

from agentd.agent import Agent, NoParams, Result
from agentd.errors import StorageError
from agentd.events import NewEvent


class Told(BaseModel):
    told: str


class Prober(Agent[NoParams]):
    """Evaluates what its event says, and publishes what came of it."""

    function = "Prober"
    publishes = {"probe.made": Told}

    def begin(self, event, results):
        self.code, self.raises = event.payload["code"], event.payload.get("raise")

    def dispatch(self, decision):
        try:
            told = str(eval(self.code, {**globals(), "kit": self.kit}))
        except Exception as error:
            if self.raises:
                raise
            told = f"{type(error).__name__}: {error}"
            told = errno.errorcode.get(getattr(error, "errno", None), told)
        return Result({"told": told})

    def finish(self, done, event, results):
        return Result({}, publish=[NewEvent("probe.made", {"told": results[-1]["told"]})])
'''
TOML = """
agent = "prober"
done = "What the event says was tried."
[permissions]
read = ["{notes}"]
"""
FILES = TOML.replace("[permissions]", '[sandbox]\nhead = "files"\n[permissions]\nwrite = ["{out}"]')
DAEMON = "[model]\nurl = '{url}'\n[bus]\npoll = '200ms'\n"
REFUSED = {"EACCES", "EPERM"}


class Home:
    """A daemon with two agents that try what they are told, and a model that lets them."""

    module, daemon = MODULE, DAEMON
    files: ClassVar[dict[str, str]] = {"prober": TOML, "opener": FILES}

    def __init__(self, root: Path) -> None:
        self.paths: Paths = discover({"AGENTD_HOME": str(root / "home")})
        self.notes, self.out, self.private = root / "notes", root / "out", root / "private"
        for folder in (self.notes, self.out, self.private):
            folder.mkdir(parents=True)
            (folder / "a.txt").write_text(f"text of {folder.name}")
        self.model = FakeModelServer(self._answer, token="")
        self.process: subprocess.Popen[bytes] | None = None

    def _answer(self, request: Request) -> Any:
        return {"tool": "done" if "told" in str(request.body["messages"][-1]) else "try"}

    def prepare(self) -> None:
        self.paths.create()
        (self.paths.agents / "prober.py").write_text(self.module)
        (self.paths.baml_src / "prober.baml").write_text(BAML)
        for name, text in self.files.items():
            text = text.replace("{notes}", str(self.notes)).replace("{out}", str(self.out))
            (self.paths.agents_d / f"{name}.toml").write_text(text)
        self.paths.secrets.mkdir()
        (self.paths.secrets / "mine").write_text("hunter2hunter2")
        self.paths.daemon_file.write_text(self.daemon.format(url=self.model.url))

    def start(self, **environ: str) -> None:
        self.prepare()
        environment = {**os.environ, "AGENTD_HOME": str(self.paths.user), **environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agentd", "run"], env=environment, stderr=subprocess.DEVNULL
        )

    def agent(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(Exception):
            return next(a for a in query(self.paths)["agents"] if a["name"] == name)
        return {}

    def wait(self, name: str, state: str) -> dict[str, Any]:
        wait_for(lambda: self.agent(name).get("state") == state, seconds=DEADLINE_S, what=state)
        return self.agent(name)

    def told(self, code: str, name: str = "prober") -> str:
        """Let an agent try something, and return what it says."""
        with contextlib.closing(Bus(self.paths.database, wake=self.paths.wake)) as bus:
            sent = bus.publish("person", NewEvent("probe.it", {"code": code}, target=name))
            assert sent is not None

            def answer() -> list[Any]:
                found = bus.events.list(after=sent, event_type="probe.made")
                return [event for event in found if event.cause_id == sent]

            (event,) = wait_for(answer, seconds=DEADLINE_S, what=code)
            return str(event.payload["told"])

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(DEADLINE_S) == 0


@contextlib.contextmanager
def a_home(root: Path, kind: type[Home] = Home) -> Iterator[Home]:
    home = kind(root)
    with home.model:
        try:
            yield home
            home.stop()
        finally:
            if home.process is not None:
                home.process.kill()
                home.process.wait()
            remove_sockets(home.paths)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with a_home(tmp_path_factory.mktemp("head")) as home:
        home.start()
        home.wait("prober", "RUNNING")
        home.wait("opener", "RUNNING")
        yield home


def read(path: object) -> str:
    return f"open({str(path)!r}).read()"


FILES_OUTSIDE: dict[str, Any] = {
    "a user's file": lambda home: read(home.private / "a.txt"),
    "a file that its tools may read": lambda home: read(home.notes / "a.txt"),
    "the folder above": lambda home: f"os.listdir({str(home.private.parent)!r})",
    "temporary files": lambda home: "os.listdir('/tmp')",
    "a new file there": lambda home: "open('/tmp/agentd-escaped', 'w')",
    "another agent's version": lambda home: read(
        next((home.paths.versions / "opener").glob("*/agent.toml"))
    ),
    "another agent's log": lambda home: read(home.paths.log("opener")),
    "whose logs there are": lambda home: f"os.listdir({str(home.paths.logs)!r})",
    "an agent's file": lambda home: read(home.paths.agents_d / "opener.toml"),
    "its own file": lambda home: f"open({str(home.paths.agents_d / 'prober.toml')!r}, 'a')",
    "a secret": lambda home: read(home.paths.secrets / "mine"),
    "the token": lambda home: read(home.paths.token),
    "the model's address": lambda home: read(home.paths.model_address),
    "its own version": lambda home: (
        f"open({str(next((home.paths.versions / 'prober').glob('*/agent.py')))!r}, 'a')"
    ),
    "the daemon's memory": lambda home: read(f"/proc/{query(home.paths)['pid']}/environ"),
    "a link": lambda home: (
        f"os.symlink({str(home.private / 'a.txt')!r}, tempfile.mkdtemp() + '/l') or "
        f"[p.read_text() for p in pathlib.Path(tempfile.gettempdir()).glob('*/l')]"
    ),
}
REST: dict[str, Any] = {
    "a program": lambda home: "subprocess.run(['/bin/true'])",
    "a program in its own place": lambda home: "os.execv('/bin/true', ['true'])",
    "its own interpreter": lambda home: "os.posix_spawn('/proc/self/exe', ['x'], {})",
    "TCP": lambda home: f"socket.create_connection(('127.0.0.1', {urlsplit(home.model.url).port}))",
    "UDP": lambda home: "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "the daemon's socket": lambda home: (
        f"socket.socket(socket.AF_UNIX).connect({str(home.paths.status_socket)!r})"
    ),
    "a pair that sends anywhere": lambda home: "socket.socketpair(type=socket.SOCK_DGRAM)",
    "the daemon": lambda home: f"os.kill({query(home.paths)['pid']}, 0)",
    "a group of its own": lambda home: "os.setpgid(0, 0)",
    "a file's mode": lambda home: f"os.chmod({str(home.private / 'a.txt')!r}, 0o777)",
}


@pytest.mark.parametrize("what", [*FILES_OUTSIDE, *REST])
def test_an_agents_own_python_does_not_reach(home: Home, what: str) -> None:
    """Whoever wrote the module: it is read by the worker, and holds no more than that holds."""
    code = {**FILES_OUTSIDE, **REST}[what](home)
    assert home.told(code) in REFUSED


ITS_OWN: dict[str, Any] = {
    "a file by its tool": lambda home: (
        f"kit.tools.call('ReadFile', {{'path': {str(home.notes / 'a.txt')!r}}}).value['text']"
    ),
    "temporary files": lambda home: "tempfile.NamedTemporaryFile().write(b'x')",
    "certificates": lambda home: "ssl.create_default_context().cert_store_stats()['x509_ca'] > 0",
    "the time zone": lambda home: "__import__('tzlocal').reload_localzone() is not None",
    "its own process": lambda home: "len(os.listdir('/proc/self/task')) > 0",
    "modules": lambda home: "__import__('sqlite3', fromlist=['x']).sqlite_version != ''",
}


@pytest.mark.parametrize("what", ITS_OWN)
def test_what_an_agent_works_with_is_there(home: Home, what: str) -> None:
    """At its first event as later: nothing of it was opened before."""
    told = home.told(ITS_OWN[what](home))
    assert told not in REFUSED and "Error" not in told


def test_its_tools_work_in_there(home: Home) -> None:
    """It finds events, and keeps their index; its own folder is written by its hands, unasked."""
    tool = "kit.tools.call({!r}, {!r}).value"
    home.told("'a word that is looked for'")
    search = tool.format("SearchEvents", {"words": "word looked"})
    assert home.told(f"{search}['found'][-1]['type']") == "probe.it"
    assert home.told(tool.format("WriteFile", {"path": "new/a.md", "text": "x"})).endswith("1}")
    assert (home.paths.own_folders / "prober" / "new" / "a.md").read_text() == "x"
    assert home.told("kit.tools.call('Recall', {'words': None}).value") == "{'found': []}"


def test_what_it_reaches_all_the_same(home: Home, tmp_path: Path) -> None:
    """The page says so: the bus as a whole, and datagram sockets that have a path."""
    count = "SELECT count(*) FROM agents"
    code = f"__import__('apsw').Connection({str(home.paths.database)!r}).execute({count!r}).get"
    assert home.told(code) == "2"
    path = tmp_path / "d.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as theirs:
        theirs.bind(os.path.relpath(path))
        code = "__import__('agentd.bus.wake', fromlist=['x'])._sender().sendto(b'x', {!r})"
        link = home.paths.wake / "outside.sock"
        link.symlink_to(path)
        assert home.told(code.format(str(link))) == "1"
        assert theirs.recv(9) == b"x"
        link.unlink()


def test_files_are_opened_by_modules_whose_file_says_so(home: Home) -> None:
    """[sandbox] head = "files": what [permissions] list, and nothing else."""
    assert home.told(read(home.notes / "a.txt"), "opener") == "text of notes"
    write = f"open({str(home.out / 'b.txt')!r}, 'w').write('written')"
    assert home.told(write, "opener") == "7" and (home.out / "b.txt").read_text() == "written"
    for code in (
        *(read(home.private / "a.txt"), f"open({str(home.notes / 'b.txt')!r}, 'w')"),
        *(read(home.paths.agents_d / "prober.toml"), "subprocess.run(['/bin/true'])"),
    ):
        assert home.told(code, "opener") in REFUSED


def test_every_known_way_out_is_tried_on_its_policy(home: Home) -> None:
    """As `prove-private` tries an agent's hands: open is the bus alone."""
    (folder,) = (home.paths.versions / "prober").glob("[!.]*")
    policy = policy_for(folder, read_version(folder).config, home.paths)
    orders = replace(prove_private.orders_of(None, home.paths), sandbox=policy, programs=policy)
    places = prove_private.places_of(home.paths) | {
        "an accepted version": str(next((home.paths.versions / "opener").glob("*/agent.py"))),
        "a log": str(home.paths.log("opener")),
    }
    found = prove(orders, home.paths.run, places)
    got_out = {each.attempt.what for each in found.tried if each.verdict("hands") == "open"}
    assert got_out == {"read the database", "change the database"}
    assert found.changed == ()


# --- where there is none


NO_SANDBOX = """
from agentd.sandbox import level
level.reached = lambda: level.Reached("checks", "for a test")
"""


def test_without_a_sandbox_an_agent_rests_and_says_why(tmp_path: Path) -> None:
    """Its event waits; once agentd.toml does without, it is answered."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(NO_SANDBOX)
    with a_home(tmp_path) as home:
        home.start(PYTHONPATH=str(tmp_path / "python"))
        agent = home.wait("prober", "PARKED")
        assert "no sandbox: for a test" in agent["reason"] and agent["restarts"] == 0
        assert 'level = "checks"' in agent["problem"]["hint"]
        shown = agentd(home.paths.user, "status", "prober").stdout
        assert "no sandbox: for a test" in shown
        code = json.dumps({"code": read(home.private / "a.txt")})
        assert agentd(home.paths.user, "send", "--to", "prober", "probe.it", code).returncode == 0
        text = home.paths.daemon_file.read_text()
        home.paths.daemon_file.write_text(f'{text}[sandbox]\nlevel = "checks"\n')
        home.wait("prober", "RUNNING")
        with contextlib.closing(Bus(home.paths.database)) as bus:
            wait_for(lambda: bus.events.list(event_type="probe.made"), seconds=DEADLINE_S)
            (event,) = bus.events.list(event_type="probe.made")
        assert event.payload["told"] == "text of private"


# --- on macOS


def test_on_macos_a_worker_starts_in_its_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its configuration cannot be read: it must not run open for that."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("agentd.sandbox.level.reached", lambda: Reached("full"))
    version = paths.versions / "opener" / "v1"
    version.mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "out").mkdir()
    good = FILES.format(notes=tmp_path / "notes", out=tmp_path / "out")
    for text in (good, "not = [TOML"):
        (version / "agent.toml").write_text(text)
        *wrapped, program, one = head_command([sys.executable, "-c"], version, paths)
        assert wrapped[0] == "/usr/bin/sandbox-exec" and (program, one) == (sys.executable, "-c")
        told = dict(word.split("=", 1) for word in wrapped if word.startswith("P"))
        assert (str(tmp_path / "out") in told.values()) is (text == good)
        own = {str(path) for path in (version, paths.database_folder, paths.log("opener").parent)}
        assert own <= set(told.values())
        profile = wrapped[wrapped.index("-p") + 1]
        assert "(deny default)" in profile and "network-outbound (remote" not in profile
        wake = next(name for name, path in told.items() if path == str(paths.wake))
        assert f'(allow network-outbound (subpath (param "{wake}")))' in profile


def test_workers_find_their_modules_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its sandbox one can keep nothing that it compiled: each event's first would take long."""
    paths = discover({"AGENTD_HOME": str(tmp_path / "home")})
    paths.create()
    paths.create_private()
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "cache"))
    monkeypatch.setitem(environment.ALWAYS, "PYTHONDONTWRITEBYTECODE", "")

    async def compiled() -> None:
        reaper = Reaper(SystemClock())
        reaper.attach(asyncio.get_running_loop())
        await bytecode.compile_modules(paths, reaper)

    theirs = (runner, schedule, files, launch)  # of workers, hands and MCP servers
    for module in theirs:
        assert not Path(cache_from_source(str(module.__file__))).exists()
    asyncio.run(compiled())
    for module in theirs:
        assert Path(cache_from_source(str(module.__file__))).exists()
    assert list(paths.locks.iterdir()) == []
    remove_sockets(paths)


# --- what it does in its own folders to those who come after it


def test_links_in_its_own_folders_open_nothing(home: Home) -> None:
    """Neither to the next worker, nor to its hands: both may touch what lies behind their folders.

    A database that is a link is opened by nobody: the daemon would make or change what it leads to.
    """
    paths, private = home.paths, home.private
    scratch = paths.scratch / "prober"
    for place in (scratch / "hands", paths.database_folder / "planted.db"):
        home.told(f"os.symlink({str(private)!r}, {str(place)!r})")
    hands = prove_private.orders_of("prober", paths)
    (folder,) = (paths.versions / "prober").glob("[!.]*")
    planted = replace_database(paths, private / "new.db")
    for policy in (hands.sandbox, policy_for(folder, None, planted)):
        reached = {os.path.realpath(path) for path in (*policy.read, *policy.write)}
        assert str(private) not in reached and str(private / "new.db") not in reached
    with pytest.raises(StorageError, match="a link is in the database's place"):
        Bus(planted.database)
    assert not (private / "new.db").exists()
    opened = Closed.of(paths, "opener", None).marks(writing=True).reason(str(private / "a.txt"), 0)
    assert opened is None, "what another agent links to is not agentd's own"
    (scratch / "hands").unlink()
    (paths.database_folder / "planted.db").unlink()


def replace_database(paths: Paths, target: Path) -> Paths:
    """Return the paths of a home like that one, in which a worker put a link for the database."""
    other = replace(paths, data=paths.data / "tmp" / "as-if")
    other.database_folder.mkdir(parents=True)
    other.database.symlink_to(target)
    return other
