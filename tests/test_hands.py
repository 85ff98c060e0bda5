"""Hands: a real process in its sandbox, called over its channel as the supervisor hands it over."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentd.config.agent import Permissions
from agentd.errors import ConfigError, PermissionRefused, ToolError
from agentd.hands.orders import READY, Orders
from agentd.hands.permitted import Written, orders_for, written_in
from agentd.paths import discover
from agentd.process.channel import BYE, Channel, ChannelClosed
from agentd.process.child import Child, python
from agentd.process.supervisor_link import SupervisorLink
from agentd.sandbox.level import reached
from agentd.tools import git
from agentd.tools.closed import Closed
from agentd.tools.remote import Remote
from tests.repository import Repository
from tests.supervised import alive, wait_for

SOON_S = 20.0  # for what comes at once
pytestmark = pytest.mark.skipif(reached().name != "full", reason="no whole sandbox here")

# What hands do without, so that they are there in a moment.
UNUSED = (
    *("agentd.config", "agentd.config.agent", "agentd.agent", "agentd.secret_rules", "asyncio"),
    *("email", "http.client", "importlib.metadata", "inspect", "platformdirs", "pydantic", "ssl"),
    *("structlog", "subprocess", "tempfile", "urllib.parse"),
)


class Hand:
    """Hands that a test calls."""

    def __init__(
        self,
        orders: Orders,
        locks: Path,
        argv: list[str] | None = None,
        early: Sequence[str] = (),  # what is called before they are ready
    ) -> None:
        locks.mkdir(exist_ok=True)
        self.child = Child.spawn("x.hands", argv or python("agentd.hands"), locks, control=True)
        assert self.child.control is not None
        self.channel = Channel(self.child.control)
        self.channel.send(orders.document())
        self._number = 0
        for name in early:
            self.begin(name, path="")
        self.first = self.channel.receive(SOON_S)[0]

    def begin(self, name: str, deadline_s: float = SOON_S, **args: Any) -> int:
        self._number += 1
        request = {"id": self._number, "call": name, "args": args, "deadline_s": deadline_s}
        self.channel.send(request)
        return self._number

    def answer(self) -> dict[str, Any]:
        return self.channel.receive(SOON_S)[0]

    def call(self, name: str, deadline_s: float = SOON_S, **args: Any) -> dict[str, Any]:
        number = self.begin(name, deadline_s, **args)
        answer = self.answer()
        assert answer.pop("id", None) == number, answer
        return answer

    def value(self, name: str, **args: Any) -> dict[str, Any]:
        answer = self.call(name, **args)
        assert "value" in answer, answer
        value: dict[str, Any] = answer["value"]
        return value

    def error(self, name: str, **args: Any) -> tuple[str, str]:
        found = self.call(name, **args)["error"]
        return found["kind"], found["what"]

    def run(self, program: str, *args: str) -> str:
        output: str = self.value("RunCommand", program=program, args=list(args))["output"]
        return output

    def end(self) -> None:
        self.child.kill()
        wait_for(lambda: self.child.poll() is not None, "they are dead")
        self.child.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with one to read, one to write, one for neither, and what is agentd's own."""
    for name in ("in", "out", "secret", "own", "scratch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"of {name}\n")
    return tmp_path


def orders(home: Path, *, run: tuple[str, ...] = (), **more: Any) -> Orders:
    permissions = Permissions(
        **{"read": (str(home / "in"),), "write": (str(home / "out"),), "run": run, **more}
    )
    closed = Closed(own=(home / "own",), spared=(home / "scratch",))
    return orders_for(permissions, closed, home / "scratch", require=True)


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Hand]]:
    with contextlib.ExitStack() as stack:

        def begin(
            given: Orders | None = None,
            argv: list[str] | None = None,
            early: Sequence[str] = (),
            **more: Any,
        ) -> Hand:
            hand = Hand(given or orders(home, **more), home / "locks", argv, early)
            stack.callback(hand.end)
            return hand

        yield begin


