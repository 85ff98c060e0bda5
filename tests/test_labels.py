"""Labels: the server chooses them by one token, after offsets, and says how likely each was."""

import json
import math
import random
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest

from agentd.model_server.calls import Mask, Refused
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.grammar.grammar import Grammars
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import SPECIAL
from tests.serving import Serving, chat_body, serving, wait_for
from tests.stepped_engine import Breaks, Run, call_of, chat
from tests.test_model_server_process import home as home
from tests.test_model_server_process import spawned

KINDS = ["bug", "docs", "feature"]
WORDS = ["Fix a typo.", "It crashes.", "Add a page.", "Faster, please.", "What is it?"]


def member(tool: str, **fields: Any) -> dict[str, Any]:
    properties = {"tool": {"const": tool}, **fields}
    return {"type": "object", "properties": properties, "required": list(properties)}


DONE = member(
    "done",
    title={"type": "string", "maxLength": 8},
    kind={"enum": KINDS},
    size={"type": "integer", "minimum": 0, "maximum": 9},
)
UNION = {"anyOf": [DONE, member("dig", path={"type": "string", "maxLength": 8})]}
ZERO = dict.fromkeys(KINDS, 0.0)


def asked(schema: object, labels: Any, **more: Any) -> dict[str, Any]:
    """Return what a request says of an answer that fits a schema and chooses labels."""
    form = {"name": "answer", "strict": True, "schema": schema}
    return {
        "response_format": {"type": "json_schema", "json_schema": form},
        "agentd_labels": labels,
        **more,
    }


@pytest.fixture(scope="module")
def language(tiny_model: Path) -> ModelLanguage:
    return ModelLanguage(tiny_model)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Serving]:
    def load(language: Any) -> MlxEngine:
        return MlxEngine(tiny_model, language, fast_blas=True)

    with serving(load, lambda: ModelLanguage(tiny_model)) as server:
        yield server


def choice_of(server: Serving, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an answer, read, and what its choice says."""
    status, answer = server.chat(**{"max_tokens": 200, **more})
    assert status == 200, answer
    (choice,) = answer["choices"]
    return json.loads(choice["message"]["content"]), choice


# -- the mask ------------------------------------------------------------------------------------


def grammars(*merges: Sequence[str]) -> Grammars:
    """Return those of a byte-level tokenizer with these merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*SPECIAL, *sorted(ByteLevel.alphabet()), *dict.fromkeys(map("".join, merges))]
    bytelike = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    vocabulary = {token: number for number, token in enumerate(tokens)}
    data = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {**bytelike, "use_regex": False},
        "decoder": {**bytelike, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": list(map(list, merges))},
    }
    return Grammars(json.dumps(data), len(tokens), [2])


