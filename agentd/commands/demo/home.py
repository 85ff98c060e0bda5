"""The demo's throw-away home, and the daemon in it."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from agentd.commands.output import duration, plain, say
from agentd.errors import AgentdError, NotRunning
from agentd.paths import HOME_VARIABLE, Paths, discover, private_folder
from agentd.process import child as process
from agentd.supervisor.client import query
from agentd.whole import write_whole

START_S = 60.0  # for the daemon to answer
STOP_S = 15.0  # above the daemon's own 10 s
LOOK_S = 0.1  # between two looks at what is waited for


@contextmanager
def temporary_home(keep: bool) -> Iterator[Paths]:
    """Yield the paths of a new home that shares the user's models; remove it, or say why not.

    After a failure it is kept, if the daemon ran in it: else there is nothing to look at.
    """
    models_folder = discover().models
    private_folder(models_folder)
    root = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
    home = discover({HOME_VARIABLE: str(root)})
    try:
        (root / "models").symlink_to(models_folder)
        home.create()
        yield home
    except Exception:
        keep = keep or home.database.exists()
        raise
    finally:
        if keep:
            say(f"kept {root}: try `{HOME_VARIABLE}={root} agentd status` (also: events, logs)")
        else:
            with _undisturbed():
                shutil.rmtree(root, ignore_errors=True)
                shutil.rmtree(home.sockets, ignore_errors=True)  # outside for a long path


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP leave through the same clean-up as Ctrl-C."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nobody who insists cut the clean-up off: it takes a moment, and nobody would do it."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_toml(path: Path, data: Mapping[str, Any]) -> None:
    """Write a configuration file in one step, so that the daemon never reads half of it."""
    scalars = [f"{key} = {_toml(v)}" for key, v in data.items() if not isinstance(v, Mapping)]
    for name, table in data.items():
        if isinstance(table, Mapping):
            scalars += ["", f"[{name}]", *(f"{key} = {_toml(v)}" for key, v in table.items())]
    write_whole(path, "\n".join(scalars) + "\n", mode=None)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # TOML's basic strings, numbers and booleans are JSON's, but for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


@dataclass
class Daemon:
    """`agentd run` as a child that cannot outlive the demo, not even its kill."""

    child: "subprocess.Popen[bytes]"
    output: Path

    def check(self) -> None:
        """Raise AgentdError, with its last words, when it is gone."""
        if self.child.poll() is not None:
            said = self.output.read_text(encoding="utf-8", errors="replace").strip()
            code = self.child.returncode
            raise AgentdError(
                f"the daemon ended (exit {code}): {plain(said[-600:]) or 'no reason'}"
            )

    def stop(self) -> None:
        """Stop it in order; kill what does not stop in time or where the person insists."""
        self.child.terminate()
        try:
            self.child.wait(STOP_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
            self.child.kill()  # its own children see their lifelines end
            self.child.wait()


@contextmanager
def running_daemon(home: Paths) -> Iterator[Daemon]:
    """Run `agentd run` in `home` and yield it once it answers."""
    output = home.logs / "run.out"
    lifeline, ours = os.pipe()
    environment = {**os.environ, HOME_VARIABLE: str(home.user)}
    environment[process.LIFELINE_VARIABLE] = str(lifeline)
    with output.open("wb") as sink:
        child = subprocess.Popen(
            process.python("agentd", "run"),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lifeline,),
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
        )
    os.close(lifeline)
    daemon = Daemon(child, output)
    try:
        for _ in until(START_S, "the daemon did not answer"):
            daemon.check()
            with suppress(NotRunning):
                query(home)
                break
        yield daemon
    finally:
        daemon.stop()
        os.close(ours)


def until(seconds: float, what: str, step_s: float = LOOK_S) -> Iterator[None]:
    """Yield every `step_s` seconds.

    Raises:
        AgentdError: `seconds` are over; `what` says what did not happen.
    """
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        pause.wait(step_s)
    raise AgentdError(
        f"{what} within {duration(seconds)}", hint="the logs in the kept home say more"
    )
