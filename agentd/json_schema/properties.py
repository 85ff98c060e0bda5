"""Objects as they are written: which properties there may be, must be, and how many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentd.json_schema.bounds import Schema, Unfit, below
from agentd.json_schema.shapes import String

EITHER = 20  # properties of which at least or at most one is wanted, each as an alternative


@dataclass(frozen=True)
class Counts:
    """How many properties an object has, and how many of free names where that is left open."""

    least: int
    most: int | None
    free: int | None


def pattern(text: String, place: str) -> str:
    """Return one pattern that says what a name has to fit. Raises Unfit."""
    patterns = list(text.patterns)
    if text.least or text.most is not None:
        patterns.append(f"^(?s:.){{{text.least},{'' if text.most is None else text.most}}}$")
    if len(patterns) > 1:
        what = "names with a pattern and a length, or two patterns, cannot be honoured"
        raise Unfit(below(place, "propertyNames"), what)
    return patterns[0] if patterns else ""


def written(
    names: Mapping[str, Schema | None],
    required: Sequence[str],
    more: Schema,
    counts: Counts,
    place: str,
) -> list[Schema]:
    """Return an object's alternatives; none where nothing fits.

    Args:
        names: properties by name; None: there can be none of that name.
        required: names of those that must be there.
        more: the keywords of properties with other names; none: there can be none.
        counts: how many there may be.
        place: where the object is asked for.
    """
    can = {name: schema for name, schema in names.items() if schema is not None}
    must = [name for name in names if name in required]
    may = [name for name in can if name not in must]
    need = max(0, counts.least - len(must))
    room = len(may) if counts.most is None else counts.most - len(must)
    if any(name not in can for name in must) or room < 0 or (need > len(may) and not more):
        return []
    if more and (counts.most is None or not may):
        return [_with_more(names, must, may, need, more, counts, place)]
    if need > min(room, len(may)):
        raise Unfit(below(place, "minProperties"), "cannot be honoured for names that are free")
    few = room == 1 or room >= len(may)
    if need <= 1 and few and (need or room == 1) and 1 < len(may) <= EITHER:
        return list(_either(can, must, may, need, room))
    kept = may[:room]
    return [_object(can, [*must, *kept], [*must, *kept[:need]])]


def _either(can: Schema, must: list[str], may: list[str], need: int, room: int) -> list[Schema]:
    """Return an alternative for each property that may be the first, or the only one."""
    ways = [
        _object(can, [*must, name, *(may[at + 1 :] if room > 1 else [])], [*must, name])
        for at, name in enumerate(may)
    ]
    return ways if need else [*ways, _object(can, must, must)]


def _with_more(
    names: Mapping[str, Schema | None],
    must: list[str],
    may: list[str],
    need: int,
    more: Schema,
    counts: Counts,
    place: str,
) -> Schema:
    must, may, need = [*must, *may[:need]], may[need:], max(0, need - len(may))
    if need > 1:
        what = "cannot be honoured for names that are free, as one may be written twice"
        raise Unfit(below(place, "minProperties"), what)
    taken: Schema = {name: False if schema is None else schema for name, schema in names.items()}
    found = {**_object(taken, list(taken), must), **more}
    if need:
        found["minProperties"] = len(must) + need
    if not may:
        free = None if counts.free is None else len(must) + counts.free
        most = free if counts.most is None else counts.most
        found |= {} if most is None else {"maxProperties": max(most, len(must) + need)}
    return found


def _object(can: Schema, kept: Sequence[str], must: Sequence[str]) -> Schema:
    properties = {name: schema for name, schema in can.items() if name in kept}
    required = [name for name in properties if name in must]
    found: Schema = {"type": "object"}
    found |= {"properties": properties} if properties else {}
    found |= {"required": required} if required else {}
    return {**found, "additionalProperties": False}