def written(mask: Mask, of: Grammars, choose: str) -> bytes:
    """Return the answer that chooses this label, and the first legal token everywhere else."""
    tokens = mask.forced()
    branches = 0
    while not mask.finished:
        bits = mask.allowed()
        legal = [n for n in range(len(bits) * 8) if bits[n // 8] >> n % 8 & 1]
        if mask.branch is not None:
            assert sorted(mask.branch.tokens.values()) == legal
            legal, branches = [mask.branch.tokens[choose]], branches + 1
        mask.accept(legal[0])
        tokens += [legal[0], *mask.forced()]
    assert branches == 1
    return b"".join(map(of.bytes_of, tokens))


MERGES: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "quote and letters": [('"', "b"), ('"', "d"), ('"', "f")],
    "colon, quote and letter": [('"', ":"), ('":', '"'), ('":"', "b"), ('":"', "d")],
    "letters": [("b", "u"), ("bu", "g"), ("d", "o"), ("do", "c"), ("f", "e")],
    "letters and quote": [
        ("g", '"'),
        ("u", 'g"'),
        ("b", 'ug"'),
        ("s", '"'),
        ("e", '"'),
        ('e"', ","),
    ],
    "comma and quote": [('"', ","), ('",', '"'), ("n", "d"), ("i", "nd"), ('","', "k")],
}


@pytest.mark.parametrize("kind", MERGES)
@pytest.mark.parametrize("name", ["done.kind", "kind"])
def test_a_label_is_chosen_by_one_token_whatever_the_tokenizer(kind: str, name: str) -> None:
    """Quotes, colons and letters may be one token: the choice then lies before them."""
    of = grammars(*MERGES[kind])
    schema = member("done", ok={"type": "boolean"}, kind={"enum": KINDS}, rest={"type": "boolean"})
    for label in KINDS:
        mask = of.labelled(of.mask(schema), schema, {name: ZERO})
        answer = json.loads(written(mask, of, label))
        assert list(answer) == ["tool", "ok", "kind", "rest"]
        assert answer["kind"] == label


def some_merges(pick: random.Random) -> list[tuple[str, str]]:
    """Return merges of what labels and the JSON around them are made of."""
    pool, merges = list('"",:abc'), []
    for _ in range(pick.randrange(12)):
        merges.append((pick.choice(pool), pick.choice(pool)))
        pool.append("".join(merges[-1]))
    return merges


def test_any_label_of_any_tokenizer_can_be_chosen() -> None:
    """Also one that begins another, is empty or has escapes; else both are named in a refusal."""
    pick, chosen, refused = random.Random(3), 0, 0
    for _ in range(150):
        of = grammars(*some_merges(pick))
        labels = sorted({"".join(pick.choices('aabbc":,é\\', k=pick.randrange(4))) for _ in "123"})
        schema = member("t", x={"enum": labels}, y={"type": "null"})
        for label in labels if len(labels) > 1 else ():
            try:
                mask = of.labelled(of.mask(schema), schema, {"t.x": dict.fromkeys(labels, 0.0)})
            except Refused as error:
                assert "begin with the same token" in error.message
                refused += 1
                break
            assert json.loads(written(mask, of, label))["x"] == label
            chosen += 1
    assert chosen > 100
    assert refused > 10


@pytest.mark.parametrize("labels", [["abcd", "abce"], ["bug", "\x7f"], ["\n", "\ufdd0"]])
def test_a_label_is_legal_however_it_is_spelled(labels: Sequence[str]) -> None:
    """Letters that labels have in common are several tokens in one and a single one in another."""
    of = grammars(("c", "d"), ("b", "c"), ("a", "b"))
    schema = member("t", x={"enum": labels}, y={"type": "null"})
    for label in labels:
        mask = of.labelled(of.mask(schema), schema, {"t.x": dict.fromkeys(labels, 0.0)})
        assert json.loads(written(mask, of, label))["x"] == label


def test_a_label_that_alone_is_legal_is_taken_and_told(language: ModelLanguage) -> None:
    """What else narrows the answer is obeyed; the choice is still made by the label's own token."""
    only = member("done", kind={"enum": ["docs"]}, size={"type": "integer", "maximum": 9})
    mask = language.labelled(language.mask(only), DONE, {"done.kind": ZERO})
    mask.forced()
    assert mask.branch is not None
    bits = mask.allowed()
    assert [n for n in range(len(bits) * 8) if bits[n // 8] >> n % 8 & 1] == [
        mask.branch.tokens["docs"]
    ]


@pytest.mark.parametrize(
    ("merges", "read"),
    [
        ([("Ġ", "b"), ("Ġ", "d"), ("Ġ", "f")], ["Ġb", "Ġd", "Ġf"]),
        ([("Ġ", "b"), ("Ġ", "d")], ["Ġb", "Ġd", "Ġ"]),
        ([], []),  # all begin with the space alone
        # The choice lies before the quote.
        ([("Ġ", "b"), ("Ġ", "d"), ("Ġ", "f"), ('"', "b"), ('"', "d"), ('"', "f")], []),
    ],
)
def test_labels_are_read_as_words_where_the_tokenizer_tells_them(
    merges: list[tuple[str, str]], read: list[str]
) -> None:
    """What is told is of other tokens; the answer is written as ever."""
    of = grammars(*merges)
    schema = member("t", kind={"enum": KINDS}, rest={"type": "boolean"})
    for label in KINDS:
        mask = of.labelled(of.mask(schema), schema, {"t.kind": ZERO}, words=True)
        mask.forced()
        assert mask.branch is not None
        found = [of.bytes_of(token).decode() for token in mask.branch.words.values()]
        assert found == [piece.replace("Ġ", " ") for piece in read]
        mask = of.labelled(of.mask(schema), schema, {"t.kind": ZERO}, words=True)
        assert json.loads(written(mask, of, label))["kind"] == label


def test_only_the_fields_own_place_is_a_choice(language: ModelLanguage) -> None:
    """The same key deeper, in a string, or in another decision's object is written as before."""
    inner = {"type": "object", "properties": {"kind": {"enum": KINDS}}, "required": ["kind"]}
    schema = {
        "anyOf": [member("a", kind={"enum": KINDS}), member("b", x=inner, kind={"enum": KINDS})]
    }
    labels = {"b.kind": ZERO}
    text = '{"tool":"b","x":{"kind":"bug"},"kind":"docs"}'
    for answer, places in ((text, [text.rindex("docs")]), ('{"tool":"a","kind":"bug"}', [])):
        mask = language.labelled(language.mask(schema), schema, labels)
        found, at = [], b""
        while not mask.finished:
            at += language.decode(mask.forced())
            if mask.finished:
                break
            if mask.branch is not None:
                found.append(len(at))
                tokens = [mask.branch.tokens["docs"]]
            else:
                tokens = language.encode(answer[len(at) :])
            mask.accept(tokens[0])
            at += language.decode(tokens[:1])
        assert at.decode() == answer
        assert found == places


# -- the engine ----------------------------------------------------------------------------------


def likely(
    folder: Path, language: ModelLanguage, before: list[int], firsts: Sequence[str]
) -> list[float]:
    """Return the labels' log-probabilities, by these beginnings, by a pass of the bare model."""
    model, _config = mlx_lm.utils.load_model(folder)
    logits: Any = model(mx.array([before]))[0, -1]
    logits = logits[mx.array([language.encode(first)[0] for first in firsts])]
    found: Any = (logits - mx.logsumexp(logits)).tolist()
    return [float(value) for value in found]


def decided(
    language: ModelLanguage, offsets: Mapping[str, float], content: str, *, words: bool = False
) -> dict[str, Any]:
    mask = language.labelled(language.mask(DONE), DONE, {"done.kind": offsets}, words=words)
    return {**chat(language, content), "mask": mask, "max_tokens": 200}


@pytest.mark.parametrize("words", [False, True])
def test_what_is_told_is_what_the_model_says(
    tiny_model: Path, language: ModelLanguage, monkeypatch: pytest.MonkeyPatch, words: bool
) -> None:
    """Log-probabilities are those of the labels' first tokens, over the labels alone.

    The choice goes by them, also where other tokens are read than are written.
    """
    firsts = ["the", "x", "in"] if words else KINDS
    read = {kind: language.encode(one)[0] for kind, one in zip(KINDS, firsts, strict=True)}
    monkeypatch.setattr("agentd.model_server.grammar.labels._words", lambda *_: read)
    run = Run(MlxEngine(tiny_model, language, fast_blas=True))
    call = run.admit(call_of(**decided(language, {**ZERO, "docs": 3.0}, "hello", words=words)))
    run.until(run.over(call))
    text = language.decode(run.tokens[call.number])
    at = text.index(b'"kind":"') + len(b'"kind":"')
    tokens = run.tokens[call.number]
    before = next(n for n in range(len(tokens)) if len(language.decode(tokens[:n])) == at)
    wanted = likely(tiny_model, language, [*call.prompt, *tokens[:before]], firsts)
    assert list(call.labels["done.kind"].values()) == pytest.approx(wanted, abs=1e-3)
    assert sum(map(math.exp, call.labels["done.kind"].values())) == pytest.approx(1)
    shifted = [
        value - {"docs": 3.0}.get(kind, 0) for kind, value in zip(KINDS, wanted, strict=True)
    ]
    assert json.loads(text)["kind"] == KINDS[shifted.index(max(shifted))]


@pytest.mark.parametrize("breaks", [False, True])
def test_the_same_choice_alone_among_others_and_after_a_failed_step(
    tiny_model: Path, language: ModelLanguage, breaks: bool
) -> None:
    """Rows that decode together, look ahead and begin again choose as each does alone."""
    engine = MlxEngine(tiny_model, language, fast_blas=True, slots=8)
    alone = Run(MlxEngine(tiny_model, language, fast_blas=True, slots=1))
    run = Run(engine)
    given = [
        (dict(zip(KINDS, (n % 3, n % 2, 0.0), strict=True)), word * n)
        for n, word in enumerate(WORDS, 1)
    ]
    calls = [run.admit(call_of(**decided(language, *each))) for each in given]
    calls += [run.admit(call_of(**chat(language, word), max_tokens=60)) for word in WORDS[:3]]
    if breaks:
        steps = iter(range(10**6))
        engine._decoding.batch._model = Breaks(engine._model, lambda tokens: next(steps) in (3, 9))
    run.until(run.over(*calls))
    assert (run.failed_steps > 0) is breaks
    for call, each in zip(calls, given, strict=False):
        own = alone.admit(call_of(**decided(language, *each)))
        alone.until(alone.over(own))
        assert run.tokens[call.number] == alone.tokens[own.number]
        assert call.labels["done.kind"] == pytest.approx(own.labels["done.kind"], abs=1e-3)


# -- the server ----------------------------------------------------------------------------------


def test_offsets_change_the_choice_and_not_what_is_told(tiny: Serving) -> None:
    """What has an offset is taken less; the log-probabilities come without any."""
    told = []
    for label in KINDS:
        offsets = {kind: 0.0 if kind == label else 50.0 for kind in KINDS}
        answer, choice = choice_of(tiny, **asked(DONE, {"done.kind": offsets}))
        assert answer["kind"] == label
        told.append(choice["agentd_labels"]["done.kind"])
    assert list(told[0]) == KINDS
    assert told[1] == pytest.approx(told[0], abs=1e-3)
    assert told[2] == pytest.approx(told[0], abs=1e-3)
    answer, _choice = choice_of(tiny, **asked(DONE, {"done.kind": ZERO}))
    assert answer["kind"] == max(told[0], key=lambda kind: told[0][kind])


def test_sampling_is_of_the_shifted_probabilities(tiny: Serving) -> None:
    """With its own log-probability taken off, each label is as likely as the others."""
    _answer, choice = choice_of(tiny, **asked(DONE, {"done.kind": ZERO}))
    even = choice["agentd_labels"]["done.kind"]
    more = asked(member("done", kind={"enum": KINDS}), {"done.kind": ZERO}, temperature=1)
    own = choice_of(tiny, **more)[1]["agentd_labels"]["done.kind"]
    more["agentd_labels"] = {"done.kind": own}
    found = [choice_of(tiny, **more, seed=seed)[0]["kind"] for seed in range(60)]
    assert all(8 < found.count(kind) < 36 for kind in KINDS)
    assert even != own


CHANGES = {
    "Fix a crash when the file is empty": "bug",
    "Explain the options in the README": "docs",
    "Add a command that lists agents": "feature",
    "Correct the wrong sum of totals": "bug",
    "Describe how to install it": "docs",
    "Support dark mode": "feature",
    "Handle a missing key without an error": "bug",
    "Add an example to the manual": "docs",
}


def test_a_constant_answer_becomes_right_with_its_means_taken_off(
    home: Path, smollm2: Path
) -> None:
    """The bundled model says one label for nearly all; each label's own mean is its bias."""
    schema = member("done", kind={"enum": KINDS})
    with spawned(home, smollm2) as (server, _process):
        wait_for(lambda: server.get("/ready")[0] == 200)

        def all_of(offsets: Mapping[str, float]) -> tuple[list[str], list[dict[str, float]]]:
            found = [
                choice_of(
                    server,
                    content=f"Which kind of change is this?\n{text}",
                    **asked(schema, {"done.kind": offsets}),
                )
                for text in CHANGES
            ]
            return [a["kind"] for a, _ in found], [
                c["agentd_labels"]["done.kind"] for _, c in found
            ]

        greedy, told = all_of(ZERO)
        means = {kind: sum(one[kind] for one in told) / len(told) for kind in KINDS}
        calibrated, again = all_of(means)
    for one, other in zip(told, again, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert max(map(greedy.count, KINDS)) >= 7
    assert min(map(calibrated.count, KINDS)) >= 1
    right = [
        [*map(str.__eq__, found, CHANGES.values())].count(True) for found in (greedy, calibrated)
    ]
    assert right[1] > right[0]


def test_a_field_that_was_not_reached_is_absent(tiny: Serving) -> None:
    """Another decision, or an answer cut before its label, which is closed legally."""
    labels = {"done.kind": ZERO}
    found = set()
    for seed in range(12):
        answer, choice = choice_of(tiny, **asked(UNION, labels, temperature=1.5, seed=seed))
        assert ("kind" in answer) == ("done.kind" in choice["agentd_labels"])
        found.add(answer["tool"])
    assert found == {"done", "dig"}
    for limit in range(1, 30):
        answer, choice = choice_of(tiny, **asked(DONE, labels, max_tokens=limit))
        assert answer["kind"] in KINDS
        if choice["agentd_labels"]:
            told = choice["agentd_labels"]["done.kind"]
            assert answer["kind"] == max(told, key=lambda kind: told[kind])


def test_a_stream_tells_labels_at_its_end(tiny: Serving) -> None:
    """The chunk that carries finish_reason says them."""
    body = chat_body(stream=True, **asked(DONE, {"done.kind": ZERO}))
    _status, _headers, data = tiny.exchange(
        "POST", "/v1/chat/completions", json.dumps(body).encode()
    )
    chunks = [json.loads(line[6:]) for line in data.decode().split("\n\n") if line[6:7] == "{"]
    ends = [chunk["choices"][0] for chunk in chunks if "agentd_labels" in chunk["choices"][0]]
    assert [end["finish_reason"] for end in ends] == ["stop"]
    assert list(ends[0]["agentd_labels"]["done.kind"]) == KINDS


def test_an_answer_beside_tools_has_labels_too(tiny: Serving) -> None:
    """What is no call is an answer of the schema; a call has no labels."""
    tool = {"type": "function", "function": {"name": "kind", "parameters": DONE}}
    for choice, calls in (("none", False), ("required", True)):
        more = asked(DONE, {"done.kind": ZERO}, tools=[tool], tool_choice=choice, max_tokens=200)
        status, answer = tiny.chat(**more)
        assert status == 200
        (told,) = answer["choices"]
        assert bool(told["message"].get("tool_calls")) is calls
        assert (told["agentd_labels"] == {}) is calls


PLAIN = {"type": "object", "properties": {"kind": {"enum": KINDS}}, "required": ["kind"]}
REFERRED = {
    "$defs": {"Kind": {"enum": KINDS}, "Done": member("done", kind={"$ref": "#/$defs/Kind"})},
    "anyOf": [{"$ref": "#/$defs/Done"}, member("dig")],
}


@pytest.mark.parametrize(
    ("schema", "name"),
    [(PLAIN, "kind"), (DONE, "kind"), (DONE, "done.kind"), (REFERRED, "done.kind")],
)
def test_a_field_is_named_by_its_tool_where_there_is_one(
    tiny: Serving, schema: Any, name: str
) -> None:
    """A schema without one has the bare name; references are followed."""
    offsets = {name: {"docs": 0.0, "feature": 90.0, "bug": 90.0}}
    for seed in range(3):
        answer, choice = choice_of(tiny, **asked(schema, offsets, temperature=1, seed=seed))
        if "kind" in answer:
            assert answer["kind"] == "docs"
            assert list(choice["agentd_labels"][name]) == ["docs", "feature", "bug"]


MANY = [string.ascii_letters[n % 52] + str(n) for n in range(51)]
SAME = ["fix", "fixed", "other"]
REFUSED: list[tuple[Any, Any, str]] = [
    (None, {"kind": ZERO}, "agentd_labels: needs a response_format with a schema"),
    (DONE, {"done.size": ZERO}, "agentd_labels.done.size: is no field of labels; the schema has"),
    (UNION, {"kind": ZERO}, "agentd_labels.kind: is no field of labels; the schema has done.kind"),
    (
        DONE,
        {"done.kind": {"bug": 0, "docs": 0}},
        "its labels must be those of the schema: bug, docs",
    ),
    (DONE, {"done.kind": {**ZERO, "odd": 0}}, "must be those of the schema"),
    (DONE, {"done.kind": ZERO, "kind": ZERO}, "agentd_labels.kind: is the same field as done.kind"),
    (member("a", x={"enum": ["b"]}), {"a.x": {"b": 0}}, "may have 2 to 50 labels"),
    (member("a", x={"enum": MANY}), {"a.x": dict.fromkeys(MANY, 0)}, "may have 2 to 50 labels"),
    (
        member("a", x={"enum": SAME}),
        {"a.x": dict.fromkeys(SAME, 0)},
        "'fix' and 'fixed' begin with",
    ),
    (DONE, {"done.kind": {**ZERO, "bug": 2000}}, "agentd_labels.done.kind.bug"),
    (DONE, {"done.kind": {**ZERO, "bug": "much"}}, "agentd_labels.done.kind.bug"),
    (DONE, ["done.kind"], "agentd_labels"),
]


@pytest.mark.parametrize(("schema", "labels", "says"), REFUSED)
def test_labels_that_cannot_be_are_one_clear_refusal(
    tiny: Serving, schema: Any, labels: Any, says: str
) -> None:
    """A 400 that names the field, and what is wrong with it."""
    more = asked(schema, labels) if schema else {"agentd_labels": labels}
    status, answer = tiny.chat(**more)
    assert status == 400
    assert says in answer["error"]["message"]
    assert answer["error"]["param"].startswith("agentd_labels")
