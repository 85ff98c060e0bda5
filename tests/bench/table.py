"""A measured figure, what several runs make of it, and the table of them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


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

    def verdict(self, ours: float, ratio: float | None) -> str:
        """ "ok", "short", or nothing where there is no aim."""
        if self.ratio_at_least is not None:
            return "ok" if ratio is not None and ratio >= self.ratio_at_least else "short"
        if self.at_most is not None:
            return "ok" if ours <= self.at_most else "short"
        if self.at_least is not None:
            return "ok" if ours >= self.at_least else "short"
        return ""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the figure of a run's document."""
        return cls(**{field.name: document[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Spread:
    """What several runs gave: the median, and between what it lies."""

    median: float
    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float | None]) -> Self | None:
        """Return the spread of the values that there are, or None."""
        there = [value for value in values if value is not None]
        return cls(statistics.median(there), min(there), max(there)) if there else None

    def text(self, unit: str = "") -> str:
        """Return the median with its unit, and in brackets what it lies between."""
        low, high = number(self.low), number(self.high)
        between = "" if low == high else f" ({low} to {high})"
        return f"{number(self.median)} {unit}".rstrip() + between


@dataclass(frozen=True)
class Row:
    """One figure over all runs."""

    figure: Figure  # of the first run that has it; says the name, the unit, the aim
    ours: Spread
    baseline: Spread | None
    ratio: Spread | None  # of each run's own ratio: both sides met the same noise
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the medians reach the aim; see `Figure.verdict`."""
        return self.figure.verdict(self.ours.median, self.ratio.median if self.ratio else None)

    def document(self) -> dict[str, Any]:
        """Return the row for `--json`: medians, and what they lie between."""
        spreads = {"ours": self.ours, "baseline": self.baseline, "ratio": self.ratio}
        return {
            **asdict(self.figure),
            **{side: spread.median if spread else None for side, spread in spreads.items()},
            "spread": {side: [s.low, s.high] for side, s in spreads.items() if s},
            "aim": self.figure.aim,
            "verdict": self.verdict,
            "note": self.note,
        }


def rows(runs: Sequence[Sequence[Figure]]) -> list[Row]:
    """Put the same figures of all runs together, in the order in which they first came."""
    found: dict[tuple[str, str], list[Figure]] = {}
    for figures in runs:
        for figure in figures:
            found.setdefault((figure.name, figure.against), []).append(figure)
    return [_row(figures, len(runs)) for figures in found.values()]


def _row(figures: Sequence[Figure], runs: int) -> Row:
    notes = dict.fromkeys(figure.note for figure in figures if figure.note)
    if len(figures) < runs:
        notes[f"{len(figures)} of {runs} runs have it"] = None
    ours = Spread.over(figure.ours for figure in figures)
    assert ours is not None
    return Row(
        figures[0],
        ours,
        Spread.over(figure.baseline for figure in figures),
        Spread.over(figure.ratio for figure in figures),
        "; ".join(notes),
    )


HEAD = ("figure", "agentd", "baseline", "ratio", "aim", "", "baseline is; notes")


def line(row: Row) -> tuple[str, ...]:
    """Return one row's cells."""
    figure = row.figure
    return (
        figure.name,
        row.ours.text(figure.unit),
        row.baseline.text(figure.unit) if row.baseline else "",
        row.ratio.text() if row.ratio else "",
        figure.aim,
        row.verdict,
        "; ".join(part for part in (figure.against, row.note) if part),
    )


def render(table: Sequence[Row]) -> str:
    """Return the whole table for a terminal."""
    cells = [HEAD, *map(line, table)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(table: Sequence[Row]) -> str:
    """Return the whole table for a page."""
    cells = [HEAD, ("---",) * len(HEAD), *map(line, table)]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)


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