def test_hands_start_small() -> None:
    """They import neither the models of the configuration nor what only programs need."""
    code = f"import sys, agentd.hands.__main__; print([n for n in {UNUSED!r} if n in sys.modules])"
    argv = [sys.executable, "-P", "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("who", ["itself", "another agent"])
def test_a_link_that_an_agent_can_change_opens_nothing(home: Path, who: str) -> None:
    """Who may write around a listed folder can put a link in its place, to anywhere.

    The next hands would be given all that it leads to. A person's own link is followed.
    """
    folder = home / "out" / "listed"
    folder.symlink_to(home / "secret")
    own: tuple[str, ...] = (str(home / "out"),)
    written: Written = tuple
    if who == "another agent":
        own, paths = (), discover({"AGENTD_HOME": str(home / "own")})
        written = partial(written_in, paths)
        version = paths.versions / "other" / "hash"
        version.mkdir(parents=True)
        table = f"[permissions]\nwrite = [{str(home / 'out')!r}]\n"
        (version / "agent.toml").write_text(table)
    permissions = Permissions(read=(str(folder / "deeper"),), write=own)
    closed = Closed(own=(home / "own",))
    with pytest.raises(ConfigError, match="leads through the link"):
        orders_for(permissions, closed, home / "scratch", written, require=True)
    person = home / "persons"
    person.symlink_to(home / "secret")
    permissions = Permissions(read=(str(person),), write=(str(home / "out"),))
    given = orders_for(permissions, closed, home / "scratch", written, require=True)
    assert str(home / "secret") in given.sandbox.read


def test_what_becomes_a_link_before_hands_are_in_their_sandbox_opens_nothing(
    start: Callable[..., Hand], home: Path
) -> None:
    """Between the look at what is listed and the kernel's rule there are milliseconds."""
    given = orders(home, run=("cat",))
    (home / "in").rename(home / "moved")
    (home / "in").symlink_to(home / "secret")
    hand = start(given)
    assert "Permission denied" in hand.run("cat", f"{home}/secret/a.txt")


def test_tools_work_inside_of_what_is_listed(start: Callable[..., Hand], home: Path) -> None:
    """Files are listed, read, searched and written whole, with their modes."""
    hand = start()
    assert hand.first == {READY: True}
    assert hand.value("ListFiles", path="")["entries"] == [{"name": "a.txt", "bytes": 6}]
    read = hand.call("ReadFile", path="a.txt", start=None)
    assert read["value"]["text"] == "of in"
    assert read["trusted"] is False
    assert "a.txt:1: of in" in hand.value("SearchText", path="", text="of")["found"]
    (home / "out" / "a.txt").chmod(0o664)
    for name, mode in (("a.txt", 0o664), ("new/b.txt", 0o644)):
        assert hand.value("WriteFile", path=name, text="new")["bytes"] == 3
        file = home / "out" / name
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", mode)
    assert stat.S_IMODE((home / "out" / "new").stat().st_mode) == 0o755
    assert sorted(os.listdir(home / "out")) == ["a.txt", "new"]  # noqa: PTH208


def test_files_are_moved_and_added_to_in_the_sandbox(
    start: Callable[..., Hand], home: Path
) -> None:
    """From one rule's folder into another's and the agent's own; no other one is touched."""
    own = home / "own" / "x"
    for folder in (home / "more", own):
        folder.mkdir()
    given = orders_for(
        Permissions(write=(str(home / "out"), str(home / "more"))),
        Closed(own=(home / "own",), spared=(home / "scratch", own)),
        home / "scratch",
        require=True,
        own=own,
    )
    hand = start(given)
    assert hand.value("AppendNote", path="a.txt", text="more")["bytes"] == 12
    for folder in (home / "more", own):
        hand.value("MoveFile", path=f"{home}/out/a.txt", to=f"{folder}/b.txt")
        assert (folder / "b.txt").read_text() == "of out\nmore\n"
        hand.value("MoveFile", path=f"{folder}/b.txt", to=f"{home}/out/a.txt")
    assert hand.error("MoveFile", path="a.txt", to=f"{home}/secret/b.txt")[0] == "refused"
    assert hand.error("MoveFile", path=f"{home}/in/a.txt", to="b.txt")[0] == "refused"
    hand.value("WriteFile", path=f"{own}/new/c.md", text="x")
    assert hand.value("ReadFile", path="new/c.md", start=None)["text"] == "x"
    alone = start(orders_for(Permissions(), given.closed, home / "scratch", require=True, own=own))
    alone.value("WriteFile", path="d.md", text="x")
    assert {path.name for path in own.iterdir()} == {"new", "d.md"}


def test_a_database_in_use_is_asked_in_the_sandbox(start: Callable[..., Hand], home: Path) -> None:
    """By its log of write-ahead, which hands only read; without it where the log is closed."""
    db = apsw.Connection(str(home / "in" / "a.db"))
    db.pragma("journal_mode", "wal")
    db.execute("CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    db.execute("INSERT INTO t VALUES (2)")
    asked = {"path": f"{home}/in/a.db", "sql": "SELECT count(*) AS n FROM t"}
    value = start().value("Query", **asked)
    assert (value["columns"], value["rows"], value.get("note")) == (["n"], [[2]], None)
    alone = start(read=(str(home / "in" / "a.db"),)).value("Query", **asked)
    assert alone["rows"] == [[1]] and "may be missing" in alone["note"]
    # A sort of much needs a temporary file.
    big = (
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 60000)"
        " SELECT x, hex(x) || printf('%.*c', 100, 'x') AS y FROM n ORDER BY y LIMIT 1"
    )
    assert start().value("Query", path="a.db", sql=big)["rows"][0][0] == 10000
    assert start().error("Query", path="a.db", sql="DELETE FROM t")[0] == "tool"
    db.close()


def test_the_tools_own_checks_hold_as_well(start: Callable[..., Hand], home: Path) -> None:
    """Two locks on one door: what is refused says so in words."""
    hand = start(read=(str(home),), write=(str(home),))
    for path in ("/etc/shadow", f"{home}/../x"):
        kind, what = hand.error("ReadFile", path=path, start=None)
        assert kind == "refused" and "outside of what may be touched" in what
    for name, args in (("ReadFile", {"start": None}), ("WriteFile", {"text": "x"})):
        assert hand.error(name, path=f"{home}/own/a.txt", **args) == (
            "refused",
            f"'{home}/own/a.txt' belongs to agentd itself; no tool opens it",
        )
    kind, what = hand.error("WriteFile", path=f"{home}/in/.git/config", text="x")
    assert kind == "refused" and "git obeys" in what


def test_the_kernel_refuses_what_a_program_tries(start: Callable[..., Hand], home: Path) -> None:
    """A listed program touches what is listed, starts what is listed, and no more."""
    hand = start(run=("bash", "cat"), read=(str(home / "in"), str(home / "own")))
    assert hand.run("cat", f"{home}/in/a.txt") == "of in\n"
    for place in (f"{home}/secret/a.txt", f"{home}/own/a.txt", f"{home}/scratch/../secret/a.txt"):
        assert "Permission denied" in hand.run("cat", place)
    assert "Permission denied" in hand.run("bash", "-c", "ls")
    assert "Permission denied" in hand.run("bash", "-c", f"echo x > {home}/in/b.txt")
    assert "Permission denied" in hand.run("cat", f"{home}/out/a.txt"), "write is not read"
    assert "Permission denied" in hand.run("cat", "/proc/self/environ")
    assert hand.run("bash", "-c", f"echo x > {home}/out/b.txt; cd; echo y > z; cat z") == "y\n"
    assert (home / "out" / "b.txt").read_text() == "x\n"
    code = "import socket; socket.socket()"
    assert "not permitted" in start(run=("python3",)).run("python3", "-c", code)


def test_what_agentd_keeps_stays_closed_inside_of_what_is_listed(
    start: Callable[..., Hand], home: Path
) -> None:
    """A wide permission opens neither the database nor another agent's files to a program."""
    hand = start(run=("cat",), read=(str(home),))
    assert hand.run("cat", f"{home}/secret/a.txt") == "of secret\n"
    assert "Permission denied" in hand.run("cat", f"{home}/own/a.txt")


def test_a_program_writes_nothing_that_others_obey(
    start: Callable[..., Hand], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left in a login's files would be run outside, with all rights, at the next login."""
    user = home / "user"
    for name in (".config/mine", ".ssh", "notes"):
        (user / name).mkdir(parents=True)
    (user / ".zshrc").write_text("")
    monkeypatch.setenv("HOME", str(user))
    hand = start(run=("bash", "mkdir"), write=(str(user), str(user / ".config" / "mine")))
    for name in (".zshrc", ".ssh/authorized_keys", ".config/other", ".bashrc", ".profile", ".new"):
        assert "Permission denied" in hand.run("bash", "-c", f"echo x > {user}/{name}"), name
    for name in ("notes/new", ".config/mine/new"):
        assert hand.run("bash", "-c", f"echo x > {user}/{name}") == "", name
    # Of what lies beside its own code not even an agent of agentd's folders writes anything.
    code = Path(sys.prefix) / "lib"
    hand = start(run=("bash",), write=(str(Path(sys.prefix).parent),))
    assert "Permission denied" in hand.run("bash", "-c", f"echo x > {code}/x.pth")


def test_a_script_gets_what_its_first_line_names(start: Callable[..., Hand], home: Path) -> None:
    """Its interpreter may run, and reads its own library; the interpreter is not listed."""
    script = home / "script"
    script.write_text(f"#!{sys.executable}\nimport json, sqlite3\nprint(json.dumps([1]))\n")
    script.chmod(0o755)
    assert start(run=(str(script),)).run(str(script)) == "[1]\n"


def test_a_listed_file_is_written_in_its_place(start: Callable[..., Hand], home: Path) -> None:
    """Its folder stays closed; one that is not there is a person's to make."""
    there, absent = home / "secret" / "a.txt", home / "secret" / "b.txt"
    hand = start(write=(str(there), str(absent)), read=(str(there),), run=("bash",))
    number = there.stat().st_ino
    hand.value("WriteFile", path=str(there), text="short")
    assert (there.read_text(), there.stat().st_ino) == ("short", number)
    assert hand.value("ReadFile", path=str(there), start=None)["text"] == "short"
    kind, what = hand.error("WriteFile", path=str(absent), text="x")
    assert (kind, "a person must make it" in what) == ("tool", True)
    assert "Permission denied" in hand.run("bash", "-c", f"echo > {home}/secret/c.txt")


def test_git_looks_at_what_may_be_read(start: Callable[..., Hand], home: Path) -> None:
    """By way of hands, held to the permissions, and without git being listed."""
    repo = Repository(home / "in" / "repo")
    tip = repo.commit("first", a__py="1\n")
    hand = start()
    assert hand.value("git.head", repo=str(repo.path), branch=None) == {"git": tip}
    found = hand.value("git.changed_files", repo=str(repo.path), tip=tip, base=None)["git"]
    assert [file["path"] for file in found] == ["a.py"]
    outside = Repository(home / "secret" / "repo")
    outside.commit("first", a__py="1\n")
    kind, what = hand.error("git.head", repo=str(outside.path), branch=None)
    assert kind == "refused" and "outside of what may be touched" in what


def test_an_agents_own_code_looks_by_hands(start: Callable[..., Hand], home: Path) -> None:
    """`agentd.tools.git` has the same types and answers, wherever git runs."""
    repo = Repository(home / "in" / "repo")
    one = repo.commit("first", a__py="1\n")
    tip = repo.commit("second", a__py="2\n", b__py="# TODO\n")

    def looks() -> list[object]:
        news = git.new_commits(repo.path, tip, one, 5)
        raw = git.git(repo.path, "cat-file", "blob", f"{tip}:a.py")
        there = sorted(git.folders(repo.path))
        changed = git.changed_files(repo.path, tip, news.base)
        return [git.head(repo.path), news, raw.data, there, changed]

    here = looks()
    hand = start()
    assert hand.child.control is not None
    remote = Remote(SupervisorLink(None), "hands")
    remote._channel = hand.channel
    with git.carried_out_by(remote):
        assert looks() == here
        with pytest.raises(PermissionRefused, match="outside of what may be touched"):
            git.head(home / "secret")
        with pytest.raises(ToolError, match="no branch x"):
            git.head(repo.path, "x")


def test_a_cancel_reaches_a_running_program(start: Callable[..., Hand]) -> None:
    """And nothing else: hands go on with the next call."""
    hand = start(run=("sleep", "bash"))
    number = hand.begin("RunCommand", program="sleep", args=["600"])
    hand.channel.send({"cancel": number})
    assert hand.answer()["error"]["kind"] == "stopped"
    number = hand.begin("RunCommand", program="bash", args=["-c", "echo x > ~/x; sleep 600"])
    hand.channel.send({"cancel": number - 1})  # of a call before: too late for it
    hand.channel.send({"cancel": number})
    assert hand.answer()["error"]["kind"] == "stopped"
    assert hand.value("ListFiles", path="")


def pids_of(hand: Hand) -> set[int]:
    """Return who is in their group."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid="], capture_output=True, text=True)
    rows = (map(int, line.split()) for line in found.stdout.splitlines())
    return {pid for pid, group in rows if group == hand.child.pid and alive(pid)}


@pytest.mark.parametrize("ending", ["", "; sleep 600"])
def test_what_a_program_left_running_ends_with_its_call(
    start: Callable[..., Hand], ending: str
) -> None:
    """By its end or its deadline: hands end with it, and the supervisor kills what is left."""
    hand = start(run=("bash", "sleep"))
    code = f"sleep 601 > /dev/null 2>&1 & echo begun{ending}"
    deadline_s = 2.0 if ending else SOON_S  # enough for bash to begin
    answer = hand.call("RunCommand", deadline_s, program="bash", args=["-c", code])
    assert "took longer" in answer["error"]["what"] if ending else answer["value"]["exit"] == 0
    assert hand.answer() == {BYE: True}
    wait_for(lambda: hand.child.poll() is not None, "they ended")
    wait_for(lambda: not pids_of(hand), "their group is gone")


def test_hands_end_when_nobody_calls(start: Callable[..., Hand], home: Path) -> None:
    """They say so first: what comes after is not begun."""
    hand = start(replace(orders(home), idle_s=0.2), early=["ListFiles"])
    assert "value" in hand.answer()
    assert hand.answer() == {BYE: True}
    with pytest.raises(ChannelClosed):
        hand.answer()
    assert wait_for(lambda: hand.child.poll() is not None) and hand.child.poll() == 0


def test_hands_end_when_they_are_old(start: Callable[..., Hand], home: Path) -> None:
    """What they know of the disk is as it was at their start: busy ones end, too."""
    hand = start(replace(orders(home), age_s=0.5))
    until = time.monotonic() + SOON_S
    with contextlib.suppress(AssertionError, KeyError, ChannelClosed):  # a goodbye: no answer
        while time.monotonic() < until:
            hand.value("ListFiles", path="")
    assert wait_for(lambda: hand.child.poll() is not None) and hand.child.poll() == 0


def test_hands_end_with_who_calls(start: Callable[..., Hand]) -> None:
    """In the middle of a call, with the program that they run."""
    hand = start(run=("sleep",))
    hand.begin("RunCommand", deadline_s=600, program="sleep", args=["600"])
    wait_for(lambda: len(pids_of(hand)) == 3, "hands, guardian, program")
    hand.channel.close()
    wait_for(lambda: hand.child.poll() is not None, "they ended")
    assert hand.child.poll() == -signal.SIGKILL
    wait_for(lambda: not pids_of(hand), "and all of them")


@pytest.mark.parametrize("first", ["nobody", "hands"])
def test_nothing_of_hands_outlives_the_supervisor(home: Path, first: str) -> None:
    """Killed alone, or just after its hands: the program that they ran is gone, too."""
    (home / "locks").mkdir()
    given = json.dumps(orders(home, run=("sleep",)).document())
    code = (
        "import json, os, signal, subprocess, sys; from pathlib import Path\n"
        "from agentd.process.child import Child, python\n"
        "from agentd.process.channel import Channel\n"
        f"child = Child.spawn('x', python('agentd.hands'), Path({str(home / 'locks')!r}),"
        " control=True)\n"
        f"channel = Channel(child.control); channel.send(json.loads({given!r}))\n"
        "channel.receive(20)\n"
        "args = {'program': 'sleep', 'args': ['600']}\n"
        "channel.send({'id': 1, 'call': 'RunCommand', 'args': args, 'deadline_s': 60})\n"
        "pids = []\n"
        "while len(pids) < 3:\n"
        "    rows = subprocess.run(['ps', '-eo', 'pid=,pgid='], capture_output=True, text=True)\n"
        "    rows = [row.split() for row in rows.stdout.splitlines()]\n"
        "    pids = [pid for pid, group in rows if int(group) == child.pid]\n"
        "print(*pids, flush=True)\n"
        f"if {first!r} == 'hands': os.kill(child.pid, signal.SIGKILL)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3
    wait_for(lambda: not any(map(alive, pids)), "nobody of them is left")


def test_odd_requests_are_answered(start: Callable[..., Hand]) -> None:
    """A fault of ours is told, printed for the log, and survived."""
    hand = start()
    assert hand.error("Nothing") == ("tool", "there is no tool 'Nothing' in hands")
    assert hand.error("ReadFile", wrong=1)[1].endswith("a fault of agentd: TypeError")
    assert b"TypeError" in (hand.child.read(hand.child.output_fd) or b"")
    assert hand.error("RunCommand", program="sleep", args=[])[0] == "refused"
    assert hand.value("ListFiles", path="")


def test_without_a_whole_sandbox_there_are_no_hands(start: Callable[..., Hand], home: Path) -> None:
    """The reason is their first word; at level "checks" they go on with the tools' own checks."""
    code = (
        "import sys; from agentd.sandbox import level\n"
        "level.reached = lambda: level.Reached('checks', 'too old')\n"
        "from agentd.hands.__main__ import main; sys.exit(main())"
    )
    argv = [sys.executable, "-P", "-c", code]
    given = orders(home, run=("cat",))
    problem = start(given, argv).first["error"]
    assert (problem["kind"], problem["what"]) == ("SandboxUnavailable", "no sandbox: too old")
    assert "agentd.toml" in problem["hint"]
    hand = start(replace(given, require=False), argv)
    assert hand.first == {READY: True}
    assert hand.run("cat", f"{home}/secret/a.txt") == "of secret\n", "what checks cannot keep"
    assert hand.error("ReadFile", path=f"{home}/secret/a.txt", start=None)[0] == "refused"


def test_the_environment_holds_no_secret(
    start: Callable[..., Hand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither theirs nor that of their programs."""
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret")
    hand = start(run=("env",))
    environment = Path(f"/proc/{hand.child.pid}/environ").read_bytes()
    assert b"PATH" in environment and b"sk-very-secret" not in environment
    seen = hand.run("env")
    assert "AGENTD" not in seen and "sk-very-secret" not in seen
