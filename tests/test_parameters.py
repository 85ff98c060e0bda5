"""Every parameter of a request: null is not given, and no value is a fault of the server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import openai
import pytest

from agentd.model_server.calls import Call, Piece, Refused, Sampling
from agentd.model_server.engine.mlx import MlxEngine
from agentd.model_server.engine.sampling import Sampler, penalised
from agentd.model_server.http.requests import Chat, Completions
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import ScriptedEngine, ScriptedLanguage
from tests.serving import NAME, TOKEN, Serving, chat_body, serving

CALLS: list[Call] = []


def note(call: Call) -> str:
    CALLS.append(call)
    return "so it goes"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving(lambda _language: ScriptedEngine(note)) as server:
        yield server


def names(body: Any) -> list[str]:
    return [field.alias or name for name, field in body.model_fields.items()]


def text_body(**more: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "once", **more}


BODIES = {"/v1/chat/completions": chat_body(), "/v1/completions": text_body()}
OPTIONAL = [
    *(("/v1/chat/completions", name) for name in names(Chat) if name not in ("model", "messages")),
    *(("/v1/completions", name) for name in names(Completions) if name not in ("model", "prompt")),
]


@pytest.mark.parametrize(("path", "name"), OPTIONAL)
def test_null_is_not_given(server: Serving, path: str, name: str) -> None:
    """Clients in typed languages send every field that they leave open as null."""
    status, said = server.post(path, {**BODIES[path], name: None})
    assert (status, said.get("error")) == (200, None)


NULLS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "x", "name": None, "tool_calls": None}]},
    {"messages": [{"role": "user", "content": "x", "tool_call_id": None, "parsed": None}]},
    {"messages": [{"role": "user", "content": "x", "annotations": None, "refusal": None}]},
    {"stream_options": {"include_usage": None, "include_obfuscation": None}},
    {"tools": [], "tool_choice": None, "response_format": {"type": "text"}},
]


@pytest.mark.parametrize("more", NULLS)
def test_null_is_not_given_further_inside(server: Serving, more: dict[str, Any]) -> None:
    """In messages, tools and options as well."""
    assert server.chat(**more)[0] == 200


ODD: list[Any] = [
    *(True, False, 0, 1, -1, 2**63, 2**64, -(2**64), 10**30, 0.5, -0.0, 1e-320, 1e308),
    *("", "x", "null", "\u0000", "\ue000", "x" * 5000),
    *([], [None], [[]], [0], ["x"], ["x"] * 17, {}, {"x": None}, {"type": None}, {"type": "x"}),
    *({"type": "function"}, {"type": "json_schema"}, {"type": "json_object", "x": 1}),
    *({"type": "json_schema", "json_schema": None}, {"type": "text", "text": []}),
    *({"type": "allowed_tools", "allowed_tools": None}, {"1": 5}, [{"type": "function"}]),
    *([{"role": "user", "content": ["x"]}], [{"role": ["x"]}], [{"role": "user"}, None]),
]


@pytest.mark.parametrize("path", BODIES)
def test_no_value_of_a_parameter_is_a_fault_of_the_server(server: Serving, path: str) -> None:
    """Wrong types and extremes are taken or refused, for every parameter there is."""
    known = names(Chat if "chat" in path else Completions)
    taken = 0
    for name in known:
        for value in ODD:
            if name == "stream" and value is True:
                continue
            status, said = server.post(path, {**BODIES[path], name: value})
            assert status in (200, 400, 404), (name, value, said)
            taken += status == 200
            if status != 200:
                assert said["error"]["message"] and said["error"]["type"] == "invalid_request_error"
    assert taken > len(known)
    assert server.chat()[0] == 200


def test_what_a_request_leaves_open_is_sampled_as_the_model_likes() -> None:
    """And what it says goes before that, null or not."""
    language = ScriptedLanguage()
    language.sampling = Sampling(temperature=0.6, top_p=0.9, top_k=20, min_p=0.05)
    body = {key: value for key, value in chat_body().items() if key != "temperature"}
    with serving(lambda _language: ScriptedEngine(note), lambda: language) as server:
        for more, wanted in (
            ({}, (0.6, 0.9, 20, 0.05)),
            ({"temperature": 0, "top_k": None}, (0, 0.9, 20, 0.05)),
            ({"temperature": 1, "top_p": 0, "top_k": 0, "min_p": 0}, (1, 0, 0, 0)),
        ):
            assert server.post("/v1/chat/completions", {**body, **more})[0] == 200
            call = CALLS[-1]
            assert (call.temperature, call.top_p, call.top_k, call.min_p) == wanted


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (None, Sampling()),
        ({}, Sampling()),
        ({"do_sample": False, "temperature": 0.7}, Sampling()),
        ({"temperature": 0.7, "top_p": 0.8}, Sampling(0.7, 0.8)),
        ({"do_sample": True, "top_k": 64, "top_p": 0.95}, Sampling(1.0, 0.95, 64)),
        ({"do_sample": True, "temperature": 0.6, "min_p": 0.1}, Sampling(0.6, min_p=0.1)),
        ({"repetition_penalty": 1.1}, Sampling(repetition_penalty=1.1)),
        (
            {"do_sample": True, "repetition_penalty": 1.05, "top_k": 20},
            Sampling(1.0, top_k=20, repetition_penalty=1.05),
        ),
        ({"temperature": 0.5, "repetition_penalty": 0}, Sampling(0.5)),
        ({"do_sample": True, "temperature": "hot", "top_p": None, "top_k": -1}, Sampling(1.0)),
        (
            {"do_sample": True, "temperature": True, "top_p": 7, "top_k": 5.0},
            Sampling(1.0, top_k=5),
        ),
    ],
)
def test_a_models_own_settings_are_read(
    tiny_model: Path, tmp_path: Path, config: Any, wanted: Sampling
) -> None:
    """From generation_config.json, by the rules of transformers; what is odd there is left out."""
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    sampling = ModelLanguage(tmp_path).sampling
    assert sampling == wanted and type(sampling.top_k) is int


def test_a_penalty_keeps_free_text_from_repeating_itself(tiny_model: Path, tmp_path: Path) -> None:
    """The model's own one counts where a request gives none; JSON has its quotes all the same."""
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text('{"repetition_penalty": 2.0}')

    def load(language: Any) -> MlxEngine:
        return MlxEngine(tmp_path, language, fast_blas=True)

    with serving(load, lambda: ModelLanguage(tmp_path)) as server:

        def text(**more: Any) -> str:
            status, answer = server.chat(max_tokens=24, **more)
            assert status == 200, answer
            return str(answer["choices"][0]["message"]["content"])

        plain = text(repetition_penalty=1)
        assert text() == text(repetition_penalty=2) != plain
        assert len(set(text())) > len(set(plain))
        schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        assert text(response_format=form) == '{"a":"x"}'
        assert server.chat(repetition_penalty=0.5)[0] == 400


