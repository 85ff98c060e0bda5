"""What the server's process takes over time, and whether that grows."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

from tests.bench.model.servers import Agentd, ServerDied

SAMPLES = 240  # of a whole run
TICK_MIN_S = 0.5


@dataclass(frozen=True)
class Sample:
    """One look at the process."""

    at_s: float  # since the start
    rss_mb: float
    cache_mb: float
    files: int  # open descriptors, sockets included


async def look(server: Agentd, began: float) -> Sample:
    """Return a sample. Raises ServerDied."""
    assert server.process is not None
    if server.process.poll() is not None:
        raise ServerDied(f"exit code {server.process.returncode}: {server.said()}")
    cache = (await server.metrics())["cache_bytes"]
    process = psutil.Process(server.process.pid)
    rss = process.memory_info().rss
    return Sample(time.monotonic() - began, rss / 2**20, cache / 2**20, process.num_fds())


async def watch(
    server: Agentd, seconds: float, samples: list[Sample], each: Callable[[Sample], None]
) -> None:
    """Take samples for so long. Raises ServerDied."""
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        await asyncio.sleep(min(left, max(TICK_MIN_S, seconds / SAMPLES)))
        samples.append(await look(server, began))
        each(samples[-1])


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """Return the last two thirds: in the first, caches and buffers fill."""
    return list(samples[len(samples) // 3 :])


def growth(samples: Sequence[Sample]) -> float:
    """Return how much RSS grew over these samples in % of its mean, by a straight line's slope."""
    if len(samples) < 2:
        return 0.0
    moments, sizes = [s.at_s for s in samples], [s.rss_mb for s in samples]
    slope = statistics.linear_regression(moments, sizes).slope
    return 100 * slope * (moments[-1] - moments[0]) / statistics.mean(sizes)
