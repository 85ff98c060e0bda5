"""What twenty idle workers take together: CPU, and memory each."""

import statistics
import threading
import time
from collections.abc import Iterator

from .home import ASKED, Home, cpu_s, memory_mb
from .latency import consumer
from .table import Figure

WORKERS, WORKERS_QUICK = 20, 6
WINDOW_S, WINDOW_QUICK_S = 15.0, 5.0  # multiples of the poll, so that each worker polls as often
SETTLE_S = 0.5  # after the last start


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield CPU in % of one core, and a worker's memory among the others."""
    count = WORKERS_QUICK if quick else WORKERS
    never = threading.Event()
    names = [f"agent{number}" for number in range(count)]
    home.admit(names)
    bus = home.bus()
    bus.accept("reader", "v", subscribe=(ASKED,))
    bus.close()
    with home.fork_server() as (_, orders), consumer(home, "poll") as polling:
        workers = home.start(names, orders)
        pids = [worker.pid for worker in workers]
        never.wait(SETTLE_S)
        before, began = [cpu_s(pid) for pid in (*pids, polling.pid)], time.monotonic()
        never.wait(WINDOW_QUICK_S if quick else WINDOW_S)
        after, seconds = [cpu_s(pid) for pid in (*pids, polling.pid)], time.monotonic() - began
        memory = statistics.median(memory_mb(pid) for pid in pids)
        home.stop(workers)
    shares = [100 * (b - a) / seconds for a, b in zip(before, after, strict=True)]
    scale = WORKERS / count
    yield Figure(
        "idle: CPU of 20 workers together",
        sum(shares[:-1]) * scale,
        "%",
        shares[-1] * WORKERS,
        "20 times one consumer polling every 100 ms",
        at_most=0.3,
        note="" if scale == 1 else f"measured with {count}",
    )
    note = f"one of {count} that share their pages"
    yield Figure("idle: memory of a worker among others", memory, "MB", note=note)
