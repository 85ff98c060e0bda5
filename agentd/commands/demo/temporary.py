"""The demo's throw-away home, and the daemon in it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from agentd.commands.output import duration, plain, say
from agentd.errors import AgentdError, NotRunning, StorageError
from agentd.paths import HOME_VARIABLE, Paths, discover, private_folder
from agentd.process import child as process
from agentd.process.leave import Leave
from agentd.process.until import until
from agentd.supervisor.client import query
from agentd.whole import write_whole

START_S = 60.0  # for the daemon to answer
STOP_S = 15.0  # above the daemon's own 10 s
LOOK_S = 0.1  # between two looks at what is waited for
OUTPUT = "run.out"  # of the daemon, in its log folder


@contextmanager
def temporary_home(keep: bool, leave: Leave) -> Iterator[Paths]:
    """Yield the paths of a new home that shares the user's models; remove it, or say why not."""
    models_folder = discover().models
    private_folder(models_folder)
    with ExitStack() as stack:
        with leave.held():
            root = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
            home = discover({HOME_VARIABLE: str(root)})
            kept = [root] if keep else []
            stack.callback(_remove, home, kept, leave)
        (root / "models").symlink_to(models_folder)
        home.create()
        try:
            yield home
        except Exception:
            if (home.logs / OUTPUT).exists():  # else there is nothing to look at
                kept.append(root)
            raise


def _remove(home: Paths, kept: list[Path], leave: Leave) -> None:
    """Remove a home, unless it is to be kept."""
    with leave.held():
        if not home.sockets.is_relative_to(home.user):  # where the path is too long
            shutil.rmtree(home.sockets, ignore_errors=True)
        if kept:
            root = kept[0]
            say(f"kept {root}: try `{HOME_VARIABLE}={root} agentd status` (also: events, logs)")
        else:
            shutil.rmtree(home.user, ignore_errors=True)


def write_toml(path: Path, data: Mapping[str, Any]) -> None:
    """Write a configuration file in one step, so that the daemon never reads half of it."""
    write_whole(path, tomli_w.dumps(data), mode=None)


@dataclass
class Daemon:
    """`agentd run` as a child that cannot outlive the demo, not even its kill."""

    home: Paths
    child: "subprocess.Popen[bytes]"
    output: Path
    leave: Leave

    def status(self) -> dict[str, Any] | None:
        """Return what it says of itself; None: it is not there yet, or too busy to answer in time.

        Raises:
            AgentdError: it is gone.
        """
        self.check()
        with suppress(NotRunning, StorageError):
            return query(self.home)
        return None

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
        with self.leave.held():
            self.child.terminate()
            deadline = time.monotonic() + STOP_S
            while time.monotonic() < deadline and not self.leave.insisted:
                with suppress(subprocess.TimeoutExpired):
                    self.child.wait(LOOK_S)
                    return
            self.child.kill()  # its own children see their lifelines end
            self.child.wait()


@contextmanager
def running_daemon(home: Paths, leave: Leave | None = None) -> Iterator[Daemon]:
    """Run `agentd run` in `home` and yield it once it answers."""
    leave = leave or Leave()
    output = home.logs / OUTPUT
    with ExitStack() as stack:
        with leave.held():
            lifeline, ours = os.pipe()
            stack.callback(os.close, ours)
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
            daemon = Daemon(home, child, output, leave)
            stack.callback(daemon.stop)
        for _ in expecting(START_S, "the daemon did not answer"):
            if daemon.status() is not None:
                break
        yield daemon


def expecting(seconds: float, what: str) -> Iterator[None]:
    """Yield now and then.

    Raises:
        AgentdError: `seconds` are over; `what` says what did not happen.
    """
    yield from until(seconds, LOOK_S)
    raise AgentdError(
        f"{what} within {duration(seconds)}", hint="the logs in the kept home say more"
    )
