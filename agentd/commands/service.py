"""`agentd install`, `start`, `stop`, `restart`, `uninstall`: the LaunchAgent (macOS).

`agentd restart NAME` starts one agent anew, everywhere.
"""

import argparse
import os
import time
from pathlib import Path

from agentd.commands import control
from agentd.commands.output import json_option, note, print_done
from agentd.errors import AgentdError, NotRunning, StorageError
from agentd.macos import launchd
from agentd.macos.launchctl import Service
from agentd.paths import Paths, discover
from agentd.process.until import until
from agentd.states import Exit
from agentd.supervisor.client import last_failure, query

ANSWERS_S = 30.0  # for a started daemon to answer, a stopped one to be gone
STEP_S = 0.1
DONE = {
    **{"install": "installed", "start": "started", "restart": "restarted"},
    **{"stop": "stopped", "uninstall": "uninstalled"},
}

EXAMPLES = """example:
  agentd install      # starts it now and at each login; again after an update
  agentd restart
  agentd restart repo_review   # this agent alone, on every system
  agentd stop         # until `agentd start`, or the next login
  agentd uninstall    # stops it and removes it; your files and the database stay

On macOS, by launchd. Each waits until it is done, and succeeds where there is nothing to do.
Elsewhere it exits 1 and prints the `systemd-run` line to use; or take `agentd run`, in the
foreground.

--json prints {done: "installed", "started", "restarted", "stopped" or "uninstalled", pid (of the
daemon that runs now, or null)}; done is null where there was nothing to do. Of one agent {done:
"restarted", agent, state}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    if command == "restart":
        parser.add_argument("name", metavar="NAME", nargs="?", help="start this agent anew, alone")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Drive launchd, wait until the daemon is as it should be, and say so."""
    if getattr(args, "name", None) is not None:
        return control.run(args)
    paths = discover()
    service = Service(
        Path.home(),
        launchd.render(paths, launchd.program()),
        foreground=launchd.systemd_run(launchd.program()),
    )
    before = _pid(paths)
    if before is not None and args.command in ("install", "restart") and not service.loaded():
        raise AgentdError(
            f"agentd runs already, started by hand (pid {before})",
            hint=f"stop it first: Ctrl-C there, or `kill -TERM {before}`",
        )
    done: str | None = DONE[args.command]
    lines: list[str] = []
    match args.command:
        case "install":
            _warn_if_guarded(paths)
            service.install()
            lines += [f"installed {service.plist}"]
        case "start":
            if before is not None:
                print_done(args, None, f"agentd runs already, pid {before}", pid=before)
                return Exit.OK
            _warn_if_changed(service)
            service.start()
        case "restart":
            _warn_if_changed(service)
            service.restart()
        case "stop":
            service.stop()
            done = done if before is not None else None
        case _:
            done = "uninstalled" if service.uninstall() else None
            lines += [done or "was not installed"]
    pid = None
    if args.command in ("stop", "uninstall"):
        _wait_stopped(paths, before)
        lines += ["agentd is stopped" if before is not None else "agentd was not running"]
    else:
        pid = _wait_started(paths, None if args.command == "start" else before)
        lines += [f"agentd runs, pid {pid}"]
    print_done(args, done, *lines, pid=pid)
    return Exit.OK


def _warn_if_changed(service: Service) -> None:
    if service.installed and not service.current:
        note(f"{service.plist} is from another version or place: `agentd install` renews it")


def _warn_if_guarded(paths: Paths) -> None:
    """Say that launchd's Python may not even be able to read itself; nobody else would."""
    if (found := launchd.kept_from(paths)) is not None:
        note(f"{found[0]}: macOS keeps services out of this folder")
        note(found[1])


def _pid(paths: Paths) -> int | None:
    try:
        return int(query(paths)["pid"])
    except (NotRunning, StorageError):
        return None


def _living(pid: int | None) -> int | None:
    """Return the pid of a process of this user that has not ended, else None."""
    try:
        if pid is not None:
            os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return pid


def _wait_started(paths: Paths, before: int | None) -> int:
    """Wait until a daemon other than `before` answers, and return its pid.

    Raises:
        AgentdError: it gave up, and says why; or it does not answer in time.
    """
    began, failed = time.time(), paths.run / "failed.json"
    for _ in until(ANSWERS_S, STEP_S):
        pid = _pid(paths)
        if pid is not None and pid != before:
            return pid
        if failed.exists() and failed.stat().st_mtime >= began - 1 and (why := last_failure(paths)):
            raise AgentdError(**why)
    raise AgentdError(
        f"agentd does not answer within {ANSWERS_S:g} s of its start",
        hint="see `agentd status` and `agentd logs agentd`; does `agentd run` start here?",
    )


def _wait_stopped(paths: Paths, before: int | None) -> None:
    """Wait until the daemon `before` is gone: not its answers alone, its process.

    To launchd a job lives until its process has ended, and a start before that does nothing.

    Raises:
        AgentdError: it is not in time; or it was not launchd that started it.
    """
    for _ in until(ANSWERS_S, STEP_S):
        if (pid := _pid(paths) or _living(before)) is None:
            return
    raise AgentdError(
        f"agentd still runs, pid {pid}",
        hint=f"was it started by hand? Ctrl-C there, or `kill -TERM {pid}`",
    )
