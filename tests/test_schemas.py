"""Any schema: what people write is accepted, what is answered is legal, and so is every end."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from agentd.json_schema.bounds import Unfit
from agentd.json_schema.writing import bounded
from agentd.model_server.calls import Refused
from agentd.model_server.grammar.examples import example
from agentd.model_server.grammar.grammar import BOUNDS, Grammars
from agentd.model_server.grammar.spelling import number_ends
from agentd.model_server.language.language import ModelLanguage
from agentd.model_server.tool_calls import MARKS, CallReader, OfferedTool, ToolChoice, encoded
from tests.schemas.corpus import KINDS
from tests.schemas.trial import attempt, validator

COUNT = 12  # schemas of each kind; `python -m tests.schemas` tries more
WORDED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.fixture(scope="module")
def language(tiny_model: Path) -> ModelLanguage:
    return ModelLanguage(tiny_model)


@pytest.fixture(scope="module")
def grammars(language: ModelLanguage) -> Grammars:
    return language.grammars


def allows(grammars: Grammars, schema: Any, text: str) -> bool:
    matcher: Any = grammars.mask(schema)._matcher
    tokens = grammars.tokenizer.tokenize_str(text)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def ended(grammars: Grammars, schema: Any, begun: str) -> str:
    """Return an answer that was cut here, with its end."""
    mask = grammars.mask(schema)
    tokens = grammars.tokenizer.tokenize_str(begun)
    for token in tokens:
        mask.accept(token)
    return b"".join(map(grammars.bytes_of, [*tokens, *mask.close()])).decode()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_ends_are_legal(language: ModelLanguage, kind: str) -> None:
    """Under the schema as it was given, whatever is sampled and wherever it is cut."""
    draw = random.Random(kind)
    trials = [attempt(language, KINDS[kind](draw), draw) for _ in range(COUNT)]
    assert not [text for trial in trials for text in trial.illegal]
    alone = [trial for trial in trials if trial.alone]
    taken = sum(not trial.refused for trial in alone)
    assert taken >= 0.9 * len(alone), [trial.refused for trial in alone if trial.refused]


RECURSIVE: dict[str, Any] = {
    "$defs": {
        "n": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "kids": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}
                    },
                    "required": ["kids"],
                },
                {
                    "type": "object",
                    "properties": {"leaf": {"type": "null"}},
                    "required": ["leaf"],
                },
            ]
        }
    },
    "type": "array",
    "items": {"$ref": "#/$defs/n"},
}


@pytest.mark.parametrize(
    ("schema", "begun", "whole"),
    [
        (RECURSIVE, "[{", '[{"leaf":null}]'),
        (RECURSIVE, '[{"kids":[{"k', '[{"kids":[{"kids":[{"leaf":null}]}]}]'),
        ({"type": "integer", "minimum": 0, "multipleOf": 7}, "1", "14"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0", "0.1"),
        ({"type": "string", "pattern": "\\.json$"}, '"a.j', '"a.json"'),
        ({"anyOf": [WORDED, {"type": "array", "items": WORDED}]}, '[{"a":"x', '[{"a":"x"}]'),
        (
            {**WORDED, "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["b"]},
            '{"a":1,',
            '{"a":1,"b":2}',
        ),
        ({"type": "object", "additionalProperties": {"type": "null"}}, '{"a', '{"a":null}'),
        ({"type": "object", "patternProperties": {"\\.js$": {"const": 1}}}, '{"a.', '{"a.js":1}'),
        (
            {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "minItems": 2},
            "[1",
            "[1,2]",
        ),
    ],
)
def test_an_end_is_the_shortest(grammars: Grammars, schema: Any, begun: str, whole: str) -> None:
    """Whatever the names are, and whichever of a union was begun."""
    assert ended(grammars, schema, begun) == whole


def test_a_schema_without_an_end_is_refused(grammars: Grammars) -> None:
    """A node that requires a node, by whatever way."""
    endless = {
        "$defs": {"n": {**WORDED, "properties": {"a": {"$ref": "#/$defs/n"}}, "required": ["a"]}}
    }
    with pytest.raises(Refused, match="no answer of 2000 tokens or fewer"):
        grammars.mask({**endless, "$ref": "#/$defs/n"})


@pytest.mark.parametrize(
    ("schema", "legal", "illegal"),
    [
        ({"exclusiveMinimum": 0, "maximum": 0.5}, "0.0001", "0"),
        ({"type": "number", "minimum": 1e-9, "maximum": 3e-9}, "0.000000002", "0"),
        (
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            str(2**53 - 1),
            str(2**53),
        ),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 3}, "2", "3"),
        ({"enum": ["a\x7f\x01", "b"]}, '"a\\u007f\\u0001"', '"a"'),
        ({"enum": ["\ufdd0\ufdef"]}, '"\ufdd0\ufdef"', '"\ufdd1"'),
        ({"type": "object"}, '{"x":{"y":[1,{"z":null}]}}', "1"),
        (True, "[[[[null]]]]", "[[[[[null]]]]]"),
        ({"type": "object", "patternProperties": {"^x-": {"const": 1}}}, '{"x-a":1}', '{"y":1}'),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 1}, '{"b":1}', "{}"),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, "[2,1]", "[1,1]"),
        ({"type": "object", "propertyNames": {"enum": ["a"]}}, '{"a":1}', '{"b":1}'),
        ({"type": "array", "contains": {"const": 3}}, "[3,1]", "[1]"),
        ({"not": {"type": ["string", "null"]}}, "1", "null"),
        ({"enum": ["a", "b"], "not": {"const": "a"}}, '"b"', '"a"'),
        ({"type": "string", "format": "poem", "nullable": True, "x-a": 1}, '"x"', "null"),
        ({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": False}, '"a"', '"ab"'),
        ({**WORDED, "dependentRequired": {"a": ["b"]}}, '{"a":"","b":1}', '{"a":""}'),
        ({"allOf": [WORDED], "unevaluatedProperties": False}, '{"a":""}', '{"b":1}'),
        ({"items": [{"const": 1}], "type": "array", "additionalItems": False}, "[1]", "[1,1]"),
        ({"$id": "a", "$defs": {"x": {"$anchor": "y", "const": 1}}, "$ref": "a#y"}, "1", "2"),
    ],
)
def test_what_people_write_is_honoured(
    grammars: Grammars, schema: Any, legal: str, illegal: str
) -> None:
    """Keyword by keyword: what is legal can be said, and what is not cannot."""
    assert allows(grammars, schema, legal)
    assert not allows(grammars, schema, illegal)


def tagged(tag: str, **more: Any) -> dict[str, Any]:
    properties = {"tag": {"const": tag}, **more}
    return {"type": "object", "properties": properties, "required": ["tag"]}


@pytest.mark.parametrize(
    ("branches", "legal", "illegal"),
    [
        (
            [{**WORDED, "required": ["a"]}, {**WORDED, "required": ["a", "b"]}],
            '{"a":""}',
            '{"a":"","b":1}',
        ),
        ([tagged("x", a={}), tagged("y")], '{"tag":"x","a":1}', '{"tag":"y","a":1}'),
        ([{"type": "string"}, {"type": "array", "items": {"type": "string"}}], '["a"]', "[1]"),
        (
            [{"type": "array", "items": {"type": kind}} for kind in ("null", "boolean")],
            "[null]",
            "[]",
        ),
        ([{"enum": [1, 2]}, {"enum": [2, 3]}], "3", "2"),
        ([{"required": ["a"], **WORDED}, {"required": ["b"]}], '{"a":""}', '{"a":"","b":1}'),
    ],
)
def test_one_of_means_one(
    grammars: Grammars, branches: list[Any], legal: str, illegal: str
) -> None:
    """What is answered fits one branch as it was given, and no other."""
    schema = {"oneOf": branches}
    assert validator(schema).is_valid(json.loads(legal))
    assert allows(grammars, schema, legal)
    assert not allows(grammars, schema, illegal)


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "string"}, {"type": "string", "maxLength": 3}],
        [{"type": "number", "multipleOf": 3}, {"type": "number", "multipleOf": 5}],
        [WORDED, WORDED],
    ],
)
def test_one_of_that_cannot_be_told_apart_is_refused(branches: list[Any]) -> None:
    """Rather than answered with what may fit two of them; the place is named."""
    with pytest.raises(Unfit, match="cannot be told apart") as caught:
        bounded({"type": "object", "properties": {"v": {"oneOf": branches}}}, BOUNDS)
    assert caught.value.pointer == "/properties/v/oneOf"


def test_one_refused_tool_is_named(language: ModelLanguage) -> None:
    """By its number, and the place in its schema."""
    bad = {"type": "object", "properties": {"p": {"type": "string", "pattern": "(?=x)"}}}
    tools = [OfferedTool("good", {"type": "object"}), OfferedTool("bad", bad)]
    with pytest.raises(Refused) as refused:
        language.call_mask(tools, ToolChoice(("good", "bad"), required=True))
    assert refused.value.param == "tools"
    place = "tools.1.function.parameters of 'bad' at /properties/p/pattern"
    assert refused.value.message.startswith(f"{place}: the schema cannot be compiled: look")


def test_a_call_that_was_cut_ends_by_its_own_tools_schema(language: ModelLanguage) -> None:
    """Each tool's arguments have ends of their own, written as the model writes JSON."""
    need = {**WORDED, "properties": {"z": {"const": 1}, "b": {}}, "required": ["z", "b"]}
    tools = [OfferedTool("f", WORDED), OfferedTool("g", need)]
    mask = language.call_mask(tools, ToolChoice(("f", "g"), required=True))
    tokens = mask.forced()
    for token in language.grammars.tokenizer.tokenize_str('g", "arguments": {'):
        mask.accept(token)
        tokens.append(token)
    reader = CallReader(language.form)
    part = reader.feed(language.decode([*tokens, *mask.close()]).decode(), last=True)
    assert (reader.name, part.arguments) == ("g", '{"z": 1, "b": 0}')


