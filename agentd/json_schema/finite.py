"""Values that are named one by one, as an enum has them."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from agentd.json_schema.bounds import Schema

EXACT = 2**53  # whole numbers below it are exact in a double
# Without \u escapes these cannot be written: a grammar has only the short escapes \n, \r and \t.
UNESCAPED = frozenset(map(chr, [*range(0x20), 0x7F])) - frozenset("\n\r\t")


def writable(value: Any) -> bool:
    """Say whether a value can be written exactly."""
    if isinstance(value, dict):
        return all(map(writable, value.values()))
    if isinstance(value, list):
        return all(map(writable, value))
    return not isinstance(value, int | float) or abs(value) < EXACT


def texts(value: Any) -> Iterator[str]:
    """Yield all texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from texts(list(value.values()))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def written(values: Sequence[Any]) -> list[Schema]:
    """Return the alternatives of these values: truth values and null stand alone."""
    alone = sum(isinstance(value, bool) for value in values) == 2
    others = [
        value for value in values if value is not None and not (alone and isinstance(value, bool))
    ]
    found = [_named(others)] if others else []
    found += [{"type": "boolean"}] if alone else []
    return [*found, {"type": "null"}] if None in values else found


def _named(values: Sequence[Any]) -> Schema:
    kinds = set(map(_kind, values))
    kind: Schema = {"type": kinds.pop()} if len(kinds) == 1 else {}
    return {**kind, **({"const": values[0]} if len(values) == 1 else {"enum": list(values)})}


def _kind(value: Any) -> str:
    names = {str: "string", bool: "boolean", type(None): "null", dict: "object", list: "array"}
    return names.get(type(value), "number" if isinstance(value, float) else "integer")


def arrangements(values: Sequence[Any], least: int, most: int, limit: int) -> list[list[Any]]:
    """Return lists without repetitions: in all orders, or if these are too many, in this one.

    If even those are too many, the long ones are left out.
    """
    most = min(most, len(values))
    sizes = range(least, most + 1)
    if sum(math.perm(len(values), size) for size in sizes) <= limit:
        return [list(one) for size in sizes for one in itertools.permutations(values, size)]
    found: list[list[Any]] = []
    for size in sizes:
        if len(found) + math.comb(len(values), size) > limit:
            break
        found += [list(one) for one in itertools.combinations(values, size)]
    return found
