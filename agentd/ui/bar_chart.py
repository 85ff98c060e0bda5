"""A small chart of bars, one a sample, as a template draws it in SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

HEIGHT, PITCH, GAP = 100, 10, 2  # of the drawing, in its own units


class Bar(NamedTuple):
    """One sample. `top` and `inner` are heights; `words` say its values."""

    x: int
    top: float
    inner: float
    at: str
    words: str


@dataclass(frozen=True)
class BarChart:
    """Values by sample, None where there is none; `inner` are lower ones, drawn inside.

    What people read of it is in words, too: `summary`, and those of each bar.
    """

    title: str
    unit: str
    moments: Sequence[str]
    values: Sequence[float | None]
    inner: Sequence[float | None] = field(default=())

    @property
    def most(self) -> float:
        """The top of the chart: a round number above the highest value."""
        highest = max((value for value in self.values if value is not None), default=0.0)
        if highest <= 0:
            return 1.0
        step: float = 10.0 ** math.floor(math.log10(highest))
        return next(step * n for n in (1, 2, 5, 10) if step * n >= highest)

    @property
    def width(self) -> int:
        """Of the drawing."""
        return PITCH * len(self.values)

    @property
    def bars(self) -> list[Bar]:
        """One for each sample that has a value above zero."""
        found = []
        for n, value in enumerate(self.values):
            if value:
                low = self.inner[n] if self.inner else None
                told = self.amount(value)
                words = told if low is None else f"{self.amount(low)} in the middle, {told} high"
                heights = (HEIGHT * value / self.most, HEIGHT * (low or 0.0) / self.most)
                found.append(Bar(PITCH * n, *heights, self.moments[n], words))
        return found

    @property
    def summary(self) -> str:
        """The highest value and the last one, in words."""
        known = [value for value in self.values if value is not None]
        if not any(known):
            return "none in this time"
        return f"at most {self.amount(max(known))}, {self.amount(known[-1])} lately"

    def amount(self, value: float) -> str:
        """Return a value with its unit, in three digits."""
        number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
        return f"{number} {self.unit}".rstrip()
