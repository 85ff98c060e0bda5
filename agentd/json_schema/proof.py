"""Proofs that an answer does not fit a schema: of the other branches of oneOf, say."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from agentd.json_schema.document import NEVER, OTHER
from agentd.json_schema.fitting import ShapeSource, as_answered, fits, free, has, named
from agentd.json_schema.shapes import (
    Array,
    Goal,
    Layer,
    Object,
    Shape,
    String,
    Values,
    identity,
    join,
)

APART_DEPTH = 8  # of parts in parts, looked at to tell two schemas apart
PREFIX = re.compile(r"\^((?:[A-Za-z0-9_ :/@#-]|\\[.$/-])+)(?![*+?{|])")


Bars = tuple[tuple[str, str], ...]  # places, and who bars each


class Apart:
    """Tells schemas apart, as they are answered, from others, as they were given."""

    def __init__(self, source: ShapeSource) -> None:
        self._source = source
        self._known: dict[tuple[Goal, Goal], bool] = {}
        self._tags: dict[tuple[str, str], frozenset[Any] | None] = {}
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
            return not any(fits(self._source, value, given) for value in self._left(one))
        return all(self._whats(one.what, two.what) for two in self._source.shapes(given))

    def certain(self, shape: Shape) -> list[Shape]:
        """Return what of a shape is certain to fit nothing that is barred."""
        what = shape.what
        if isinstance(what, Values):
            left = self._left(shape)
            return [Shape(Values(left))] if left else []
        for some in self._tries(what, shape.barred):
            if found := [Shape(one) for one in some if self._is_apart(one, shape.barred)]:
                return found
        return []

    def _tries(self, what: Any, barred: Bars) -> Iterator[list[Any]]:
        """Yield what may be certain of a shape: all of it, or the more of these the better."""
        yield [what]
        if isinstance(what, Array):  # the empty list fits most, one with items may not
            yield [longer] if (longer := what.meet(Array(least=1))) else []
        if isinstance(what, Object):
            yield [self._parted(what, barred), self._without(what, barred)]
            yield [Object(what.layers, what.names, what.least, what.most, what.keys)]

    def _left(self, shape: Shape) -> tuple[Any, ...]:
        """Return the values of a shape that fit nothing that is barred."""
        assert isinstance(shape.what, Values)
        return tuple(
            value
            for value in shape.what.values
            if not any(fits(self._source, value, (place,)) for place, _by in shape.barred)
        )

    def _is_apart(self, what: Any, barred: Bars) -> bool:
        own = {}
        for name in what.required if isinstance(what, Object) else ():
            if (values := self._named_values([what], name)) is not None:
                own[name] = values
        return all(
            self._is_tagged(own, place) or self.shape(Shape(what), (place,))
            for place, _by in barred
        )

    def _is_tagged(self, own: Mapping[str, frozenset[Any]], place: str) -> bool:
        """Say whether a schema bars these values of a property: each branch has its tag, say."""
        for name, values in own.items():
            if (place, name) not in self._tags:
                whats = [shape.what for shape in self._source.shapes((place,))]
                self._tags[place, name] = self._named_values(whats, name)
            tag = self._tags[place, name]
            if tag is not None and tag.isdisjoint(values):
                return True
        return False

    def _named_values(self, whats: Iterable[Any], name: str) -> frozenset[Any] | None:
        """Return all values that a property of objects may have; None if they are not named."""
        found: list[Any] = []
        for what in whats:
            if isinstance(what, Object):
                shapes = self._source.shapes(named(what, name))
                if not all(isinstance(one.what, Values) for one in shapes):
                    return None
                found += [value for one in shapes for value in one.what.values]  # type: ignore[union-attr]
            elif isinstance(what, Values) and any(isinstance(one, dict) for one in what.values):
                return None
        return frozenset(map(identity, found))

    def _parted(self, what: Object, barred: Bars) -> Object:
        """Return an object with values that are barred in a schema taken out: all kinds but one."""
        others: dict[str, Goal] = {}
        for place, _by in barred:
            for other in self._source.shapes((place,)):
                if isinstance(other.what, Object):
                    name = next(filter(partial(self._is_listed, what), other.what.names), "")
                    for part in named(other.what, name)[:1] if name else ():
                        others[name] = join(others.get(name, ()), (OTHER + part,))
        layers = (*what.layers, Layer(others, {}, ()))
        return Object(layers, join(what.required, tuple(others)), what.least, what.most, what.keys)

    def _is_listed(self, what: Object, name: str) -> bool:
        """Say whether the values of a property are named one by one."""
        return name in what.names and bool(self._named_values([what], name))

    def _without(self, what: Object, barred: Bars) -> Object:
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
        if one.meet(two) is None:
            return True
        match one:
            case String():
                return any(strangers(a, b) for a in one.patterns for b in two.patterns)
            case Array():
                both = range(max(one.least, two.least))
                return any(self.goals(one.item(at), two.item(at)) for at in both)
        return isinstance(one, Object) and self._objects(one, two)

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
