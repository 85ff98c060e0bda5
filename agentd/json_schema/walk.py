"""Which JSON Schemas can be honoured, and the bounds that make every answer finite.

A walk only ever narrows: an answer that is legal under what it returns is legal under what was
given. What would be ignored is refused, by its JSON pointer.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from agentd.json_schema.bounds import (
    ANNOTATIONS,
    BY_TYPE,
    COMBINATIONS,
    KEYWORDS,
    Bounds,
    Schema,
    Unfit,
    below,
)
from agentd.json_schema.together import check_objects, check_references, conjuncts

# Of fixed length by themselves; a maxLength beside them would only slow a compiler.
FIXED_FORMATS = frozenset({"date", "time", "date-time", "uuid", "ipv4"})
UNWRITABLE = frozenset(map(chr, range(0x20))) - frozenset("\n\r\t")  # without \u escapes
SHORT = 64  # characters; strings that are no longer count as this long


@dataclass(frozen=True)
class Bounded:
    """A schema whose every answer is finite."""

    schema: Schema
    longest_string: int  # characters; keys and enums count too


def bounded(schema: object, bounds: Bounds) -> Bounded:
    """Check a schema and bound it.

    Raises:
        Unfit: with the JSON pointer of what cannot be honoured.
    """
    walk = _Walk(bounds)
    found = walk.schema(schema, "")
    if len(json.dumps(schema)) > bounds.bytes:
        raise Unfit("", f"longer than {bounds.bytes} bytes")
    check_references(walk.nodes)
    several = {
        path: parts for path, node in walk.nodes.items() if len(parts := conjuncts(node)) > 1
    }
    for path, parts in several.items():
        check_objects(path, parts, walk.nodes)
    together = math.lcm(*walk.multiples) if several else 1  # as if all were of one value
    if together > bounds.multiple:
        raise Unfit("", f"multipleOf: together {together}, above {bounds.multiple}")
    return Bounded(found, walk.longest)


class _Walk:
    """One walk through a schema, and what was learned on the way."""

    def __init__(self, bounds: Bounds) -> None:
        self.nodes: dict[str, Schema] = {}  # every schema in it, by JSON pointer
        self.multiples: set[int] = set()
        self.longest = SHORT
        self._bounds = bounds
        self._values = 0  # of enums
        self._depth = -1

    def schema(self, node: object, path: str) -> Schema:
        """Return a schema, and all in it, checked and bounded."""
        self._depth += 1
        if self._depth > self._bounds.depth:
            raise Unfit(path, f"nests deeper than {self._bounds.depth}")
        if not isinstance(node, dict):
            raise Unfit(path, "must be an object; true and false bound nothing")
        if len(self.nodes) >= self._bounds.schemas:
            raise Unfit(path, f"more than {self._bounds.schemas} schemas in one")
        schema: Schema = {key: value for key, value in node.items() if key not in ANNOTATIONS}
        self.nodes[path] = schema
        self._parts(schema, path)
        if "enum" in schema or "const" in schema:
            self._enum(schema, path)
        else:
            self._types(schema, path)
        self._depth -= 1
        return schema

    def _parts(self, schema: Schema, path: str) -> None:
        """Check the keywords, and walk through definitions and combinations."""
        for key in schema:
            if key not in KEYWORDS and not self._bounds.foreign:
                raise Unfit(below(path, key), "this keyword cannot be honoured")
        for key in ("$defs", "definitions"):
            if key in schema:
                schema[key] = self._each(schema, key, path)
        for key in COMBINATIONS:
            if key in schema:
                schema[key] = self._all(schema, key, path)

    def _each(self, schema: Schema, key: str, path: str) -> Schema:
        """Walk through named schemas."""
        node, place = schema.get(key, {}), below(path, key)
        if not isinstance(node, Mapping):
            raise Unfit(place, "must be an object")
        return {name: self.schema(value, below(place, name)) for name, value in node.items()}

    def _all(self, schema: Schema, key: str, path: str) -> list[Schema]:
        """Walk through a list of schemas."""
        node, place = schema[key], below(path, key)
        if not isinstance(node, list) or not node:
            raise Unfit(place, "must be a list with at least one schema")
        return [self.schema(value, below(place, number)) for number, value in enumerate(node)]

    # -- values ---------------------------------------------------------------------------------

    def _enum(self, schema: Schema, path: str) -> None:
        if "enum" in schema:
            values, place = schema["enum"], below(path, "enum")
            if not isinstance(values, list) or not values:
                raise Unfit(place, "must be a list with at least one value")
            for value in values:
                self._value(value, place, 0)
        if "const" in schema:
            self._value(schema["const"], below(path, "const"), 0)

    def _value(self, value: object, path: str, depth: int) -> None:
        """Check that a value of an enum can be written."""
        if depth > self._bounds.depth:
            raise Unfit(path, f"nests deeper than {self._bounds.depth}")
        self._values += 1
        if self._values > self._bounds.values:
            raise Unfit(path, f"more than {self._bounds.values} values in one schema")
        if isinstance(value, str):
            if UNWRITABLE & set(value):
                raise Unfit(path, "a control character, which no answer can hold")
            if len(value) > self._bounds.characters:
                raise Unfit(path, f"a text of more than {self._bounds.characters} characters")
            self.longest = max(self.longest, len(value))
        elif isinstance(value, dict):
            for key, inner in value.items():
                self._value(key, path, depth + 1)
                self._value(inner, path, depth + 1)
        elif isinstance(value, list):
            for inner in value:
                self._value(inner, path, depth + 1)

    # -- types ----------------------------------------------------------------------------------

    def _types(self, schema: Schema, path: str) -> None:
        kinds = _kinds(schema, path)
        for kind in kinds:
            match kind:
                case "string":
                    self._string(schema, path)
                case "integer" | "number":
                    self._number(schema, path)
                    if kind == "number" and "integer" not in kinds and self._bounds.step:
                        schema.setdefault("multipleOf", self._bounds.step)
                case "array":
                    self._array(schema, path)
                case "object":
                    self._object(schema, path)

    def _string(self, schema: Schema, path: str) -> None:
        least, most = _count(schema, "minLength", path) or 0, _count(schema, "maxLength", path)
        pattern, longest = schema.get("pattern", ""), self._bounds.pattern
        if not isinstance(pattern, str) or len(pattern) > longest:
            raise Unfit(below(path, "pattern"), f"must be a text of at most {longest} characters")
        if str(schema.get("format")) in FIXED_FORMATS:
            return
        most = max(self._bounds.string, least) if most is None else most
        most = min(most, self._bounds.characters)
        if least > most:
            what = f"{least} is more than the maximum of {most}"
            raise Unfit(below(path, "minLength"), what)
        schema["maxLength"] = most
        self.longest = max(self.longest, most)

    def _number(self, schema: Schema, path: str) -> None:
        for key, value in schema.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if key in BY_TYPE["number"] and not is_number:
                raise Unfit(below(path, key), "must be a number")
        if "multipleOf" in schema:
            self.multiples.add(self._multiple(schema["multipleOf"], path))
        if "exclusiveMinimum" not in schema:
            schema.setdefault("minimum", -self._bounds.integer)
        if "exclusiveMaximum" not in schema:
            schema.setdefault("maximum", self._bounds.integer)

    def _multiple(self, value: float, path: str) -> int:
        """Return multipleOf without its decimal point: 0.25 is 25, and 12 is 12."""
        number = Decimal(str(value)).normalize()
        exponent = number.as_tuple().exponent
        whole = number.scaleb(-exponent) if isinstance(exponent, int) and exponent < 0 else number
        if not 0 < whole <= self._bounds.multiple:
            what = f"must be above 0, its digits at most {self._bounds.multiple}"
            raise Unfit(below(path, "multipleOf"), what)
        return int(whole)

    def _array(self, schema: Schema, path: str) -> None:
        least, most = _count(schema, "minItems", path) or 0, _count(schema, "maxItems", path)
        if "prefixItems" in schema:
            schema["prefixItems"] = self._all(schema, "prefixItems", path)
            schema.setdefault("items", False)
        if "items" not in schema:
            raise Unfit(path, "an array needs items")
        if schema["items"] is not False:
            schema["items"] = self.schema(schema["items"], below(path, "items"))
        schema["maxItems"] = max(self._bounds.items, least) if most is None else most

    def _object(self, schema: Schema, path: str) -> None:
        _count(schema, "maxProperties", path)
        properties = self._each(schema, "properties", path)
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
            raise Unfit(below(path, "required"), "must be a list of strings")
        for key in {*properties, *required}:
            if len(key) > self._bounds.name or UNWRITABLE & set(key):
                what = f"a name above {self._bounds.name} or with controls"
                raise Unfit(below(path, "properties"), what)
            self.longest = max(self.longest, len(key))
        more = schema.get("additionalProperties", True)
        if more is True:
            if not properties:
                what = "an object needs properties, or additionalProperties with a type"
                raise Unfit(path, what)
            more = False
        if more is not False:
            more = self.schema(more, below(path, "additionalProperties"))
            if not properties and self._bounds.properties is not None:
                schema.setdefault("maxProperties", self._bounds.properties)
        elif missing := [key for key in required if key not in properties]:
            raise Unfit(below(path, "required"), f"{missing[0]!r} is not among the properties")
        if properties:
            schema["properties"] = properties
        schema["additionalProperties"] = more


def _kinds(schema: Schema, path: str) -> list[str]:
    """Return the types that a schema names or implies by its keywords."""
    kinds = schema.get("type")
    if kinds is None:
        kinds = [
            kind
            for kind, keys in BY_TYPE.items()
            if kind != "integer" and any(key in schema for key in keys)
        ]
        combined = any(key in schema for key in (*COMBINATIONS, "$ref"))
        if not kinds and not combined:
            raise Unfit(path, "needs a type, enum, const, $ref, anyOf, oneOf or allOf")
        # Without a type these keywords allow everything else too. Inside an allOf that is normal.
        if not combined:
            schema["type"] = kinds[0] if len(kinds) == 1 else kinds
        return kinds
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not kinds or not all(str(kind) in BY_TYPE for kind in kinds):
        raise Unfit(below(path, "type"), f"must be among {', '.join(BY_TYPE)}")
    return list(kinds)


def _count(schema: Schema, key: str, path: str) -> int | None:
    """Return a length or a number of items, and write it as a compiler wants it."""
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        raise Unfit(below(path, key), "must be a whole number, 0 or more")
    schema[key] = int(value)
    return int(value)
