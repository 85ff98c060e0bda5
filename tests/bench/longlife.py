"""Runs the whole daemon with idle agents for long, and says whether anything grows.

uv run python -m tests.bench.longlife --minutes 60 --agents 50 [--json FILE]
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from agentd.errors import AgentdError
from agentd.events import NewEvent
from agentd.models.huggingface import folder_bytes
from agentd.storage.health import sizes
from agentd.supervisor.client import query

from .home import Home, cpu_s, memory_mb
from .table import number

START_S = 600.0  # for all agents to be checked and started, on a machine that has other work
SAMPLES = 60  # in a run of any length, and at least one each...
SAMPLE_MIN_S = 5.0
TRICKLE_S = 10.0  # between two events that nobody wants: the bus is never quite still
# What may come on top between the first and the last third and still be called flat: the share, or
# the amount where there is little to begin with. Of CPU the noise of a shared machine is much more.
LIMITS = {
    "cpu": (0.30, 0.3),
    "supervisor_cpu": (0.30, 0.2),
    "pss_mb": (0.02, 2.0),
    "supervisor_pss_mb": (0.05, 2.0),
    "fds": (0.0, 1.0),
    "threads": (0.0, 1.0),
    "database_mb": (0.0, 1.0),
    "wal_mb": (0.0, 17.0),  # it grows to 16 MB, then starts anew
    "logs_mb": (0.0, 0.5),
}
# Children come and go, a check of a file for one: what ended meanwhile is not counted.
GONE = (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, StopIteration)
UNITS = {"cpu": "% of a core", "supervisor_cpu": "% of a core", "fds": "", "threads": ""}


def main() -> int:
    """Run, print a line a sample and the verdict; exit code 1 if something grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.longlife", description=__doc__)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--agents", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    home = Home()
    try:
        samples = run(home, arguments.minutes * 60, arguments.agents)
    finally:
        home.close()
    rows = [row(name, [sample[name] for sample in samples]) for name in LIMITS]
    if arguments.json:
        arguments.json.write_text(json.dumps({"samples": samples, "figures": rows}, indent=1))
    print(f"\n{arguments.agents} idle agents, {arguments.minutes:g} minutes")
    for figure in rows:
        first, last, unit = number(figure["first"]), number(figure["last"]), figure["unit"]
        print(f"{figure['name']:18} {first:>9} -> {last:>9} {unit:12} {figure['verdict']}")
    grows = [figure["name"] for figure in rows if figure["verdict"] != "flat"]
    print(f"verdict: {'flat' if not grows else 'grows: ' + ', '.join(grows)}")
    return 1 if grows else 0


def run(home: Home, seconds: float, agents: int) -> list[dict[str, float]]:
    """Start the daemon with so many agents; return what was sampled in `seconds`."""
    home.paths.daemon_file.write_text(
        '[model]\nurl = "http://127.0.0.1:9/v1"\ncontext_window = 8192\n'
    )
    home.drop([f"agent{i}" for i in range(agents)])
    never = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "agentd", "run"], env=home.environment, stderr=subprocess.PIPE
    ) as daemon:
        try:
            began = time.monotonic()
            while len(running(home)) < agents:
                if daemon.poll() is not None or time.monotonic() > began + START_S:
                    raise RuntimeError(f"not all agents run: {running(home)}")
                never.wait(1)
            print(f"{agents} agents run after {time.monotonic() - began:.0f} s", flush=True)
            return sample_for(home, daemon.pid, seconds, never)
        finally:
            daemon.terminate()
            try:
                daemon.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                daemon.kill()


def running(home: Home) -> list[str]:
    """Return the agents that run."""
    try:
        agents = query(home.paths)["agents"]
    except AgentdError:
        return []
    return [agent["name"] for agent in agents if agent["state"] == "RUNNING"]


def sample_for(
    home: Home, pid: int, seconds: float, never: threading.Event
) -> list[dict[str, float]]:
    """Sample until the time is over; print each sample."""
    every = max(SAMPLE_MIN_S, seconds / SAMPLES)
    bus = home.bus()
    found: list[dict[str, float]] = []
    end = time.monotonic() + seconds
    before, since = cpu(pid), time.monotonic()
    while since < end:
        until = min(end, since + every)
        while (left := until - time.monotonic()) > 0:
            bus.publish("bench", NewEvent("bench.trickle", {"n": len(found)}))
            never.wait(min(TRICKLE_S, left))
        after, now = cpu(pid), time.monotonic()
        share = {
            child: 100 * (after[child] - before.get(child, 0.0)) / (now - since) for child in after
        }
        sample = {
            "minutes": (now - end + seconds) / 60,
            "cpu": sum(share.values()),
            "supervisor_cpu": share[pid],
            **look(home, pid, list(after)),
        }
        found.append(sample)
        print("  ".join(f"{k} {number(v)}" for k, v in sample.items()), flush=True)
        before, since = after, now
    bus.close()
    return found


def cpu(pid: int) -> dict[int, float]:
    """Return the CPU seconds of the daemon and of its children."""
    taken = {pid: cpu_s(pid)}
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(*GONE):
            taken[child.pid] = cpu_s(child.pid)
    return taken


def look(home: Home, pid: int, tree: Sequence[int]) -> Mapping[str, float]:
    """Return what the daemon holds now: memory, descriptors, threads, and bytes on disk."""
    memory, fds, threads = {}, 0, 0
    for one in tree:
        with suppress(*GONE):
            process = psutil.Process(one)
            memory[one] = memory_mb(one)
            fds, threads = fds + process.num_fds(), threads + process.num_threads()
    size = sizes(home.paths.database)
    return {
        "pss_mb": sum(memory.values()),
        "supervisor_pss_mb": memory[pid],
        "fds": fds,
        "threads": threads,
        "database_mb": size.database / 1e6,
        "wal_mb": size.wal / 1e6,
        "logs_mb": folder_bytes(home.paths.logs) / 1e6,
    }


def row(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Compare the first with the last third of what was sampled."""
    third = max(1, len(values) // 3)
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    share, amount = LIMITS[name]
    flat = last - first <= max(share * first, amount)
    unit = UNITS.get(name, "MB")
    return {
        "name": name,
        "first": first,
        "last": last,
        "unit": unit,
        "verdict": "flat" if flat else "grows",
    }


if __name__ == "__main__":
    sys.exit(main())
