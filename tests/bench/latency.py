"""From publishing to having the event in another process: woken, beside polling."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agentd.bus import Bus
from agentd.bus.wake import Bell
from agentd.events import NewEvent

from .home import ASKED, ROOT, Home
from .table import Figure, quantile

PAUSE_S = 0.003  # about; the consumer sleeps again by then
EVENTS, EVENTS_QUICK = 1000, 150
POLLED, POLLED_QUICK = 40, 6


@contextmanager
def consumer(home: Home, mode: str) -> "Iterator[subprocess.Popen[str]]":
    """A consumer process that is ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.consumer", mode],
        env=home.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield the median and the 99th percentile, of the bus and of a bare datagram."""
    bus = home.bus()
    bus.accept("reader", "v", subscribe=(ASKED,))
    events = EVENTS_QUICK if quick else EVENTS
    woken = _latencies(home, bus, "wake", events, PAUSE_S)
    bare = _datagrams(home, events)
    polled = _latencies(home, bus, "poll", POLLED_QUICK if quick else POLLED, 0.1)
    bus.agents.remove("reader")
    bus.close()
    for name, share, aim in (("p50", 0.5, 0.5), ("p99", 0.99, 1.0)):
        ours, base = quantile(woken, share), quantile(polled, share)
        against = "polling every 100 ms"
        yield Figure(f"latency: {name}", ours, "ms", base, against, at_most=aim)
        note = "what waking a process takes here, without a bus"
        yield Figure(f"latency: bare datagram {name}", quantile(bare, share), "ms", note=note)


def _datagrams(home: Home, count: int) -> list[float]:
    """Return milliseconds from sending a byte to a sleeping process to its having it."""
    found, never = [], threading.Event()
    bell = Bell(home.paths.wake)
    with consumer(home, "bare") as process:
        assert process.stdout is not None
        for _ in range(count):
            never.wait(random.uniform(0.5, 1.5) * PAUSE_S)
            before = time.monotonic_ns()
            bell.ring(["bare"])
            found.append((int(process.stdout.readline()) - before) / 1e6)
    return found


def _latencies(home: Home, bus: Bus, mode: str, count: int, pause_s: float) -> list[float]:
    """Return milliseconds."""
    found, never = [], threading.Event()
    with consumer(home, mode) as process:
        assert process.stdout is not None
        for _ in range(count):
            never.wait(random.uniform(0.5, 1.5) * pause_s)
            before = time.monotonic_ns()
            event_id = bus.publish("writer", NewEvent(ASKED, {"n": 1}))
            number, had = process.stdout.readline().split()
            assert int(number) == event_id
            found.append((int(had) - before) / 1e6)
    return found
