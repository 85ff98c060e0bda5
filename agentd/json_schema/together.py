"""Several schemas for one value: `$ref`, `allOf` and their like beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote

from agentd.json_schema.bounds import COMBINATIONS, Schema, Unfit, below

OBJECT_KEYS = frozenset({"properties", "additionalProperties"})
NOT_OWN = frozenset({*COMBINATIONS, "$ref", "$defs", "definitions"})

Nodes = Mapping[str, Schema]  # every schema of a document, by its JSON pointer
Parts = Sequence[Sequence[Schema]]


def check_references(nodes: Nodes) -> None:
    """Raise Unfit where a reference leads to nowhere."""
    for path, schema in nodes.items():
        if "$ref" in schema and _target(schema["$ref"]) not in nodes:
            what = "must point at a schema in this document: #/$defs/NAME"
            raise Unfit(below(path, "$ref"), what)


def check_objects(path: str, parts: Parts, nodes: Nodes) -> None:
    """Raise Unfit where objects would shut out each other's properties.

    Every object is closed by itself, so of two that hold at once with different properties, none
    would be left: silently less than was asked for.
    """
    names = [{keys for one in part for keys in _objects(one, nodes, set())} for part in parts]
    if len([part for part in names if part]) > 1 and len(set().union(*names)) > 1:
        raise Unfit(path, "objects with different properties for one value; merge them")


def conjuncts(schema: Schema) -> Parts:
    """Return what must hold for a value at once; each is a list of alternatives.

    A reference is given as a schema that has nothing but it.
    """
    found = [[branch] for branch in schema.get("allOf", ())]
    found += [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    if "$ref" in schema:
        found.append([{"$ref": schema["$ref"]}])
    own = {key: value for key, value in schema.items() if key not in NOT_OWN}
    return [*found, [own]] if own else found


def _objects(schema: Schema, nodes: Nodes, seen: set[str]) -> Iterator[frozenset[str]]:
    """Yield the property names of every object that a value of this schema may have to be."""
    if OBJECT_KEYS & schema.keys():
        yield frozenset(schema.get("properties", ()))
    for key in COMBINATIONS:
        for branch in schema.get(key, ()):
            yield from _objects(branch, nodes, seen)
    if "$ref" in schema and (target := _target(schema["$ref"])) not in seen:
        seen.add(target)
        yield from _objects(nodes[target], nodes, seen)


def _target(reference: object) -> str:
    """Return the JSON pointer that a reference means; for another document, one of nothing."""
    if isinstance(reference, str) and reference.startswith("#"):
        return unquote(reference[1:])
    return "?"
