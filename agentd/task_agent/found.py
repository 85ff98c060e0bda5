"""What an agent's first steps found: rows, facts and candidates. All of it is data of others."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.terminal import plain

ROWS_MAX = 50
CANDIDATES_MAX = 50
CANDIDATE_CHARACTERS = 120
FACT_CHARACTERS = 500
TEXT_MAX = 1000  # characters that are looked at: what a text is, its beginning says
NO_TEXT = "N/A"  # says nothing
EVENT = "event"  # in a reference: the event's payload
ADDRESS = re.compile(r"\S*://\S*")  # says little of what it is the address of


@dataclass(frozen=True)
class Reference:
    """Where a value is: a field of a row (`of` is ""), of the event, or of a first step."""

    of: str
    path: tuple[str, ...]

    @classmethod
    def read(cls, text: str, tools: Sequence[str]) -> "Reference":
        """Read "subject", "event.path" or "ReadMail.messages".

        Raises:
            ValueError: it names a tool that is not among the first steps.
        """
        for of in (EVENT, *tools):
            if text.startswith(f"{of}."):
                return cls(of, tuple(text.removeprefix(f"{of}.").split(".")))
        if text[:1].isupper():
            raise ValueError(f"{text!r} is of no step of `first`")
        return cls("", tuple(text.split(".")))

    def within(self, value: Any) -> Any:
        """Return what stands at its path in a value, None where there is nothing."""
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True)
class Found:
    """An event's payload, and what the first steps gave, by their tools as the file names them."""

    payload: Mapping[str, Any]
    tools: Sequence[str]
    results: Sequence[Mapping[str, Any]]

    def value(self, reference: Reference) -> Any:
        """Return a value; lists of several steps of one tool come one behind the other."""
        if reference.of == EVENT:
            return reference.within(self.payload)
        values = [
            reference.within(result)
            for tool, result in zip(self.tools, self.results, strict=False)
            if tool == reference.of
        ]
        if values and all(isinstance(value, list) for value in values):
            return [item for value in values for item in value]
        return next((value for value in values if value is not None), None)

    def rows(self, each: str) -> list[Mapping[str, Any]]:
        """Return the rows that `each` names, all of them; a text's are its lines."""
        value = self.value(Reference.read(each, self.tools))
        if isinstance(value, str):
            value = [line.strip() for line in value.splitlines() if line.strip()]
        items = value if isinstance(value, list) else []
        return [item if isinstance(item, Mapping) else {"name": _flat(item)} for item in items]

    def whole(self) -> Mapping[str, Any]:
        """Return the one row of an agent without `each`: the event's fields, then the results'."""
        found = dict(self.payload)
        for result in self.results:
            found |= result
        return found

    def candidates(self, pick: str) -> list[str]:
        """Return what may be picked: short texts on one line, each once, the first 50."""
        value = self.value(Reference.read(pick, self.tools))
        items = value if isinstance(value, list) else []
        names = [item.get("name") if isinstance(item, Mapping) else item for item in items]
        texts = [name for name in names if isinstance(name, str) and _can_be_picked(name)]
        return list(dict.fromkeys(texts))[:CANDIDATES_MAX]

    def empty(self, what: str) -> bool:
        """Whether a reference's value says nothing."""
        value = self.value(Reference.read(what, self.tools))
        return value is None or value in ("", [], {}, 0, False)

    def nothing_new(self, each: str | None) -> bool:
        """Whether there is no row; without `each`, whether all lists of the results are empty."""
        if each is not None:
            return not self.rows(each)
        lists = [v for result in self.results for v in result.values() if isinstance(v, list)]
        return bool(lists) and not any(lists)


def text_of(row: Mapping[str, Any], look_at: Sequence[str] = ()) -> str:
    """Return what of a row is labelled and ranked: the beginning of its text.

    By default that is all of its texts but addresses.
    """
    if look_at:
        texts = [_flat(Reference("", tuple(name.split("."))).within(row)) for name in look_at]
    else:
        texts = [v for v in row.values() if isinstance(v, str) and not ADDRESS.fullmatch(v)]
    return ("\n".join(filter(None, texts)) or NO_TEXT)[:TEXT_MAX]


def fact(row: Mapping[str, Any], reference: Reference, found: Found) -> str | int | float | None:
    """Return a fact for a column: a number, or a text on one line without control characters."""
    value = found.value(reference) if reference.of else reference.within(row)
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(_flat(value), FACT_CHARACTERS)


def clean(text: str, limit: int) -> str:
    """Return a text on one line, without control characters, cut visibly."""
    line = plain(" ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value))
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _can_be_picked(text: str) -> bool:
    return bool(text.strip()) and len(text) <= CANDIDATE_CHARACTERS and plain(text) == text
