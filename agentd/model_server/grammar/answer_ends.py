"""The shortest way to end an answer, from any place in it.

Weights are tokens. The shortest value of each definition is a fixed point, found once for each
schema; an answer that was cut is read again and ended along the way to its end. Schemas are those
that `json_schema` writes: types, values, anyOf, limits and references.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from agentd.json_schema.bounds import Schema
from agentd.model_server.grammar import spelling
from agentd.model_server.grammar.begun import Begun, begun
from agentd.model_server.grammar.examples import example
from agentd.model_server.grammar.matching import Matching

# Stands in an ending for the rest of a text that only the grammar can tell: one with a pattern.
# No JSON contains it.
HOLE = "\0"
HOLE_TOKENS = 8
WAYS = 6  # endings that are kept where several are possible
LONGEST = 50_000  # tokens; what takes more counts as endless

End = tuple[int, str]  # tokens, about; the text
Known = dict[tuple[int, int], list[End]]  # by the identities of a schema and of what was begun


class Endings:
    """Endings of the answers of one schema. `weigh` counts the tokens of a text."""

    def __init__(self, schema: Schema, weigh: Callable[[str], int], *, spaced: bool) -> None:
        self._schema = schema
        self._weigh = weigh
        self._comma, self._colon = (", ", ": ") if spaced else (",", ":")
        self._definitions: dict[str, Schema] = schema.get("$defs", {})
        self._matching = Matching(self._definitions)
        self._weights: dict[str, int] = {}
        self._short: dict[str, End] = {}  # by definition
        self._known: dict[int, End | None] = {}  # by the identity of a schema, once all is settled
        self._settle()
        self.shortest = self._shortest(schema)

    def endless(self, schema: Schema) -> bool:
        """Say whether no value of a part of the schema ends within any limit."""
        return (self._shortest(schema) or (LONGEST, ""))[0] >= LONGEST

    def after(self, text: str) -> list[End]:
        """Return ways to end an answer of which there is this much, the shortest first."""
        part = begun(text)
        if part is None:
            return [self.shortest] if self.shortest else []
        return self._finish(self._schema, part, {})

    def _settle(self) -> None:
        """Find the shortest value of each definition: until nothing becomes shorter."""
        changed, names = True, list(self._definitions)
        while changed:
            changed = False
            names.reverse()  # a chain of references is through in one direction
            for name in names:
                schema = self._definitions[name]
                self._known.clear()
                found = self._shortest(schema)
                if found is not None and found[0] < self._short.get(name, (LONGEST, ""))[0]:
                    self._short[name] = found
                    changed = True
        self._known.clear()

    # -- the shortest value ---------------------------------------------------------------------

    def _shortest(self, schema: Schema) -> End | None:
        """Return the shortest value of a schema; None while there is none."""
        if id(schema) not in self._known:
            self._known[id(schema)] = self._make(schema)
        return self._known[id(schema)]

    def _make(self, schema: Schema) -> End | None:
        if "$ref" in schema:
            return self._short.get(_name(schema))
        if "anyOf" in schema:
            return min(filter(None, map(self._shortest, schema["anyOf"])), default=None)
        if (texts := self._spelled(schema)) is not None:
            return min((self._weighed(text) for text in texts), default=None)
        if schema["type"] == "string":
            text = _example(schema)
            if text is None:
                return HOLE_TOKENS + schema.get("minLength", 0), HOLE
            return self._weighed(spelling.spelled(text, "", ""))
        if schema["type"] == "array":
            rest = self._items(schema, 0, must=False)
            return rest and (1 + rest[0], "[" + rest[1])
        if schema["type"] == "object":
            rest = self._properties(schema, _Properties(), must=False)
            return rest and (1 + rest[0], "{" + rest[1])
        return min(map(self._weighed, spelling.number_ends("", schema)), default=None)

    def _spelled(self, schema: Schema) -> list[str] | None:
        """Return the spellings of a schema's values, where it names them."""
        if "const" in schema or "enum" in schema:
            values = schema.get("enum", [schema.get("const")])
            return [spelling.spelled(value, self._comma, self._colon) for value in values]
        return {"boolean": ["true", "false"], "null": ["null"]}.get(schema["type"])

    def _weighed(self, text: str) -> End:
        if text not in self._weights:
            self._weights[text] = self._weigh(text)
        return self._weights[text], text

    def _joined(self, parts: Iterable[End | None]) -> End | None:
        """Return one ending of several; None where one of them is, or if it is too long."""
        weight, texts = 0, []
        for part in parts:
            if part is None or weight > LONGEST:
                return None
            weight += part[0]
            texts.append(part[1])
        return weight, "".join(texts)

    # -- lists and objects ----------------------------------------------------------------------

    def _items(self, schema: Schema, count: int, *, must: bool) -> End | None:
        """Return the end of a list that has so many items; `must` another one come."""
        prefix = schema.get("prefixItems", ())
        least = max(schema.get("minItems", 0), count + 1 if must else 0)
        parts: list[End | None] = []
        for at in range(count, least):
            item = prefix[at] if at < len(prefix) else schema["items"]
            separator = "" if at == count and (must or count == 0) else self._comma
            parts += [(1, separator), self._shortest(item) if item else None]
        return self._joined([*parts, (1, "]")])

    def _properties(self, schema: Schema, place: "_Properties", *, must: bool) -> End | None:
        """Return the end of an object; `must` another property come."""
        names = {name: inner for name, inner in schema.get("properties", {}).items() if inner}
        left = list(names)[place.passed :]
        chosen = [name for name in left if name in schema.get("required", ())]
        if must and not chosen:
            optional = [self._property(name, names[name]) for name in left]
            parts = [min(filter(None, [*optional, self._free(schema, names)]), default=None)]
        else:
            parts = [self._property(name, names[name]) for name in chosen]
        least = schema.get("minProperties", 0) - place.count - len(parts)
        parts += [self._free(schema, names)] * max(0, least)
        first = "" if must or not place.count else self._comma
        found: list[End | None] = []
        for part in parts:
            found += [(1, self._comma if found else first), part]
        return self._joined([*found, (1, "}")])

    def _property(self, name: str, schema: Schema) -> End | None:
        written = HOLE if name == HOLE else spelling.key(name)
        return self._joined([self._weighed(written + self._colon), self._shortest(schema)])

    def _free(self, schema: Schema, names: Schema) -> End | None:
        """Return a property of a name that is not told."""
        ways = []
        for pattern, inner in schema.get("patternProperties", {}).items():
            name = example(pattern) or HOLE
            ways.append(
                self._property(HOLE if name in schema.get("properties", {}) else name, inner)
            )
        if more := schema.get("additionalProperties"):
            name = next(name for name in _names() if name not in schema.get("properties", {}))
            ways.append(self._property(name, more))
        return min(filter(None, ways), default=None)

    # -- what was begun -------------------------------------------------------------------------

    def _finish(self, schema: Schema, part: Begun, known: Known) -> list[End]:
        """Return ways to end what was begun of a schema's value, the shortest first."""
        key = (id(schema), id(part))
        if key not in known:
            known[key] = []
            known[key] = sorted(set(self._ways(schema, part, known)))[:WAYS]
        return known[key]

    def _ways(self, schema: Schema, part: Begun, known: Known) -> Iterator[End]:
        if "$ref" in schema:
            yield from self._finish(self._definitions[_name(schema)], part, known)
        elif "anyOf" in schema:
            for one in schema["anyOf"]:
                yield from self._finish(one, part, known)
        elif (texts := self._spelled(schema)) is not None:
            for text in texts:
                if text.startswith(part.text):
                    yield self._weighed(text[len(part.text) :])
        elif schema["type"] == "string":
            yield from self._text(schema, part)
        elif schema["type"] == "array":
            yield from self._list(schema, part, known)
        elif schema["type"] == "object":
            yield from self._object(schema, part, known)
        elif part.state == "scalar" and part.text[0] in "-0123456789":
            yield from map(self._weighed, spelling.number_ends(part.text, schema))

    def _text(self, schema: Schema, part: Begun) -> Iterator[End]:
        if part.text[0] != '"':
            return
        inside = spelling.characters(part.text)
        if inside is None:  # it has its closing quote
            yield (0, "")
        elif inside < 0:
            yield LONGEST, HOLE
        elif (text := _example(schema)) is None or _patterned(schema):
            yield from self._rest(part.text, text or "")
        else:
            yield self._weighed("a" * (len(text) - inside) + '"')

    def _rest(self, written: str, wanted: str) -> Iterator[End]:
        """Yield ways to end a text with a pattern: at once, with what it lacks, by the grammar."""
        wanted = spelling.spelled(wanted, "", "")[1:]
        for size in range(len(wanted)):
            if written.endswith(wanted[:size]):
                yield self._weighed(wanted[size:])
        yield from [self._weighed('"'), (LONGEST, HOLE)]

    def _list(self, schema: Schema, part: Begun, known: Known) -> Iterator[End]:
        prefix = schema.get("prefixItems", ())
        items = [value for _key, value in part.items]
        if part.text[0] != "[" or not self._matching.items(items, schema):
            return
        if part.inner is None:
            rest = self._items(schema, len(items), must=part.state == "comma")
            found = self._joined([self._gap(part), rest])
            yield from [found] if found else []
            return
        rest = self._items(schema, len(items) + 1, must=False)
        item = prefix[len(items)] if len(items) < len(prefix) else schema["items"]
        for end in self._finish(item, part.inner, known) if item else ():
            found = self._joined([end, rest])
            yield from [found] if found else []

    def _object(self, schema: Schema, part: Begun, known: Known) -> Iterator[End]:
        if part.text[0] != "{" or not self._matching.properties(part.items, schema):
            return
        place = _Properties()
        for name, _value in part.items:
            place = place.behind(name, schema)
        if part.state in ("first", "after", "comma"):
            rest = self._properties(schema, place, must=part.state == "comma")
            found = self._joined([self._gap(part), rest])
            yield from [found] if found else []
        elif part.state == "key":
            yield from self._key(schema, part.key, place)
        else:
            yield from self._inner(schema, part, place, known)

    def _inner(
        self, schema: Schema, part: Begun, place: "_Properties", known: Known
    ) -> Iterator[End]:
        """Yield ways to end an object inside the value of a property."""
        place = place.behind(part.key, schema)
        rest = self._properties(schema, place, must=False)
        for inner in self._matching.of_name(schema, part.key):
            if part.inner is not None:
                ends: Sequence[End | None] = self._finish(inner, part.inner, known)
            else:
                colon = (1, self._colon) if part.state == "colon" else self._gap(part)
                ends = [self._joined([colon, self._shortest(inner)])]
            for end in ends:
                found = self._joined([end, rest])
                yield from [found] if found else []

    def _key(self, schema: Schema, written: str, place: "_Properties") -> Iterator[End]:
        """Yield ways to end an object inside a key."""
        names = {name: inner for name, inner in schema.get("properties", {}).items() if inner}
        for name in list(names)[place.passed :]:
            if spelling.key(name).startswith(written):
                rest = self._properties(schema, place.behind(name, schema), must=False)
                pair = self._property(name, names[name])
                found = self._joined([pair and (pair[0], pair[1][len(written) :]), rest])
                yield from [found] if found else []
            if name in schema.get("required", ()):
                return
        rest = self._properties(schema, place.behind("", schema), must=False)
        for pattern, inner in schema.get("patternProperties", {}).items():
            for end in self._rest(written, example(pattern) or ""):
                found = self._joined([end, (1, self._colon), self._shortest(inner), rest])
                yield from [found] if found else []
        if more := schema.get("additionalProperties"):
            for text in ('"', 'a"', 'aa"'):  # whichever is no name that is told
                found = self._joined([(len(text), text + self._colon), self._shortest(more), rest])
                yield from [found] if found else []

    def _gap(self, part: Begun) -> End:
        """Return the space that is missing behind a comma or colon."""
        missing = part.state in ("comma", "value") and not part.text.endswith(" ")
        return 0, " " if missing and self._comma == ", " else ""


class _Properties:
    """A place in an object: how many of the told properties are passed, how many there are."""

    def __init__(self, passed: int = 0, count: int = 0) -> None:
        self.passed, self.count = passed, count

    def behind(self, name: str, schema: Schema) -> "_Properties":
        """Return the place behind a property; those of other names come last."""
        names = [one for one, inner in schema.get("properties", {}).items() if inner]
        return _Properties(names.index(name) + 1 if name in names else len(names), self.count + 1)


def _name(schema: Schema) -> str:
    name: str = schema["$ref"]
    return name.removeprefix("#/$defs/")


def _patterned(schema: Schema) -> bool:
    return bool(schema.keys() & {"pattern", "format", "allOf"})


def _example(schema: Schema) -> str | None:
    """Return a short text of a schema; None where only the grammar can tell one."""
    least: int = schema.get("minLength", 0)
    if not _patterned(schema):
        return "a" * least
    pattern: str = schema.get("pattern", "^(?!)")
    text: str | None = example(pattern)
    if text is None or len(text) >= least:
        return text
    return None if pattern.startswith("^") else "a" * (least - len(text)) + text


def _names() -> Iterator[str]:
    number = 0
    while True:
        yield chr(97 + number % 26) * (1 + number // 26)
        number += 1
