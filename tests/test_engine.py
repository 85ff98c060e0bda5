"""The MLX engine on a tiny random model: the same answers as mlx_lm, caches, masks, seeds."""

import importlib
import json
import random
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx import nn
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from agentd.clock import EPOCH
from agentd.context import LogEvent, render
from agentd.errors import ConfigError
from agentd.json_schema.schema_digest import compact, digest_of
from agentd.llm.decision import with_log
from agentd.model_server.calls import Advance, Call, Refused
from agentd.model_server.engine import weights
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.engine.output_layer import OutputPositions
from agentd.model_server.engine.prompt_cache import PromptCaches
from agentd.model_server.http import known_schemas
from agentd.model_server.http.known_schemas import KnownSchemas
from agentd.model_server.language.language import ModelLanguage
from tests.serving import DEADLINE_S, TOKEN, Serving, chat_body, serving, wait_for

generate: Any = importlib.import_module("mlx_lm.generate")  # a function hides the module
SCHEMA = {
    "type": "object",
    "properties": {
        "tool": {"const": "done"},
        "summary": {"type": "string", "maxLength": 30},
        "risk": {"enum": ["low", "high"]},
    },
    "required": ["tool", "summary", "risk"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "d", "strict": True, "schema": SCHEMA}}


@pytest.fixture(scope="module")
def language(tiny_model: Path) -> ModelLanguage:
    return ModelLanguage(tiny_model)


@pytest.fixture
def engine(tiny_model: Path, language: ModelLanguage) -> MlxEngine:
    return MlxEngine(tiny_model, language, fast_blas=True)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Iterator[Serving]:
    def load(language: Any) -> MlxEngine:
        return MlxEngine(tiny_model, language, fast_blas=True)

    with serving(load, lambda: ModelLanguage(tiny_model)) as server:
        yield server


def run(engine: MlxEngine, call: Call) -> tuple[list[int], str]:
    """Step one call to its end."""
    engine.admit(call)
    tokens: list[int] = []
    while True:
        for advance in engine.step():
            tokens += advance.tokens
            if advance.finish:
                return tokens, advance.finish


def call_of(prompt: list[int], **more: Any) -> Call:
    return Call(prompt, lambda piece: None, **{"max_tokens": 20, **more})


def test_same_tokens_as_bare_mlx_lm(
    tiny_model: Path, engine: MlxEngine, language: ModelLanguage
) -> None:
    """Chunked prefill, the cut output layer and cache reuse change no token at temperature 0."""
    prompt = language.encode("Tell me the tale of the winter in the north. " * 12)
    model, _config = mlx_lm.utils.load_model(tiny_model)
    steps = generate.generate_step(mx.array(prompt), model, max_tokens=20)
    wanted = [token for token, _ in steps]
    if language.end_tokens & set(wanted):
        wanted = wanted[: min(wanted.index(t) for t in language.end_tokens if t in wanted)]
    engine._prefill.piece_tokens = {True: 7, False: 7}
    for _ in range(2):  # cold, then from the cache
        assert run(engine, call_of(prompt, session="1"))[0] == wanted


def test_later_calls_prefill_only_what_is_new(engine: MlxEngine, language: ModelLanguage) -> None:
    """A growing log is prefilled once; a new session takes over the common beginning."""
    fixed = language.encode("These are the instructions. " * 4)
    first = call_of([*fixed, *language.encode("event one")], agent="a", session="1")
    again = call_of([*first.prompt, *language.encode(" event two")], agent="a", session="1")
    other = call_of([*fixed, *language.encode("another event")], agent="a", session="2")
    for call in (first, again, other):
        run(engine, call)
    assert first.cached_tokens == 0
    assert again.cached_tokens >= len(first.prompt)
    assert len(fixed) <= other.cached_tokens < len(fixed) + 4
    assert engine.cache_bytes() > 0


def test_a_removed_call_leaves_what_it_prefilled(
    engine: MlxEngine, language: ModelLanguage
) -> None:
    """A cancelled call's prefill is not lost for the session's next try."""
    prompt = language.encode("A long story. " * 10)
    engine._prefill.piece_tokens = {True: 8, False: 8}
    call = call_of(prompt, session="1")
    engine.admit(call)
    engine.step()
    engine.step()
    engine.remove(call)
    assert engine.step() == []
    retry = call_of(prompt, session="1")
    run(engine, retry)
    assert retry.cached_tokens >= 16


