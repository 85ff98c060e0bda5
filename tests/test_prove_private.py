"""Each known way out of a sandbox is tried, with it and without, and every one is refused."""

import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agentd.commands import prove_private
from agentd.errors import AgentdError, SandboxUnavailable
from agentd.escape import escape, inside
from agentd.escape.attempt import Attempt, Impossible, Made, make
from agentd.escape.escape import PLACES, Comparison, Proof, prove
from agentd.escape.outside import Outside
from agentd.paths import Paths, discover
from agentd.sandbox.level import reached
from agentd.sandbox.policy import SandboxPolicy, base_read
from tests.commandline import agentd
from tests.pages import page

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or reached().name != "full",
    reason=f"no whole sandbox by Landlock here: {reached().why or sys.platform}",
)
# What some systems lack, or keep from users other than root: there it proves nothing.
NOT_EVERYWHERE = {
    *("make calls of another kind (x32)", "make calls of another kind (32 bits)"),
    *("one of the system's: D-Bus, names, the log", "reach the host of a virtual machine"),
    *("any of it by io_uring, which no filter sees", "connect by multipath TCP"),
    *("into namespaces", "by a process in namespaces", "connect by TCP, as IPv6"),
    *("by a process in namespaces, with a newer call", "type into a terminal"),
    *("serve page faults", "load a program (BPF)", "watch the processor"),
    *("trace one", "read memory", "read memory by /proc", "take an open file", "a file's flags"),
    *(
        "a file's group",
        "read the kernel's messages",
        "a file's attributes",
        "a file's mode by a newer call",
    ),
}
ROOTS = {  # that only root succeeds in, without a sandbox
    *("mount a file system", "change to another root", "enter namespaces", "a file by its handle"),
    *("what only root may", "send by hand, without TCP or UDP", "listen to everything"),
    "write memory",
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Paths]:
    """A home in which all of agentd's own is there, with sockets that answer."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    paths.create_private()
    (paths.agents_d / "mine.toml").write_text("agent = 'task'\n")
    with ExitStack() as stack:
        model = stack.enter_context(socket.socket())
        model.bind(("127.0.0.1", 0))
        model.listen()
        url = f"http://127.0.0.1:{model.getsockname()[1]}/v1"
        paths.model_address.write_text(json.dumps({"url": url}))
        status = stack.enter_context(socket.socket(socket.AF_UNIX))
        status.bind(str(paths.status_socket))
        status.listen()
        (paths.versions / "mine").mkdir()
        for folder in (paths.secrets, paths.keys, paths.backups):
            folder.mkdir()
        own = (paths.database, paths.token, paths.versions / "mine/a", paths.logs / "a")
        for path in (*own, paths.secrets / "a", paths.keys / "a", paths.backups / "a"):
            path.write_text("ours")
        yield paths
        paths.status_socket.unlink()
        paths.wake.rmdir()
        if paths.sockets_apart:
            paths.sockets.rmdir()


def proved(paths: Paths, *, more: Mapping[str, object] | None = None) -> Proof:
    """Try to get out of the hands of an agent that lists nothing, with more in their policies."""
    orders = prove_private.orders_of(None, paths)

    def widened(policy: SandboxPolicy) -> SandboxPolicy:
        return replace(policy, **(more or {}))  # type: ignore[arg-type]

    opened = replace(orders, sandbox=widened(orders.sandbox), programs=widened(orders.programs))
    return prove(opened, paths.run, prove_private.places_of(paths))


def test_no_way_out_is_open(home: Paths) -> None:
    """Of hands and of what they start; each attempt succeeds where there is no sandbox."""
    (home.agents_d / "reaching.toml").write_text(
        "agent = 'task'\ndone = 'It is done.'\n[permissions]\nnet = ['x.example']\nrun = ['cat']\n"
    )
    orders = prove_private.orders_of("reaching", home)
    found = prove(orders, home.run, prove_private.places_of(home))
    assert found.holds
    assert found.changed == ()
    assert len(found.tried) >= 110
    for tried in found.tried:
        what = tried.attempt.what
        if tried.free.outcome != "done":
            assert what in NOT_EVERYWHERE | (ROOTS if os.getuid() else set()), (what, tried.free)
        for place in PLACES:
            assert tried.made[place].outcome != "broken", (what, tried.made[place])
    assert found.counts()["refused"] >= 2 * (110 - len(NOT_EVERYWHERE | ROOTS))
    assert {tried.attempt.what for tried in found.tried if tried.verdict("hands") == "visible"} == {
        "that a file is there, its size and times",
        "that a process is there",
    }


@pytest.mark.parametrize(
    ("opened", "what"),
    [
        (
            {"sockets": "any", "read": "home", "run": "/usr/bin"},
            {"connect by TCP", "send by UDP", "the model server", "a file"}
            | {"read the database", "read the model's token", "a program of the system"},
        ),
        (
            {"sockets": "unix", "write": "home"},
            {"one at a path", "send to one at a path by half of a pair", "append to a file"}
            | {"make a folder", "remove a file", "move a file of its own there"},
        ),
    ],
)
def test_what_is_open_is_told(opened: dict[str, str], what: set[str], home: Paths) -> None:
    """A proof that could not fail would prove nothing: each hole that is made here is found."""
    more: dict[str, object] = {"closed": (), "protected": ()}
    for name, value in opened.items():
        path = str(home.user) if value == "home" else value
        more[name] = value if name == "sockets" else (*base_read(), path)
    found = proved(home, more=more)
    for place in PLACES:
        seen = {tried.attempt.what for tried in found.tried if tried.verdict(place) == "open"}
        assert what <= seen, place
        # An attempt may fail after it did harm: what is outside is compared as well.
        assert any(change.startswith(f"{place}: ") for change in found.changed)
    silent = (replace(each, made=dict.fromkeys(each.made, REFUSED)) for each in found.tried)
    assert not found.holds
    assert not Proof(tuple(silent), found.changed).holds
    text = "\n".join(prove_private.ends(found))
    assert all(f": {each} (" in text for each in what)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (PermissionError(1, "no"), "refused"),
        (Impossible("none here"), "impossible"),
        (ValueError("a fault"), "broken"),
    ],
)
def test_how_an_attempt_ends(error: Exception | None, outcome: str, home: Paths) -> None:
    """A fault of an attempt is no refusal, and counts as a way out until it is mended."""

    def run(outside: Outside) -> object:
        if error is not None:
            raise error
        return "reached"

    attempt = Attempt("group", "what", run)
    made = make(attempt, Outside.of(OUTSIDE))
    assert made.outcome == outcome
    tried = Comparison(attempt, {"free": Made("done"), "hands": made, "program": made})
    assert tried.verdict("hands") == ("open" if outcome in ("done", "broken") else "refused")


OLD = """
import sys
from agentd.sandbox import level
level.reached = lambda: level.Reached("checks", "too old")
from agentd.hands.__main__ import main
sys.exit(main())
"""
REFUSED = Made("refused")
OUTSIDE = {
    **dict.fromkeys(("own", "folder", "secret", "spare", "program", "unlisted", "stream"), ""),
    **dict.fromkeys(("datagram", "abstract"), ""),
    **dict.fromkeys(("pid", "address", "port", "datagram_port", "shared_memory"), 0),
    **{"other_host": ["", 0], "places": {}},
}


def test_a_killed_attempt_is_refused_if_a_filter_did_it(home: Paths) -> None:
    """Calls of another kind end the process; a crash of the attempt would look alike."""
    ends = {}
    for number in (31, 15):  # SIGSYS, SIGTERM
        attempt = Attempt("group", "what", lambda _, number=number: os.kill(os.getpid(), number))  # type: ignore[misc]
        ends[number] = make(attempt, Outside.of(OUTSIDE)).outcome
    assert ends == {31: "refused", 15: "broken"}


def test_a_failed_start_is_an_error_and_no_proof(
    home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What did not run was not refused."""
    monkeypatch.setattr(inside, "argv", lambda own: ["/bin/echo", "nothing"])
    with pytest.raises(AgentdError, match="failed: nothing"):
        proved(home)


