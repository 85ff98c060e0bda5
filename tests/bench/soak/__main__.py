"""Runs the churn and gives a verdict: exit code 0 if the server stayed flat and lost nothing.

uv run python -m tests.bench.soak [--minutes 10] [--seed 0] [--json]
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentd.testing.tiny_model import make_tiny
from tests.bench.model.servers import Agentd, ServerDied

from .churn import CLIENTS, Churn
from .ledger import Ledger
from .watch import Sample, growth, look, settled, watch

WINDOW = 4096  # tokens
CACHE_BYTES = 2_000_000  # some 8,000 tokens, a tenth of what all sessions would keep
QUEUE = 20  # fewer than clients: some are told to come again
GROWTH_MAX = 5.0  # % of RSS over the last two thirds
JUDGED_FROM_S = 240.0  # a shorter run says nothing about growth
FILES_MORE_MAX = 3  # descriptors at rest, after against before
LINES = 20  # of a run's table


def main() -> int:
    """Run, print, judge."""
    options = _options()
    seconds = options.minutes * 60
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no server behind either
    try:
        document = asyncio.run(_soak(seconds, options.seed, quiet=options.json))
    except (KeyboardInterrupt, ServerDied) as error:
        print(f"given up: {error or 'interrupted'}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(document))
    return 1 if document["problems"] else 0


async def _soak(seconds: float, seed: int, *, quiet: bool) -> dict[str, Any]:
    def say(*words: object) -> None:
        if not quiet:
            print(*words, flush=True)

    load = os.getloadavg()[0]
    say(f"{seconds:.0f} s, seed {seed}, {CLIENTS} clients, caches of {CACHE_BYTES / 1e6:g} MB,")
    say(f"a queue of {QUEUE}, a tiny random model; load of the machine {load:.1f}")
    say(f"{'s':>6} {'RSS MB':>8} {'cache MB':>9} {'files':>6} {'requests':>9}")
    samples: list[Sample] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="agentd-soak-") as place:
        folder = make_tiny(Path(place) / "model", window=WINDOW)
        server = Agentd(folder, "--cache-bytes", str(CACHE_BYTES), "--queue", str(QUEUE))
        try:
            await server.start()
            await server.idle()
            began = time.monotonic()
            before = await look(server, began)
            churn = Churn(server, WINDOW, seed, began + seconds)
            shown = 0.0

            def each(sample: Sample) -> None:
                nonlocal shown
                if sample.at_s >= shown:
                    shown += seconds / LINES
                    say(_line(sample, churn.ledger))

            clients = asyncio.ensure_future(churn.run())
            try:
                await watch(server, seconds, samples, each)
            except ServerDied as error:
                problems.append(f"the server died: {error}")
            await clients
            if not problems:
                if not await server.idle():
                    problems.append("the server does not come to rest")
                after = await look(server, began)
                metrics = await server.metrics()
                say(_line(after, churn.ledger), " at rest")
                problems += _judge(churn.ledger, samples, before, after, metrics, seconds)
        finally:
            server.close()
    grown = growth(settled(samples))
    judged = "" if seconds >= JUDGED_FROM_S else " (too short a run to be judged)"
    say(f"\nRSS {grown:+.1f} % over the last two thirds{judged}")
    for key, value in churn.ledger.document().items():
        say(f"{key}: {value}")
    say("verdict:", "; ".join(problems) or "flat, and every request accounted for")
    return {
        "seconds": seconds,
        "growth_percent": grown,
        "rss_mb": [round(sample.rss_mb, 1) for sample in samples],
        "cache_mb_max": max((sample.cache_mb for sample in samples), default=0.0),
        "files_max": max((sample.files for sample in samples), default=0),
        "requests": churn.ledger.document(),
        "problems": problems,
    }


def _judge(
    ledger: Ledger,
    samples: list[Sample],
    before: Sample,
    after: Sample,
    metrics: dict[str, float],
    seconds: float,
) -> list[str]:
    problems = []
    grown = growth(settled(samples))
    if seconds >= JUDGED_FROM_S and grown >= GROWTH_MAX:
        problems.append(f"RSS grew by {grown:.1f} %")
    cache_mb = max(sample.cache_mb for sample in [*samples, after])
    if cache_mb > CACHE_BYTES / 2**20:
        problems.append(f"the caches took {cache_mb:.1f} MB")
    if after.files > before.files + FILES_MORE_MAX:
        problems.append(f"{before.files} open files before, {after.files} after")
    for name in ("queue_length", "running"):
        if metrics.get(name):
            problems.append(f"{name} is {metrics[name]:g} at rest")
    if ledger.open or ledger.lost:
        problems.append(f"{ledger.open + len(ledger.lost)} requests lost: {ledger.lost[:3]}")
    if ledger.illegal:
        problems.append(f"{len(ledger.illegal)} illegal answers: {ledger.illegal[:3]}")
    # The server's own books, with the request that warmed it up: whoever left may have been
    # answered, or may not have reached the queue.
    finished = sum(
        metrics.get(f'requests_total{{outcome="{end}"}}', 0) for end in ("stop", "length")
    )
    if not ledger.answered + 1 <= finished <= ledger.answered + ledger.cancelled + 1:
        problems.append(f"the server counts {finished:g} answers, its clients {ledger.answered}")
    return problems


def _line(sample: Sample, ledger: Ledger) -> str:
    return (
        f"{sample.at_s:6.0f} {sample.rss_mb:8.1f} {sample.cache_mb:9.2f} {sample.files:6}"
        f" {ledger.sent:9}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: 10")
    parser.add_argument("--seed", type=int, default=0, help="of all that the clients do")
    parser.add_argument("--json", action="store_true", help="one JSON document, at the end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
