"""One walker for both sides: what a schema leaves open is bounded, what is too much is refused."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings

from agentd.json_schema.bounds import Bounds, Unfit
from agentd.json_schema.writing import bounded
from agentd.llm import decision_schema
from agentd.model_server.grammar import grammar
from tests.schemas.drawn import documents

BOUNDS = Bounds(string=9, items=3, integer=50, properties=2, step=0.05, any_depth=1)
SIDES = [decision_schema.BOUNDS, grammar.BOUNDS]
OPEN = {"string", "items", "integer", "any_depth", "properties", "step", "foreign"}  # its own


EIGHT = {"exclusiveMinimum": None, "minimum": 8, "maximum": 50}


@pytest.mark.parametrize(
    ("schema", "more"),
    [
        ({"type": "string"}, {"maxLength": 9}),
        ({"type": "string", "minLength": 40}, {"maxLength": 40}),
        ({"type": "string", "maxLength": 30_000}, {"maxLength": BOUNDS.characters}),
        ({"type": "string", "format": "date"}, {}),
        ({"type": "integer", "minimum": 7}, {"maximum": 50}),
        ({"type": "integer", "exclusiveMinimum": 7}, EIGHT),
        ({"type": "number"}, {"minimum": -50, "maximum": 50, "multipleOf": 0.05}),
        ({"type": "array", "items": {"type": "null"}}, {"maxItems": 3}),
        ({"type": "array", "items": {"type": "null"}, "minItems": 8}, {"maxItems": 8}),
        ({"type": "object", "additionalProperties": {"type": "null"}}, {"maxProperties": 2}),
        ({"minimum": 1, "maximum": 2}, {"type": "number", "multipleOf": 0.0005}),
        ({"type": "null", "title": "T", "readOnly": True}, {"title": None, "readOnly": None}),
    ],
)
def test_what_is_left_open_is_bounded(schema: dict[str, Any], more: dict[str, Any]) -> None:
    """A minimum above the side's own bound raises it; what the schema says itself stays."""
    wanted = {key: value for key, value in {**schema, **more}.items() if value is not None}
    assert bounded(schema, BOUNDS).schema == wanted


def test_the_schema_given_stays_as_it_was() -> None:
    """The same tools come with every request: a walk writes into nothing of the caller's."""
    schema = {"type": "array", "items": {"type": "object", "properties": {"a": {"minLength": 1}}}}
    before = repr(schema)
    assert bounded(schema, BOUNDS).schema != schema
    assert repr(schema) == before


@settings(max_examples=60, deadline=None, derandomize=True)
@given(schema=documents())
def test_what_one_side_takes_the_other_takes_too(schema: dict[str, Any]) -> None:
    """An agent is accepted by the rules that its calls meet: the ceilings are the same."""
    try:
        ours = bounded(schema, decision_schema.BOUNDS).schema
    except Unfit:
        with pytest.raises(Unfit):
            bounded(schema, grammar.BOUNDS)
        return
    bounded(ours, decision_schema.BOUNDS)
    bounded(ours, grammar.BOUNDS)


def test_the_sides_have_the_same_ceilings() -> None:
    """They differ in what they close, and in nothing that is refused."""
    one, other = SIDES
    ceilings = [field.name for field in fields(Bounds) if field.name not in OPEN]
    assert all(getattr(one, name) == getattr(other, name) for name in ceilings)


@pytest.mark.parametrize("bounds", SIDES)
@pytest.mark.parametrize(
    ("schema", "pointer", "reason"),
    [
        ({"type": "array", "items": {"type": "string", "maxLength": -1}}, "/items/maxLength", "0"),
        ({"properties": {"a/b~": {"type": "x"}}}, "/properties/a~1b~0/type", "must be among"),
        ({"anyOf": [{"type": "null"}, {"items": 5}]}, "/anyOf/1/items", "must be a schema"),
        ({"enum": ["a" * 30_000]}, "/enum", "20000 characters"),
        ({"type": "string", "pattern": "a" * 501}, "/pattern", "500 characters"),
        ({"type": "null", "description": "x" * 300_000}, "", "longer than 262144 bytes"),
    ],
)
def test_what_cannot_be_honoured_is_named(
    bounds: Bounds, schema: dict[str, Any], pointer: str, reason: str
) -> None:
    """The place as a JSON pointer, and the reason; both in the error's text."""
    with pytest.raises(Unfit, match=reason) as caught:
        bounded(schema, bounds)
    assert caught.value.pointer == pointer
    assert str(caught.value).startswith(pointer or "/: ")


def test_unique_items_pass_where_other_servers_know_them() -> None:
    """A decision's schema goes to servers of all kinds; our own answers for what it masks."""
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    assert bounded(schema, decision_schema.BOUNDS).schema["uniqueItems"] is True
    with pytest.raises(Unfit, match="only be honoured for items that an enum names") as caught:
        bounded(schema, grammar.BOUNDS)
    assert caught.value.pointer == "/uniqueItems"


@pytest.mark.parametrize("bounds", SIDES)
def test_deep_nesting_is_refused(bounds: Bounds) -> None:
    """A schema of a thousand levels is refused, not recursed into."""
    schema: Any = {"type": "null"}
    for _ in range(1000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(Unfit, match="nests deeper"):
        bounded(schema, bounds)