def test_masked_answers_are_legal_and_closed(engine: MlxEngine, language: ModelLanguage) -> None:
    """A random model answers legally at any budget; cut short it says so."""
    prompt = language.encode("Decide: ")
    for limit in (1, 5, 20, 200):
        call = call_of(prompt, mask=language.mask(SCHEMA), max_tokens=limit, temperature=1, seed=3)
        tokens, reason = run(engine, call)
        answer = json.loads(language.decode(tokens))
        assert list(answer) == ["tool", "summary", "risk"]
        assert reason == ("stop" if limit == 200 else "length")
        if limit < 200:
            assert call.completion_tokens >= limit


def test_forced_tokens_need_no_steps(engine: MlxEngine, language: ModelLanguage) -> None:
    """What the grammar forces is not sampled: a schema of one answer takes no model at all."""
    only = {"type": "object", "properties": {"tool": {"const": "done"}}, "required": ["tool"]}
    call = call_of(language.encode("x"), mask=language.mask(only))
    engine.admit(call)
    (advance,) = engine.step()
    assert language.decode(advance.tokens) == b'{"tool":"done"}'
    assert advance.finish == "stop"
    assert call.completion_tokens == len(advance.tokens)


def test_a_seed_repeats_a_sampled_answer(engine: MlxEngine, language: ModelLanguage) -> None:
    """Same seed, same tokens; another seed, others; the cache in between changes nothing."""
    prompt = language.encode("Once upon a time")
    settings = {"temperature": 1.0, "top_p": 0.95, "top_k": 200, "min_p": 0.001}
    first, again, other = (
        run(engine, call_of(prompt, session="1", seed=seed, **settings))[0] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("more", [{"seed": -5}, {"temperature": 1e-40}, {"temperature": 1e-9}])
def test_odd_sampling_settings_are_harmless(
    engine: MlxEngine, language: ModelLanguage, more: dict[str, Any]
) -> None:
    """Whatever the API lets through gives a legal answer, no exception in a step."""
    call = call_of(
        language.encode("x"), mask=language.mask(SCHEMA), **{"temperature": 1, "seed": 1, **more}
    )
    json.loads(language.decode(run(engine, call)[0]))


def test_caches_change_no_answer_after_cancellations(
    tiny_model: Path, language: ModelLanguage
) -> None:
    """Sessions that share, cut and cancel at random answer as an engine without a cache does."""
    choose = random.Random(4)
    cached = MlxEngine(tiny_model, language, fast_blas=True)
    cold = MlxEngine(tiny_model, language, fast_blas=True, cache_bytes=1)
    words = ["alpha ", "beta ", "gamma ", "delta "]
    prompts = [language.encode("The fixed part of all. " * 3)] * 3
    reused = 0
    for _ in range(25):
        at = choose.randrange(len(prompts))
        grown = language.encode("".join(choose.choices(words, k=choose.randrange(1, 12))))
        prompts[at] = [*prompts[at][: choose.randrange(40, len(prompts[at]) + 1)], *grown][:400]
        cached._prefill.piece_tokens[False] = choose.randrange(1, 40)
        call = call_of(prompts[at], session=str(at), max_tokens=12)
        if choose.random() < 0.4:
            cached.admit(call)
            for _ in range(choose.randrange(1, 6)):
                if any(advance.finish for advance in cached.step()):
                    break
            cached.remove(call)
            continue
        wanted = run(cold, call_of(prompts[at], session=str(at), max_tokens=12))
        assert run(cached, call) == wanted
        reused += call.cached_tokens
    assert reused > 500


def test_wired_limit_is_never_set(
    tiny_model: Path, language: ModelLanguage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a device reports a working-set size, mlx_lm's own generators leave it alone too."""
    calls: list[int] = []
    monkeypatch.setattr(mx, "set_wired_limit", calls.append)
    monkeypatch.setattr(mx, "device_info", lambda *_: {"max_recommended_working_set_size": 2**33})
    assert mx.device_info()["max_recommended_working_set_size"]
    engine = MlxEngine(tiny_model, language, fast_blas=True)
    run(engine, call_of(language.encode("hello")))
    assert not calls
    generator = generate.BatchGenerator(engine._model)
    generator.close()
    with generate.wired_limit(engine._model):
        pass
    assert calls == []


def test_widening_changes_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    """A quantised model gives the same logits, up to rounding, once its weights are float32."""
    model, config = mlx_lm.utils.load_model(tiny_model)
    model, config = mlx_lm.utils.quantize_model(model, config, group_size=32, bits=4)
    mlx_lm.utils.save_model(tmp_path, model)
    (tmp_path / "config.json").write_text(json.dumps(config))
    narrow = weights.load_weights(tmp_path, fast_blas=False)
    wide = weights.load_weights(tmp_path, fast_blas=True)
    kinds = {type(module) for _name, module in wide.named_modules()}
    assert not kinds & {nn.QuantizedLinear, nn.QuantizedEmbedding}
    assert nn.QuantizedLinear in {type(module) for _name, module in narrow.named_modules()}
    prompt = mx.array([list(range(20, 60))])
    assert mx.allclose(narrow(prompt), wide(prompt), atol=1e-3)


def test_logits_are_of_the_last_position_unless_all_are_wanted(
    tiny_model: Path,
) -> None:
    """The output layer is a fifth of a small model's work: only scores need each position."""
    whole = mlx_lm.utils.load_model(tiny_model)[0]
    cut = mlx_lm.utils.load_model(tiny_model)[0]
    positions, prompt = OutputPositions(cut), mx.array([list(range(20, 60))])
    assert mx.array_equal(cut(prompt), whole(prompt)[:, -1:])
    with positions.every():
        assert mx.array_equal(cut(prompt), whole(prompt))
    assert cut(prompt).shape[1] == 1


@pytest.mark.parametrize("damage", ["weights", "config", "architecture", "tokenizer", "template"])
def test_a_damaged_model_is_a_clear_error(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    """A folder that cannot be run names the file, and is no traceback."""
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    if damage == "weights":
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
    elif damage == "config":
        (tmp_path / "config.json").write_text("{")
    elif damage == "architecture":
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "nobody"}))
    elif damage == "tokenizer":
        (tmp_path / "tokenizer.json").write_text("{}")
    else:
        (tmp_path / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ConfigError) as error:
        MlxEngine(tmp_path, ModelLanguage(tmp_path), fast_blas=True)
    assert str(tmp_path) in error.value.where