def test_a_penalty_is_that_of_transformers() -> None:
    """Likely tokens are divided by it, unlikely ones multiplied, each once."""
    logits = penalised(mx.array([2.0, -1.0, 0.5, -3.0]), [0, 3, 3], 2.0)
    assert logits.tolist() == [1.0, -1.0, 0.5, -6.0]


@pytest.mark.parametrize("top_p", [0.0, 1e-320, 1e-46, 1e-9, 1e-4])
def test_a_top_p_near_0_is_greedy(top_p: float) -> None:
    """The smallest share there is holds the likeliest token."""
    logits = mx.array([0.0, 1.0, 0.9, -3.0])
    for seed in range(20):
        call = Call([1], _nobody, temperature=2.0, top_p=top_p, seed=seed)
        assert Sampler(call)(logits, 0).item() == 1


def _nobody(_piece: Piece) -> None:
    pass


def test_a_json_object_is_a_mask(tiny_model: Path) -> None:
    """As the schema of an object of any kind, not as free text."""
    body = Chat.model_validate({**chat_body(), "response_format": {"type": "json_object"}})
    assert body.answer_schema() == {"type": "object"}
    try:
        mask = ModelLanguage(tiny_model).mask(body.answer_schema())
    except Refused as refusal:  # while free objects are refused: not for its being no schema
        pytest.xfail(refusal.message)
    assert bytes(mask.allowed()) != b"" and not mask.finished


# -- /v1/completions ------------------------------------------------------------------------------


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("prompt", ["once", ["once"]])
def test_a_text_goes_on(client: openai.OpenAI, prompt: Any) -> None:
    """Whole and streamed, without a template, in the shapes of the official client."""
    whole = client.completions.create(model=NAME, prompt=prompt)
    assert (whole.object, whole.choices[0].text) == ("text_completion", "so it goes")
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and whole.usage.prompt_tokens == len("once")
    stream = client.completions.create(
        model=NAME, prompt=prompt, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert "".join(c.choices[0].text for c in chunks[:-1]) == "so it goes"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 10
    short = client.completions.create(model=NAME, prompt=prompt, max_tokens=2, stop=["zz"])
    assert (short.choices[0].text, short.choices[0].finish_reason) == ("so", "length")
    cut = client.completions.create(model=NAME, prompt=prompt, stop="it")
    assert cut.choices[0].text == "so "


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"prompt": ["a", "b"]}, "one text"),
        ({"prompt": [1, 2]}, "one text"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt: an empty text"),
        ({"prompt": "x" * 20_000}, "window"),
        ({"echo": True}, "echo: the prompt is not repeated"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "one choice"),
        ({"n": 2}, "one choice"),
        ({"logprobs": 1}, "log-probabilities"),
        ({"messages": []}, "messages: unknown parameter"),
    ],
)
def test_what_a_text_cannot_have_is_refused(
    server: Serving, more: dict[str, Any], says: str
) -> None:
    """By name, as for a chat."""
    status, said = server.post("/v1/completions", text_body(**more))
    assert status == 400 and says in said["error"]["message"]


def test_a_text_begins_as_the_model_learned_texts(tiny_model: Path, tmp_path: Path) -> None:
    """With the token that its tokenizer puts first; markers in the text stay text."""
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    plain = ModelLanguage(tmp_path)
    assert plain.encode_text("a <|im_end|>").tokens == plain.encode("a <|im_end|>")
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    first = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    whole = {"Sequence": {"id": "A", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, whole],
        "pair": [first, whole],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with_first = ModelLanguage(tmp_path)
    assert with_first.encode_text("a <|im_end|>").tokens == [0, *plain.encode("a <|im_end|>")]
