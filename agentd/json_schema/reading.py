"""From a schema's keywords to shapes: types, limits, combinations, conditions, references."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentd.json_schema import fitting
from agentd.json_schema.bounds import Bounds, Schema, Unfit, below
from agentd.json_schema.document import NEVER, OTHER, Document
from agentd.json_schema.shapes import (
    Array,
    Goal,
    Layer,
    Number,
    Object,
    Shape,
    String,
    Values,
    identity,
    join,
    merged,
)
from agentd.json_schema.types import Types

Shapes = tuple[Shape, ...]
ANYTHING: Shapes = (
    Shape(String()),
    Shape(Number()),
    Shape(Values((True, False, None))),
    Shape(Array()),
    Shape(Object()),
)


class ShapeReader:
    """Reads a document's schemas as shapes, each place once."""

    def __init__(self, document: Document, bounds: Bounds) -> None:
        self._document = document
        self._bounds = bounds
        self._at: dict[str, Shapes | None] = {NEVER: ()}  # None: is being read
        self._of: dict[Goal, Shapes] = {}
        self._types = Types(document, bounds)
        self._values = 0
        self._depth = 0

    @property
    def patterns(self) -> Mapping[str, str]:
        """Return the patterns that were read, with the place of each."""
        return self._types.patterns

    def shapes(self, goal: Goal) -> Shapes:
        """Return what a value may be that fits the schemas at all these places."""
        if goal not in self._of:
            found = ANYTHING
            for place in goal:
                found = self._both(found, self._place(place), place)
            self._of[goal] = found
        return self._of[goal]

    def meet(self, one: Shape, two: Shape) -> Shape | None:
        """Return the shape of what has both shapes."""
        a, b = one.what, two.what
        what: Any = None
        if isinstance(a, Values):
            what = self._among(a, b)
        elif isinstance(b, Values):
            what = self._among(b, a)
        elif type(a) is type(b):
            what = a.meet(b)  # type: ignore[arg-type]
        if what is None:
            return None
        barred, refused = join_all(one.barred, two.barred), join_all(one.refused, two.refused)
        return Shape(what, max(one.told, two.told), barred, refused)

    def _among(self, values: Values, what: Any) -> Values | None:
        left = tuple(value for value in values.values if fitting.has(self, value, what))
        return Values(left) if left else None

    def _both(self, ones: Shapes, others: Shapes, place: str) -> Shapes:
        if len(ones) * len(others) > self._bounds.alternatives * len(ANYTHING):
            self._too_many(place)
        pairs = (self.meet(one, two) for one in ones for two in others)
        found = merged(pair for pair in pairs if pair is not None)
        if len(found) > self._bounds.alternatives:
            self._too_many(place)
        return found

    def _too_many(self, place: str) -> None:
        raise Unfit(place, f"more than {self._bounds.alternatives} alternatives together")

    def _place(self, place: str) -> Shapes:
        if place.startswith(OTHER):
            return self._without(ANYTHING, [place[1:]], place[1:])
        if place not in self._at:
            self._at[place] = None
            self._depth += 1
            if self._depth > self._bounds.depth:
                raise Unfit(place, f"nests deeper than {self._bounds.depth}")
            self._at[place] = self._read(self._document.part(place), place)
            self._depth -= 1
        found = self._at[place]
        if found is None:
            raise Unfit(place, "refers to itself without an end, so that no answer fits it")
        return found

    # -- in place -------------------------------------------------------------------------------

    def _read(self, schema: Schema | bool, place: str) -> Shapes:
        if isinstance(schema, bool):
            return ANYTHING if schema else ()
        found = self._types.shapes(schema, place)
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if key in schema:
                target = self._document.target(place, schema[key], dynamic=key != "$ref")
                found = self._both(found, self._place(target), place)
        for part in self._types.places(schema, "allOf", place):
            found = self._both(found, self._place(part), place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                found = self._both(found, self._union(schema, key, place), below(place, key))
        found = self._conditions(schema, place, found)
        found = self._closed(schema, place, found)
        return self._only(schema, place, found)

    def _union(self, schema: Schema, key: str, place: str) -> Shapes:
        parts = self._types.places(schema, key, place)
        found: list[Shape] = []
        for part in parts:
            others = [other for other in parts if other != part] if key == "oneOf" else []
            found += self._without(self._place(part), others, below(place, key))
        return merged(found)

    def _without(self, shapes: Iterable[Shape], parts: Sequence[str], by: str) -> Shapes:
        """Return shapes of values that fit none of these places."""
        bars = tuple((part, by) for part in parts)
        return tuple(
            Shape(one.what, one.told, join_all(one.barred, bars), one.refused) for one in shapes
        )

    def _conditions(self, schema: Schema, place: str, found: Shapes) -> Shapes:
        if "not" in schema:
            part = below(place, "not")
            found = self._without(found, [part], part) if self._types.goal(part) else ()
        if "if" in schema and ("then" in schema or "else" in schema):
            test = below(place, "if")
            then = self._place(below(place, "then")) if "then" in schema else ANYTHING
            other = self._place(below(place, "else")) if "else" in schema else ANYTHING
            if "else" in schema:  # without it, what fits `then` fits in any case
                then = self._both(self._place(test), then, test)
            ways = (*then, *self._without(other, [test], test))
            found = self._both(found, ways, test)
        for key in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, needs in self._types.named(schema, key, place).items():
                found = self._both(found, self._dependent(key, name, needs, place), place)
        return found

    def _dependent(self, key: str, name: str, needs: object, place: str) -> Shapes:
        """Return what a value may be: without a property, or with it and what it needs."""
        absent = Shape(Object((Layer({name: (NEVER,)}, {}, ()),)))
        if isinstance(needs, list):
            present: Shapes = (Shape(Object(required=join((name,), tuple(map(str, needs))))),)
        else:
            has: Shapes = (Shape(Object(required=(name,))),)
            present = self._both(has, self._place(below(place, key, name)), place)
        others = (shape for shape in ANYTHING if not isinstance(shape.what, Object))
        return (absent, *present, *others)

    def _only(self, schema: Schema, place: str, found: Shapes) -> Shapes:
        """Return of these what is among the values of enum and const."""
        for key in ("enum", "const"):
            if key not in schema:
                continue
            values = schema[key] if key == "enum" else [schema[key]]
            if not isinstance(values, list) or not values:
                raise Unfit(below(place, key), "must be a list with at least one value")
            for value in values:
                self._value(value, below(place, key), 0)
            unique = {identity(value): value for value in values}
            only = (Shape(Values(tuple(unique.values())), told=2),)
            found = self._both(only, found, below(place, key))
        return found

    def _value(self, value: object, path: str, depth: int) -> None:
        """Check that a value of an enum can be written."""
        self._values += 1
        if depth > self._bounds.depth:
            raise Unfit(path, f"nests deeper than {self._bounds.depth}")
        if self._values > self._bounds.values:
            raise Unfit(path, f"more than {self._bounds.values} values in one schema")
        if isinstance(value, str) and len(value) > self._bounds.characters:
            raise Unfit(path, f"a text of more than {self._bounds.characters} characters")
        if isinstance(value, float) and value - value != 0:
            raise Unfit(path, "a number that JSON cannot write")
        if isinstance(value, str) and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise Unfit(path, "half a character, which no answer can hold")
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        for one in inner if isinstance(inner, list) else ():
            self._value(one, path, depth + 1)

    def _closed(self, schema: Schema, place: str, found: Shapes) -> Shapes:
        """Give what no part of this schema speaks of to its `unevaluated...` keywords."""
        closed = list(found)
        for at, shape in enumerate(closed):
            what: Any = shape.what
            if isinstance(what, Object) and "unevaluatedProperties" in schema:
                rest = self._types.goal(below(place, "unevaluatedProperties"))
                names = join(*(tuple(layer.names) for layer in what.layers))
                layer = Layer(dict.fromkeys(names, ()), dict.fromkeys(what.patterns, ()), rest)
                what = what if what.rest else what.meet(Object((layer,)))
            elif isinstance(what, Array) and "unevaluatedItems" in schema and not what.rest:
                rest = self._types.goal(below(place, "unevaluatedItems"))
                what = Array(what.prefix, rest, what.least, what.most, what.unique, what.some)
            elif isinstance(what, Values):  # of which nothing tells what was spoken of
                what = Values(tuple(value for value in what.values if not _holds(value, schema)))
            closed[at] = Shape(what, shape.told, shape.barred, shape.refused)
        return tuple(closed)


def _holds(value: Any, schema: Schema) -> bool:
    """Say whether a value has parts that an `unevaluated...` keyword may bar."""
    key = "unevaluatedItems" if isinstance(value, list) else "unevaluatedProperties"
    return isinstance(value, list | dict) and bool(value) and key in schema


def join_all(*several: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return all that is in these tuples, each once."""
    return tuple(dict.fromkeys(one for some in several for one in some))
