"""A random model: any legal decision of a union, by its JSON Schema. For property tests.

A mask makes every answer legal, so an agent has to survive every legal answer.
"""

import json
import random
import re
import string
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, floor, inf

# The standard library's own parser of patterns: private, and the same since 3.11.
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from agentd.testing.fake_server import Request

TEXT = string.ascii_letters + string.digits + " ./_-<>&\"'\\\n\té漢😀"
PRINTABLE = string.printable[:95]
CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d",
    op.CATEGORY_NOT_DIGIT: r"\D",
    op.CATEGORY_SPACE: r"\s",
    op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w",
    op.CATEGORY_NOT_WORD: r"\W",
}
MORE_MAX = 4  # beyond the least: items, keys, and at first what a pattern repeats
KEY_MAX = 10  # characters of a map's key
TRIES = 1000
LONG_SHARE = 0.1  # of texts that are as long as they may be


class RandomModel:
    """Answers any legal decision. The same seed gives the same answers.

    Give it to `FakeModelServer` or to `run_agent`. `words` are texts that it likes, such as paths
    that exist; without them nearly all paths are wrong.
    """

    def __init__(self, seed: int = 0, *, words: Sequence[str] = ()) -> None:
        self._random = random.Random(seed)
        self._words = words

    def __call__(self, request: Request) -> str:
        """Answer a request of the fake server."""
        return self.answer(request.body["response_format"]["json_schema"]["schema"])

    def answer(self, schema: Mapping[str, Any]) -> str:
        """Return a legal answer as the model would write it: compact JSON."""
        return json.dumps(self.value(schema), ensure_ascii=False, separators=(",", ":"))

    def value(self, schema: Mapping[str, Any]) -> Any:
        """Return a value that a schema of ours allows."""
        pick = self._random
        if "anyOf" in schema:
            return self.value(pick.choice(schema["anyOf"]))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return pick.choice(schema["enum"])
        match schema.get("type"):
            case "object" if "properties" in schema:
                return {key: self.value(item) for key, item in schema["properties"].items()}
            case "object":
                return self._map(schema)
            case "array":
                count = self._count(schema.get("minItems", 0), schema.get("maxItems"))
                return [self.value(schema["items"]) for _ in range(count)]
            case "integer" | "number":
                return self._number(schema)
            case "boolean":
                return pick.random() < 0.5
            case "null":
                return None
        return self._text(schema)

    def _count(self, least: int, most: int | None) -> int:
        most = least + MORE_MAX if most is None else min(most, least + MORE_MAX)
        return self._random.randint(least, most)

    def _map(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        count = self._count(schema.get("minProperties", 0), schema.get("maxProperties"))
        names = {"minLength": 1, "maxLength": KEY_MAX, **schema.get("propertyNames", {})}
        found: dict[str, Any] = {}
        while len(found) < count:
            found[self._text(names)] = self.value(schema.get("additionalProperties") or {})
        return found

    def _number(self, schema: Mapping[str, Any]) -> int | float:
        """Return a number within the bounds: one of them, one near the least, or any."""
        least = max(schema.get("minimum", -inf), above := schema.get("exclusiveMinimum", -inf))
        most = min(schema.get("maximum", inf), below := schema.get("exclusiveMaximum", inf))
        least = min(-100, most - 100) if least == -inf else least
        most = max(100, least + 100) if most == inf else most
        whole = schema["type"] == "integer"
        step = schema.get("multipleOf", 1 if whole else None)
        value: int | float
        for _ in range(TRIES):
            if step is None:
                value = self._random.choice([least, most, self._random.uniform(least, most)])
            else:
                exact = self._multiple(Fraction(str(step)), least, most)
                value = int(exact) if whole else float(exact)
            # As validators reckon, with floats: 0.3 is no multiple of 0.1.
            if above < value < below and not (step and value % step):
                return value
        raise ValueError(f"no number found for {dict(schema)}")

    def _multiple(self, step: Fraction, least: float, most: float) -> Fraction:
        first, last = ceil(Fraction(least) / step), floor(Fraction(most) / step)
        near = min(last, first + int(20 / step))
        return self._random.choice([first, last, self._random.randint(first, near)]) * step

    def _text(self, schema: Mapping[str, Any]) -> str:
        least = schema.get("minLength", 0)
        most = schema.get("maxLength", max(40, least))
        if "pattern" in schema:
            return _matching(self._random, schema["pattern"], least, most)
        fitting = [word for word in self._words if least <= len(word) <= most]
        if fitting and self._random.random() < 0.7:
            return self._random.choice(fitting)
        length = self._random.randint(least, min(most, least + 20))
        if self._random.random() < LONG_SHARE:
            length = most
        return "".join(self._random.choice(TEXT) for _ in range(length))


def _matching(pick: random.Random, pattern: str, least: int, most: int) -> str:
    """Return a text that matches the pattern and has a length within the bounds."""
    parsed, more = _parser.parse(pattern), MORE_MAX
    for _ in range(TRIES):
        text = "".join(_made(pick, item, more) for item in parsed)
        if least <= len(text) <= most and re.search(pattern, text):
            return text
        if len(text) < least:
            more += least - len(text)
        elif len(text) > most:
            more = max(1, more - (len(text) - most))
    raise ValueError(f"no text of {least} to {most} characters found for {pattern!r}")


def _made(pick: random.Random, item: tuple[Any, Any], more: int) -> str:
    """Return what a part of a pattern matches; `more` is what a repetition adds to its least."""
    kind, value = item
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.NOT_LITERAL:
        return pick.choice(PRINTABLE.replace(chr(value), ""))
    if kind is op.ANY:
        return pick.choice(string.ascii_letters)
    if kind is op.IN:
        return pick.choice(_class(value))
    if kind is op.BRANCH:
        return "".join(_made(pick, part, more) for part in pick.choice(value[1]))
    if kind is op.SUBPATTERN:
        return "".join(_made(pick, part, more) for part in value[-1])
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
        least, most, part = value
        most = min(most, least + more)
        count = pick.choice([most, pick.randint(least, most)])
        return "".join(_made(pick, inner, more) for _ in range(count) for inner in part)
    if kind is op.AT:
        return ""
    raise ValueError(f"a pattern with {kind} is too much for the random model")


def _class(items: Sequence[tuple[Any, Any]]) -> str:
    found: list[str] = []
    for kind, value in items:
        if kind is op.LITERAL:
            found.append(chr(value))
        elif kind is op.RANGE:
            found += [chr(code) for code in range(value[0], value[1] + 1)]
        elif kind is op.CATEGORY:
            category = re.compile(CATEGORIES[value])
            found += [c for c in PRINTABLE if category.fullmatch(c)]
    if (op.NEGATE, None) in items:
        found = [c for c in PRINTABLE if c not in found]
    return "".join(found)
