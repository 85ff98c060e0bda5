"""Random JSON Schemas of the kind that a mask honours, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

NAMES = st.sampled_from(["a", "b", "tool", "path", "é", "x y", 'q"', "n/m", "~", "<|im_end|>"])
TEXTS = st.text('abcXYZ019 "\\/{}[]:,.<>&%\n\t\r\x7féß日🙂\u2028\ue000', max_size=12)
LITERALS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**9), 10**9), TEXTS, st.sampled_from([0.5, -2.25])
)
PATTERNS = st.sampled_from(
    ["^[a-c]{2,4}$", "^(on|off)$", "^\\d{4}-\\d\\d$", "[0-9]", "^x?y+$", '^[^"]*$', "a|b"]
)
FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri"]


@st.composite
def strings(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": "string"}
    if draw(st.booleans()):
        least = draw(st.integers(0, 4))
        schema["maxLength"] = least + draw(st.integers(0, 30))
        if draw(st.booleans()):
            schema["minLength"] = least
    elif draw(st.booleans()):
        schema["pattern"] = draw(PATTERNS)
    elif draw(st.booleans()):
        schema["format"] = draw(st.sampled_from(FORMATS))
    return schema


@st.composite
def numbers(draw: st.DrawFn) -> Schema:
    schema: Schema = {"type": draw(st.sampled_from(["integer", "number"]))}
    least = draw(st.integers(-(10**6), 10**6))
    span = draw(st.integers(0, 10**6))
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["minimum", "exclusiveMinimum"]))] = least
    if draw(st.booleans()):
        schema[draw(st.sampled_from(["maximum", "exclusiveMaximum"]))] = least + span + 2
    if draw(st.integers(0, 3)) == 0:
        schema["multipleOf"] = draw(st.sampled_from([1, 2, 5, 7, 0.5, 0.25, 12]))
    return schema


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    if draw(st.integers(0, 3)) == 0:
        schema: Schema = {"type": "object", "additionalProperties": draw(inner)}
        if draw(st.booleans()):
            schema["maxProperties"] = draw(st.integers(0, 3))
        return schema
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    properties = {name: draw(inner) for name in names}
    schema = {"type": "object", "properties": properties}
    required = [name for name in names if draw(st.booleans())]
    if required:
        schema["required"] = required
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.booleans())
    if draw(st.booleans()):
        schema.update(title="T", description="D", default={})
    return schema


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    schema: Schema = {"type": "array"}
    if draw(st.integers(0, 4)) == 0:
        schema["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=3))
        if draw(st.booleans()):
            schema["items"] = draw(inner)
    else:
        schema["items"] = draw(inner)
    if draw(st.booleans()):
        schema["minItems"] = draw(st.integers(0, 2))
    if draw(st.booleans()):
        schema["maxItems"] = schema.get("minItems", 0) + draw(st.integers(0, 3))
    return schema


def combined(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Return unions, and intersections that make sense."""
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"oneOf": some}),
        st.tuples(numbers(), st.integers(-5, 5)).map(
            lambda pair: {"allOf": [pair[0], {"minimum": pair[1]}]}
        ),
        inner.map(lambda one: {"allOf": [one]}),
        st.tuples(inner, st.sampled_from(["anyOf", "oneOf"])).map(
            lambda pair: {pair[1]: [{"type": "null"}, pair[0]]}
        ),
    )


def _extended(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(objects(inner), arrays(inner), combined(inner))


LEAVES: st.SearchStrategy[Schema] = st.one_of(
    strings(),
    numbers(),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}]),
    st.lists(LITERALS, min_size=1, max_size=4, unique_by=repr).map(lambda some: {"enum": some}),
    LITERALS.map(lambda one: {"const": one}),
    st.just({"const": {"b": [1, {"a": None}]}}),
)


@st.composite
def documents(draw: st.DrawFn) -> Schema:
    """A schema, often with definitions that refer to one another, and to themselves."""
    inner = st.recursive(LEAVES, _extended, max_leaves=6)
    if draw(st.booleans()):
        return draw(inner)
    node = {
        "type": "object",
        "properties": {
            "value": draw(inner),
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        },
        "required": ["value", "next"],
    }
    leaf = {"type": "array", "items": {"$ref": "#/$defs/value"}, "maxItems": 2}
    return {
        "$defs": {"node": node, "value": draw(inner)},
        "type": "object",
        "properties": {"list": {"$ref": "#/$defs/node"}, "leaf": leaf},
        "required": ["list"],
    }