def test_hands_that_do_not_start_say_why(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a kernel is too old, and agentd.toml wants a whole sandbox."""
    orders = prove_private.orders_of(None, home)
    monkeypatch.setattr(escape, "python", lambda _: [sys.executable, "-P", "-c", OLD])
    (home.run / "own").mkdir()
    with pytest.raises(SandboxUnavailable, match="too old"):
        escape._by_hands(orders, ["/bin/true"], home.run / "own")


def test_an_attempt_that_fails_freely_proves_nothing() -> None:
    """It is told so, and not as refused."""
    attempt = Attempt("group", "what", lambda _: None)
    ends = {"free": Made("refused", "ENOSYS"), "hands": Made("refused"), "program": Made("done")}
    tried = Comparison(attempt, ends)
    assert (tried.verdict("hands"), tried.verdict("program")) == ("untried", "open")
    lines = list(prove_private.ends(Proof((tried,), ())))
    assert "proves nothing here: group: what (ENOSYS)" in lines
    assert "OPEN from program: group: what ()" in lines


def test_the_command(home: Paths) -> None:
    """It takes an agent's name, and exits 0 where nothing gets out; agentd's own stays closed."""
    (home.agents_d / "open.toml").write_text(
        f"agent = 'task'\ndone = 'It is done.'\n[permissions]\nread = ['{home.user}']\n"
    )
    done = agentd(home.user, "prove-private", "open", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["holds"], told["level"]) == (0, True, {"name": "full", "why": ""})
    assert told["attempts"][0].keys() == {"group", "what", "hands", "program", "free"}
    missing = agentd(home.user, "prove-private", "nobody")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "no agent is called 'nobody'" in missing.stderr


def test_the_page_has_the_table() -> None:
    """What people read is what the command prints where every attempt can be made."""
    free = Made("done")
    tried = (
        Comparison(each, {"free": free} | dict.fromkeys(PLACES, free if each.visible else REFUSED))
        for each in inside.attempts()
    )
    table = "\n".join(prove_private.table(Proof(tuple(tried), ())))
    assert f"```text\n{table}\n```" in page("agentd/sandbox").text
