"""`logprobs`: how likely each token was in what it was taken from, in OpenAI's shape."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import openai
import pytest

from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.language.language import ModelLanguage
from tests.serving import NAME, TOKEN, Serving, chat_body, serving
from tests.stepped_engine import Run, call_of, chat
from tests.test_labels import DONE, KINDS, ZERO, asked

TOP = 4


@pytest.fixture(scope="module")
def language(tiny_model: Path) -> ModelLanguage:
    return ModelLanguage(tiny_model)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, language: ModelLanguage) -> Iterator[Serving]:
    def load(language: Any) -> MlxEngine:
        return MlxEngine(tiny_model, language, fast_blas=True)

    with serving(load, lambda: language) as server:
        yield server


def told(server: Serving, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return an answer's message, and what is told of its tokens."""
    given = {"max_tokens": 20, "logprobs": True, "top_logprobs": TOP, **more}
    status, answer = server.chat(**given)
    assert status == 200, answer
    (choice,) = answer["choices"]
    return choice["message"], choice["logprobs"]["content"]


def streamed(server: Serving, **more: Any) -> list[dict[str, Any]]:
    """Return a stream's choices."""
    given = {"max_tokens": 20, "logprobs": True, "top_logprobs": TOP, "stream": True, **more}
    data = server.exchange("POST", "/v1/chat/completions", json.dumps(chat_body(**given)).encode())
    lines = [line[6:] for line in data[2].decode().split("\n\n") if line.startswith("data: {")]
    return [json.loads(line)["choices"][0] for line in lines]


def joined(content: list[dict[str, Any]]) -> str:
    return b"".join(bytes(one["bytes"]) for one in content).decode("utf-8", "replace")


def test_they_are_the_models_own(tiny: Serving, tiny_model: Path, language: ModelLanguage) -> None:
    """Of a free text: the logarithms of the softmax, the likeliest first, the token among them."""
    model, _config = mlx_lm.utils.load_model(tiny_model)
    message, content = told(tiny)
    assert joined(content) == message["content"]
    tokens = language.encode_chat([{"role": "user", "content": "hello"}]).tokens
    for one in content:
        logits: Any = model(mx.array([tokens]))[0, -1]
        wanted: Any = mx.sort(logits - mx.logsumexp(logits))[::-1][:TOP].tolist()
        found = [other["logprob"] for other in one["top_logprobs"]]
        assert found == pytest.approx(wanted, abs=1e-3)
        assert (one["logprob"], one["bytes"]) == (found[0], one["top_logprobs"][0]["bytes"])
        best: Any = mx.argmax(logits).item()
        tokens.append(int(best))


def test_forced_tokens_are_certain_and_others_are_among_what_is_legal(tiny: Serving) -> None:
    """Under a mask: what is illegal is not told, and what nothing else could be has 0.0."""
    message, content = told(tiny, **asked(DONE, None), max_tokens=200, top_logprobs=20)
    assert joined(content) == message["content"]
    certain = [one["logprob"] == 0.0 for one in content]
    assert any(certain) and not all(certain)
    assert content[0]["top_logprobs"] == [{k: content[0][k] for k in ("token", "logprob", "bytes")}]
    for one in content:
        values = [other["logprob"] for other in one["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        assert all(math.isfinite(value) for value in values)
        assert sum(map(math.exp, values)) < 1 + 1e-3
        assert one["logprob"] in values


def test_a_label_is_told_as_it_was_sampled(tiny: Serving) -> None:
    """The offsets count here, and not in agentd_labels."""
    offsets = {**ZERO, "docs": 2.0}
    status, answer = tiny.chat(
        **asked(DONE, {"done.kind": offsets}), max_tokens=200, logprobs=True, top_logprobs=20
    )
    assert status == 200
    (choice,) = answer["choices"]
    shifted = {k: v - offsets[k] for k, v in choice["agentd_labels"]["done.kind"].items()}
    total = math.log(sum(map(math.exp, shifted.values())))
    wanted = sorted((value - total for value in shifted.values()), reverse=True)
    found = [
        [other["logprob"] for other in one["top_logprobs"]]
        for one in choice["logprobs"]["content"]
        if len(one["top_logprobs"]) == len(KINDS)
    ]
    assert any(values == pytest.approx(wanted, abs=1e-3) for values in found)


@pytest.mark.parametrize("kind", ["text", "schema", "call"])
def test_a_stream_tells_the_same(tiny: Serving, kind: str) -> None:
    """Each token once and in order, with the text or after it; calls have them too."""
    tool = {"type": "function", "function": {"name": "f", "parameters": DONE}}
    more: dict[str, Any] = {"text": {}, "schema": asked(DONE, None), "call": {"tools": [tool]}}[
        kind
    ]
    if kind == "call":
        more["tool_choice"] = "required"
    _message, whole = told(tiny, **more, max_tokens=120)
    choices = streamed(tiny, **more, max_tokens=120)
    parts = [choice["logprobs"]["content"] for choice in choices if choice["logprobs"]]
    found = [one for part in parts for one in part]
    assert [one["bytes"] for one in found] == [one["bytes"] for one in whole]
    assert [one["logprob"] for one in found] == pytest.approx(
        [one["logprob"] for one in whole], abs=1e-3
    )
    assert len(parts) > 1


def test_nothing_is_told_unasked(tiny: Serving) -> None:
    """Answers are as before; only the tokens' own are told without top_logprobs."""
    status, answer = tiny.chat(max_tokens=5)
    assert (status, answer["choices"][0]["logprobs"]) == (200, None)
    for top in (None, 0):
        _message, content = told(tiny, max_tokens=5, top_logprobs=top)
        assert [one["top_logprobs"] for one in content] == [[]] * 5


def test_an_answer_of_forced_tokens_alone_tells_them(tiny: Serving) -> None:
    """A schema of one answer needs no step of the model."""
    only = {"type": "object", "properties": {"tool": {"const": "a"}}, "required": ["tool"]}
    message, content = told(tiny, **asked(only, None))
    assert joined(content) == message["content"] == '{"tool":"a"}'
    assert {one["logprob"] for one in content} == {0.0}


def test_others_answer_as_before_beside_one_that_is_told(
    tiny_model: Path, language: ModelLanguage
) -> None:
    """Steps are not looked ahead while one tells; rows' tokens stay what they are alone."""
    given = [{**chat(language, f"Number {n}"), "max_tokens": 12} for n in range(4)]
    alone = Run(MlxEngine(tiny_model, language, fast_blas=True, slots=1))
    run = Run(MlxEngine(tiny_model, language, fast_blas=True))
    calls = [run.admit(call_of(**each)) for each in given[:3]]
    calls.append(run.admit(call_of(**given[3], top_logprobs=2)))
    run.until(run.over(*calls))
    for call, each in zip(calls, given, strict=True):
        own = alone.admit(call_of(**each))
        alone.until(alone.over(own))
        assert run.tokens[call.number] == alone.tokens[own.number]


def test_the_official_client_reads_them(tiny: Serving) -> None:
    """Whole and streamed, as its own types."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{tiny.port}/v1", api_key=TOKEN)
    ask: Any = {
        "model": NAME,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 2,
    }
    with client:
        whole = client.chat.completions.create(**ask).choices[0].logprobs
        assert whole is not None and whole.content is not None
        assert [len(one.top_logprobs) for one in whole.content] == [2] * 5
        found: list[Any] = []
        for chunk in client.chat.completions.create(**ask, stream=True):
            part = chunk.choices[0].logprobs
            found += part.content or [] if part else []
    assert [one.token for one in found] == [one.token for one in whole.content]
