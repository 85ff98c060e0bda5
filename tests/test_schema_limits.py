"""What may not slip through the masks: odd patterns, endless parts, limits beyond all bounds."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from agentd.json_schema.bounds import Unfit
from agentd.json_schema.patterns import without_controls
from agentd.json_schema.writing import bounded
from agentd.model_server.grammar.grammar import BOUNDS, Grammars
from agentd.model_server.language.language import ModelLanguage
from tests.test_schemas import allows, ended, tagged


@pytest.fixture(scope="module")
def grammars(tiny_model: Path) -> Grammars:
    return ModelLanguage(tiny_model).grammars


ENDLESS: dict[str, Any] = {
    "type": "object",
    "properties": {"next": {"$ref": "#/$defs/endless"}},
    "required": ["next"],
}
REF = {"$ref": "#/$defs/endless"}


@pytest.mark.parametrize(
    ("pattern", "legal", "illegal"),
    [
        ('^[^"]*$', "a\\\\b", 'a\\"b'),
        ("^[^/\\\\]+$", 'a\\"b', "a\\\\b"),
        ("^[^-a]$", "b", "-"),
        ("^[^]a]$", "b", "]"),
        ("^[\\x00-\\x1f]+$", "\\n", '\\"'),
        ("^[\\u0000-!]$", "!", '\\"'),
    ],
)
def test_a_class_takes_no_quote_that_it_bars(
    grammars: Grammars, pattern: str, legal: str, illegal: str
) -> None:
    """In a value, and in a name."""
    named = {"type": "object", "patternProperties": {pattern: {"const": 1}}}
    for text, legal_text in ((legal, True), (illegal, False)):
        assert allows(grammars, {"type": "string", "pattern": pattern}, f'"{text}"') is legal_text
        assert allows(grammars, named, f'{{"{text}":1}}') is legal_text


def test_what_is_no_class_of_characters_stays() -> None:
    """Brackets that are escaped, and classes that have no controls."""
    for pattern in (r"\[^a\]", "[a-z]+", r"[\\\]^]", r"^\S+$"):
        assert without_controls(pattern) == pattern


@pytest.mark.parametrize(
    ("schema", "legal", "illegal"),
    [
        ({"type": "object", "properties": {"a": REF, "b": {}}}, '{"b":1}', '{"a'),
        ({"type": "array", "items": REF}, "[]", "[{"),
        ({"type": "array", "prefixItems": [{"const": 1}, REF]}, "[1]", "[1,{"),
        ({"anyOf": [REF, {"const": 1}]}, "1", "{"),
        ({"type": "object", "additionalProperties": REF}, "{}", '{"a'),
        ({"type": "object", "patternProperties": {"^a": REF}}, "{}", '{"a'),
    ],
)
def test_nothing_leads_into_what_has_no_end(
    grammars: Grammars, schema: Any, legal: str, illegal: str
) -> None:
    """An optional part that requires itself is left out."""
    schema = {**schema, "$defs": {"endless": ENDLESS}}
    assert allows(grammars, schema, legal)
    matcher: Any = grammars.mask(schema)._matcher
    tokens = grammars.tokenizer.tokenize_str(illegal)
    assert matcher.validate_tokens(tokens) < len(tokens)
    assert ended(grammars, schema, "")


@pytest.mark.parametrize(
    ("schema", "legal", "illegal"),
    [
        ({"type": "object", "propertyNames": False}, "{}", '{"a":1}'),
        (
            {"enum": [{"a": 1}, {"b": 1}], "properties": {"a": {}}, "unevaluatedProperties": False},
            '{"a":1}',
            '{"b":1}',
        ),
        ({"enum": [[1], [], "a"], "unevaluatedItems": False}, "[]", "[1]"),
        (
            {"allOf": [{"enum": [{"a": 1}, 2]}], "unevaluatedProperties": False},
            "2",
            '{"a":1}',
        ),
        ({"type": "array", "prefixItems": [{"const": 1}], "minItems": 2}, "[1,2]", "[1]"),
        ({"type": "object", "properties": {"a": {"not": {}}, "b": {}}}, '{"b":1}', '{"a":1}'),
    ],
)
def test_seldom_keywords_are_honoured(
    grammars: Grammars, schema: Any, legal: str, illegal: str
) -> None:
    assert allows(grammars, schema, legal)
    assert not allows(grammars, schema, illegal)


LISTED = {
    "$id": "list",
    "items": {"$dynamicRef": "#item"},
    "$defs": {"a": {"$dynamicAnchor": "item"}},
}


@pytest.mark.parametrize(
    ("schema", "pointer", "reason"),
    [
        ({"type": "number", "minimum": 1e300, "maximum": 1e300}, "", "written exactly"),
        ({"type": "integer", "minimum": 2**63, "maximum": 2**64}, "", "written exactly"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "", "no value fits"),
        (
            {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}], "type": "integer"},
            "",
            "multiples of 988027",
        ),
        ({"type": "array", "minItems": 10**30}, "", "more than 10000 items"),
        (
            {
                "type": "array",
                "items": {"enum": list(range(600))},
                "uniqueItems": True,
                "minItems": 1,
            },
            "/uniqueItems",
            "more than 500 different lists",
        ),
        (
            {"patternProperties": {"a": {"type": "null"}, "b": {"const": 1}}, "minProperties": 1},
            "/patternProperties/a",
            "all other patterns",
        ),
        ({"$ref": "#/a/" + "9" * 5000, "a": [{}]}, "/$ref", "in this document"),
        (
            {"$ref": "#/$defs/l", "$defs": {"l": LISTED, "b": {"$dynamicAnchor": "item"}}},
            "/$defs/l/items",
            "a dynamic reference",
        ),
        (
            {"enum": ["\u00e9"], "pattern": r"^\w$"},
            "",
            "dialects",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_place(
    schema: Any, pointer: str, reason: str
) -> None:
    """And by what is true of it."""
    with pytest.raises(Unfit, match=reason) as caught:
        bounded(schema, BOUNDS)
    assert caught.value.pointer == pointer


KINDS_OF_K: dict[str, Any] = {
    "type": "object",
    "properties": {"k": {"enum": ["a", "b"]}, "x": {"const": 1}},
    "required": ["k"],
}
IS_A = {"properties": {"k": {"const": "a"}}}


@pytest.mark.parametrize(
    ("schema", "legal", "illegal"),
    [
        (
            {**KINDS_OF_K, "if": IS_A, "then": {"required": ["x"]}},
            ['{"k":"b"}', '{"k":"a","x":1}'],
            '{"k":"a"}',
        ),
        (
            {**KINDS_OF_K, "if": IS_A, "then": {"required": ["x"]}, "else": {"maxProperties": 1}},
            ['{"k":"b"}', '{"k":"a","x":1}'],
            '{"k":"b","x":1}',
        ),
        (
            {**KINDS_OF_K, "required": [], "if": IS_A, "then": {"required": ["x"]}},
            ['{"x":1}', '{"k":"b"}', '{"k":"a","x":1}'],
            "{}",
        ),
        ({**KINDS_OF_K, "not": IS_A}, ['{"k":"b","x":1}'], '{"k":"a"}'),
        (
            {
                "type": "object",
                "properties": {"k": {"type": "string", "maxLength": 3}},
                "required": ["k"],
                "if": IS_A,
                "then": {"properties": {"x": {"const": 1}}, "required": ["x"]},
            },
            ['{"k":"b","x":1}', '{"k":"a","x":1}'],
            '{"k":"a"}',
        ),
    ],
)
def test_a_condition_leaves_the_choice(
    grammars: Grammars, schema: Any, legal: list[str], illegal: str
) -> None:
    """Of the values of an enum that are tested none is lost, and nothing is forced."""
    assert all(allows(grammars, schema, text) for text in legal)
    assert not allows(grammars, schema, illegal)


@pytest.mark.parametrize("key", ["oneOf", "anyOf"])
def test_many_kinds_that_contain_each_other_take_little(key: str) -> None:
    """A mere reference is written once; each of 150 kinds with a tag is told from all others."""
    kinds = {
        f"k{number}": tagged(
            f"k{number}", left={"$ref": "#/$defs/any"}, right={"$ref": "#/$defs/any"}
        )
        for number in range(150)
    }
    every = {key: [{"$ref": f"#/$defs/{name}"} for name in kinds]}
    schema = {"$ref": "#/$defs/any", "$defs": {**kinds, "any": every}}
    began = time.process_time()
    written = bounded(schema, BOUNDS)
    assert time.process_time() - began < 3
    assert len(json.dumps(written.schema)) < 2 * len(json.dumps(schema)) + 20_000
