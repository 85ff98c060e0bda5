"""The mask's schema: what a server needs to make every answer legal and finite."""

import enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from agentd.errors import ConfigError
from agentd.llm.decision_schema import BOUNDS, member_schema, union_schema


class Severity(str, enum.Enum):  # noqa: UP042  as BAML generates it
    LOW = "LOW"
    HIGH = "HIGH"


class Part(BaseModel):
    line: int
    text: str


class Finding(BaseModel):
    tool: Literal["finding"]
    severity: Severity = Field(description="how bad")
    kind: Literal["a"] | Literal["b"]
    parts: list[Part]
    start: int | None = None
    sure: bool
    score: float


def test_every_value_is_bounded_and_every_object_closed() -> None:
    """No answer may be endless: strings, integers and arrays get bounds, objects no more keys."""
    schema = member_schema(Finding)
    integer = {"minimum": -BOUNDS.integer, "maximum": BOUNDS.integer, "type": "integer"}
    assert schema == {
        "type": "object",
        "properties": {
            "tool": {"const": "finding", "type": "string"},
            "severity": {"enum": ["LOW", "HIGH"], "type": "string"},
            "kind": {"enum": ["a", "b"], "type": "string"},
            "parts": {
                "type": "array",
                "maxItems": BOUNDS.items,
                "items": {
                    "type": "object",
                    "properties": {
                        "line": integer,
                        "text": {"type": "string", "maxLength": BOUNDS.string},
                    },
                    "required": ["line", "text"],
                    "additionalProperties": False,
                },
            },
            "start": {"anyOf": [integer, {"type": "null"}]},
            "sure": {"type": "boolean"},
            "score": {"minimum": -BOUNDS.integer, "maximum": BOUNDS.integer, "type": "number"},
        },
        "required": ["tool", "severity", "kind", "parts", "start", "sure", "score"],
        "additionalProperties": False,
    }


def test_order_is_the_declared_one() -> None:
    """The mask writes properties in order, so the tool's name must come first."""
    assert list(member_schema(Finding)["properties"]) == list(Finding.model_fields)


class FindingArgs(BaseModel):
    parts: list[Part] = Field(max_length=2)
    start: int = Field(1, gt=0, lt=100)
    score: Annotated[float, Field(ge=0, le=1)]


def test_argument_models_narrow_the_bounds() -> None:
    """What Pydantic would refuse afterwards must not be decided in the first place."""
    properties = member_schema(Finding, FindingArgs)["properties"]
    assert properties["parts"]["maxItems"] == 2
    assert properties["start"] == {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 99}, {"type": "null"}]
    }
    assert (properties["score"]["minimum"], properties["score"]["maximum"]) == (0, 1)


class LongArgs(BaseModel):
    parts: list[Part] = Field(min_length=BOUNDS.items + 5)


def test_a_minimum_above_our_bound_is_possible() -> None:
    """What asks for more than we give by ourselves gets it, not a schema without an answer."""
    parts = member_schema(Finding, LongArgs)["properties"]["parts"]
    assert parts["minItems"] == parts["maxItems"] == BOUNDS.items + 5


class Texts(BaseModel):
    tool: Literal["texts"]
    items: list[str]


class TextsArgs(BaseModel):
    items: list[Annotated[str, Field(max_length=7)]] = Field(max_length=3)


def test_narrowing_reaches_into_lists() -> None:
    """A list of bounded strings is narrowed item by item, with its own bound kept."""
    items = member_schema(Texts, TextsArgs)["properties"]["items"]
    assert items == {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 7}}


class Other(BaseModel):
    other: int


class Nameless(BaseModel):
    path: str


class Tree(BaseModel):
    tool: Literal["tree"]
    children: list["Tree"]


class Impossible(BaseModel):
    tool: Literal["impossible"]
    parts: Annotated[int, Field(gt=5, lt=3)]


@pytest.mark.parametrize(
    ("model", "narrow", "what"),
    [
        (Impossible, None, "/properties/parts: no value fits"),
        (Finding, Other, "other"),
        (Nameless, None, "does not begin with its tool's name"),
        (Tree, None, "contains itself"),
    ],
)
def test_a_class_that_no_mask_can_hold_is_an_error(
    model: type[BaseModel], narrow: type[BaseModel] | None, what: str
) -> None:
    """Found when the agent is accepted, not at its first call."""
    with pytest.raises(ConfigError, match=what) as caught:
        member_schema(model, narrow)
    assert caught.value.hint


def test_a_union_keeps_its_order_and_one_member_needs_no_union() -> None:
    """The first branch is the first in the prompt as well."""
    a, b = member_schema(Finding), member_schema(Texts)
    assert union_schema({"Finding": a, "Texts": b}) == {"anyOf": [a, b]}
    assert union_schema({"Texts": b}) == b
