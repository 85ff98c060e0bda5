"""A table that fits the terminal: what matters least is left out, long texts are shortened."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.commands.output import BOLD, cell_text, colour, say, shorten
from agentd.terminal import terminal_width

GAP = 2  # spaces between columns
CELL_MAX = 60  # characters, where no terminal shows them; the last column is not cut there
NONE: Mapping[str, int] = {}


@dataclass(frozen=True)
class FittedColumn:
    """One column with the values of all rows, and their colours, "" for none."""

    head: str
    values: Sequence[Any]
    colours: Sequence[str] = ()
    # Where there is no room for all, the columns with the highest are left out first; 0: never.
    leave: int = 0
    least: int = 0  # to so many characters its texts may be shortened; 0: not at all


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    leave: Mapping[str, int] = NONE,
    least: Mapping[str, int] = NONE,
) -> None:
    """Print rows in columns under their heads, within the terminal. None shows as `-`.

    `leave` and `least` are a `FittedColumn`'s, by its head.
    """
    values = [*zip(*rows, strict=True)] or [()] * len(heads)
    columns = [
        FittedColumn(head, column, (), leave.get(head, 0), least.get(head, 0))
        for head, column in zip(heads, values, strict=True)
    ]
    print_fitted(columns, terminal_width())


def print_fitted(columns: Sequence[FittedColumn], width: int | None) -> None:
    """Print columns beside each other, within `width`; None: all of them, and the last uncut."""
    cells = [[cell_text(value) for value in column.values] for column in columns]
    shown = [*zip(columns, cells, map(_width, columns, cells), strict=True)]
    if width is None:
        # The last column is never cut, as in other tables.
        sizes = [min(size, CELL_MAX) for _, _, size in shown[:-1]] + [shown[-1][2]]
    else:
        shown = [one for one in shown if not one[0].leave or any(text != "-" for text in one[1])]
        while _needed(shown) > width and any(column.leave for column, _, _ in shown):
            shown.remove(max(shown, key=lambda one: one[0].leave))
        sizes = _shared(shown, width)
    say(colour(_joined([column.head for column, _, _ in shown], sizes), BOLD))
    for row in range(len(columns[0].values)):
        texts = [
            _coloured(shorten(texts[row], size).ljust(size), column.colours, row)
            for (column, texts, _), size in zip(shown, sizes, strict=True)
        ]
        say((" " * GAP).join(texts).rstrip())


def _width(column: FittedColumn, cells: Sequence[str]) -> int:
    return max(map(len, (column.head, *cells)))


def _least(column: FittedColumn, size: int) -> int:
    return min(size, column.least) if column.least else size


def _needed(shown: Sequence[tuple[FittedColumn, Any, int]]) -> int:
    return sum(_least(column, size) + GAP for column, _, size in shown) - GAP


def _shared(shown: Sequence[tuple[FittedColumn, Any, int]], width: int) -> list[int]:
    """Share what is left among the columns that may be shortened, in their order."""
    sizes = [_least(column, size) for column, _, size in shown]
    left = max(0, width - _needed(shown))
    growing = [index for index, (_, _, size) in enumerate(shown) if sizes[index] < size]
    for place, index in enumerate(growing):
        more = min(shown[index][2] - sizes[index], left // (len(growing) - place))
        sizes[index] += more
        left -= more
    return sizes


def _joined(texts: Sequence[str], sizes: Sequence[int]) -> str:
    padded = (shorten(text, size).ljust(size) for text, size in zip(texts, sizes, strict=True))
    return (" " * GAP).join(padded).rstrip()


def _coloured(text: str, colours: Sequence[str], row: int) -> str:
    code = colours[row] if colours else ""
    return colour(text, code) if code else text
