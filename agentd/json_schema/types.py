"""What a schema's own keywords say of the types of values: limits, items, properties."""

from collections.abc import Callable
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
    String,
    Values,
    exact,
    join,
    merged,
)

KINDS = {"string": String, "integer": Number, "number": Number, "array": Array, "object": Object}
SINGLE = {"boolean": (True, False), "null": (None,)}
# A schema that has none of these says nothing of values.
SAYING = KEYWORDS - {"$defs", "definitions", "then", "else", "additionalItems"}


class Types:
    """Reads the keywords of types. `patterns` are those it has read, with their first place."""

    def __init__(self, document: Document, bounds: Bounds) -> None:
        self._document = document
        self._bounds = bounds
        self.patterns: dict[str, str] = {}

    def shapes(self, schema: Schema, place: str) -> tuple[Shape, ...]:
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

    def _text(self, schema: Schema, place: str) -> String:
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
        return String(least, most, patterns, formats)

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
        prefix = tuple(map(self.goal, self.places(schema, listed, place))) if listed != key else ()
        if key in schema:
            rest = self.goal(below(place, key))
        some: tuple[Goal, ...] = ()
        if "contains" in schema and self._count(schema, "minContains", place, 1):
            some = (self.goal(below(place, "contains")),)
        unique = below(place, "uniqueItems") if schema.get("uniqueItems") is True else ""
        least = self._count(schema, "minItems", place, 0)
        most = self._count(schema, "maxItems", place, None)
        return Array(prefix, rest, unique=unique, some=some).meet(Array((), (), least, most))

    def _object(self, schema: Schema, place: str) -> Object | None:
        names = {
            name: self.goal(below(place, "properties", name))
            for name in self.named(schema, "properties", place)
        }
        patterns = {}
        for pattern in self.named(schema, "patternProperties", place):
            at = below(place, "patternProperties", pattern)
            self._pattern(pattern, at)
            patterns[pattern] = self.goal(at)
            for name in names:
                if fitting.found(pattern, name, at):
                    names[name] = join(names[name], patterns[pattern])
        rest: Goal = ()
        if "additionalProperties" in schema:
            rest = self.goal(below(place, "additionalProperties"))
        required = schema.get("required", [])
        if isinstance(required, bool):  # draft 3's way, which says nothing any more
            required = []
        if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
            raise Unfit(below(place, "required"), "must be a list of strings")
        for name in (*names, *required):
            if len(name) > self._bounds.name:
                what = f"a name above {self._bounds.name} characters"
                raise Unfit(below(place, "properties"), what)
        keys = self.goal(below(place, "propertyNames")) if "propertyNames" in schema else ()
        layers = (Layer(names, patterns, rest),) if names or patterns or rest else ()
        least = self._count(schema, "minProperties", place, 0)
        most = self._count(schema, "maxProperties", place, None)
        own = Object(layers, tuple(dict.fromkeys(required)), keys=keys)
        return own.meet(Object(least=least, most=most))

    # -- parts ----------------------------------------------------------------------------------

    def goal(self, place: str) -> Goal:
        """Return what a place asks for: nothing, where its schema says nothing of values.

        A mere reference asks for what it refers to: so that is read and written once.
        """
        seen = set()
        while True:
            part = self._document.part(place)
            if isinstance(part, bool):
                return () if part else (NEVER,)
            saying = part.keys() & SAYING
            if place in seen or saying != {"$ref"}:
                return (place,) if saying else ()
            seen.add(place)
            place = self._document.target(place, part["$ref"])

    def named(self, schema: Schema, key: str, place: str) -> Schema:
        """Return what is under a keyword of named things. Raises Unfit where it is no object."""
        value = schema.get(key, {})
        if not isinstance(value, dict):
            raise Unfit(below(place, key), "must be an object")
        return value

    def places(self, schema: Schema, key: str, place: str) -> list[str]:
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


def _fraction(value: object, place: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
        raise Unfit(place, "must be a number")
    return exact(value)
