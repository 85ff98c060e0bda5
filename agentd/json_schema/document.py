"""A schema as a document: its parts by JSON pointer, and what its references mean."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from agentd.json_schema.bounds import Bounds, Schema, Unfit, below

# What no pointer is written like:
NEVER = "never"  # a schema that nothing fits
OTHER = "!"  # and a place: what does not fit the schema there


class Document:
    """One schema, read part by part: what nothing leads to is never looked at.

    Raises:
        Unfit: it is too large.
    """

    def __init__(self, schema: object, bounds: Bounds) -> None:
        self._bounds = bounds
        self._root = schema
        self._parts: dict[str, Schema | bool] = {NEVER: False}
        self._anchors: dict[tuple[str, str], str] | None = None
        if _deeper(schema, 2 * bounds.depth):
            raise Unfit("", f"nests deeper than {bounds.depth}")
        if len(json.dumps(schema)) > bounds.bytes:
            raise Unfit("", f"longer than {bounds.bytes} bytes")

    def part(self, pointer: str) -> Schema | bool:
        """Return the schema at a place. Raises Unfit where there is none."""
        found = self._parts.get(pointer)
        if found is None:
            value = self._walk(pointer)[0]
            if not isinstance(value, dict | bool):
                raise Unfit(pointer, "must be a schema: an object, true or false")
            if len(self._parts) > self._bounds.schemas:
                raise Unfit(pointer, f"more than {self._bounds.schemas} schemas in one")
            found = self._parts[pointer] = value
        return found

    def target(self, pointer: str, reference: object, *, dynamic: bool = False) -> str:
        """Return the place that a reference at `pointer` means. Raises Unfit."""
        must = "must point at a schema in this document: #/$defs/NAME"
        what = Unfit(below(pointer, "$ref"), must)
        if not isinstance(reference, str):
            raise what
        address, _, fragment = reference.partition("#")
        base = self._walk(pointer)[1]
        if dynamic and base:
            raise Unfit(pointer, "a dynamic reference within a schema that has an $id of its own")
        if address:
            own = self._root.get("$id") if isinstance(self._root, dict) else None
            if address != str(own).rstrip("#"):
                raise what
            base = ""
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            if self._anchors is None:
                self._anchors = dict(_anchors(self._root, "", ""))
            if (base, fragment) not in self._anchors:
                raise what
            return self._anchors[base, fragment]
        try:
            self.part(base + fragment)
        except Unfit as error:
            if error.pointer == base + fragment and "schemas in one" not in error.reason:
                raise what from error
            raise
        return base + fragment

    def _walk(self, pointer: str) -> tuple[Any, str]:
        """Return what is at a place, and the place of the schema that references start from."""
        value, base, at = self._root, "", ""
        for key in pointer.split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            at = below(at, key)
            if isinstance(value, list) and key in map(str, range(len(value))):
                value = value[int(key)]
            else:
                value = value.get(key) if isinstance(value, dict) else None
            base = at if _has_id(value) else base
        return value, base


def _has_id(value: object) -> bool:
    name = value.get("$id") if isinstance(value, dict) else None
    return isinstance(name, str) and not name.startswith("#")


def _anchors(value: Any, at: str, base: str) -> Iterator[tuple[tuple[str, str], str]]:
    if isinstance(value, dict):
        base = at if at and _has_id(value) else base
        for key in ("$anchor", "$dynamicAnchor"):
            if isinstance(value.get(key), str):
                yield (base, value[key]), at
    pairs: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        if isinstance(inner, dict | list):
            yield from _anchors(inner, below(at, key), base)


def _deeper(value: object, most: int) -> bool:
    """Say whether arrays and objects nest deeper than `most`, without recursing."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
