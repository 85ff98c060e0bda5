"""Schemas as people write them: tools, configuration files, APIs, Pydantic's, and odd ones."""

# ruff: noqa: E501  a schema on one line is read more easily

import datetime
import random
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, Field, create_model

Schema = dict[str, Any]
Make = Callable[[random.Random], Schema]

WORDS = [
    "id",
    "name",
    "path",
    "query",
    "limit",
    "user",
    "tags",
    "kind",
    "value",
    "items",
    "unit",
    "city",
    "start",
    "end",
    "mode",
    "size",
]
DEFS = ["Item", "User", "Error", "Node", "Page"]
TEXTS = ["", "a", "on", "off", "é", "日本", 'q"', "back\\slash", "tab\t", "x y", "<|im_end|>", "🙂"]
ODD = ["\x7f", "\ufdd0", "\ufdef", "\x01\x1f", "\u2028", "\ue000", "\b\f"]
PATTERNS = [
    "^[a-z]+$",
    "^\\d{4}-\\d\\d$",
    "[0-9]",
    "^(a|b)c*$",
    "^[A-Z]{2,5}$",
    "^x-",
    "\\.json$",
    '^[^"/\\\\]+$',
]
FORMATS = ["date", "date-time", "email", "uri", "uuid", "ipv4", "int64", "password", "binary"]
NOTES: list[Schema] = [
    {"description": "what it is"}, {"title": "T"}, {"example": "x"}, {"examples": ["a"]},
    {"nullable": True}, {"x-order": 3}, {"$comment": "c"}, {"deprecated": True}, {"default": None},
    {"markdownDescription": "*d*"}, {"readOnly": True}, {"xml": {"name": "n"}}, {"x-note": {"a": []}},
]  # fmt: skip


def chance(draw: random.Random, share: float) -> bool:
    return draw.random() < share


def noted(draw: random.Random, schema: Schema, share: float = 0.4) -> Schema:
    """Add annotations, which say nothing of values."""
    return {**schema, **(draw.choice(NOTES) if chance(draw, share) else {})}


def text(draw: random.Random) -> Schema:
    schema: Schema = {"type": "string"}
    if chance(draw, 0.25):
        schema["enum"] = draw.sample(TEXTS, draw.randint(1, 4))
    elif chance(draw, 0.2):
        schema["format"] = draw.choice(FORMATS)
    elif chance(draw, 0.15):
        schema["pattern"] = draw.choice(PATTERNS)
    elif chance(draw, 0.2):
        schema["minLength"] = draw.randint(0, 3)
        if chance(draw, 0.5):
            schema["maxLength"] = draw.choice([3, 10, 255, 100_000])
    return schema


def number(draw: random.Random) -> Schema:
    schema: Schema = {"type": draw.choice(["integer", "number"])}
    if chance(draw, 0.4):
        key = draw.choice(["minimum", "exclusiveMinimum"])
        schema[key] = draw.choice([0, 1, -5, 0.5, -(2**63), 1e-7, 10**12, -0.25])
    if chance(draw, 0.4):
        key = draw.choice(["maximum", "exclusiveMaximum"])
        low = max(schema.get("minimum", 0), schema.get("exclusiveMinimum", 0))
        schema[key] = low + draw.choice([1, 0.5, 100, 2**31, 2**63 - 1, 1e18, 2.75, 1e-6])
    if chance(draw, 0.1):
        schema["multipleOf"] = draw.choice([1, 2, 5, 7, 0.5, 0.01, 12, 100])
    if chance(draw, 0.1):
        schema["format"] = draw.choice(["int32", "int64", "float", "double"])
    return schema


def leaf(draw: random.Random) -> Schema:
    kind = draw.random()
    return text(draw) if kind < 0.5 else number(draw) if kind < 0.8 else {"type": "boolean"}


def part(draw: random.Random, depth: int) -> Schema:
    """Return a property's schema as tools and APIs have them."""
    if depth and chance(draw, 0.2):
        schema: Schema = {"type": "array"}
        if chance(draw, 0.9):
            schema["items"] = part(draw, depth - 1)
        if chance(draw, 0.2):
            schema["minItems"] = draw.randint(0, 2)
        return noted(draw, schema)
    if depth and chance(draw, 0.25):
        return noted(draw, record(draw, depth - 1))
    if chance(draw, 0.06):
        return noted(draw, draw.choice([{}, {"type": "object"}, {"type": ["string", "null"]}]))
    if chance(draw, 0.06):
        return {"anyOf": [leaf(draw), {"type": "null"}], "default": None}
    return noted(draw, leaf(draw))


def record(draw: random.Random, depth: int, names: list[str] | None = None) -> Schema:
    names = draw.sample(names or WORDS, draw.randint(0, 5))
    schema: Schema = {"type": "object", "properties": {name: part(draw, depth) for name in names}}
    if chance(draw, 0.7):
        schema["required"] = [name for name in names if chance(draw, 0.5)]
    if chance(draw, 0.3):
        schema["additionalProperties"] = draw.choice([False, False, True, {}, {"type": "string"}])
    return schema


