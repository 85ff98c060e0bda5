"""What a JSON Schema may say, and the sizes that each side sets."""

from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

COMBINATIONS = ("anyOf", "oneOf", "allOf")
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
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "additionalItems"})
    | {"uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"},
    "object": frozenset({"properties", "required", "additionalProperties", "maxProperties"})
    | {"minProperties", "patternProperties", "propertyNames", "unevaluatedProperties"}
    | {"dependentRequired", "dependentSchemas", "dependencies"},
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
BY_TYPE["number"] = BY_TYPE["integer"]
KEYWORDS = frozenset(
    {"type", "enum", "const", "$ref", "$defs", "definitions", *COMBINATIONS}
    | {"not", "if", "then", "else", "$dynamicRef", "$recursiveRef"}
).union(*BY_TYPE.values())


@dataclass(frozen=True)
class Bounds:
    """The sizes of one side.

    The first ones close what a schema leaves open, so that every answer ends. Beyond the ceilings a
    schema is refused: they keep a compilation within a second or two. What lies beyond was seen to
    run for minutes (`multipleOf` of several large numbers) or to overflow the stack (thousands of
    references). They are the same for both sides, so that what one accepts the other compiles.
    """

    string: int  # characters, where there is no maxLength
    items: int  # where there is no maxItems; ten times that where there is
    integer: int  # of numbers: between minus this and this
    any_depth: int  # of arrays and objects in a value that may be anything
    properties: int | None = None  # of an object with free keys alone; None: left open
    step: float | None = None  # of a number without multipleOf, whose digits would never end
    foreign: bool = False  # for servers that know uniqueItems and cannot follow references

    bytes: int = 262_144  # of the schema, written as JSON
    depth: int = 64  # of schemas, and again of values in an enum
    schemas: int = 2000  # in one schema, itself included
    alternatives: int = 500  # for one value, combinations of unions multiplied out
    values: int = 2000  # in all enums together, those inside of others counted
    characters: int = 20_000  # of a string, whatever the schema says
    name: int = 1000  # characters of a property's name
    pattern: int = 500  # characters
    multiple: int = 1000  # of multipleOf as a whole number; an automaton has a state per remainder
    lists: int = 500  # of different values of an enum, where items must be unique


# Of our own model server: what an admission accepts, it compiles. Whole numbers are exact in a
# double.
MODEL_SERVER = Bounds(
    string=1000, items=100, integer=10**15, properties=20, step=0.0001, any_depth=3
)


class Unfit(Exception):
    """A schema that cannot be honoured: the JSON pointer (RFC 6901) of the place, and why."""

    def __init__(self, pointer: str, reason: str) -> None:
        super().__init__(f"{pointer or '/'}: {reason}")
        self.pointer = pointer
        self.reason = reason


def below(pointer: str, *keys: object) -> str:
    """Return the JSON pointer of what lies under these keys."""
    names = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
    return "/".join([pointer, *names])
