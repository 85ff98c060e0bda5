"""Which JSON Schemas a mask can honour, and the bounds that make every answer finite.

`bounded` walks a schema before the compiler sees it. It only ever narrows: an answer that is legal
under what it returns is legal under what was given. What would be ignored is refused, by path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentd.model_server.calls import Refused

Schema = dict[str, Any]

STRING_MAX = 1000  # characters, where the schema has no maxLength
STRING_CEILING = 20_000  # characters, whatever the schema says
ITEMS_MAX = 100
PROPERTIES_MAX = 20  # of an object with free keys
INTEGER_MAX = 1_000_000_000_000_000  # exact in a double
NUMBER_STEP = 0.0001  # digits of a number without multipleOf would never end
DEPTH_MAX = 64

ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
    | {"readOnly", "writeOnly"}
)
COMBINATIONS = ("anyOf", "oneOf", "allOf")
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


@dataclass
class Bounded:
    """A schema ready to compile, and the longest string it allows, in characters."""

    schema: Schema
    longest_string: int = 64  # keys and enums count too


def bounded(schema: object) -> Bounded:
    """Check a schema and bound it.

    Raises:
        Refused: with the JSON pointer of what cannot be honoured.
    """
    result = Bounded({})
    result.schema = _walk(schema, "", 0, result)
    return result


def refuse(path: str, why: str) -> Refused:
    """Return the error for one place of a schema."""
    return Refused(f"{path or '/'}: {why}", code="unsupported_schema", param="response_format")


def _walk(node: object, path: str, depth: int, result: Bounded) -> Schema:
    if depth > DEPTH_MAX:
        raise refuse(path, f"nests deeper than {DEPTH_MAX}")
    if not isinstance(node, dict):
        raise refuse(path, "must be an object; true and false bound nothing")
    schema: Schema = {key: value for key, value in node.items() if key not in ANNOTATIONS}
    for key in schema:
        if key not in KNOWN:
            raise refuse(f"{path}/{_escaped(key)}", "this keyword cannot be honoured")
    for key in ("$defs", "definitions"):
        if key in schema:
            schema[key] = _each(schema[key], f"{path}/{key}", depth, result)
    for key in COMBINATIONS:
        if key in schema:
            schema[key] = _all(schema[key], f"{path}/{key}", depth, result)
    if "$ref" in schema:
        if not (isinstance(schema["$ref"], str) and schema["$ref"].startswith("#")):
            raise refuse(f"{path}/$ref", "only references inside the schema, beginning with #")
        return schema
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        if not isinstance(values, list) or not values:
            raise refuse(f"{path}/enum", "must be a list with at least one value")
        longest = max((len(value) for value in values if isinstance(value, str)), default=0)
        result.longest_string = max(result.longest_string, longest)
        return schema
    kinds = _kinds(schema, path)
    if not kinds:
        if any(key in schema for key in COMBINATIONS):
            return schema
        raise refuse(path, "needs a type, enum, const, $ref, anyOf, oneOf or allOf")
    for kind in kinds:
        _BOUND[kind](schema, path, depth, result)
    return schema


def _kinds(schema: Schema, path: str) -> list[str]:
    """Return the types that a schema names or implies by its keywords."""
    kinds = schema.get("type")
    if kinds is None:
        kinds = [
            kind
            for kind, keys in BY_TYPE.items()
            if kind != "number" and any(key in schema for key in keys)
        ]
        # Without a type these keywords allow everything else too. Inside an allOf that is normal.
        if kinds and not any(key in schema for key in COMBINATIONS):
            schema["type"] = kinds[0] if len(kinds) == 1 else kinds
        return kinds
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not kinds or not all(str(kind) in BY_TYPE for kind in kinds):
        raise refuse(f"{path}/type", f"must be among {', '.join(BY_TYPE)}")
    return list(kinds)


def _number(schema: Schema, key: str, path: str) -> float | None:
    value = schema.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise refuse(f"{path}/{key}", "must be a number")
    return value


def _string(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    for key in ("minLength", "maxLength"):
        _number(schema, key, path)
    if str(schema.get("format")) in FIXED_FORMATS:
        return
    least = schema.get("minLength", 0)
    most = min(schema.get("maxLength", max(STRING_MAX, least)), STRING_CEILING)
    if least > most:
        raise refuse(f"{path}/minLength", f"{least} is more than the maximum of {most}")
    schema["maxLength"] = most
    result.longest_string = max(result.longest_string, int(most))


def _integer(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    for key in BY_TYPE["integer"]:
        _number(schema, key, path)
    if "exclusiveMinimum" not in schema:
        schema.setdefault("minimum", -INTEGER_MAX)
    if "exclusiveMaximum" not in schema:
        schema.setdefault("maximum", INTEGER_MAX)


def _decimal(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    _integer(schema, path, depth, result)
    if "integer" not in schema.get("type", ()):
        schema.setdefault("multipleOf", NUMBER_STEP)


def _array(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    for key in ("minItems", "maxItems"):
        _number(schema, key, path)
    if "prefixItems" in schema:
        schema["prefixItems"] = _all(schema["prefixItems"], f"{path}/prefixItems", depth, result)
        schema.setdefault("items", False)
    if "items" not in schema:
        raise refuse(path, "an array needs items")
    if schema["items"] is not False:
        schema["items"] = _walk(schema["items"], f"{path}/items", depth + 1, result)
    least = schema.get("minItems", 0)
    schema.setdefault("maxItems", max(ITEMS_MAX, least))


def _object(schema: Schema, path: str, depth: int, result: Bounded) -> None:
    _number(schema, "maxProperties", path)
    properties = _each(schema.get("properties", {}), f"{path}/properties", depth, result)
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        raise refuse(f"{path}/required", "must be a list of strings")
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
    longest = max((len(key) for key in properties), default=0)
    result.longest_string = max(result.longest_string, longest)


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
        key: _walk(value, f"{path}/{_escaped(key)}", depth + 1, result)
        for key, value in node.items()
    }


def _all(node: object, path: str, depth: int, result: Bounded) -> list[Schema]:
    if not isinstance(node, list) or not node:
        raise refuse(path, "must be a list with at least one schema")
    return [_walk(value, f"{path}/{n}", depth + 1, result) for n, value in enumerate(node)]


def _escaped(key: str) -> str:
    """Write a key as a JSON pointer does (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
