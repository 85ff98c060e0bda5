"""Whether a value fits a schema, and whether two schemas are certain to have no value in common."""

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Protocol

from agentd.json_schema.bounds import Unfit
from agentd.json_schema.document import NEVER
from agentd.json_schema.shapes import (
    Array,
    Goal,
    Layer,
    Number,
    Object,
    Shape,
    String,
    Values,
    exact,
    identity,
    join,
)

SHORT = 16  # characters; in such a text any pattern is searched in no time
LONG = 200


class ShapeSource(Protocol):
    """Where the shapes of a place's schema are found."""

    def shapes(self, goal: Goal) -> tuple[Shape, ...]:
        """Return what a value may be that fits the schemas at all these places."""
        ...


def fits(source: ShapeSource, value: Any, goal: Goal) -> bool:
    """Say whether a value fits all these places, as the standard says."""
    return any(
        has(source, value, shape.what)
        and not any(fits(source, value, (place,)) for place, _by in shape.barred)
        for shape in source.shapes(goal)
    )


def has(source: ShapeSource, value: Any, what: Values | Number | String | Array | Object) -> bool:
    """Say whether a value has a shape. Formats are not looked at: they only describe."""
    match what:
        case Values():
            return identity(value) in map(identity, what.values)
        case Number():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _is_number(exact(value), what)
        case String():
            return isinstance(value, str) and _is_text(value, what)
        case Array():
            return isinstance(value, list) and _is_list(source, value, what)
        case Object():
            return isinstance(value, dict) and _is_object(source, value, what)


def _is_number(value: Fraction, what: Number) -> bool:
    if what.step is not None and value % what.step:
        return False
    return what.meet(Number(value, value)) is not None


def _is_text(value: str, what: String) -> bool:
    if not what.least <= len(value) <= (math.inf if what.most is None else what.most):
        return False
    return all(found(pattern, value, "") for pattern in what.patterns)


def _is_list(source: ShapeSource, value: list[Any], what: Array) -> bool:
    if not what.least <= len(value) <= (math.inf if what.most is None else what.most):
        return False
    if what.unique and len(set(map(identity, value))) < len(value):
        return False
    return all(fits(source, item, what.item(at)) for at, item in enumerate(value)) and all(
        any(fits(source, item, goal) for item in value) for goal in what.some
    )


def _is_object(source: ShapeSource, value: dict[str, Any], what: Object) -> bool:
    if not what.least <= len(value) <= (math.inf if what.most is None else what.most):
        return False
    if not value.keys() >= set(what.required):
        return False
    return all(
        fits(source, name, what.keys) and fits(source, inner, named(what, name))
        for name, inner in value.items()
    )


def found(pattern: str, text: str, place: str) -> bool:
    """Search a text for a pattern. Raises Unfit where that cannot be told, or not in time.

    A letter of another script is one in `\\w` for some dialects, in `\\W` for others.
    """
    risky = re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3
    try:
        if len(text) > (SHORT if risky else LONG):
            raise Unfit(place, f"the pattern {pattern!r} is too complex to be told from a name")
        every = {bool(re.search(pattern, text, dialect)) for dialect in (re.ASCII, re.UNICODE)}
    except (re.error, RecursionError, OverflowError) as error:
        raise Unfit(place, f"the pattern {pattern!r} is not understood: {error}") from error
    if len(every) > 1:
        raise Unfit(place, f"dialects of patterns differ in whether {pattern!r} is in {text!r}")
    return every.pop()


def named(what: Object, name: str) -> Goal:
    """Return what the property of a name has to fit."""
    return join(*(_named(layer, name) for layer in what.layers))


def _named(layer: Layer, name: str) -> Goal:
    if name in layer.names:  # patterns are in it already
        return layer.names[name]
    goals = [goal for pattern, goal in layer.patterns.items() if found(pattern, name, "")]
    return join(*goals) if goals else layer.rest


def as_answered(shapes: Iterable[Shape]) -> list[Shape]:
    """Return what of these is answered: a schema without a type means those it speaks of."""
    every = list(shapes)
    return [shape for shape in every if shape.told != 1] or every


def free(what: Object) -> Goal:
    """Return what a property is answered with whose name nothing tells: NEVER for none at all.

    Objects are closed where their schema names properties, and says nothing of others.
    """
    told = any(layer.names or layer.patterns for layer in what.layers)
    return (NEVER,) if what.patterns or (told and not what.rest) else what.rest
