"""Which JSON Schemas a mask can honour, and the bounds that make every answer finite.

`bounded` walks a schema before the compiler sees it. It only ever narrows: an answer that is legal
under what it returns is legal under what was given. What would be ignored is refused, by path.
The limits keep a compilation within a second or two: what lies beyond them was seen to run for
minutes (`multipleOf` of several large numbers) or to overflow the stack (thousands of references).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from agentd.model_server.schema_parts import (
    COMBINATIONS,
    Schema,
    check_intersections,
    conjuncts,
    escaped,
    refuse,
)

STRING_MAX = 1000  # characters, where the schema has no maxLength
STRING_CEILING = 20_000  # characters, whatever the schema says
ITEMS_MAX = 100
PROPERTIES_MAX = 20  # of an object with free keys
INTEGER_MAX = 1_000_000_000_000_000  # exact in a double
NUMBER_STEP = 0.0001  # digits of a number without multipleOf would never end
DEPTH_MAX = 64
SCHEMAS_MAX = 2000  # in one schema, itself included
VALUES_MAX = 2000  # in all enums together, those inside of others counted
NAME_MAX = 1000  # characters of a property's name
PATTERN_MAX = 500  # characters
MULTIPLE_MAX = 1000  # of multipleOf as a whole number; the automaton has a state per remainder

ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
    # OpenAPI's hint which branch of a union a value belongs to; the branches say it themselves.
    | {"readOnly", "writeOnly", "discriminator"}
)
BY_TYPE = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required", "additionalProperties", "maxProperties"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
BY_TYPE["number"] = BY_TYPE["integer"]
KNOWN = frozenset({"type", "enum", "const", "$ref", "$defs", "definitions", *COMBINATIONS}).union(
    *BY_TYPE.values()
)
# Of fixed length by themselves; a maxLength beside them would only slow the compiler.
FIXED_FORMATS = frozenset({"date", "time", "date-time", "uuid", "ipv4"})
UNWRITABLE = frozenset(map(chr, range(0x20))) - frozenset("\n\r\t")  # without \u escapes


@dataclass
class Bounded:
    """A schema ready to compile, and what was learned on the way."""

    schema: Schema
    longest_string: int = 64  # characters; keys and enums count too
    nodes: dict[str, Schema] = field(default_factory=dict)  # every schema in it, by JSON pointer
    values: int = 0  # of enums
    multiples: set[int] = field(default_factory=set)


def bounded(schema: object) -> Bounded:
    """Check a schema and bound it.

    Raises:
        Refused: with the JSON pointer of what cannot be honoured.
    """
    result = Bounded({})
    result.schema = _walk(schema, "", 0, result)
    check_intersections(result.nodes)
    if any(len(conjuncts(node)) > 1 for node in result.nodes.values()):
        together = math.lcm(*result.multiples)  # as if all were of one value
        if together > MULTIPLE_MAX:
            raise refuse("", f"multipleOf: together {together}, above {MULTIPLE_MAX}")
    return result


def _walk(node: object, path: str, depth: int, result: Bounded) -> Schema:
    if depth > DEPTH_MAX:
        raise refuse(path, f"nests deeper than {DEPTH_MAX}")
    if not isinstance(node, dict):
        raise refuse(path, "must be an object; true and false bound nothing")
    if len(result.nodes) >= SCHEMAS_MAX:
        raise refuse(path, f"more than {SCHEMAS_MAX} schemas in one")
    schema: Schema = {key: value for key, value in node.items() if key not in ANNOTATIONS}
    result.nodes[path] = schema
    for key in schema:
        if key not in KNOWN:
            raise refuse(f"{path}/{escaped(key)}", "this keyword cannot be honoured")
    for key in ("$defs", "definitions"):
        if key in schema:
            schema[key] = _each(schema[key], f"{path}/{key}", depth, result)
    for key in COMBINATIONS:
        if key in schema:
            schema[key] = _all(schema[key], f"{path}/{key}", depth, result)
    if "enum" in schema or "const" in schema:
        _values(schema, path, result)
        return schema
    kinds = _kinds(schema, path)
    if not kinds and not _combined(schema):
        raise refuse(path, "needs a type, enum, const, $ref, anyOf, oneOf or allOf")
    for kind in kinds:
        _BOUND[kind](schema, path, depth, result)
    return schema


def _combined(schema: Schema) -> bool:
    return any(key in schema for key in (*COMBINATIONS, "$ref"))


def _values(schema: Schema, path: str, result: Bounded) -> None:
    for key, values in (("enum", schema.get("enum", [])), ("const", [schema.get("const")])):
        if key not in schema:
            continue
        if not isinstance(values, list) or not values:
            raise refuse(f"{path}/enum", "must be a list with at least one value")
        for value in values:
            _literal(value, f"{path}/{key}", 0, result)


def _literal(value: object, path: str, depth: int, result: Bounded) -> None:
    """Check that a value of an enum can be written."""
    if depth > DEPTH_MAX:
        raise refuse(path, f"nests deeper than {DEPTH_MAX}")
    result.values += 1
    if result.values > VALUES_MAX:
        raise refuse(path, f"more than {VALUES_MAX} values in one schema")
    if isinstance(value, str):
        if UNWRITABLE & set(value):
            raise refuse(path, "a control character, which no answer can hold")
        if len(value) > STRING_CEILING:
            raise refuse(path, f"a text of more than {STRING_CEILING} characters")
        result.longest_string = max(result.longest_string, len(value))
    elif isinstance(value, dict):
        for key, inner in value.items():
            _literal(key, path, depth + 1, result)
            _literal(inner, path, depth + 1, result)
    elif isinstance(value, list):
        for inner in value:
            _literal(inner, path, depth + 1, result)


def _kinds(schema: Schema, path: str) -> list[str]:
    """Return the types that a schema names or implies by its keywords."""
    kinds = schema.get("type")
    if kinds is None:
        kinds = [
            kind
            for kind, keys in BY_TYPE.items()
            if kind != "integer" and any(key in schema for key in keys)
        ]
        # Without a type these keywords allow everything else too. Inside an allOf that is normal.
        if kinds and not _combined(schema):
            schema["type"] = kinds[0] if len(kinds) == 1 else kinds
        return kinds
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not kinds or not all(str(kind) in BY_TYPE for kind in kinds):
        raise refuse(f"{path}/type", f"must be among {', '.join(BY_TYPE)}")
    return list(kinds)


def _count(schema: Schema, key: str, path: str) -> int | None:
    """Return a length or a number of items, and write it as the compiler wants it."""
    value = schema.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        raise refuse(f"{path}/{key}", "must be a whole number, 0 or more")
    schema[key] = int(value)
    return int(value)


def _string(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    least, most = _count(schema, "minLength", path) or 0, _count(schema, "maxLength", path)
    pattern = schema.get("pattern", "")
    if not isinstance(pattern, str) or len(pattern) > PATTERN_MAX:
        raise refuse(f"{path}/pattern", f"must be a text of at most {PATTERN_MAX} characters")
    if str(schema.get("format")) in FIXED_FORMATS:
        return
    most = min(max(STRING_MAX, least) if most is None else most, STRING_CEILING)
    if least > most:
        raise refuse(f"{path}/minLength", f"{least} is more than the maximum of {most}")
    schema["maxLength"] = most
    result.longest_string = max(result.longest_string, most)


def _integer(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    for key in BY_TYPE["integer"] & schema.keys():
        if isinstance(schema[key], bool) or not isinstance(schema[key], int | float):
            raise refuse(f"{path}/{key}", "must be a number")
    if "multipleOf" in schema:
        result.multiples.add(_multiple(schema["multipleOf"], path))
    if "exclusiveMinimum" not in schema:
        schema.setdefault("minimum", -INTEGER_MAX)
    if "exclusiveMaximum" not in schema:
        schema.setdefault("maximum", INTEGER_MAX)


def _multiple(value: float, path: str) -> int:
    """Return multipleOf without its decimal point: 0.25 is 25, and 12 is 12."""
    number = Decimal(str(value)).normalize()
    exponent = number.as_tuple().exponent
    whole = number.scaleb(-exponent) if isinstance(exponent, int) and exponent < 0 else number
    if not 0 < whole <= MULTIPLE_MAX:
        raise refuse(f"{path}/multipleOf", f"must be above 0, its digits at most {MULTIPLE_MAX}")
    return int(whole)


def _decimal(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    _integer(schema, path, depth, result)
    if "integer" not in schema.get("type", ()):
        schema.setdefault("multipleOf", NUMBER_STEP)


def _array(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    least, most = _count(schema, "minItems", path) or 0, _count(schema, "maxItems", path)
    if "prefixItems" in schema:
        schema["prefixItems"] = _all(schema["prefixItems"], f"{path}/prefixItems", depth, result)
        schema.setdefault("items", False)
    if "items" not in schema:
        raise refuse(path, "an array needs items")
    if schema["items"] is not False:
        schema["items"] = _walk(schema["items"], f"{path}/items", depth + 1, result)
    schema["maxItems"] = max(ITEMS_MAX, least) if most is None else most


def _object(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    _count(schema, "maxProperties", path)
    properties = _each(schema.get("properties", {}), f"{path}/properties", depth, result)
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        raise refuse(f"{path}/required", "must be a list of strings")
    for key in {*properties, *required}:
        if len(key) > NAME_MAX or UNWRITABLE & set(key):
            raise refuse(f"{path}/properties", f"a name above {NAME_MAX} or with controls")
        result.longest_string = max(result.longest_string, len(key))
    more = schema.get("additionalProperties", False if properties else None)
    if more is True or (more is None and not properties):
        if not properties:
            raise refuse(path, "an object needs properties, or additionalProperties with a type")
        more = False
    if more is not False:
        more = _walk(more, f"{path}/additionalProperties", depth + 1, result)
        if not properties:
            schema.setdefault("maxProperties", PROPERTIES_MAX)
    elif missing := [key for key in required if key not in properties]:
        raise refuse(f"{path}/required", f"{missing[0]!r} is not among the properties")
    schema["properties"] = properties
    schema["additionalProperties"] = more


def _plain(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    """Boolean and null need no bounds."""


_BOUND = {
    "string": _string,
    "integer": _integer,
    "number": _decimal,
    "array": _array,
    "object": _object,
    "boolean": _plain,
    "null": _plain,
}


def _each(node: object, path: str, depth: int, result: Bounded) -> Schema:
    if not isinstance(node, Mapping):
        raise refuse(path, "must be an object")
    return {
        key: _walk(value, f"{path}/{escaped(key)}", depth + 1, result)
        for key, value in node.items()
    }


def _all(node: object, path: str, depth: int, result: Bounded) -> list[Schema]:
    if not isinstance(node, list) or not node:
        raise refuse(path, "must be a list with at least one schema")
    return [_walk(value, f"{path}/{n}", depth + 1, result) for n, value in enumerate(node)]
