"""A figure at several sizes: how it grows, and whether it may."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.table import number

FLAT, LINEAR = "flat", "at most linear"
# By aim, the exponent that a fit may have. Twice a size takes 7 % more at 0.1: what a deeper tree
# of pages costs.
MOST = {FLAT: 0.1, LINEAR: 1.1}
MOST_RUNS = 200  # of what is measured by the shortest of several runs
LAST_SLACK = 0.3  # more, for the exponent between the last two sizes: these are two points


@dataclass(frozen=True)
class Growth:
    """One row: a figure's values by size along an axis."""

    axis: str
    name: str
    unit: str
    values: Mapping[int, float]
    aim: str = LINEAR

    @property
    def exponent(self) -> float:
        """The slope of a line through the logarithms of sizes and values: 0 flat, 1 linear."""
        return slope(list(self.values.items()))

    @property
    def last(self) -> float:
        """The same of the last two sizes alone, where what is constant hides less."""
        return slope(list(self.values.items())[-2:])

    @property
    def verdict(self) -> str:
        """ "ok", or "worse"."""
        most = MOST[self.aim]
        return "ok" if self.exponent <= most and self.last <= most + LAST_SLACK else "worse"

    def document(self) -> dict[str, Any]:
        """Return the row for `--json`."""
        more = {"exponent": self.exponent, "last": self.last, "verdict": self.verdict}
        return {**asdict(self), **more}


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least squares' slope of the logarithms; 0 where there is one point."""
    xs = [math.log(x) for x, _ in points]
    ys = [math.log(max(y, 1e-9)) for _, y in points]
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x0) ** 2 for x in xs)
    return sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def render(rows: Sequence[Growth]) -> str:
    """Return a table for each axis, in Markdown."""
    parts = []
    for axis in dict.fromkeys(row.axis for row in rows):
        of = [row for row in rows if row.axis == axis]
        sizes = sorted({size for row in of for size in row.values})
        head = [axis, *(f"{size:,}" for size in sizes), "exponent, last", "aim", ""]
        lines = [head, ["---"] * len(head)]
        for row in of:
            values = [number(row.values[n]) if n in row.values else "" for n in sizes]
            grows = f"{row.exponent:.2f}, {row.last:.2f}"
            lines.append([f"{row.name}, {row.unit}", *values, grows, row.aim, row.verdict])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


class Measured:
    """Collects one axis' figures, size by size."""

    def __init__(self, axis: str) -> None:
        self.axis = axis
        self._rows: dict[tuple[str, str], tuple[dict[int, float], str]] = {}

    def add(self, size: int, name: str, unit: str, value: float, aim: str = LINEAR) -> None:
        """Note one figure at one size."""
        self._rows.setdefault((name, unit), ({}, aim))[0][size] = value

    def rows(self) -> list[Growth]:
        """Return what was noted."""
        return [
            Growth(self.axis, name, unit, values, aim)
            for (name, unit), (values, aim) in self._rows.items()
        ]


def least(
    work: Callable[[], object],
    *,
    seconds: float = 0.5,
    runs: int = 3,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Return the shortest time in seconds of so many runs or more, in about `seconds`.

    As processor time of this process, all its threads together: what else the machine does counts
    for little. `clock`: another one, where others work for it.
    """
    until, found = time.perf_counter() + seconds, list[float]()
    while len(found) < runs or (len(found) < MOST_RUNS and time.perf_counter() < until):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)