class Filled:
    """Layers of one head and width 1 that hold the tokens' own numbers, so that mixes are seen."""

    def __init__(self, tokens: list[int]) -> None:
        layer = KVCache()
        values = mx.array(tokens, dtype=mx.float32).reshape(1, 1, len(tokens), 1)
        layer.update_and_fetch(values, values)
        self.tokens, self.layers = tokens, [layer]


def caches_of(limit_bytes: int) -> PromptCaches:
    return PromptCaches(limit_bytes, lambda: [KVCache()])


def held(layers: list[Any]) -> list[int]:
    if layers[0].keys is None:
        return []
    keys, values = layers[0].keys_and_values()
    assert keys.tolist() == values.tolist()
    return [int(value) for value in keys[0, 0, :, 0].tolist()]


def put(caches: PromptCaches, tokens: list[int], *, guest: bool = False) -> None:
    filled = Filled(tokens)
    caches.put(filled.tokens, filled.layers, guest=guest)


def test_a_common_beginning_is_stored_once() -> None:
    """Fifty agents with one fixed part take its bytes once; each adds its own end."""
    caches = caches_of(10**9)
    fixed = list(range(100, 164))
    for agent in range(50):
        put(caches, [*fixed, 1000 + agent, 7, 8])
    assert caches.tokens == 64 + 50 * 3
    assert caches.bytes == (64 + 50 * 3) * 2 * 4
    layers, size = caches.take([*fixed, 1007, 7, 9, 9])
    assert (held(layers), size) == ([*fixed, 1007, 7], 66)


