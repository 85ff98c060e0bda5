"""Runs the phases and prints the table: `python -m tests.bench model`."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tests.bench.table import Figure, render

from . import cold, decisions, decoding, hangup, memory, recovery, scoring
from .bench import Bench, NoAnswer
from .servers import ServerDied
from .shape import QUICK, SHAPES, Shape

PHASES = {
    "memory": memory.measure,  # first: the caches are empty
    "decisions": decisions.measure,
    "decoding": decoding.measure,
    "cold": cold.measure,
    "hangup": hangup.measure,
    "scoring": scoring.measure,
}
STOCK_IS = (
    "stock is mlx_lm.server {version} with its defaults (decoding 32 and prefilling 8 at a time in "
    "steps of 2,048 tokens, 10 caches) on the same float32 weights and BLAS, mx.compile off as in "
    "agentd; all at temperature 0"
)


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; exit code 0 whatever the figures say, 1 if agentd's server failed."""
    options = _options(argv)
    shape = QUICK if options.quick else SHAPES[options.model]
    if options.agents:
        shape = replace(shape, agents=options.agents)
    if options.turns:
        shape = replace(shape, turns=options.turns)
    if options.deadline:
        shape = replace(shape, deadline_s=options.deadline)
    began, load = time.monotonic(), os.getloadavg()[0]
    run = _Run()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no server behind either
    try:
        asyncio.run(run.all(shape, options.only or [*PHASES, "recovery"]))
    except ServerDied as error:
        run.failed.append(f"given up: {error}")
    except KeyboardInterrupt:
        run.failed.append("interrupted")
    seconds = time.monotonic() - began
    notes = [
        STOCK_IS.format(version=version("mlx-lm")),
        f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} at the end",
        ", ".join(f"{name} {spent:.0f} s" for name, spent in run.seconds.items()),
        *run.notes,
        *run.failed,
    ]
    figures = run.figures
    name = "quick" if options.quick else options.model
    if options.json:
        rows = [figure.document() for figure in figures]
        document = {"model": name, "seconds": seconds, "figures": rows, "notes": notes}
        document["incidents"] = [*run.notes, *run.failed]
        print(json.dumps(document))
    else:
        short = [figure.name for figure in figures if figure.verdict == "short"]
        print(render(figures), "", *notes, sep="\n")
        print(f"{name}: {seconds:.0f} s; short: {', '.join(short) or 'none'}")
    return 1 if run.failed else 0


class _Run:
    """What came so far: a phase that fails takes nothing from the others."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.notes: list[str] = []
        self.failed: list[str] = []
        self.seconds: dict[str, float] = {}

    async def all(self, shape: Shape, phases: Sequence[str]) -> None:
        """Run the phases. Raises ServerDied: a server cannot be started."""
        with tempfile.TemporaryDirectory(prefix="agentd-bench-") as place:
            folder = shape.folder(Path(place) / "model")
            bench = Bench(shape, folder)
            try:
                await bench.start()
                for name, measure in PHASES.items():
                    if name in phases:
                        await self._take(name, measure(bench))
                await self._take("memory", memory.at_the_end(bench))
            finally:
                bench.close()
                self.notes += bench.notes
            if "recovery" in phases:
                await self._take("recovery", recovery.measure(bench))
        if bench.agentd.restarts:
            self.failed.append(f"agentd's server was started anew {bench.agentd.restarts} times")

    async def _take(self, name: str, found: AsyncIterator[Figure]) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[Kmeasuring {name} ...", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            async for figure in found:
                self.figures.append(figure)
        except NoAnswer as error:
            self.failed.append(f"agentd answered nothing: {error}")
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench model", description=__doc__)
    parser.add_argument("--model", choices=SHAPES, default="tiny", help="default: tiny")
    parser.add_argument("--agents", type=_numbers, metavar="N,N", help="how many at once")
    parser.add_argument("--turns", type=int, metavar="N", help="decisions of each agent")
    parser.add_argument(
        "--deadline", type=float, metavar="S", help="of a phase on one server: on a busy machine"
    )
    parser.add_argument("--only", choices=[*PHASES, "recovery"], action="append")
    parser.add_argument("--quick", action="store_true", help="rough figures, in 40 s")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser.parse_args(argv)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