def test_marks_are_in_no_text() -> None:
    """A mark's byte is in no UTF-8, and noncharacters are text like any other."""
    assert all(len(encoded(mark)) == 1 for mark in MARKS)
    for mark in MARKS:
        with pytest.raises(UnicodeDecodeError):
            encoded(mark).decode()
    assert CallReader(None).feed(f"\ufdd0{MARKS[0]}\ufdef").content == "\ufdd0\ufdef"


@pytest.mark.parametrize(
    ("begun", "low", "high", "step", "ends"),
    [
        ("", 0, 9, 1, ["0"]),
        ("", -5, -3, 1, ["-3"]),
        ("-", -5, 7, 1, ["1"]),
        ("12", 1000, 2000, 1, ["00"]),
        ("1", 0, 10**9, 7, ["4"]),
        ("0.", -5, 7, 0.0001, ["0"]),
        ("1.50", 0.25, 7, 0.25, [""]),
        ("9", 0, 10, 20, []),
    ],
)
def test_numbers_end_on_their_grid(
    begun: str, low: float, high: float, step: float, ends: list[str]
) -> None:
    """By the fewest digits more."""
    schema = {"type": "number", "minimum": low, "maximum": high, "multipleOf": step}
    assert list(number_ends(begun, schema)) == ends


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("\\.json$", ".json"),
        ("^https?://.+\\.git$", "http://a.git"),
        ("^[^/a]+/[\\w.]{2}$", "0/aa"),
        ("(abc|d)[3-5]?", "d"),
        ("^(?!x)b", None),
    ],
)
def test_a_pattern_has_an_example(pattern: str, text: str | None) -> None:
    """The shortest of its parts, one after another."""
    assert example(pattern) == text
