"""Starting ten agents: their workers alone, and a daemon that finds their files."""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from agentd.errors import AgentdError
from agentd.supervisor.client import query

from .home import DEADLINE_S, ROOT, Home
from .table import Figure

AGENTS, FORKED = 10, 50
NAMES = [f"agent{number}" for number in range(AGENTS)]
ROUNDS, ROUNDS_QUICK = 3, 1
LIBRARIES = "import apsw, pydantic, structlog"
# An external server that is not there: no agent has an event, so nobody calls it.
DAEMON = '[model]\nurl = "http://127.0.0.1:9/v1"\nname = "none"\ncontext_window = 4096\n'


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield the workers' start, then the daemon's, cold and warm."""
    home.admit(NAMES)
    ours, base = [], []
    for _ in range(ROUNDS_QUICK if quick else ROUNDS):
        started = time.monotonic()
        workers = home.start(NAMES)
        ours.append(time.monotonic() - started)
        home.stop(workers)
        base.append(_interpreters(AGENTS))
    yield Figure(
        "start: 10 workers wait on their lanes",
        statistics.median(ours),
        "s",
        statistics.median(base),
        f"10 interpreters: {LIBRARIES}",
    )
    yield from _forked(home, AGENTS if quick else FORKED)
    yield from _daemon(quick)


def _forked(home: Home, count: int) -> Iterator[Figure]:
    """Workers forked, with the start of the process that forks them."""
    names = [f"agent{number}" for number in range(count)]
    home.admit(names)
    started = time.monotonic()
    with home.fork_server() as (_, orders):
        workers = home.start(names, orders)
        ours = time.monotonic() - started
        home.stop(workers)
    yield Figure(
        f"start: {count} forked workers wait on their lanes",
        ours,
        "s",
        _interpreters(count),
        f"{count} interpreters: {LIBRARIES}",
        at_most=2.0 if count == FORKED else None,
        note="with the start of the process that forks them",
    )


def _interpreters(count: int) -> float:
    """Start as many interpreters with the libraries alone; return the seconds."""
    code = f"{LIBRARIES}\nprint(flush=True)\ninput()"
    started = time.monotonic()
    command = [sys.executable, "-P", "-c", code]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
    seconds = time.monotonic() - started
    for process in processes:
        process.kill()
        process.communicate()
    return seconds


def _daemon(quick: bool) -> Iterator[Figure]:
    home = Home()
    try:
        home.drop(NAMES)
        home.paths.daemon_file.write_text(DAEMON)
        cold = _until_running(home)
        note = "ten files are checked and compiled first, in a process each"
        yield Figure("start: agentd run, 10 new agents", cold, "s", note=note)
        if not quick:
            warm = _until_running(home)
            note = "their accepted versions are there"
            yield Figure("start: agentd run, 10 known agents", warm, "s", note=note)
    finally:
        home.close()


def _until_running(home: Home) -> float:
    """Start a daemon; return the seconds until all its agents run. Stops it in order."""
    started = time.monotonic()
    daemon = subprocess.Popen(
        [sys.executable, "-m", "agentd", "run"],
        env=home.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    never = threading.Event()
    try:
        while True:
            try:
                agents = query(home.paths)["agents"]
            except AgentdError:
                agents = []
            enabled = [agent["state"] for agent in agents if agent["enabled"]]
            if enabled == ["RUNNING"] * AGENTS:
                return time.monotonic() - started
            if daemon.poll() is not None or time.monotonic() > started + DEADLINE_S:
                raise RuntimeError(f"no ten running agents: {json.dumps(agents)}")
            never.wait(0.02)
    finally:
        daemon.terminate()
        try:
            daemon.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.communicate()
