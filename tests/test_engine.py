"""The MLX engine on a tiny random model: the same answers as mlx_lm, caches, masks, seeds."""

import importlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx import nn
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from agentd.errors import ConfigError
from agentd.model_server import weights
from agentd.model_server.cache import PromptCaches
from agentd.model_server.calls import Call
from agentd.model_server.language import ModelLanguage
from agentd.model_server.mlx_engine import MlxEngine
from tests.serving import Serving, serving

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
    engine._prefill_tokens = 7
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
    engine._prefill_tokens = 8
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
        cached._prefill_tokens = choose.randrange(1, 40)
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


def test_reset_forgets_the_call_but_not_other_sessions(
    engine: MlxEngine, language: ModelLanguage
) -> None:
    """After a failed step its half-written cache is gone, the others' are whole."""
    prompt = language.encode("Some words to remember here. " * 2)
    run(engine, call_of(prompt, session="good"))
    bad = call_of(prompt, session="bad")
    engine.admit(bad)
    engine.reset()
    assert engine.step() == []
    good = call_of(prompt, session="good")
    run(engine, good)
    assert good.cached_tokens == len(prompt) - 1


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
    assert wide(prompt).shape[1] == 1  # the last position only
    assert mx.allclose(narrow(prompt), wide(prompt), atol=1e-3)


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


def filled(tokens: int) -> list[Any]:
    layer = KVCache()
    values = mx.arange(tokens, dtype=mx.float32).reshape(1, 1, tokens, 1)
    layer.update_and_fetch(values, values)
    return [layer]


def test_caches_are_bounded_in_bytes_and_forget_the_oldest() -> None:
    """The least recently used session goes first; what is too large is not kept at all."""
    size = filled(8)[0].nbytes
    caches = PromptCaches(limit_bytes=2 * size)
    for session in ("1", "2", "3"):
        caches.put(("a", session), [int(session), 7, 8, 9, 1, 2, 3, 4], filled(8))
    assert len(caches) == 2
    assert caches.bytes == 2 * size
    assert caches.take(("a", "1"), [1, 7, 8, 9, 1]) is None
    taken = caches.take(("a", "2"), [2, 7, 8, 5, 5])
    assert taken is not None
    assert taken[1] == 3
    assert taken[0][0].offset == 3
    assert caches.bytes == size
    caches.put(("a", "4"), list(range(1000)), filled(1000))
    assert caches.bytes == size


def test_a_copied_prefix_is_independent() -> None:
    """Writing on after a shared beginning leaves the session that it came from as it was."""
    caches = PromptCaches(limit_bytes=10**9)
    tokens = list(range(100, 140))
    caches.put(("a", "1"), tokens, filled(40))
    copied = caches.take(("a", "2"), [*tokens[:30], 5, 6])
    assert copied is not None
    layers, size = copied
    assert size == layers[0].offset == 30
    new = mx.full((1, 1, 4, 1), -1.0)
    keys, _values = layers[0].update_and_fetch(new, new)
    assert keys[0, 0, :, 0].tolist() == [*map(float, range(30)), -1, -1, -1, -1]
    original = caches.take(("a", "1"), [*tokens, 9])
    assert original is not None
    assert original[0][0].keys_and_values()[0][0, 0, :, 0].tolist() == [*map(float, range(40))]


def test_a_cache_that_cannot_be_cut_is_used_whole_or_not() -> None:
    """A sliding window that has slid holds one state only: for longer prompts it serves."""
    layer = RotatingKVCache(max_size=4)
    for _ in range(6):
        layer.update_and_fetch(mx.zeros((1, 1, 1, 1)), mx.zeros((1, 1, 1, 1)))
    assert not layer.is_trimmable()
    caches = PromptCaches(limit_bytes=10**9)
    caches.put(("a", "1"), [1, 2, 3, 4, 5, 6], [layer])
    assert caches.take(("a", "1"), [1, 2, 3, 9, 9, 9, 9]) is None
    caches.put(("a", "1"), [1, 2, 3, 4, 5, 6], [layer])
    found = caches.take(("a", "1"), [1, 2, 3, 4, 5, 6, 7])
    assert found is not None
    assert found[1] == 6


def test_a_schema_over_http(tiny: Serving) -> None:
    """A decision comes back legal, with its cached tokens in usage the second time."""
    headers = {"X-Agentd-Agent": "digest", "X-Agentd-Session": "1"}
    for turn in range(2):
        status, answer = tiny.chat(headers, response_format=FORMAT, max_tokens=64)
        assert status == 200
        assert json.loads(answer["choices"][0]["message"]["content"])["tool"] == "done"
        details = answer["usage"]["prompt_tokens_details"]
        assert (details["cached_tokens"] > 0) == (turn == 1)


def test_an_impossible_schema_over_http(tiny: Serving) -> None:
    """A schema that cannot be honoured is a 400 that names the keyword's place."""
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "if": {}}}}
    status, answer = tiny.chat(response_format=form)
    assert (status, answer["error"]["code"]) == (400, "unsupported_schema")
    assert answer["error"]["message"].startswith("/if")


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


def test_make_prompt_cache_is_what_the_engine_expects(engine: MlxEngine) -> None:
    """mlx_lm still gives a list of caches that report bytes and can be trimmed."""
    layers = make_prompt_cache(engine._model)
    assert all(hasattr(layer, "state") and layer.is_trimmable() for layer in layers)
