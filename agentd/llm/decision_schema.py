"""The mask's JSON Schema of a union, derived from its Pydantic types.

What the server needs to make every answer legal and finite: properties in their declared order
with `tool` first, all required, none besides, no `$ref`, and every string, integer and array
bounded. Pydantic models of the arguments narrow these bounds.
"""

from collections.abc import Mapping

from pydantic import BaseModel

from agentd.errors import ConfigError
from agentd.json_schema.bounds import ANNOTATIONS, COMBINATIONS, Bounds, Schema, Unfit
from agentd.json_schema.writing import bounded

# External servers know keywords that our own does not, and trip over `multipleOf` and
# `maxProperties`, which nobody asked for.
BOUNDS = Bounds(string=200, items=20, integer=10**9, any_depth=1, foreign=True)
DROPPED = ANNOTATIONS | {"format"}  # a decision's strings are held to lengths and patterns
LISTS = (*COMBINATIONS, "prefixItems")


def member_schema(model: type[BaseModel], narrow: type[BaseModel] | None = None) -> Schema:
    """Return one decision class's schema, narrowed by the model of its arguments.

    Raises:
        ConfigError: `tool` is not its first field, it is recursive or cannot be bounded, or
            `narrow` names a field that it does not have.
    """
    name = model.__name__
    schema = _plain(model)
    properties: Schema = schema["properties"]
    first = next(iter(properties), None)
    if first != "tool" or "const" not in properties["tool"]:
        raise ConfigError(
            f"class {name} does not begin with its tool's name",
            hint=f'make its first field a literal: tool "{_snake(name)}"',
        )
    if narrow is not None:
        wanted = _plain(narrow)["properties"]
        if model.model_config.get("extra") == "allow":  # `@@dynamic`: these are its fields
            properties |= {key: value for key, value in wanted.items() if key not in properties}
            schema["required"] = list(properties)
        unknown = wanted.keys() - properties.keys()
        if unknown:
            raise ConfigError(
                f"the arguments of {name} name {', '.join(sorted(unknown))}, "
                "which the class does not have",
                hint=f"its fields are {', '.join(k for k in properties if k != 'tool')}",
            )
        for key, value in wanted.items():
            properties[key] = _narrowed(properties[key], value)
    try:
        return bounded(schema, BOUNDS).schema
    except Unfit as error:
        raise ConfigError(
            f"no answer can be held to class {name}: {error}",
            hint="change that field, or the model of its arguments",
        ) from error


def union_schema(members: Mapping[str, Schema]) -> Schema:
    """Return the schema of "one of these": what one decision may be."""
    schemas = list(members.values())
    if len(schemas) == 1:
        return schemas[0]
    shared = {name: part for one in schemas for name, part in one.get("$defs", {}).items()}
    found = {"anyOf": [{k: v for k, v in one.items() if k != "$defs"} for one in schemas]}
    return {**found, "$defs": shared} if shared else found


def _plain(model: type[BaseModel]) -> Schema:
    """Return a model's schema in the few spellings that the rest knows, without annotations.

    Each `$ref` is replaced by what it names: llguidance could follow them, other servers may not.
    """
    raw = model.model_json_schema()
    definitions = raw.get("$defs", {})

    def plain(node: Schema, inside: tuple[str, ...]) -> Schema:
        if "$ref" in node:
            key = node["$ref"].rpartition("/")[2]
            if key in inside:
                raise ConfigError(
                    f"class {model.__name__} contains itself through {key}",
                    hint="a decision must be finite: use a list of a flat class",
                )
            return plain(definitions[key], (*inside, key))
        found = {key: value for key, value in node.items() if key not in DROPPED and key != "$defs"}
        for key, value in found.items():
            if key == "properties":
                found[key] = {name: plain(item, inside) for name, item in value.items()}
            elif key in LISTS:
                found[key] = [plain(item, inside) for item in value]
            elif key in ("items", "additionalProperties") and isinstance(value, dict):
                found[key] = plain(value, inside)
        if "properties" in found:
            found |= {"required": list(found["properties"]), "additionalProperties": False}
        if len(found.get("allOf", ())) == 1:
            found = {**found.pop("allOf")[0], **found}
        options = found.get("anyOf", ())
        if options and all("const" in item for item in options):
            del found["anyOf"]
            found["enum"] = [item["const"] for item in options]
        return found

    return plain(raw, ())


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


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
