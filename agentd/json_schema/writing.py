"""From shapes to a plain schema whose every answer is finite, and fits what was given.

What is written has no allOf, oneOf or conditions, no open object and no exclusive limit on a
grid: types, values, anyOf, limits, references to its own `$defs`. It only ever narrows: an answer
that is legal under it is legal under the schema that was given.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentd.json_schema import finite, numbers, properties
from agentd.json_schema.bounds import Bounds, Schema, Unfit
from agentd.json_schema.document import NEVER, Document
from agentd.json_schema.fitting import as_answered, fits, free, named
from agentd.json_schema.patterns import without_controls
from agentd.json_schema.proof import Apart, strangers
from agentd.json_schema.reading import ShapeReader
from agentd.json_schema.shapes import Array, Goal, Number, Object, Shape, String, Values, join

# Checked by shape; others only describe, as the standard says.
FORMATS = frozenset(
    {"date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "email", "hostname", "uri"}
)
# Of fixed length by themselves; a maxLength beside them would only slow a compiler.
FIXED_FORMATS = frozenset({"date", "time", "date-time", "uuid", "ipv4"})
SHORT = 64  # characters; strings that are no longer count as this long
WRITTEN = 4  # times the bytes that a schema may have
NESTED = 30  # schemas within one another; those further in stand in $defs


@dataclass(frozen=True)
class Bounded:
    """A plain schema whose every answer is finite."""

    schema: Schema
    longest_string: int  # characters; keys and enums count too
    texts: Sequence[tuple[str, Schema]]  # with patterns or formats, and where they come from
    escaped: bool  # a value has a control character, which takes a \\u escape to write


def bounded(schema: object, bounds: Bounds) -> Bounded:
    """Check a schema, and write it plainly and bounded.

    Raises:
        Unfit: with the JSON pointer of what cannot be honoured.
    """
    writer = _PlainWriter(ShapeReader(Document(schema, bounds), bounds), bounds)
    return writer.whole()


class _PlainWriter:
    """Writes one document's schemas."""

    def __init__(self, reader: ShapeReader, bounds: Bounds) -> None:
        self._reader, self._bounds = reader, bounds
        self._apart = Apart(reader)
        self._written: dict[Goal, Schema | None] = {}
        self._open: set[Goal] = set()
        self._names: dict[Goal, str] = {}
        self._later: list[Goal] = []
        self._definitions: Schema = {}
        self._level = 0
        self._longest = SHORT
        self._texts: list[tuple[str, Schema]] = []
        self._escaped, self._mixed = "", False  # where a control character is; keys of both kinds
        self._never = ""  # the first place that nothing fits

    def whole(self) -> Bounded:
        """Write the whole document."""
        root = self._goal(("",))
        while root is not None and self._later:
            goal = self._later.pop()
            if self._goal(goal, named=True) is None:
                raise Unfit(goal[0], "no value fits all that is asked for here")
        if root is None:
            raise Unfit(self._never, "no value fits all that is asked for here")
        if self._escaped and self._mixed:
            what = "a control character, which cannot be written beside properties of any name"
            raise Unfit(self._escaped, what)
        if self._definitions:
            root = {**root, "$defs": self._definitions}
        if len(json.dumps(root)) > WRITTEN * self._bounds.bytes:
            raise Unfit("", f"its unions, multiplied out, take {WRITTEN} times what a schema may")
        return Bounded(root, self._longest, self._texts, bool(self._escaped))

    # -- references -----------------------------------------------------------------------------

    def _goal(self, goal: Goal, *, named: bool = False) -> Schema | None:
        """Write what a value has to fit; None where nothing does."""
        if not goal:
            return self._any(self._bounds.any_depth)
        if goal == (NEVER,):
            return None
        if goal in self._written and not named:
            return self._again(goal)
        if self._level > NESTED:
            self._later.append(goal)
            self._written[goal] = {}
            return self._reference(goal)
        node: Schema = {}
        self._written[goal] = node
        self._open.add(goal)
        self._level += 1
        found = self._union(goal)
        self._level -= 1
        self._open.remove(goal)
        if found is None:
            if goal in self._names:
                raise Unfit(goal[0], "no value fits all that is asked for here")
            self._written[goal] = None
            self._never = self._never or goal[0]
            return None
        node.update(found)
        if goal in self._names:
            self._define(goal)
        return node

    def _again(self, goal: Goal) -> Schema | None:
        node = self._written[goal]
        if node is None or not (goal in self._open or goal in self._names or _is_large(node)):
            return None if node is None else dict(node)
        if goal in self._names:
            return self._reference(goal)
        reference = self._reference(goal)
        if goal not in self._open:
            self._define(goal)
        return reference

    def _reference(self, goal: Goal) -> Schema:
        name = self._names.setdefault(goal, f"d{len(self._names)}")
        return {"$ref": f"#/$defs/{name}"}

    def _define(self, goal: Goal) -> None:
        """Move what was written for a goal to the definitions, with a reference in its place."""
        node = self._written[goal]
        assert node is not None
        if node != self._reference(goal):
            self._definitions[self._names[goal]] = dict(node)
            node.clear()
            node.update(self._reference(goal))

    # -- alternatives ---------------------------------------------------------------------------

    def _union(self, goal: Goal) -> Schema | None:
        ways: list[Schema] = []
        unproved: list[tuple[str, str]] = []
        for shape in as_answered(self._reader.shapes(goal)):
            if shape.refused:
                raise shape.refused[0]
            proved = self._apart.certain(shape)
            unproved += () if proved or isinstance(shape.what, Values) else shape.barred
            ways += [way for one in proved for way in self._ways(one, goal)]
        if not ways and unproved:
            what = "no value is certain to fit it; its alternatives cannot be told apart"
            raise Unfit(unproved[0][1], what)
        ways = [way for at, way in enumerate(ways) if way not in ways[:at]]
        return {"anyOf": ways} if len(ways) > 1 else ways[0] if ways else None

    def _ways(self, shape: Shape, goal: Goal) -> list[Schema]:
        """Write one shape, as alternatives; none where nothing fits."""
        match shape.what:
            case Values():
                return self._values(shape.what, goal)
            case Number():
                return numbers.written(shape.what, self._bounds, goal)
            case String():
                return [self._text(shape.what, goal)]
            case Array():
                return self._array(shape.what, goal)
            case Object():
                return self._objects(shape.what, goal)

    def _any(self, depth: int) -> Schema:
        """Write what may be any value, of so many arrays and objects within one another."""
        name = f"any{depth}"
        if name not in self._definitions or self._bounds.foreign:
            scalars = (Shape(String()), Shape(Number()), Shape(Values((True, False, None))))
            ways = [way for shape in scalars for way in self._ways(shape, ())]
            if depth:
                inner = self._any(depth - 1)
                most = {"maxProperties": count} if (count := self._bounds.properties) else {}
                ways.append({"type": "array", "items": inner, "maxItems": self._bounds.items})
                ways.append({"type": "object", "additionalProperties": inner, **most})
            if self._bounds.foreign:
                return {"anyOf": ways}
            self._definitions[name] = {"anyOf": ways}
        return {"$ref": f"#/$defs/{name}"}

    # -- values and texts -----------------------------------------------------------------------

    def _values(self, what: Values, goal: Goal) -> list[Schema]:
        values = [value for value in what.values if finite.writable(value)]
        if not values:
            raise Unfit(_place(goal), "a number beyond what is exact, 2 to the power of 53")
        for text in finite.texts(values):
            self._longest = max(self._longest, len(text))
            if finite.UNESCAPED & set(text):
                self._escaped = self._escaped or _place(goal) or "/"
        return finite.written(values)

    def _text(self, what: String, goal: Goal) -> Schema:
        formats = [name for name in what.formats if name in FORMATS]
        most = what.most
        if most is None and not FIXED_FORMATS & set(formats):
            most = max(self._bounds.string, what.least)
        if most is not None:
            most = min(most, self._bounds.characters)
            self._longest = max(self._longest, most)
        schema: Schema = {"type": "string"}
        schema |= {"minLength": what.least} if what.least else {}
        schema |= {"maxLength": most} if most is not None else {}
        several = [{"pattern": without_controls(one)} for one in what.patterns]
        several += [{"format": one} for one in formats]
        if len(several) == 1:
            schema |= several[0]
        elif several:
            schema["allOf"] = [{"type": "string", **one} for one in several]
        if several:
            where = self._reader.patterns.get(what.patterns[0]) if what.patterns else None
            self._texts.append((where or _place(goal), dict(schema)))
        return schema

    # -- arrays ---------------------------------------------------------------------------------

    def _array(self, what: Array, goal: Goal) -> list[Schema]:
        closed = bool(what.prefix) and not what.rest  # as objects are
        for at, some in enumerate(what.some):  # the first items are what some item has to be
            prefix = tuple(join(what.item(n), some if n == at else ()) for n in range(at + 1))
            every = prefix + what.prefix[at + 1 :]
            own = Array(every, what.rest, what.least, what.most, what.unique)
            met = own.meet(Array(least=at + 1))
            if met is None:
                return []
            what = met
        if what.least > (limit := 100 * self._bounds.items):
            raise Unfit(_place(goal), f"more than {limit} items")
        most = self._bounds.items if what.most is None else min(what.most, 10 * self._bounds.items)
        if closed:
            most = min(most, len(what.prefix))
        most = max(most, what.least)
        if what.unique and most > 1 and not self._bounds.foreign:
            return self._unique(what, most, goal)
        prefix_schemas = []
        for at in range(min(len(what.prefix), most)):
            schema = self._goal(what.prefix[at])
            if schema is None:
                most = at
                break
            prefix_schemas.append(schema)
        rest = self._goal(what.rest) if most > len(what.prefix) else None
        most = most if rest is not None else min(most, len(prefix_schemas))
        if what.least > most:
            return []
        found: Schema = {"type": "array"}
        found |= {"prefixItems": prefix_schemas} if prefix_schemas else {}
        found |= {"minItems": what.least} if what.least else {}
        found |= {"uniqueItems": True} if what.unique and self._bounds.foreign else {}
        return [{**found, "items": rest if rest is not None else False, "maxItems": most}]

    def _unique(self, what: Array, most: int, goal: Goal) -> list[Schema]:
        """Write the lists without repetitions, one by one."""
        shapes = as_answered(self._reader.shapes(what.rest))
        certain = [one for shape in shapes for one in self._apart.certain(shape)]
        values = [one.what for one in certain if isinstance(one.what, Values)]
        if what.prefix or len(values) < len(shapes):
            raise Unfit(what.unique, "can only be honoured for items that an enum names")
        every = [value for one in values for value in one.values]
        lists = finite.arrangements(every, what.least, most, self._bounds.lists)
        if not lists and len(every) >= what.least:
            raise Unfit(what.unique, f"more than {self._bounds.lists} different lists")
        return self._values(Values(tuple(lists)), goal) if lists else []

    # -- objects --------------------------------------------------------------------------------

    def _objects(self, what: Object, goal: Goal) -> list[Schema]:
        """Write an object; several where one of its properties has to be there, or one may be."""
        keys = as_answered(self._reader.shapes(what.keys)) if what.keys else []
        listed = [
            value for one in keys if isinstance(one.what, Values) for value in one.what.values
        ]
        every = join(what.names, tuple(name for name in listed if isinstance(name, str)))
        goals = {name: named(what, name) if name in what.names else free(what) for name in every}
        names: dict[str, Schema | None] = {}
        for name in every:
            names[name] = self._goal(goals[name]) if fits(self._reader, name, what.keys) else None
            self._longest = max(self._longest, len(name))
        more = self._more(what, [one.what for one in keys], goal)
        self._mixed = self._mixed or bool(more and names)
        if more and any(finite.UNESCAPED & set(name) for name in names):
            raise Unfit(_place(goal), "a name with controls beside properties of any name")
        counts = properties.Counts(what.least, what.most, self._bounds.properties)
        ways = properties.written(names, what.required, more, counts, _place(goal))
        for one in goals.values() if len(ways) > 1 else ():  # written once, not in each of them
            if self._written.get(one):
                self._again(one)
        return ways

    def _more(self, what: Object, keys: list[Any], goal: Goal) -> Schema:
        """Return the keywords of properties with names that are not told; none: there are none."""
        patterns = self._patterns(what)
        if not what.patterns:
            schema = self._goal(free(what))
            if schema is None or (what.keys and not keys):
                return {}
            if not what.keys:
                return {"additionalProperties": schema}
            texts = [one for one in keys if isinstance(one, String)]
            patterns = {properties.pattern(one, _place(goal)): schema for one in texts}
        elif keys:
            raise Unfit(_place(goal), "propertyNames beside patternProperties cannot be honoured")
        for pattern in patterns:
            where = self._reader.patterns.get(pattern, _place(goal))
            self._texts.append((where, {"type": "string", "pattern": pattern}))
        written = {without_controls(pattern): schema for pattern, schema in patterns.items()}
        return {"patternProperties": written, "additionalProperties": False} if patterns else {}

    def _patterns(self, what: Object) -> Schema:
        """Return what properties are whose names have a pattern.

        Of patterns that one name may have together only the first is answered, and its property
        fits what any of them asks for.
        """
        every, found = what.patterns, {}
        apart = all(strangers(a, b) for at, a in enumerate(every) for b in every[:at])
        for pattern in every if apart else every[:1]:
            goals = [layer.patterns.get(pattern, layer.rest) for layer in what.layers]
            if not apart:
                goals += [goal for layer in what.layers for goal in layer.patterns.values()]
            schema = self._goal(join(*goals))
            if schema is not None:
                found[pattern] = schema
            elif not apart and what.least > len(what.names):
                reason = "nothing fits this and all other patterns that the same name may have"
                raise Unfit(self._reader.patterns.get(pattern, ""), reason)
        return found


def _is_large(node: Schema) -> bool:
    return bool(node.keys() & {"anyOf", "properties", "items", "additionalProperties"})


def _place(goal: Goal) -> str:
    return goal[0] if goal else ""
