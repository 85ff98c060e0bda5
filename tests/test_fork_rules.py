"""What a process must not have done before it forks, and what a forked one has of its own."""

import ctypes
import errno
import json
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import psutil
import pytest

from agentd.config.daemon import SupervisorConfig
from agentd.errors import SandboxUnavailable
from agentd.process import environment, fork_rules, process_title
from agentd.process import fork_server as fork_server_module
from agentd.process.channel import Channel
from agentd.process.child import Child
from agentd.process.fork_rules import NEVER, why_not
from agentd.process.heart import Heart
from agentd.sandbox import enter as entering
from agentd.sandbox import seatbelt
from agentd.sandbox.level import Reached
from agentd.sandbox.policy import SandboxPolicy
from tests.supervised import DEADLINE_S, wait_for
from tests.test_process import end, fork_server

REHEARSED = """
import json, os, sys, threading
from agentd.process.fork_rules import why_not
from agentd.worker import forks
forks.rehearse()
for folder, _, files in os.walk("/proc/self/fd"):
    opened = {os.readlink(f"{folder}/{file}") for file in files if int(file) > 2}
names = [name for name in sys.modules if name.startswith(("agentd_agents", "agentd_client"))]
print(json.dumps([why_not(), names, [path for path in opened if not path.startswith("/proc")]]))
"""


def test_what_forks_workers_keeps_to_the_rules(tmp_path: Path) -> None:
    """No BAML, no agent's module, no thread, no open file: whatever its imports become."""
    env = {**environment.for_child(), "AGENTD_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", REHEARSED], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["", [], []]


@pytest.mark.parametrize("name", NEVER)
def test_a_module_that_has_threads_or_apple_behind_it_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever imports it, and by whatever way."""
    for loaded in NEVER:  # this process may have some
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setattr(fork_rules, "_had_threads", lambda: False)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert why_not() == ""
    monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    assert why_not() == f"{name} must not be loaded before a fork"


@pytest.mark.parametrize(("ever", "refused"), [(0, False), (1, True)])
def test_on_macos_a_thread_that_is_gone_counts(
    ever: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Objective-C runtime asks `pthread_is_threaded_np` as well: that there ever was one."""
    for loaded in NEVER:
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    library = SimpleNamespace(pthread_is_threaded_np=lambda: ever)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert bool(why_not()) is refused


@pytest.mark.parametrize(
    ("system", "said", "forks"),
    [
        *(("linux", None, True), ("linux", "spawn", False)),
        *(("darwin", None, False), ("darwin", "fork", True)),
    ],
)
def test_macos_forks_only_where_a_person_says_so(
    system: str, said: Literal["fork", "spawn"] | None, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CPython's `multiprocessing`: Apple's libraries have rules of their own."""
    monkeypatch.setattr(sys, "platform", system)
    assert SupervisorConfig(workers=said).forks is forks


def test_forked_ones_share_no_chance(tmp_path: Path) -> None:
    """What two children draw differs, also from the server's own numbers."""
    code = "import random, sys; print(random.random(), flush=True)"
    drawn = set()
    with fork_server(tmp_path / "server") as (_, orders):
        for number in range(3):
            drawn.add(_printed(tmp_path, f"c{number}", partial(orders.fork, _argv(code))))
    assert len(drawn) == 3


def test_a_forked_one_has_the_environment_that_it_was_given(tmp_path: Path) -> None:
    """What the server has and it was not given is gone; the descriptors' variables are its own."""
    code = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv]), flush=True)"
    with fork_server(tmp_path / "server") as (_, orders):
        env = {"ONE": "1", "PATH": "/else"}
        found, argv = json.loads(_printed(tmp_path, "one", partial(orders.fork, _argv(code)), env))
    own = {key: value for key, value in found.items() if not key.endswith("_FD")}
    assert own == env
    assert argv == _argv(code)


def test_a_forked_one_is_in_the_zone_that_it_was_given(tmp_path: Path) -> None:
    """The C library keeps what it found at the server's start; a spawned one looks anew."""
    code = "import time; print(time.strftime('%z'), flush=True)"
    with fork_server(tmp_path / "server") as (_, orders):
        env = {**environment.for_child(), "TZ": "HERE-9"}
        assert _printed(tmp_path, "one", partial(orders.fork, _argv(code)), env) == "+0900"


def test_a_child_that_cannot_come_to_be_was_not_started(tmp_path: Path) -> None:
    """As where it is spawned: an error of the system, which passes, and no crash of an agent."""
    gone = tmp_path / "gone"
    argv, env = _argv("print('here', flush=True)"), environment.for_child()
    with pytest.raises(FileNotFoundError):
        Child.spawn("one", argv, tmp_path, env=env, cwd=gone)
    with fork_server(tmp_path / "server") as (_, orders):
        with pytest.raises(FileNotFoundError):
            Child.begin("one", tmp_path, partial(orders.fork, argv, env, gone))
        assert _printed(tmp_path, "one", partial(orders.fork, argv)) == "here"