def test_the_leaf_that_was_not_used_for_longest_goes_first() -> None:
    """Bounded in bytes: ends are forgotten before the beginnings that others share."""
    caches = caches_of(40 * 2 * 4)
    fixed = list(range(1, 17))
    for end in (100, 200, 300):
        put(caches, [*fixed, *range(end, end + 10)])  # 16 + 3 * 10 tokens do not fit
    assert caches.tokens == 36
    assert caches.take([*fixed, *range(100, 110), 0])[1] == 16
    assert caches.take([*fixed, *range(200, 210), 0])[1] == 26
    put(caches, list(range(1000, 2000)))  # too large to keep: costs nobody anything
    assert caches.take([*fixed, *range(300, 310), 0])[1] == 26
    put(caches, [*fixed, *range(400, 410)])  # 200 was used before 300
    assert caches.take([*fixed, *range(200, 210), 0])[1] == 16
    assert caches.take([*fixed, *range(400, 410), 0])[1] == 26
    put(caches, list(range(500, 510)))
    assert caches.take([*fixed, 0])[1] == 16  # used last, though its end 400 was not
    put(caches, list(range(600, 620)))
    assert caches.take([*fixed, *range(400, 410), 0])[1] == 16
    assert caches.take([*range(500, 510), 0])[1] == 0
    caches.clear()
    assert (caches.bytes, caches.tokens, caches.take([*fixed, 0])[1]) == (0, 0, 0)


def test_guests_leave_agents_half_of_the_caches() -> None:
    """However many prompts other programs send; what agents use as well is theirs."""
    caches = caches_of(100 * 2 * 4)
    for agent in range(5):
        put(caches, [1000 + agent, *range(9)])
    for guest in range(50):
        put(caches, [2000 + guest, *range(9)], guest=True)
    assert all(caches.take([1000 + agent, *range(9), 0])[1] == 10 for agent in range(5))
    assert caches.take([2049, *range(9), 0])[1] == 10 and caches.bytes == caches.limit_bytes
    put(caches, [2049, *range(9)])  # an agent's as well, by now
    for guest in range(50):
        put(caches, [3000 + guest, *range(9)], guest=True)
    assert caches.take([2049, *range(9), 0])[1] == 10
    for agent in range(9):
        put(caches, [4000 + agent, *range(9)])
    assert all(caches.take([4000 + agent, *range(9), 0])[1] == 10 for agent in range(9))


def test_what_was_taken_is_independent() -> None:
    """Writing on after a shared beginning leaves the stored one, and other takers, as they were."""
    caches = caches_of(10**9)
    tokens = list(range(100, 140))
    put(caches, tokens)
    first, _size = caches.take([*tokens, 5])
    second, size = caches.take([*tokens[:30], 5, 6])
    assert size == second[0].offset == 30
    new = mx.full((1, 1, 4, 1), 9.0)
    for layers in (first, second):
        layers[0].update_and_fetch(new, new)
    assert held(second) == [*tokens[:30], 9, 9, 9, 9]
    assert held(first) == [*tokens, 9, 9, 9, 9]
    assert held(caches.take([*tokens, 5])[0]) == tokens


def test_the_tree_holds_what_was_put_whatever_the_order() -> None:
    """Random runs with common beginnings: what comes back is always the prompt's own tokens."""
    choose = random.Random(3)
    caches = caches_of(400 * 2 * 4)
    known: list[list[int]] = []
    for _ in range(300):
        base = choose.choice(known)[: choose.randrange(30)] if known else []
        run = [*base, *choose.choices(range(4), k=choose.randrange(1, 20))]
        known.append(run)
        layers, size = caches.take([*run, 0])
        assert held(layers) == run[:size]
        put(caches, run)
        nodes = caches.nodes()
        assert caches.tokens == sum(len(node.tokens) for node in nodes)
        assert caches.bytes == caches.tokens * 2 * 4 <= caches.limit_bytes
        assert caches.take([*run, 0])[1] == (len(run) if len(run) >= 4 else 0)


def test_a_cache_that_cannot_be_cut_goes_on_from_checkpoints_only() -> None:
    """A sliding window that has slid holds one state: only longer prompts can go on from it."""
    layer = RotatingKVCache(max_size=4)
    for _ in range(6):
        layer.update_and_fetch(mx.zeros((1, 1, 1, 1)), mx.zeros((1, 1, 1, 1)))
    caches = PromptCaches(10**9, lambda: [RotatingKVCache(max_size=4)])
    caches.put([1, 2, 3, 4, 5, 6], [layer])
    assert caches.take([1, 2, 3, 4, 5, 6, 7])[1] == 0  # no checkpoint, nothing is kept
    caches.put([1, 2, 3, 4, 5, 6], [layer], {6: caches.checkpoint([layer])})
    assert caches.take([1, 2, 3, 4, 5, 9, 9])[1] == 0
    layers, size = caches.take([1, 2, 3, 4, 5, 6, 7])
    assert (size, layers[0].offset) == (6, 6)
    assert caches.bytes == layer.nbytes


