"""A measured figure, and the table of them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One row. `unit` belongs to `ours` and `baseline`; an aim is on the ratio or on `ours`.

    Without an aim the row is there to explain another one.
    """

    name: str
    ours: float
    unit: str
    baseline: float | None = None
    against: str = ""  # what the baseline is
    ratio_at_least: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours by the baseline."""
        return self.ours / self.baseline if self.baseline else None

    @property
    def aim(self) -> str:
        """The aim as text."""
        if self.ratio_at_least is not None:
            return f"ratio >= {self.ratio_at_least:g}"
        if self.at_least is not None:
            return f">= {self.at_least:g} {self.unit}".rstrip()
        return "" if self.at_most is None else f"<= {self.at_most:g} {self.unit}".rstrip()

    @property
    def verdict(self) -> str:
        """ "ok", "short", or nothing where there is no aim."""
        if self.ratio_at_least is not None:
            return "ok" if self.ratio is not None and self.ratio >= self.ratio_at_least else "short"
        if self.at_most is not None:
            return "ok" if self.ours <= self.at_most else "short"
        if self.at_least is not None:
            return "ok" if self.ours >= self.at_least else "short"
        return ""

    def document(self) -> dict[str, Any]:
        """Return the row for `--json`."""
        return {**asdict(self), "ratio": self.ratio, "aim": self.aim, "verdict": self.verdict}


HEAD = ("figure", "ours", "baseline", "ratio", "aim", "", "baseline is; notes")


def line(figure: Figure) -> tuple[str, ...]:
    """Return one figure's cells."""
    ratio = figure.ratio
    return (
        figure.name,
        f"{number(figure.ours)} {figure.unit}".rstrip(),
        "" if figure.baseline is None else f"{number(figure.baseline)} {figure.unit}".rstrip(),
        "" if ratio is None else number(ratio),
        figure.aim,
        figure.verdict,
        "; ".join(part for part in (figure.against, figure.note) if part),
    )


def render(figures: Sequence[Figure]) -> str:
    """Return the whole table."""
    rows = [HEAD, *map(line, figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.6f}"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Turns:
    """What several sides measured in turns: each round's values met the same noise."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, side: str, value: float) -> None:
        """Note one round's rate or time of one side."""
        self.values.setdefault(side, []).append(value)

    def figure(self, name: str, unit: str, ours: str, baseline: str, **more: Any) -> Figure:
        """Return the baseline's median, and ours as the rounds' median ratio times that."""
        pairs = zip(self.values[ours], self.values[baseline], strict=True)
        base = statistics.median(self.values[baseline])
        ratio = statistics.median(a / b for a, b in pairs)
        return Figure(name, ratio * base, unit, base, baseline, **more)
