"""The mask's JSON Schema of a union, derived from its Pydantic types.

What the server needs to make every answer legal and finite: properties in their declared order
with `tool` first, all required, none besides, no `$ref`, and every string, integer and array
bounded. Pydantic models of the arguments narrow these bounds.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agentd.errors import ConfigError

STRING_MAX = 200  # characters
INTEGER_MAX = 1_000_000_000
ITEMS_MAX = 20
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "deprecated", "format"})

Schema = dict[str, Any]


def member_schema(model: type[BaseModel], narrow: type[BaseModel] | None = None) -> Schema:
    """Return one decision class's schema, narrowed by the model of its arguments.

    Raises:
        ConfigError: `tool` is not its first field, it is recursive, or `narrow` names a field that
            it does not have.
    """
    name = model.__name__
    raw = model.model_json_schema()
    schema = _tidy(_inline(raw, raw.get("$defs", {}), (), name))
    properties: Schema = schema["properties"]
    first = next(iter(properties), None)
    if first != "tool" or "const" not in properties["tool"]:
        raise ConfigError(
            f"class {name} does not begin with its tool's name",
            hint=f'make its first field a literal: tool "{_snake(name)}"',
        )
    if narrow is not None:
        raw = narrow.model_json_schema()
        wanted = _tidy(_inline(raw, raw.get("$defs", {}), (), narrow.__name__))["properties"]
        unknown = wanted.keys() - properties.keys()
        if unknown:
            raise ConfigError(
                f"the arguments of {name} name {', '.join(sorted(unknown))}, "
                "which the class does not have",
                hint=f"its fields are {', '.join(k for k in properties if k != 'tool')}",
            )
        for key, value in wanted.items():
            properties[key] = _narrowed(properties[key], value)
    return _bounded(schema)


def union_schema(members: Mapping[str, Schema]) -> Schema:
    """Return the schema of "one of these": what one decision may be."""
    schemas = list(members.values())
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _inline(node: Any, defs: Mapping[str, Any], inside: tuple[str, ...], name: str) -> Any:
    """Replace each `$ref` by what it names: llguidance could follow them, other servers may not."""
    if isinstance(node, list):
        return [_inline(item, defs, inside, name) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        key = reference.rsplit("/", 1)[-1]
        if key in inside:
            raise ConfigError(
                f"class {name} contains itself through {key}",
                hint="a decision must be finite: use a list of a flat class",
            )
        return _inline(defs[key], defs, (*inside, key), name)
    return {
        key: _inline(value, defs, inside, name) for key, value in node.items() if key != "$defs"
    }


def _tidy(node: Schema) -> Schema:
    """Drop annotations and reduce Pydantic's spellings to the few that the rest knows."""
    node = {key: value for key, value in node.items() if key not in ANNOTATIONS}
    if "properties" in node:
        node["properties"] = {key: _tidy(value) for key, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            node[key] = _tidy(node[key])
    if "allOf" in node and len(node["allOf"]) == 1:
        node = {**_tidy(node.pop("allOf")[0]), **node}
    if "anyOf" in node:
        options = [_tidy(item) for item in node.pop("anyOf")]
        if all("const" in item for item in options):
            return {**node, "enum": [item["const"] for item in options]}
        return {**node, "anyOf": options}
    return node


def _narrowed(base: Schema, narrow: Schema) -> Schema:
    """Return `base` with the bounds of `narrow`; null stays allowed where `base` allows it."""
    if "anyOf" in base:
        options = [o if o == {"type": "null"} else _narrowed(o, narrow) for o in base["anyOf"]]
        return {**base, "anyOf": options}
    if "anyOf" in narrow:
        same = [o for o in narrow["anyOf"] if o.get("type") == base.get("type")]
        return _narrowed(base, same[0]) if same else base
    bounds = {key: value for key, value in narrow.items() if key not in ("type", "items")}
    for exclusive, inclusive, step in (
        ("exclusiveMinimum", "minimum", 1),
        ("exclusiveMaximum", "maximum", -1),
    ):
        if base.get("type") == "integer" and exclusive in bounds:
            bounds[inclusive] = bounds.pop(exclusive) + step
    merged = {**base, **bounds}
    if "items" in base and "items" in narrow:
        merged["items"] = _narrowed(base["items"], narrow["items"])
    return merged


def _bounded(node: Schema) -> Schema:
    """Bound what is not bounded yet, all the way down, and close every object."""
    if "anyOf" in node:
        return {**node, "anyOf": [_bounded(item) for item in node["anyOf"]]}
    if "const" in node or "enum" in node:
        return node
    kind = node.get("type")
    if kind == "string":
        return {"maxLength": STRING_MAX, **node}
    if kind in ("integer", "number"):
        lower = {} if "exclusiveMinimum" in node else {"minimum": -INTEGER_MAX}
        upper = {} if "exclusiveMaximum" in node else {"maximum": INTEGER_MAX}
        return {**lower, **upper, **node}
    if kind == "array":
        return {"maxItems": ITEMS_MAX, **node, "items": _bounded(node.get("items", {}))}
    if kind == "object" and "properties" in node:
        properties = {key: _bounded(value) for key, value in node["properties"].items()}
        return {
            **node,
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    if kind == "object":  # a BAML map
        return {**node, "additionalProperties": _bounded(node.get("additionalProperties") or {})}
    return node


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