def test_a_fork_that_the_system_refuses_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is tried again, and a server lives long."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    ours, theirs = socket.socketpair()
    server = fork_server_module._ForkServer(Channel(theirs), Heart(None), -1)
    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(BlockingIOError):
        server._fork({}, [])
    assert len(list(Path("/dev/fd").iterdir())) == before
    ours.close()
    theirs.close()


def test_nobody_is_killed_by_the_number_of_a_child_that_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server has reaped it, and its number may be another process's, before we heard of it."""
    with fork_server(tmp_path / "server") as (_, orders):
        fork = partial(orders.fork, _argv(""), environment.for_child(), tmp_path)
        child = Child.begin("one", tmp_path, fork)
        assert select.select([orders], [], [], DEADLINE_S)[0], "its end is told"
        signals: list[tuple[int, int]] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", lambda *call: signals.append(call))
            patch.setattr(os, "killpg", lambda *call: signals.append(call))
            child.terminate()
            child.kill()
        assert signals == []
        assert child.poll() == 0
        child.close()


def _argv(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _printed(
    tmp_path: Path, name: str, fork: Callable[..., Any], env: Mapping[str, str] | None = None
) -> str:
    child = Child.begin(name, tmp_path, partial(fork, env or environment.for_child(), tmp_path))
    wait_for(lambda: child.poll() is not None, "it is dead")
    text = child.read(child.output_fd) or b""
    end(child)
    return text.decode().strip()


# --- the command line


def test_a_title_is_what_ps_shows(tmp_path: Path) -> None:
    """As long as there is room: longer than the server's own, and cut where it ends."""
    code = "import time; print(flush=True); time.sleep(600)"
    for extra in ("", "x" * 300, "y" * 3000):
        argv = [*_argv(code), extra] if extra else _argv(code)
        with fork_server(tmp_path / f"server{len(extra)}") as (_, orders):
            fork = partial(orders.fork, argv, environment.for_child(), tmp_path)
            child = Child.begin("one", tmp_path, fork)
            wait_for(lambda: child.read(child.output_fd), "it runs")  # noqa: B023
            shown = " ".join(psutil.Process(child.pid).cmdline()).rstrip()
            assert " ".join(argv).startswith(shown)
            assert len(shown) == len(" ".join(argv)) or len(extra) == 3000
            assert extra != "x" * 300 or shown.endswith("xxx")
            end(child)


def test_on_macos_the_words_lie_one_behind_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `crt_externs.h` gives them: the place of the first, to the end of the last."""
    block = ctypes.create_string_buffer(b"/usr/bin/python\0-m\0agentd.worker.forks\0......\0", 80)
    base = ctypes.addressof(block)
    starts = [base, base + 16, base + 19, base + 39]
    words = (ctypes.c_void_p * 4)(*starts)
    argv = ctypes.pointer(ctypes.cast(words, ctypes.POINTER(ctypes.c_void_p)))
    argc = ctypes.pointer(ctypes.c_int(4))
    library = SimpleNamespace(_NSGetArgc=_Call(argc), _NSGetArgv=_Call(argv))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert process_title._macos() == (base, 46)
    monkeypatch.setattr(process_title, "_place", lambda: (base, 46))
    process_title.write(["python", "-m", "agentd.worker", "one"])
    assert block.raw[:46] == b"python\0-m\0agentd.worker\0one".ljust(46, b"\0")
    assert block.raw[46:] == bytes(34), "and not a byte further"


class _Call:
    """A function of a C library, with room for the types that callers give it."""

    restype: Any = None
    argtypes: Any = None

    def __init__(self, result: Any) -> None:
        self.result = result
        self.given: tuple[Any, ...] = ()

    def __call__(self, *given: Any) -> Any:
        self.given = given
        return self.result


# --- the sandbox of macOS, which a forked one enters by itself


def test_on_macos_a_forked_one_is_confined_by_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the profile and the parameters that `sandbox-exec` would get; a refusal is an error."""
    policy = SandboxPolicy(read=(str(tmp_path),))
    call = _Call(0)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("agentd.sandbox.level.reached", lambda: Reached("full"))
    monkeypatch.setattr(
        ctypes, "CDLL", lambda name: SimpleNamespace(sandbox_init_with_parameters=call)
    )
    assert entering.enter(policy, forked=True) == ()
    text, flags, parameters, _ = call.given
    profile = seatbelt.Profile(policy, sys.executable)
    assert (text, flags) == (profile.text.encode(), 0)
    words = [word for word in parameters if word is not None]
    assert dict(zip(words[::2], words[1::2], strict=True)) == {
        name.encode(): os.fsencode(path) for path, name in profile.names.items()
    }
    assert parameters[len(words)] is None
    call.result = -1
    with pytest.raises(SandboxUnavailable) as caught:
        entering.enter(policy, forked=True)
    assert 'workers = "spawn"' in caught.value.hint


def test_on_macos_a_spawned_one_asks_for_nothing_in_its_sandbox(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was started in it, and what tells how much there is could not be started in there."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("agentd.sandbox.level.reached", lambda: Reached("checks", "in a sandbox"))
    assert entering.enter(SandboxPolicy()) == ()
