"""Proofs that an answer does not fit a schema: of the other branches of oneOf, say."""

import re
from collections.abc import Sequence
from typing import Any

from agentd.json_schema.document import NEVER
from agentd.json_schema.fitting import ShapeSource, as_answered, fits, free, has, named
from agentd.json_schema.shapes import (
    Array,
    Goal,
    Layer,
    Object,
    Shape,
    String,
    Values,
    join,
)

APART_DEPTH = 8  # of parts in parts, looked at to tell two schemas apart
PREFIX = re.compile(r"\^((?:[A-Za-z0-9_ :/@#-]|\\[.$/-])+)(?![*+?{|])")


class Apart:
    """Tells schemas apart, as they are answered, from others, as they were given."""

    def __init__(self, source: ShapeSource) -> None:
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

    def certain(self, shape: Shape) -> Shape | None:
        """Return what of a shape is certain to fit nothing that is barred."""
        what = shape.what
        if isinstance(what, Values):
            left = [
                value
                for value in what.values
                if not any(fits(self._source, value, (place,)) for place, _by in shape.barred)
            ]
            return Shape(Values(tuple(left))) if left else None
        tries: list[Any] = [what]
        if isinstance(what, Array):  # the empty list fits most, one with items may not
            tries += [longer] if (longer := what.meet(Array(least=1))) else []
        if isinstance(what, Object):
            tries += [Object(what.layers, what.names, what.least, what.most, what.keys)]
            tries += [self._without(what, shape.barred)]
        for one in tries:
            if all(self.shape(Shape(one), (place,)) for place, _by in shape.barred):
                return Shape(one)
        return None

    def _without(self, what: Object, barred: Sequence[tuple[str, str]]) -> Object:
        """Return an object that lacks what a barred schema requires: one of `a` and `b`, say."""
        others = [other.what for place, _by in barred for other in self._source.shapes((place,))]
        lacked = {
            name: (NEVER,)
            for other in others
            if isinstance(other, Object)
            for name in other.required
            if name not in what.required
        }
        layers = (*what.layers, Layer(lacked, {}, ()))
        return Object(layers, what.required, what.least, what.most, what.keys)

    def _whats(self, one: Any, two: Any) -> bool:
        if isinstance(two, Values):
            return not any(has(self._source, value, one) for value in two.values)
        if type(one) is not type(two):
            return True
        if isinstance(one, Object):  # first of all: many branches are told apart by their tag
            return self._objects(one, two) or one.meet(two) is None
        if one.meet(two) is None:
            return True
        match one:
            case String():
                return any(strangers(a, b) for a in one.patterns for b in two.patterns)
            case Array():
                both = range(max(one.least, two.least))
                return any(self.goals(one.item(at), two.item(at)) for at in both)
        return False

    def _objects(self, one: Object, two: Object) -> bool:
        names = join(one.required, two.required)
        if any(self.goals(named(one, name), named(two, name)) for name in names):
            return True
        closed = free(one) == (NEVER,) and not one.patterns
        return closed and not set(one.names).issuperset(names)


def strangers(one: str, two: str) -> bool:
    """Say whether two patterns begin with different letters, so that no text has both."""
    a, b = PREFIX.match(one), PREFIX.match(two)
    if "|" in one + two or not a or not b:
        return False
    a_text, b_text = a[1].replace("\\", ""), b[1].replace("\\", "")
    same = min(len(a_text), len(b_text))
    return a_text[:same] != b_text[:same]
