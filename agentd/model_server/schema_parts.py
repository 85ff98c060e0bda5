"""Several schemas for one value: `$ref`, `allOf` and their like beside each other."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from agentd.model_server.calls import Refused

Schema = dict[str, Any]

COMBINATIONS = ("anyOf", "oneOf", "allOf")
OBJECT_KEYS = frozenset({"properties", "additionalProperties"})


def refuse(path: str, why: str) -> Refused:
    """Return the error for one place of a schema."""
    return Refused(f"{path or '/'}: {why}", code="unsupported_schema", param="response_format")


def escaped(key: str) -> str:
    """Write a key as a JSON pointer does (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def conjuncts(schema: Schema) -> list[list[Schema]]:
    """Return what must hold for a value at once; each is a list of alternatives.

    A reference is given as a schema that has nothing but it.
    """
    found = [[branch] for branch in schema.get("allOf", ())]
    found += [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    if "$ref" in schema:
        found.append([{"$ref": schema["$ref"]}])
    own = {key: value for key, value in schema.items() if key not in _NOT_OWN}
    return [*found, [own]] if own else found


_NOT_OWN = frozenset({*COMBINATIONS, "$ref", "$defs", "definitions"})


def check_intersections(nodes: dict[str, Schema]) -> None:
    """Refuse references to nowhere, and objects that would shut out each other's properties.

    Every object is closed by itself, so of two that hold at once with different properties, none
    would be left: silently less than was asked for.

    Raises:
        Refused: with the JSON pointer.
    """
    for path, schema in nodes.items():
        if "$ref" in schema and _target(schema["$ref"]) not in nodes:
            raise refuse(f"{path}/$ref", "must point at a schema in this document: #/$defs/NAME")
    for path, schema in nodes.items():
        parts = conjuncts(schema)
        if len(parts) < 2:
            continue
        names = [{keys for one in part for keys in _objects(one, nodes, set())} for part in parts]
        if len([part for part in names if part]) > 1 and len(set().union(*names)) > 1:
            raise refuse(path, "objects with different properties for one value; merge them")


def _objects(schema: Schema, nodes: dict[str, Schema], seen: set[str]) -> Iterator[frozenset[str]]:
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