def test_a_schema_over_http(tiny: Serving) -> None:
    """A decision comes back legal, with its cached tokens in usage the second time."""
    headers = {"X-Agentd-Agent": "digest", "X-Agentd-Session": "1"}
    for turn in range(2):
        status, answer = tiny.chat(headers, response_format=FORMAT, max_tokens=64)
        assert status == 200
        assert json.loads(answer["choices"][0]["message"]["content"])["tool"] == "done"
        details = answer["usage"]["prompt_tokens_details"]
        assert (details["cached_tokens"] > 0) == (turn == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_two_tokens_for_nobody_after_a_hang_up(tiny_model: Path, stream: bool) -> None:
    """One of the step in which the client hung up, one of the pass that this step had started."""
    taken, passes = 0, 0
    hung_up = threading.Event()

    class Held(MlxEngine):
        def step(self) -> list[Advance]:
            nonlocal taken
            assert taken < 6 or hung_up.wait(DEADLINE_S)
            advances = super().step()
            taken += sum(len(advance.tokens) for advance in advances)
            return advances

    class Counted:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self, tokens: Any, cache: Any) -> Any:
            nonlocal passes
            passes += hung_up.is_set()
            return self.model(tokens, cache=cache)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.model, name)

    made: list[Held] = []

    def load(language: Any) -> MlxEngine:
        made.append(Held(tiny_model, language, fast_blas=True))
        made[0]._decoding.batch._model = Counted(made[0]._model)
        return made[0]

    with serving(load, lambda: ModelLanguage(tiny_model)) as server:
        connection = server.connect()
        body = {**chat_body(max_tokens=500), "stream": stream}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        wait_for(lambda: taken == 6)
        [(call, _)] = server.runner._active.values()
        connection.close()
        wait_for(lambda: call.cancelled)
        hung_up.set()
        [line] = wait_for(lambda: server.log.of("request.finished"))
    assert line["finish_reason"] == "cancelled"
    assert taken == line["completion_tokens"] == 6 + 1
    assert passes == 1


def test_an_impossible_schema_over_http(tiny: Serving) -> None:
    """A schema that cannot be honoured is a 400 that names the keyword's place."""
    form = {"type": "json_schema", "json_schema": {"schema": {"contains": {}, "maxContains": 1}}}
    status, answer = tiny.chat(response_format=form)
    assert (status, answer["error"]["code"]) == (400, "unsupported_schema")
    assert answer["error"]["message"].startswith("/maxContains")


def test_a_schema_is_named_by_its_digest(tiny: Serving) -> None:
    """Sent once with it, it masks each later call that names it; an unknown one is told as such."""
    schema = {**SCHEMA, "title": "named by its digest"}
    name = {"name": "d", "agentd_sha256": digest_of(compact(schema))}

    def chat(**form: Any) -> tuple[int, Any]:
        asked = {"type": "json_schema", "json_schema": {**name, **form}}
        return tiny.chat(response_format=asked, max_tokens=40, temperature=0)

    status, answer = chat()
    assert (status, answer["error"]["code"]) == (400, "unknown_schema")
    status, whole = chat(schema=schema)
    assert status == 200
    again = chat()[1]
    assert again["choices"][0]["message"] == whole["choices"][0]["message"]
    assert json.loads(again["choices"][0]["message"]["content"])["tool"] == "done"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"agentd_sha256": "0" * 64, "schema": SCHEMA}, "is not the digest of the schema"),
        ({"agentd_sha256": "0" * 64}, "send it with its schema"),
        ({"agentd_sha256": "x"}, "must be"),
        ({"agentd_sha256": None}, "must be"),
        ({}, "must be"),
    ],
)
def test_a_digest_that_names_nothing_is_refused(
    tiny: Serving, form: dict[str, Any], why: str
) -> None:
    """Nobody can put another schema in the place of a digest's own."""
    asked = {"type": "json_schema", "json_schema": {"name": "d", **form}}
    status, answer = tiny.chat(response_format=asked)
    assert status == 400 and why in answer["error"]["message"]


