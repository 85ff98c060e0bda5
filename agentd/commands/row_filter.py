"""Which rows a command lists: `--since`, `--until`, `--grep` and `-n`, the same in all of them."""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

from agentd.clock import YEAR_MAX, YEAR_MIN, iso
from agentd.commands.output import INTEGER_MAX, count
from agentd.errors import UsageError

PAGE = 500  # rows that are read at once
CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?")
WRITTEN = 'write an age ("1h", "7d"), a time of today ("09:30") or a date ("2026-03-01 09:30")'

Row = TypeVar("Row")


def moment(text: str, now: datetime | None = None) -> datetime:
    """Return the moment that a person means.

    That is so long ago ("1h", "7d"), so far ahead ("+2h"), a time of today ("09:30"), or a date or
    a date with a time as ISO 8601 has it; without a zone it is local time, as commands print it.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    from agentd.config import duration  # 0.1 s, which commands without such an option do without

    now = now or datetime.now(UTC)
    ahead = text.startswith("+")
    try:
        length = duration.parse(text.removeprefix("+"))
        return now + length if ahead else now - length
    except ValueError:
        pass
    try:
        today = f"{now.astimezone():%Y-%m-%d} {text:0>5}" if CLOCK.fullmatch(text) else text
        found = datetime.fromisoformat(today)
        if not YEAR_MIN <= found.year <= YEAR_MAX:
            raise ValueError("is too far off")
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(WRITTEN) from None


def _limit(text: str) -> int:
    return INTEGER_MAX if text == "all" else count(text)


def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern that is in lower case as one for any case."""
    try:
        return re.compile(text, re.IGNORECASE if text == text.lower() else re.NOFLAG)
    except (re.error, OverflowError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"no regular expression: {error}") from None


def arguments(
    parser: argparse.ArgumentParser, *also: str, limit: int = INTEGER_MAX, of: str = ""
) -> None:
    """Declare the options. `of`: of which action; `also`: other names of `-n`."""
    of = f"{of}: " if of else ""
    usual = "all" if limit == INTEGER_MAX else f"{limit}; with --since all"
    parser.add_argument(
        "--since", type=moment, metavar="WHEN", help=f'{of}from then on: "1h", "09:30", a date'
    )
    parser.add_argument("--until", type=moment, metavar="WHEN", help=f"{of}from before then")
    parser.add_argument(
        "--grep", type=_pattern, metavar="PATTERN", help=f'{of}a field "name=value" fits it'
    )
    parser.add_argument(
        *("-n", "--limit", *also),
        dest="limit",
        type=_limit,
        metavar="N",
        help=f'{of}at most N, or "all" ({usual})',
    )
    parser.set_defaults(usual=limit)


@dataclass(frozen=True)
class RowFilter:
    """What was asked for. `since` and `until` are as the database has times."""

    since: str | None
    until: str | None
    pattern: re.Pattern[str] | None
    limit: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> "RowFilter":
        """Return it as the command line says it.

        Raises:
            UsageError: nothing can lie in between.
        """
        if args.since and args.until and args.until <= args.since:
            raise UsageError("--until is before --since", hint="--since 2h --until 1h")
        usual = args.usual if args.since is None else INTEGER_MAX
        return cls(
            args.since and iso(args.since),
            args.until and iso(args.until),
            args.grep,
            usual if args.limit is None else args.limit,
        )

    @property
    def span(self) -> dict[str, str | None]:
        """The time between which rows are, as those who read them take it."""
        return {"since": self.since, "until": self.until}

    @property
    def page(self) -> int:
        """How many rows to read at once: no more than may be wanted."""
        return PAGE if self.pattern else min(self.limit, PAGE)

    @property
    def everything(self) -> bool:
        """Whether as many rows are wanted as there are."""
        return self.limit == INTEGER_MAX

    @property
    def narrows(self) -> bool:
        """Whether rows may be left out that are there."""
        return bool(self.since or self.until or self.pattern)

    def at(self, when: str) -> bool:
        """Whether a row of this time is wanted."""
        return (not self.since or when >= self.since) and (not self.until or when < self.until)

    def fits(self, document: Mapping[str, Any]) -> bool:
        """Whether a row, as `--json` has it, holds the pattern."""
        return self.pattern is None or any(map(self.pattern.search, _fields(document)))

    def first(
        self, rows: Iterable[Row], document: Callable[[Row], Mapping[str, Any]]
    ) -> Iterator[Row]:
        """Yield the first ones that hold the pattern, as many as are wanted."""
        return islice((row for row in rows if self.fits(document(row))), self.limit)


def paged(read: Callable[[int], Sequence[Row]], key: Callable[[Row], int]) -> Iterator[Row]:
    """Yield all rows, the newest first; `read` gives some of those below an id."""
    before = INTEGER_MAX
    while rows := read(before):
        yield from rows
        before = key(rows[-1])


def _fields(value: Any, name: str = "") -> Iterator[str]:
    """Yield each value with its name, as `agentd logs` shows them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _fields(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _fields(inner, name)
    elif value is not None:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        yield f"{name}={text}"
