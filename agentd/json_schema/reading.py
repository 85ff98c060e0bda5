"""From a schema's keywords to shapes: types, limits, combinations, conditions, references."""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

from agentd.json_schema import fitting
from agentd.json_schema.bounds import BY_TYPE, KEYWORDS, Bounds, Schema, Unfit, below
from agentd.json_schema.document import NEVER, Document
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
    merged,
)

Shapes = tuple[Shape, ...]
ANYTHING: Shapes = (
    Shape(Text()),
    Shape(Number()),
    Shape(Values((True, False, None))),
    Shape(Array()),
    Shape(Object()),
)
KINDS = {"string": Text, "integer": Number, "number": Number, "array": Array, "object": Object}
SINGLE = {"boolean": (True, False), "null": (None,)}
# A schema that has none of these says nothing of values.
SAYING = KEYWORDS - {"$defs", "definitions", "then", "else", "additionalItems"}


class Reader:
    """Reads a document's schemas as shapes, each place once."""

    def __init__(self, document: Document, bounds: Bounds) -> None:
        self._document = document
        self._bounds = bounds
        self._at: dict[str, Shapes | None] = {NEVER: ()}  # None: is being read
        self._of: dict[Goal, Shapes] = {}
        self.patterns: dict[str, str] = {}  # where each was read first
        self._values = 0
        self._depth = 0

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
        found = self._typed(schema, place)
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if key in schema:
                target = self._document.target(place, schema[key])
                found = self._both(found, self._place(target), place)
        for part in self._list(schema, "allOf", place):
            found = self._both(found, self._place(part), place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                found = self._both(found, self._union(schema, key, place), below(place, key))
        found = self._conditions(schema, place, found)
        found = self._only(schema, place, found)
        return self._closed(schema, place, found)

    def _union(self, schema: Schema, key: str, place: str) -> Shapes:
        parts = self._list(schema, key, place)
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
            found = self._without(found, [part], part)
        if "if" in schema and ("then" in schema or "else" in schema):
            test = below(place, "if")
            then = self._place(below(place, "then")) if "then" in schema else ANYTHING
            other = self._place(below(place, "else")) if "else" in schema else ANYTHING
            ways = (*self._both(self._place(test), then, test), *self._without(other, [test], test))
            found = self._both(found, ways, test)
        for key in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, needs in self._dict(schema, key, place).items():
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
                rest = self._goal(below(place, "unevaluatedProperties"))
                names = join(*(tuple(layer.names) for layer in what.layers))
                layer = Layer(dict.fromkeys(names, ()), dict.fromkeys(what.patterns, ()), rest)
                what = what if what.rest else what.meet(Object((layer,)))
            elif isinstance(what, Array) and "unevaluatedItems" in schema and not what.rest:
                rest = self._goal(below(place, "unevaluatedItems"))
                what = Array(what.prefix, rest, what.least, what.most, what.unique, what.some)
            closed[at] = Shape(what, shape.told, shape.barred, shape.refused)
        return tuple(closed)

    # -- types ----------------------------------------------------------------------------------

    def _typed(self, schema: Schema, place: str) -> Shapes:
        """Return what the schema's own type and the keywords of types say."""
        kinds = schema.get("type", [*KINDS, *SINGLE])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not all(str(kind) in BY_TYPE for kind in kinds):
            raise Unfit(below(place, "type"), f"must be among {', '.join(BY_TYPE)}")
        if "type" not in schema:
            kinds.remove("integer")
        spoken = [kind for kind in kinds if BY_TYPE[kind] & schema.keys()]
        read: dict[str, Callable[[Schema, str], Any]] = {
            "string": self._text,
            "array": self._array,
            "object": self._object,
            "integer": self._number,
            "number": self._number,
        }
        found = []
        for kind in kinds:
            told = 2 if "type" in schema else 1 if spoken and kind not in spoken else 0
            what: Any = read[kind](schema, place) if kind in KINDS else Values(SINGLE[kind])
            if kind == "integer":
                what = what and what.meet(Number(step=Fraction(1)))
            if what is not None:
                found.append(Shape(what, told, refused=self._cannot(schema, kind, place)))
        return merged(found)

    def _cannot(self, schema: Schema, kind: str, place: str) -> tuple[Unfit, ...]:
        """Return what is said of how many items must fit `contains`: no grammar counts that."""
        if kind != "array" or "contains" not in schema:
            return ()
        counted = "maxContains" in schema or self._count(schema, "minContains", place, 1) > 1
        key = "maxContains" if "maxContains" in schema else "minContains"
        return (Unfit(below(place, key), "cannot be honoured"),) if counted else ()

    def _number(self, schema: Schema, place: str) -> Number | None:
        found: Number | None = Number()
        for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf"):
            if key not in schema or (isinstance(schema[key], bool) and key.startswith("excl")):
                continue  # a truth value is draft 4's way, read with the limit itself
            value, twin = _fraction(schema[key], below(place, key)), f"exclusive{key.title()}"
            outside = key.startswith("excl") or schema.get(twin) is True
            if key == "multipleOf":
                own = Number(step=self._step(value, below(place, key)))
            elif key.endswith("inimum"):
                own = Number(low=value, low_open=outside)
            else:
                own = Number(high=value, high_open=outside)
            found = found and found.meet(own)
        return found

    def _step(self, step: Fraction, place: str) -> Fraction:
        if step <= 0 or step.numerator > self._bounds.multiple or step.denominator > 10**9:
            raise Unfit(place, f"must be above 0, its digits at most {self._bounds.multiple}")
        return step

    def _text(self, schema: Schema, place: str) -> Text:
        patterns: Goal = ()
        if "pattern" in schema:
            self._pattern(schema["pattern"], below(place, "pattern"))
            patterns = (schema["pattern"],)
        least = self._count(schema, "minLength", place, 0)
        if least > self._bounds.characters:
            what = f"more than {self._bounds.characters} characters"
            raise Unfit(below(place, "minLength"), what)
        named = schema.get("format")
        formats = (named,) if isinstance(named, str) else ()
        most = self._count(schema, "maxLength", place, None)
        if most is not None and least > most:
            what = f"{least} is more than the maximum of {most}"
            raise Unfit(below(place, "minLength"), what)
        return Text(least, most, patterns, formats)

    def _pattern(self, pattern: object, place: str) -> None:
        longest = self._bounds.pattern
        if not isinstance(pattern, str) or len(pattern) > longest:
            raise Unfit(place, f"must be a text of at most {longest} characters")
        self.patterns.setdefault(pattern, place)

    def _array(self, schema: Schema, place: str) -> Array | None:
        rest: Goal = ()
        key = "items"
        listed = "prefixItems" if "prefixItems" in schema else "items"
        if isinstance(schema.get("items"), list):  # as in drafts before 2020-12
            key = "additionalItems"
        prefix = tuple(map(self._goal, self._list(schema, listed, place))) if listed != key else ()
        if key in schema:
            rest = self._goal(below(place, key))
        some: tuple[Goal, ...] = ()
        if "contains" in schema and self._count(schema, "minContains", place, 1):
            some = (self._goal(below(place, "contains")),)
        unique = below(place, "uniqueItems") if schema.get("uniqueItems") is True else ""
        least = self._count(schema, "minItems", place, 0)
        most = self._count(schema, "maxItems", place, None)
        return Array(prefix, rest, unique=unique, some=some).meet(Array((), (), least, most))

    def _object(self, schema: Schema, place: str) -> Object | None:
        names = {
            name: self._goal(below(place, "properties", name))
            for name in self._dict(schema, "properties", place)
        }
        patterns = {}
        for pattern in self._dict(schema, "patternProperties", place):
            at = below(place, "patternProperties", pattern)
            self._pattern(pattern, at)
            patterns[pattern] = self._goal(at)
            for name in names:
                if fitting.found(pattern, name, at):
                    names[name] = join(names[name], patterns[pattern])
        rest: Goal = ()
        if "additionalProperties" in schema:
            rest = self._goal(below(place, "additionalProperties"))
        required = schema.get("required", [])
        if isinstance(required, bool):  # draft 3's way, which says nothing any more
            required = []
        if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
            raise Unfit(below(place, "required"), "must be a list of strings")
        for name in (*names, *required):
            if len(name) > self._bounds.name:
                what = f"a name above {self._bounds.name} characters"
                raise Unfit(below(place, "properties"), what)
        keys = self._goal(below(place, "propertyNames")) if "propertyNames" in schema else ()
        layers = (Layer(names, patterns, rest),) if names or patterns or rest else ()
        least = self._count(schema, "minProperties", place, 0)
        most = self._count(schema, "maxProperties", place, None)
        own = Object(layers, tuple(dict.fromkeys(required)), keys=keys)
        return own.meet(Object(least=least, most=most))

    # -- parts ----------------------------------------------------------------------------------

    def _goal(self, place: str) -> Goal:
        """Return what a place asks for: nothing, where its schema says nothing of values."""
        part = self._document.part(place)
        if part is False:
            return (NEVER,)
        return (place,) if part is not True and part.keys() & SAYING else ()

    def _dict(self, schema: Schema, key: str, place: str) -> Schema:
        value = schema.get(key, {})
        if not isinstance(value, dict):
            raise Unfit(below(place, key), "must be an object")
        return value

    def _list(self, schema: Schema, key: str, place: str) -> list[str]:
        """Return the places of a list of schemas."""
        if key not in schema:
            return []
        if not isinstance(schema[key], list) or not schema[key]:
            raise Unfit(below(place, key), "must be a list with at least one schema")
        return [below(place, key, at) for at in range(len(schema[key]))]

    def _count(self, schema: Schema, key: str, place: str, default: Any) -> Any:
        """Return a length or a number of items."""
        value = schema.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
            raise Unfit(below(place, key), "must be a whole number, 0 or more")
        return int(value)


def join_all(*several: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return all that is in these tuples, each once."""
    return tuple(dict.fromkeys(one for some in several for one in some))


def _fraction(value: object, place: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise Unfit(place, "must be a number")
    return exact(value)
