"""What grows with the agents of one daemon, which runs them all."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from statistics import mean

from agentd.events import NewEvent
from agentd.supervisor.client import query
from agentd.views.overview import overview
from tests.bench.home import AGENT, ROOT, Home, cpu_s, memory_mb
from tests.bench.longlife import running
from tests.sqlite_work import sqlite_work

from .scaling import FLAT, Growth, Measured, least

SIZES = (1, 10, 50, 200)
QUICK = SIZES[:2]
START_S = 900.0  # for all of them to be checked and started, on a machine that has other work
SETTLE_S, IDLE_S = 3.0, 20.0
QUICK_IDLE_S = 6.0  # longer than `bus.poll`: each worker wakes in it at least once
CHANGES = 3
RINGS, ASLEEP_S = 10, 0.3  # publishes, and until all wait again: who is awake is woken for nothing
# Woken by the type, and not wanted by what it holds: no session begins, and no model is asked.
WOKEN = AGENT.replace("[params]", 'where = { wanted = "yes" }\n[params]')
EVENT = NewEvent("bench.asked", {"wanted": "no"})
DAEMON = '[model]\nurl = "http://127.0.0.1:9/v1"\nname = "none"\ncontext_window = 8192\n'


def measure(quick: bool) -> Iterator[Growth]:
    """Yield each figure with its values."""
    found = Measured("agents")
    with closing(Home()) as home:
        home.paths.daemon_file.write_text(DAEMON)
        with _daemon(home) as pid:
            for size in QUICK if quick else SIZES:
                _at(size, home, pid, found, QUICK_IDLE_S if quick else IDLE_S)
    yield from found.rows()


def _at(size: int, home: Home, pid: int, found: Measured, idle_s: float) -> None:
    never = threading.Event()
    home.drop([f"agent{n}" for n in range(len(running(home)), size)], WOKEN)
    _wait(lambda: len(running(home)) == size, never)
    never.wait(SETTLE_S)
    workers = [one["pid"] for one in query(home.paths)["agents"] if one["pid"] is not None]
    assert len(workers) == size, workers
    found.add(size, "memory a worker (PSS)", "MB", mean(map(memory_mb, workers)), FLAT)
    before, began = (cpu_s(pid), sum(map(cpu_s, workers))), time.monotonic()
    never.wait(idle_s)
    scale = 1000 / (time.monotonic() - began)
    ours = (cpu_s(pid) - before[0]) * scale
    theirs = (sum(map(cpu_s, workers)) - before[1]) * scale / size
    found.add(size, "the supervisor, idle", "ms of processor time a second", ours)
    found.add(size, "a worker, idle", "ms of processor time a second", theirs, FLAT)
    asked = least(lambda: query(home.paths), clock=time.perf_counter)
    found.add(size, "the supervisor answers `status`", "ms", asked * 1000)
    found.add(size, "the status document", "ms", least(lambda: overview(home.paths)) * 1000)
    with sqlite_work() as steps:
        overview(home.paths)
    found.add(size, "the status document", "steps of SQLite", sum(steps.values()))
    bus, published = home.bus(), list[float]()
    for _ in range(RINGS):
        never.wait(ASLEEP_S)
        published.append(least(lambda: bus.publish("bench", EVENT), runs=1, seconds=0))
    bus.close()
    found.add(size, "a publish that wakes them all", "us", min(published) * 1e6)
    changed = min(_changed(home, number, never) for number in range(CHANGES))
    found.add(size, "one changed file, until its new version runs", "s", changed)


def _changed(home: Home, number: int, never: threading.Event) -> float:
    """Change one agent's file; return the seconds until its new version runs."""
    before = _version(home)
    text = WOKEN.replace("The note", f"Note {number} of {before[1]}")
    began = time.monotonic()
    (home.paths.agents_d / "agent0.toml").write_text(text)
    _wait(lambda: (now := _version(home))[0] == "RUNNING" and now[1:] != before[1:], never, 0.02)
    return time.monotonic() - began


def _version(home: Home) -> tuple[str, str, int | None]:
    first = next(one for one in query(home.paths)["agents"] if one["name"] == "agent0")
    return first["state"], first["version"], first["pid"]


def _wait(until: object, never: threading.Event, every_s: float = 0.5) -> None:
    assert callable(until)
    end = time.monotonic() + START_S
    while not until():
        if time.monotonic() > end:
            raise RuntimeError("not all agents run")
        never.wait(every_s)


@contextmanager
def _daemon(home: Home) -> Iterator[int]:
    """Run a daemon; yield its pid."""
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "agentd", "run"],
        env=home.environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield daemon.pid
    finally:
        daemon.terminate()
        daemon.wait(30)
