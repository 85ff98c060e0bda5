"""Compilations: once, bounded in number, time and stack, and nobody else waits for them."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.model_server.calls import Full, Refused
from agentd.model_server.grammar.compilations import SLOTS, Compilations
from agentd.model_server.grammar.grammar import Grammars
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import ScriptedEngine
from tests.serving import serving, wait_for


def in_threads(count: int, do: Callable[[], Any]) -> list[Any]:
    """Call `do` in several threads at once; return what each returned or raised."""
    found: list[Any] = []
    start = threading.Barrier(count)

    def run() -> None:
        start.wait(20)
        try:
            found.append(do())
        except Refused as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


def test_the_same_is_compiled_once_however_many_ask() -> None:
    """Concurrent first requests wait for one compilation; later ones find its result."""
    compilations: Compilations[object] = Compilations()
    begun: list[int] = []
    go = threading.Event()

    def compile_it() -> object:
        begun.append(1)
        assert go.wait(20)
        return object()

    def release() -> None:
        wait_for(lambda: begun)
        go.set()

    releaser = threading.Thread(target=release)
    releaser.start()
    found = in_threads(8, lambda: compilations.get("key", compile_it))
    releaser.join(20)
    assert len(set(map(id, found))) == 1 and len(found) == 8
    assert compilations.get("key", compile_it) is found[0]
    assert len(begun) == 1


def test_a_refusal_is_remembered_and_a_fault_is_not() -> None:
    """A hopeless schema costs once, however often it comes; what failed by chance is tried anew."""
    compilations: Compilations[int] = Compilations()
    calls: list[str] = []

    def refuse() -> int:
        calls.append("refuse")
        raise Refused("no", code="unsupported_schema", param="response_format")

    def fail() -> int:
        calls.append("fail")
        raise MemoryError

    errors = in_threads(3, lambda: compilations.get("bad", refuse))
    errors += in_threads(1, lambda: compilations.get("bad", refuse))
    assert len({id(error) for error in errors}) == 4  # a raised one collects tracebacks
    assert {(e.message, e.status, e.code, e.param) for e in errors} == {
        ("no", 400, "unsupported_schema", "response_format")
    }
    for _ in range(2):
        with pytest.raises(MemoryError):
            compilations.get("odd", fail)
    assert compilations.get("odd", lambda: 5) == 5
    assert calls == ["refuse", "fail", "fail"]


def test_one_that_takes_too_long_is_given_up_by_those_who_wait() -> None:
    """Who waits gets an error in time; stuck ones hold their slots, and no more than these."""
    compilations: Compilations[int] = Compilations(deadline_s=0.05)
    go = threading.Event()

    def stuck() -> int:
        assert go.wait(20)
        return 1

    for number in range(SLOTS):
        with pytest.raises(Refused, match="not compiled within"):
            compilations.get(f"stuck {number}", stuck)
    with pytest.raises(Full, match="too many schemas"):
        compilations.get("other", lambda: 2)
    go.set()
    assert wait_for(lambda: _or_none(lambda: compilations.get("stuck 0", stuck))) == 1  # alone
    assert wait_for(lambda: _or_none(lambda: compilations.get("other", lambda: 2))) == 2


def _or_none(get: Callable[[], int]) -> int | None:
    try:
        return get()
    except (Full, Refused):  # no slot yet; not within its 0.05 s
        return None


def chain(length: int, link: Callable[[dict[str, str]], Any]) -> dict[str, Any]:
    """Return a schema of references, each to the next."""
    definitions = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    return {"$defs": {**definitions, f"d{length}": {"type": "null"}}, "$ref": "#/$defs/d0"}


LINKS: list[Callable[[dict[str, str]], Any]] = [
    lambda next_: next_,
    lambda next_: {"allOf": [next_]},
    lambda next_: {"anyOf": [next_, {"type": "null"}]},
    lambda next_: {"type": "array", "items": next_},
    lambda next_: {"type": "object", "properties": {"a": next_}, "required": ["a"]},
]


@pytest.fixture(scope="module")
def grammars(tiny_model: Path) -> Grammars:
    return ModelLanguage(tiny_model).grammars


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("length", [600, 5000])
def test_long_ways_through_references_overflow_no_stack(
    grammars: Grammars, link: Callable[[dict[str, str]], Any], length: int
) -> None:
    """The compiler recurses: where it may go deep it has the stack for it, else it is refused.

    Without either, this test ends the process. What is compiled is usable on a small stack.
    """
    outcome: list[str] = []

    def use() -> None:
        try:
            mask = grammars.mask(chain(length, link))
            mask.forced()
            outcome.append("closed" if mask.finished or mask.close() else "open")
        except Refused as refused:
            outcome.append(refused.code)

    before = threading.stack_size(512 * 1024)
    thread = threading.Thread(target=use)
    thread.start()
    threading.stack_size(before)
    thread.join(60)
    assert outcome in (["closed"], ["unsupported_schema"])
    assert length == 600 or outcome == ["unsupported_schema"]


def objects(count: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "object",
            "properties": {f"k{n}": {"const": side}},
            "required": [f"k{n}"],
            "additionalProperties": {"type": "integer"},
        }
        for n in range(count)
        for side in range(2)
    ]


def pairs(count: int) -> list[dict[str, Any]]:
    every = objects(count)
    return [{"anyOf": every[at : at + 2]} for at in range(0, len(every), 2)]


HEAVY: dict[str, Any] = {
    "remainders": {"type": "integer", "multipleOf": 99991},
    "remainders together": {"allOf": [{"type": "integer", "multipleOf": n} for n in (997, 991)]},
    "an exponential allOf": {"allOf": pairs(24)},
    "a product": {
        "allOf": [
            {"anyOf": [{"type": "string", "pattern": f"{c}{n}"} for n in range(60)]} for c in "ab"
        ]
    },
    "a huge enum": {"enum": [f"value {n}" for n in range(30_000)]},
    "large values": {"enum": [{"a": [n] * 20} for n in range(1500)]},
    "many values": {"enum": [{"a": n, "b": [n]} for n in range(450)]},
    "many properties": {
        "type": "object",
        "properties": {f"p{n}": {"type": "string"} for n in range(1900)},
    },
    "long names": {
        "type": "object",
        "properties": {"k" * 999 + str(n): {"type": "null"} for n in range(99)},
    },
    "a large automaton": {"type": "string", "pattern": "^[ab]*a[ab]{60}$"},
    "letters and digits": {"type": "string", "pattern": "^(\\w*\\d){20}$"},
    "nested repetitions": {"type": "string", "pattern": "^" + "(" * 50 + "a" + "{1,9})" * 50 + "$"},
    "a long repetition": {"type": "string", "pattern": "^(abcdefghij){1,100000}$"},
    "many patterns": {
        "anyOf": [{"type": "string", "pattern": f"^[ab]*a[ab]{{{n}}}$"} for n in range(60)]
    },
    "many ranges": {
        "type": "object",
        "properties": {f"p{n}": {"type": "number", "minimum": n * 1.2345678} for n in range(400)},
    },
    "a long array": {"type": "array", "items": {"type": "null"}, "minItems": 100_000},
    "ambiguous": {
        "$defs": {"a": {"anyOf": [*[{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 30]}},
        "$ref": "#/$defs/a",
    },
    "doubling": {
        "$defs": {
            **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)},
            "d60": {"type": "string"},
        },
        "$ref": "#/$defs/d0",
    },
    "itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a deep value": {"const": json.loads("[" * 900 + "]" * 900)},
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_schemas_are_refused_or_work(grammars: Grammars, name: str) -> None:
    """What was seen to take minutes or memory without end: an answer, or a reason, in time."""
    try:
        mask = grammars.mask(HEAVY[name])
        for _ in range(20):
            mask.forced()
            if mask.finished:
                break
            bits = mask.allowed()
            mask.accept(next(n for n in range(3, len(bits) * 8) if bits[n // 8] >> (n % 8) & 1))
        assert mask.close() or mask.finished
    except Refused as refused:
        assert refused.code == "unsupported_schema"
        assert "not compiled within" not in refused.message


def test_a_compilation_keeps_nobody_else_waiting(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While schemas are being compiled, text and schemas that are known are answered."""
    language = ModelLanguage(tiny_model)
    go = threading.Event()
    compile_schema = Grammars._compile
    known = {"type": "json_schema", "json_schema": {"name": "k", "schema": {"type": "null"}}}
    slow = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "boolean"}}}

    def wait(self: Grammars, schema: Any) -> Any:
        if schema == {"type": "boolean"}:
            assert go.wait(20)
        return compile_schema(self, schema)

    monkeypatch.setattr(Grammars, "_compile", wait)
    with serving(lambda _language: ScriptedEngine(), lambda: language) as server:
        assert server.chat(response_format=known)[0] == 200
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda: results.append(server.chat(response_format=slow)[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert server.chat()[0] == 200
        assert server.chat(response_format=known)[0] == 200
        assert not results
        go.set()
        for thread in threads:
            thread.join(20)
        assert results == [200] * 8
