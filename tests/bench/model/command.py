"""Runs the phases and prints the table: `python -m tests.bench model`."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.bench import runs
from tests.bench.environments import NotHere
from tests.bench.runs import Run
from tests.bench.table import Figure

from . import cold, decisions, decoding, hangup, limit, memory, recovery, scoring
from .bench import Bench, NoAnswer
from .rivals import PROGRAMS, Rival
from .servers import Server, ServerDied, Stock
from .shape import QUICK, SHAPES, Shape

PHASES = {
    "memory": memory.measure,  # first: the caches are empty
    "decisions": decisions.measure,
    "decoding": decoding.measure,
    "limit": limit.measure,
    "cold": cold.measure,
    "hangup": hangup.measure,
    "scoring": scoring.measure,
}
BESIDE_RIVAL = ("decisions", "decoding", "cold", "hangup")  # the rest asks what stock alone tells
EQUAL = (
    "on a CPU the same float32 weights, BLAS and attention for both, no mx.compile; all at "
    "temperature 0"
)
FREE = "all answers are free text, of as many tokens as may be"


def main(argv: Sequence[str]) -> int:
    """Run what was asked for; exit code 0 whatever the figures say, 1 if agentd's server failed."""
    options = _options(argv[1:])
    shape = QUICK if options.quick else SHAPES[options.model]
    if options.agents:
        shape = replace(shape, agents=options.agents)
    if options.turns:
        shape = replace(shape, turns=options.turns)
    if options.deadline:
        shape = replace(shape, deadline_s=options.deadline)
    phases = options.only or (BESIDE_RIVAL if options.rival else [*PHASES, "recovery"])

    other: Callable[[Path], Server] = Stock
    if options.rival:
        other = partial(Rival, name=options.rival)
    return runs.carry_out(lambda: _measured(shape, phases, other, options.free), argv, options)


def _measured(
    shape: Shape, phases: Sequence[str], other: Callable[[Path], Server], free: bool
) -> Run:
    work = _Phases()
    try:
        asyncio.run(work.all(shape, phases, other, free))
    except ServerDied as error:
        work.failed.append(f"given up: {error}")
    except NotHere as error:
        work.failed.append(f"it cannot be installed here: {error}")
    except KeyboardInterrupt:
        work.failed.append("interrupted")
    notes = [*work.about, EQUAL, *([FREE] if free else [])]
    return Run(work.figures, notes, [*work.incidents, *work.failed], bool(work.failed))


class _Phases:
    """What came so far: a phase that fails takes nothing from the others."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.about: list[str] = []
        self.incidents: list[str] = []
        self.failed: list[str] = []

    async def all(
        self, shape: Shape, phases: Sequence[str], other: Callable[[Path], Server], free: bool
    ) -> None:
        """Run the phases.

        Raises:
            ServerDied: a server cannot be started.
            NotHere: the other one cannot be installed.
        """
        with tempfile.TemporaryDirectory(prefix="agentd-bench-") as place:
            folder = shape.folder(Path(place) / "model")
            bench = Bench(shape, folder, other)
            bench.agentd.masks = not free
            self.about.append(bench.other.about)
            try:
                await bench.start()
                for name, measure in PHASES.items():
                    if name in phases:
                        await self._take(name, measure(bench))
                await self._take("memory", memory.at_the_end(bench))
            finally:
                bench.close()
                self.incidents += bench.notes
            if "recovery" in phases:
                await self._take("recovery", recovery.measure(bench))
        if bench.agentd.restarts:
            self.failed.append(f"agentd's server was started anew {bench.agentd.restarts} times")

    async def _take(self, name: str, found: AsyncIterator[Figure]) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[Kmeasuring {name} ...", end="", file=sys.stderr, flush=True)
        try:
            async for figure in found:
                self.figures.append(figure)
        except NoAnswer as error:
            self.failed.append(f"agentd answered nothing: {error}")
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
    parser.add_argument("--rival", choices=PROGRAMS, help="beside this one, not stock; installs it")
    parser.add_argument("--free", action="store_true", help="free text from agentd as well")
    parser.add_argument("--quick", action="store_true", help="rough figures, in 40 s")
    runs.arguments(parser)
    return parser.parse_args(argv)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
