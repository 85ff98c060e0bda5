"""Which payloads hold no free text: nothing that could tell a model what to do."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agentd.json_schema.bounds import Bounds, Unfit
from agentd.json_schema.document import Document
from agentd.json_schema.fitting import fits, named
from agentd.json_schema.reading import ShapeReader
from agentd.json_schema.shapes import Array, Goal, Object, String

BOUNDS = Bounds(string=200, items=20, integer=10**9, any_depth=1)


def without_text(model: type[BaseModel]) -> bool:
    """Whether all that fits a payload's model is numbers, truth values and texts that it lists.

    Names of properties count as text: a model that lets further ones through is an open door.
    """
    try:
        return not _text(_reader(model), ("",), set())
    except Unfit:  # it refers to itself without an end, or is too large to be sure of
        return False


def as_listed(model: type[BaseModel], payload: Mapping[str, Any]) -> bool:
    """Whether a payload is of what such a model's schema lists.

    The model itself may let more through: "12" for a number, and whatever its validators turn into
    something else. Agents and models see the payload as it came.
    """
    try:
        return fits(_reader(model), dict(payload), ("",))
    except Unfit:
        return False


def _reader(model: type[BaseModel]) -> ShapeReader:
    return ShapeReader(Document(model.model_json_schema(), BOUNDS), BOUNDS)


def _text(reader: ShapeReader, goal: Goal, seen: set[Goal]) -> bool:
    """Whether a value that fits these places may hold free text."""
    if goal in seen:
        return False
    seen.add(goal)
    for shape in reader.shapes(goal):
        if isinstance(shape.what, String):
            return True
        if isinstance(shape.what, Object | Array) and _inside(reader, shape.what, seen):
            return True
    return False


def _inside(reader: ShapeReader, what: Object | Array, seen: set[Goal]) -> bool:
    if isinstance(what, Object):
        if what.patterns or reader.shapes(what.rest):
            return True
        return any(_text(reader, named(what, name), seen) for name in what.names)
    return any(_text(reader, goal, seen) for goal in (*what.prefix, what.rest))