def tool(draw: random.Random) -> Schema:
    """Return what a function takes, as function calling and MCP have it."""
    schema = record(draw, 2)
    if chance(draw, 0.3):
        schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    if chance(draw, 0.1):
        schema["properties"]["meta"] = {"type": "object", "additionalProperties": {}}
    return noted(draw, schema)


def config(draw: random.Random) -> Schema:
    """Return the schema of a configuration file, with definitions, patterns and choices."""
    names = draw.sample(DEFS, 3)
    definitions = {name: record(draw, 1) for name in names}
    schema = record(draw, 1)
    properties = schema["properties"]
    reference = {"$ref": f"#/definitions/{draw.choice(names)}"}
    properties["ref"] = draw.choice(
        [reference, {**reference, "description": "d"}, {"allOf": [reference]}]
    )
    properties["either"] = {draw.choice(["oneOf", "anyOf"]): [
        {"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "boolean"}
    ][: draw.randint(2, 3)]}  # fmt: skip
    if chance(draw, 0.3):
        properties["env"] = {
            "type": "object",
            "additionalProperties": {"type": ["string", "number"]},
        }
    if chance(draw, 0.3):
        properties["byName"] = {
            "patternProperties": {"^[a-z_]+$": reference, "^[0-9]": {"type": "null"}}
        }
    if chance(draw, 0.2):
        schema["patternProperties"] = {"^x-": {}}
        schema["additionalProperties"] = False
    if chance(draw, 0.2):
        keys = draw.sample(list(properties), min(2, len(properties)))
        schema[draw.choice(["anyOf", "oneOf"])] = [{"required": [key]} for key in keys]
    if chance(draw, 0.15):
        schema["minProperties"] = draw.randint(1, 2)
    if chance(draw, 0.1):
        schema["uniqueItems"] = True
    if chance(draw, 0.1):
        schema["dependencies"] = {draw.choice(WORDS): [draw.choice(WORDS)]}
    if chance(draw, 0.3):
        properties["list"] = {
            "type": "array",
            "uniqueItems": True,
            "items": {"enum": ["a", "b", "c"]},
        }
    draft = {"$schema": "http://json-schema.org/draft-07/schema#", "$id": "https://e.org/c.json"}
    return {**draft, **schema, "definitions": definitions}


def api(draw: random.Random) -> Schema:
    """Return a request or answer of an API: shared parts, extended ones, kinds told by a tag."""
    kinds = draw.sample(["cat", "dog", "cow"], draw.randint(2, 3))
    definitions: Schema = {"Base": record(draw, 1)}
    for kind in kinds:
        own = record(draw, 1, ["a", "b", "c", "d", "e"])
        own["properties"] = {"type": {"type": "string", "const": kind}, **own["properties"]}
        own["required"] = ["type", *own.get("required", [])]
        own.pop("additionalProperties", None)
        base = {"$ref": "#/$defs/Base"}
        definitions[kind] = {"allOf": [base, own]} if chance(draw, 0.3) else own
    schema = record(draw, 2)
    tagged = {"oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}
    tagged["discriminator"] = {"propertyName": "type"}  # type: ignore[assignment]
    schema["properties"]["pet"] = tagged
    if chance(draw, 0.3):
        schema["properties"]["data"] = {"allOf": [{"$ref": "#/$defs/Base"}], "nullable": True}
    return {"$defs": definitions, **schema}


TYPES: list[Any] = [
    str, int, float, bool, list[str], dict[str, Any], dict[str, int], Any, Literal["a", "b"],
    datetime.datetime, uuid.UUID, tuple[int, str], Annotated[int, Field(ge=0, lt=10)],
    Annotated[str, Field(max_length=20)], Annotated[list[int], Field(min_length=1)], str | int,
    Annotated[float, Field(gt=0, le=0.5)], Annotated[str, Field(pattern="^[a-z]+$")], list[Any],
    list[dict[str, str]], set[Literal["x", "y"]],
]  # fmt: skip


def pydantic(draw: random.Random) -> Schema:
    """Return the schema of Pydantic models made at random: unions with a tag, trees, options."""

    def model(name: str, types: list[Any], **first: Any) -> type[BaseModel]:
        fields: dict[str, Any] = dict(first)
        for word in draw.sample(WORDS, draw.randint(1, 4)):
            kind = draw.choice(types)
            optional = chance(draw, 0.3)
            fields[word] = (Optional[kind], None) if optional else (kind, ...)  # noqa: UP045
        return create_model(name, **fields)

    inner: Any = model("Inner", TYPES)
    cat: Any = model("Cat", TYPES, sort=(Literal["cat"], ...))
    dog: Any = model("Dog", [*TYPES, inner], sort=(Literal["dog"], ...))
    tagged = Annotated[cat | dog, Field(discriminator="sort")]
    made = model("Made", [*TYPES, inner, list[inner], tagged, list[tagged], cat | dog])
    return made.model_json_schema()


def tree(draw: random.Random) -> Schema:
    """Return what contains itself, often in a way whose first choice has no end."""
    ref = {"$ref": "#/$defs/n"}
    forms: list[Schema] = [
        {"anyOf": [{"type": "object", "properties": {"kids": {"type": "array", "items": ref, "minItems": 1}}, "required": ["kids"]},
                   {"type": "object", "properties": {"leaf": {"type": "null"}}, "required": ["leaf"]}]},
        {"type": "object", "properties": {"a": {"anyOf": [ref, {"type": "integer"}]}, "b": ref}, "required": ["a"]},
        {"anyOf": [{"type": "array", "items": ref, "minItems": 2, "maxItems": 3}, {"const": "end"}, {"type": "integer", "minimum": 100, "multipleOf": 7}]},
        {"type": "object", "additionalProperties": ref, "properties": {"v": text(draw)}, "required": ["v"]},
        {"oneOf": [{"type": "object", "properties": {"op": {"const": "and"}, "of": {"type": "array", "items": ref, "minItems": 2}}, "required": ["op", "of"]},
                   {"type": "object", "properties": {"op": {"const": "not"}, "of": ref}, "required": ["op", "of"]}, {"type": "string"}]},
    ]  # fmt: skip
    schema = (
        ref
        if chance(draw, 0.3)
        else {"type": "array", "items": ref, "minItems": draw.randint(0, 2)}
    )
    return {"$defs": {"n": draw.choice(forms)}, **schema}


def odd(draw: random.Random, depth: int = 3) -> Schema:
    """Return a schema of any keywords, sensible or not."""
    schema: Schema = {}
    if chance(draw, 0.7):
        schema = leaf(draw) if chance(draw, 0.6) else record(draw, 1)
    if chance(draw, 0.15):
        schema.pop("type", None)
    if chance(draw, 0.15):
        schema["enum"] = draw.sample([*TEXTS, *ODD, 0, 1.0, 2.5, None, True, [1], {"a": "b"}, 1e300, 2**60], 4)  # fmt: skip
    if not depth:
        return noted(draw, schema)

    def sub() -> Schema:
        return odd(draw, depth - 1)

    extra: list[Callable[[], Schema]] = [
        lambda: {"anyOf": [sub() for _ in range(draw.randint(1, 3))]},
        lambda: {"oneOf": [sub() for _ in range(draw.randint(1, 3))]},
        lambda: {"oneOf": [record(draw, 1), record(draw, 1)]},
        lambda: {"allOf": [sub() for _ in range(draw.randint(1, 2))]},
        lambda: {"not": draw.choice([{"type": "null"}, {"const": "a"}, {"required": ["id"]}, sub()])},
        lambda: {"if": sub(), "then": sub(), "else": sub()},
        lambda: {"type": "array", "prefixItems": [sub(), sub()], "items": draw.choice([False, {}, sub()])},
        lambda: {"type": "array", "items": sub(), "minItems": draw.randint(0, 2), "maxItems": draw.randint(1, 3)},
        lambda: {"type": "array", "items": sub(), "contains": sub()},
        lambda: {"type": "array", "uniqueItems": True, "items": {"enum": draw.sample(range(9), draw.randint(1, 7))}},
        lambda: {"type": "object", "additionalProperties": sub(), "minProperties": draw.randint(0, 2), "maxProperties": draw.randint(1, 3)},
        lambda: {"type": "object", "propertyNames": draw.choice([{"pattern": "^[a-z]+$"}, {"enum": ["a", "b"]}, {"maxLength": 3}])},
        lambda: {"patternProperties": {draw.choice(PATTERNS): sub()}, "type": "object"},
        lambda: {"dependentRequired": {"id": ["name"]}, **record(draw, 1)},
        lambda: {"dependentSchemas": {"id": sub()}, **record(draw, 1)},
        lambda: {"allOf": [record(draw, 1)], "properties": {"z": sub()}, "unevaluatedProperties": False},
        lambda: {**record(draw, 1), "minProperties": draw.randint(0, 3), "maxProperties": draw.randint(1, 3)},
        lambda: {"type": draw.sample(["string", "number", "null", "object", "array"], 2)},
    ]  # fmt: skip
    for _ in range(draw.randint(0, 2)):
        schema = {**schema, **draw.choice(extra)()}
    return noted(draw, schema)


KINDS: dict[str, Make] = {
    "tools": tool, "configuration": config, "APIs": api, "Pydantic": pydantic, "trees": tree, "odd": odd,
}  # fmt: skip
