"""Schemas of many kinds, each with a check of its own: the server's compiler is not trusted."""

import random
import re
import string
from collections.abc import Callable
from typing import Any

from .ledger import Check

Kind = tuple[str, dict[str, Any], Check]


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _enum(made: random.Random) -> Kind:
    """An enum that no other request has: the compiled ones must not pile up."""
    values = ["".join(made.choices(string.ascii_letters, k=made.randint(1, 30))) for _ in range(5)]
    schema = _object({"tool": {"enum": values}})
    return "new enum", schema, lambda v: set(v) == {"tool"} and v["tool"] in values


def _text(made: random.Random) -> Kind:
    most = made.randint(0, 60)
    schema = {"type": "string", "maxLength": most}
    return "string", schema, lambda v: isinstance(v, str) and len(v) <= most


def _number(made: random.Random) -> Kind:
    low = made.randint(-1000, 1000)
    high = low + made.randint(0, 5000)
    schema = _object({"n": {"type": "integer", "minimum": low, "maximum": high}, "ok": BOOLEAN})

    def check(value: Any) -> bool:
        n, ok = value["n"], value["ok"]
        return type(n) is int and low <= n <= high and type(ok) is bool and len(value) == 2

    return "integer", schema, check


def _list(made: random.Random) -> Kind:
    least = made.randint(0, 2)
    most = least + made.randint(0, 3)
    items = {"enum": ["a", "bb", "ccc"]}
    schema = {"type": "array", "items": items, "minItems": least, "maxItems": most}

    def check(value: Any) -> bool:
        return least <= len(value) <= most and all(v in ("a", "bb", "ccc") for v in value)

    return "array", schema, check


def _union(made: random.Random) -> Kind:
    note = {"type": "string", "maxLength": 20}
    line = {"type": "integer", "minimum": 0, "maximum": 99}
    read = _object({"tool": {"const": "read"}, "path": note, "line": line})
    done = _object({"tool": {"const": "done"}, "result": {"anyOf": [note, {"type": "null"}]}})

    def check(value: Any) -> bool:
        if value["tool"] == "done":
            return set(value) == {"tool", "result"}
        good = set(value) == {"tool", "path", "line"} and len(value["path"]) <= 20
        return value["tool"] == "read" and good and 0 <= value["line"] <= 99

    return "union", {"anyOf": [read, done]}, check


def _pattern(made: random.Random) -> Kind:
    pattern = made.choice(["^[a-f0-9]{8}$", "^(GET|POST) /[a-z]{1,9}$", "^v[0-9]+$"])
    schema = _object({"x": {"type": "string", "pattern": pattern, "maxLength": 20}})
    return "pattern", schema, lambda v: bool(re.fullmatch(pattern, v["x"]))


def _date(made: random.Random) -> Kind:
    schema = _object({"day": {"type": "string", "format": "date"}})
    return "date", schema, lambda v: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", v["day"]))


def _deep(made: random.Random) -> Kind:
    depth = made.randint(2, 8)
    schema: dict[str, Any] = {"const": 1}
    for _ in range(depth):
        schema = _object({"in": schema})

    def check(value: Any) -> bool:
        for _ in range(depth):
            value = value["in"]
        return bool(value == 1)

    return "nested", schema, check


BOOLEAN = {"type": "boolean"}
KINDS: tuple[Callable[[random.Random], Kind], ...] = (
    *(_enum, _text, _number, _list),
    *(_union, _pattern, _date, _deep),
)
# What a mask cannot honour must be refused before anything is generated.
IMPOSSIBLE: tuple[dict[str, Any], ...] = (
    {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    {"not": {}},
    {"type": "array", "contains": {"type": "string"}, "maxContains": 1},
    {"$ref": "https://example.org/schema"},
    {"type": "string", "minLength": 9, "maxLength": 3},
    {"type": "colour"},
)