def test_known_schemas_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last stay; another one is to be sent again."""
    monkeypatch.setattr(known_schemas, "BYTES_MAX", 100 + 2 * known_schemas.ENTRY_BYTES)
    known = KnownSchemas()
    schemas = [{"const": str(n) * 30} for n in range(3)]
    first, second, third = digests = [digest_of(compact(schema)) for schema in schemas]
    for digest, schema in zip(digests[:2], schemas[:2], strict=True):
        assert known.schema(digest, schema) == schema
    assert known.schema(first, None) == schemas[0]
    known.schema(third, schemas[2])
    with pytest.raises(Refused):
        known.schema(second, None)
    assert known.schema(first, None) == schemas[0] and known.schema(third, None) == schemas[2]


def test_known_schemas_are_bounded_however_short_they_are() -> None:
    """Each takes memory besides its text: a caller with thousands of them cannot fill it."""
    known = KnownSchemas()
    tracemalloc.start()
    try:
        for n in range(20_000):
            schema = {"const": n}
            known.schema(digest_of(compact(schema)), schema)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < known_schemas.BYTES_MAX


def test_a_prompt_beyond_the_window_over_http(tiny: Serving) -> None:
    """What does not fit the window is refused before it costs anything."""
    status, answer = tiny.chat(content="word " * 3000)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


def test_tokenize_agrees_with_usage(tiny: Serving) -> None:
    """What /tokenize counts for messages is what a call is charged for."""
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "12 <x>"}]
    _status, counted = tiny.post("/tokenize", {"messages": messages})
    _status, answer = tiny.chat(messages=messages, max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == counted["count"]


@pytest.mark.parametrize(
    "text", ["plain words", "\u6c34 \U0001f600 \u00e9\u0301", '<|im_end|> "x" 12']
)
def test_a_log_has_the_tokens_of_its_events(tiny: Serving, text: str) -> None:
    """What is counted event by event is what a call is charged for, and never more than bytes."""
    frame = [{"role": "system", "content": "be short"}, {"role": "user", "content": "Read:\n"}]
    events = [render(LogEvent(f"a.b{n}", EPOCH, {"text": text * n}, False)) for n in range(4)]
    counts = [tiny.post("/tokenize", {"content": event})[1]["count"] for event in events]
    fixed = tiny.post("/tokenize", {"messages": frame})[1]["count"]
    _status, answer = tiny.chat(messages=with_log(frame, "".join(events)), max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == fixed + sum(counts)
    assert all(count <= len(event.encode()) for count, event in zip(counts, events, strict=True))


def test_make_prompt_cache_is_what_the_engine_expects(engine: MlxEngine) -> None:
    """mlx_lm still gives a list of caches that report bytes and can be trimmed."""
    layers = make_prompt_cache(engine._model)
    assert all(hasattr(layer, "state") and layer.is_trimmable() for layer in layers)


def test_memory_is_limited_by_what_the_device_recommends(
    tiny_model: Path, language: ModelLanguage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLX gets its limits from the machine, caches a ceiling; the rest is for rows."""
    limits: dict[str, int] = {}
    monkeypatch.setattr(mx, "device_info", lambda *_: {"max_recommended_working_set_size": 2**32})
    monkeypatch.setattr(mx, "set_memory_limit", lambda size: limits.update(memory=size))
    monkeypatch.setattr(mx, "set_cache_limit", lambda size: limits.update(buffers=size))
    engine = MlxEngine(tiny_model, language, fast_blas=True)
    assert limits["memory"] == engine.budget.total == 2**32
    assert 0 < limits["buffers"] <= 2**29
    assert engine.budget.caches + engine.budget.batch < 2**32
    small = MlxEngine(tiny_model, language, fast_blas=True, cache_bytes=10**6)
    assert small.budget.caches == 10**6


def test_a_rows_bytes_are_what_its_caches_take(engine: MlxEngine) -> None:
    """Admission counts with the figure that mlx_lm's caches report."""
    for tokens in (1, 256, 257, 1000):
        layers = make_prompt_cache(engine._model)
        engine._model(mx.zeros((1, tokens), mx.int32), cache=layers)
        assert engine._row_bytes(tokens) == sum(layer.nbytes for layer in layers)
