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
    Text,
    Values,
    exact,
    identity,
    join,
)

SHORT = 16  # characters; in such a text any pattern is searched in no time
LONG = 200
APART_DEPTH = 8  # of parts in parts, looked at to tell two schemas apart
PREFIX = re.compile(r"\^((?:[A-Za-z0-9_ :/@#-]|\\[.$/-])+)(?![*+?{|])")


class Source(Protocol):
    """Where the shapes of a place's schema are found."""

    def shapes(self, goal: Goal) -> tuple[Shape, ...]:
        """Return what a value may be that fits the schemas at all these places."""
        ...


def fits(source: Source, value: Any, goal: Goal) -> bool:
    """Say whether a value fits all these places, as the standard says."""
    return any(
        has(source, value, shape.what)
        and not any(fits(source, value, (place,)) for place, _by in shape.barred)
        for shape in source.shapes(goal)
    )


def has(source: Source, value: Any, what: Values | Number | Text | Array | Object) -> bool:
    """Say whether a value has a shape. Formats are not looked at: they only describe."""
    match what:
        case Values():
            return identity(value) in map(identity, what.values)
        case Number():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and _is_number(exact(value), what)
        case Text():
            return isinstance(value, str) and _is_text(value, what)
        case Array():
            return isinstance(value, list) and _is_list(source, value, what)
        case Object():
            return isinstance(value, dict) and _is_object(source, value, what)


def _is_number(value: Fraction, what: Number) -> bool:
    if what.step is not None and value % what.step:
        return False
    return what.meet(Number(value, value)) is not None


def _is_text(value: str, what: Text) -> bool:
    if not what.least <= len(value) <= (math.inf if what.most is None else what.most):
        return False
    return all(found(pattern, value, "") for pattern in what.patterns)


def _is_list(source: Source, value: list[Any], what: Array) -> bool:
    if not what.least <= len(value) <= (math.inf if what.most is None else what.most):
        return False
    if what.unique and len(set(map(identity, value))) < len(value):
        return False
    return all(fits(source, item, what.item(at)) for at, item in enumerate(value)) and all(
        any(fits(source, item, goal) for item in value) for goal in what.some
    )


def _is_object(source: Source, value: dict[str, Any], what: Object) -> bool:
    if not what.least <= len(value) <= (math.inf if what.most is None else what.most):
        return False
    if not value.keys() >= set(what.required):
        return False
    return all(
        fits(source, name, what.keys) and fits(source, inner, named(what, name))
        for name, inner in value.items()
    )


def found(pattern: str, text: str, place: str) -> bool:
    """Search a text for a pattern. Raises Unfit where that cannot be told, or not in time."""
    risky = re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3
    try:
        if len(text) > (SHORT if risky else LONG):
            raise Unfit(place, f"the pattern {pattern!r} is too complex to be told from a name")
        return re.search(pattern, text, re.ASCII) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise Unfit(place, f"the pattern {pattern!r} is not understood: {error}") from error


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


class Apart:
    """Tells schemas apart, as they are answered, from others, as they were given."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[Goal, Goal], bool] = {}
        self._depth = 0

    def goals(self, answered: Goal, given: Goal) -> bool:
        """Say whether no answer for the one is certain to fit the other."""
        key = (answered, given)
        if key not in self._known:
            if self._depth >= APART_DEPTH:
                return False
            self._depth += 1
            self._known[key] = False  # of what refers to itself
            shapes = as_answered(self._source.shapes(answered))
            self._known[key] = all(self.shape(one, given) for one in shapes)
            self._depth -= 1
        return self._known[key]

    def shape(self, one: Shape, given: Goal) -> bool:
        """Say whether no answer of this shape is certain to fit the other."""
        if isinstance(one.what, Values):
            return not any(fits(self._source, value, given) for value in one.what.values)
        return all(self._whats(one.what, two.what) for two in self._source.shapes(given))

    def _whats(self, one: Any, two: Any) -> bool:
        if isinstance(two, Values):
            return not any(has(self._source, value, one) for value in two.values)
        if type(one) is not type(two) or one.meet(two) is None:
            return True
        match one:
            case Number():
                return _no_multiple(one.meet(two))
            case Text():
                return any(strangers(a, b) for a in one.patterns for b in two.patterns)
            case Array():
                both = range(max(one.least, two.least))
                return any(self.goals(one.item(at), two.item(at)) for at in both)
            case _:
                return self._objects(one, two)

    def _objects(self, one: Object, two: Object) -> bool:
        closed = free(one) == (NEVER,)
        for name in join(one.required, two.required):
            goal = named(one, name)
            if closed and name not in one.names and not one.patterns:
                return True
            if self.goals(goal, named(two, name)):
                return True
        return False


def _no_multiple(number: Number | None) -> bool:
    """Say whether no multiple of the step lies within the limits."""
    if number is None or number.step is None or number.low is None or number.high is None:
        return number is None
    first = math.ceil(number.low / number.step) * number.step
    first += number.step if number.low_open and first == number.low else 0
    return first > number.high or (number.high_open and first == number.high)


def strangers(one: str, two: str) -> bool:
    """Say whether two patterns begin with different letters, so that no text has both."""
    a, b = PREFIX.match(one), PREFIX.match(two)
    if "|" in one + two or not a or not b:
        return False
    a_text, b_text = a[1].replace("\\", ""), b[1].replace("\\", "")
    same = min(len(a_text), len(b_text))
    return a_text[:same] != b_text[:same]
