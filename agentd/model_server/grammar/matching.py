"""Whether whole values fit the plain schemas that `json_schema` writes: which way was taken."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from agentd.json_schema.bounds import Schema
from agentd.json_schema.shapes import identity


class Matching:
    """Matches values against one document's schemas.

    Texts are not searched for patterns: an answer that has come so far is legal in one of the
    ways, and the grammar itself has the last word.
    """

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def value(self, value: Any, schema: Schema) -> bool:
        """Say whether a whole value fits."""
        if "$ref" in schema:
            return self.value(value, self._definitions[schema["$ref"].removeprefix("#/$defs/")])
        if "anyOf" in schema:
            return any(self.value(value, one) for one in schema["anyOf"])
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            return identity(value) in map(identity, values)
        match schema["type"]:
            case "null":
                return value is None
            case "boolean":
                return isinstance(value, bool)
            case "string":
                return isinstance(value, str) and _long_enough(value, schema)
            case "array":
                return isinstance(value, list) and self._list(value, schema)
            case "object":
                return isinstance(value, dict) and self._object(value, schema)
        return _is_number(value, schema)

    def items(self, values: Sequence[Any], schema: Schema) -> bool:
        """Say whether these may be a list's first items."""
        prefix, most = schema.get("prefixItems", ()), schema.get("maxItems")
        if most is not None and len(values) > most:
            return False
        for at, value in enumerate(values):
            item = prefix[at] if at < len(prefix) else schema["items"]
            if item is False or not self.value(value, item):
                return False
        return True

    def properties(self, pairs: Sequence[tuple[str, Any]], schema: Schema) -> bool:
        """Say whether these may be an object's first properties, in this order."""
        names = [name for name, inner in schema.get("properties", {}).items() if inner]
        must = [name for name in names if name in schema.get("required", ())]
        at = -1
        for name, value in pairs:
            if not any(self.value(value, inner) for inner in self.of_name(schema, name)):
                return False
            now = names.index(name) if name in names else len(names)
            if any(at < names.index(one) < now for one in must):
                return False
            at = now
        return True

    def of_name(self, schema: Schema, name: str) -> Iterator[Schema]:
        """Yield what a property of a name may be."""
        if name in schema.get("properties", {}):
            inner = schema["properties"][name]
            yield from [inner] if inner else []
        else:
            yield from self.free(schema)

    def free(self, schema: Schema) -> Iterator[Schema]:
        """Yield what a property may be whose name is not told."""
        yield from schema.get("patternProperties", {}).values()
        if more := schema.get("additionalProperties"):
            yield more

    def _list(self, value: list[Any], schema: Schema) -> bool:
        return len(value) >= schema.get("minItems", 0) and self.items(value, schema)

    def _object(self, value: Mapping[str, Any], schema: Schema) -> bool:
        enough = value.keys() >= set(schema.get("required", ()))
        enough = enough and len(value) >= schema.get("minProperties", 0)
        return enough and self.properties(list(value.items()), schema)


def _long_enough(value: str, schema: Schema) -> bool:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    return len(value) >= least and (most is None or len(value) <= most)


def _is_number(value: Any, schema: Schema) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    number = Fraction(str(value))
    step = Fraction(str(schema["multipleOf"])) if "multipleOf" in schema else None
    if step is None and schema["type"] == "integer":
        step = Fraction(1)
    return schema["minimum"] <= value <= schema["maximum"] and not (step and number % step)
