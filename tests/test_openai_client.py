"""The official client, unchanged, against this server: what it sends, what it makes of answers."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from agentd.model_server.calls import Call, Full
from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import ScriptedEngine
from tests.serving import NAME, TOKEN, Serving, serving, wait_for
from tests.wanting import WantingEngine

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bern", "unit": "C"}}'
SAYS = {
    "hello": "fine, thank you.",
    "weather": CALL,
    "both": f"Let me see.\n{CALL}",
    "person": '{"name":"Ada","kind":"human","age":36}',
}
Messages = list[Any]


class Weather(BaseModel):
    """Tell the weather of a city."""

    city: str = Field(max_length=40)
    unit: Literal["C", "F"]


class Person(BaseModel):
    name: str
    kind: Literal["human", "robot"]
    age: int


def wants(call: Call) -> str:
    """Answer by the last words of the prompt, which are the user's."""
    asked = bytes(LANGUAGES[0].decode(call.prompt)).decode()
    if "tool_response" in asked.rpartition("user\n")[2]:
        return "It rains in Bern."
    return next((says for word, says in SAYS.items() if word in asked.rpartition("user")[2]), "?")


LANGUAGES: list[ModelLanguage] = []


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Serving]:
    LANGUAGES[:] = [ModelLanguage(tiny_model)]

    def load(_language: Any) -> WantingEngine:
        return WantingEngine(LANGUAGES[0], wants)

    with serving(load, lambda: LANGUAGES[0]) as server:
        yield server


def options(server: Serving, **more: Any) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.port}/v1"
    return {"base_url": url, "api_key": TOKEN, "max_retries": 0, **more}


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**options(server)) as client:
        yield client


def say(words: str) -> Messages:
    return [{"role": "user", "content": words}]


TOOLS: list[Any] = [
    openai.pydantic_function_tool(Weather, name="get_weather"),
    {"type": "function", "function": {"name": "get_time"}},
]


def test_chat_and_stream(client: openai.OpenAI) -> None:
    """A completion whole and in pieces, with usage, and all settings that are honoured."""
    more: dict[str, Any] = {"seed": 1, "temperature": 0, "top_p": 0.9, "max_completion_tokens": 50}
    whole = client.chat.completions.create(model=NAME, messages=say("hello"), **more)
    assert whole.choices[0].message.content == SAYS["hello"]
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None and whole.usage.completion_tokens > 0
    stream = client.chat.completions.create(
        model=NAME,
        messages=say("hello"),
        stream=True,
        stream_options={"include_usage": True},
        **more,
    )
    chunks = list(stream)
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens > 0
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == SAYS["hello"]
    short = client.chat.completions.create(model=NAME, messages=say("hello"), max_tokens=3)
    assert short.choices[0].finish_reason == "length"
    cut = client.chat.completions.create(model=NAME, messages=say("hello"), stop=[", ", "zzz"])
    assert cut.choices[0].message.content == "fine"


def test_models(client: openai.OpenAI) -> None:
    """The one model can be listed and looked at; another is not there."""
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_a_pydantic_model_is_parsed(client: openai.OpenAI) -> None:
    """`parse` with a response_format gives an object of the class, whole and streamed."""
    parsed = client.chat.completions.parse(
        model=NAME, messages=say("person"), response_format=Person
    )
    assert parsed.choices[0].message.parsed == Person(name="Ada", kind="human", age=36)
    with client.chat.completions.stream(
        model=NAME, messages=say("person"), response_format=Person
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Person(name="Ada", kind="human", age=36)


@pytest.mark.parametrize(
    ("words", "choice", "content"),
    [
        ("weather", "auto", None),
        ("weather", openai.NOT_GIVEN, None),
        ("both", "auto", "Let me see."),
        ("hello", "required", None),
        ("hello", {"type": "function", "function": {"name": "get_weather"}}, None),
        (
            "weather",
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                },
            },
            None,
        ),
    ],
)
@pytest.mark.parametrize("parallel", [True, False, openai.NOT_GIVEN])
def test_tools(
    client: openai.OpenAI, words: str, choice: Any, content: str | None, parallel: Any
) -> None:
    """A call comes whole and streamed, once, with legal arguments, text before it kept."""
    more: Any = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": parallel}
    whole = client.chat.completions.create(model=NAME, messages=say(words), **more).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content == content
    (call,) = whole.message.tool_calls or []
    assert call.type == "function"
    if words != "hello":
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "get_weather",
            {"city": "Bern", "unit": "C"},
        )
    chunks = list(
        client.chat.completions.create(model=NAME, messages=say(words), stream=True, **more)
    )
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert ("".join(delta.content or "" for delta in deltas) or None) == content
    pieces = [piece for delta in deltas for piece in delta.tool_calls or []]
    assert {piece.index for piece in pieces} == {0}
    assert pieces[0].id and not any(piece.id for piece in pieces[1:])
    functions = [piece.function for piece in pieces if piece.function]
    assert functions[0].name == call.function.name
    assert "".join(one.arguments or "" for one in functions) == call.function.arguments


def test_no_call_where_none_is_wanted(client: openai.OpenAI) -> None:
    """With "none" the model cannot call, and with "auto" it need not."""
    create = client.chat.completions.create
    for words, choice in (("weather", "none"), ("hello", "auto")):
        answer = create(
            model=NAME,
            messages=say(words),
            tools=TOOLS,
            tool_choice=choice,  # type: ignore[call-overload]
        ).choices[0]
        assert answer.finish_reason == "stop"
        assert answer.message.tool_calls is None
        assert answer.message.content


def test_a_whole_turn_with_a_tool(client: openai.OpenAI) -> None:
    """The client's own message goes back as it came, with the result, and is understood."""
    messages = say("weather")
    first = client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS)
    message = first.choices[0].message
    messages.append(message)
    for call in message.tool_calls or []:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    second = client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS)
    assert second.choices[0].message.content == "It rains in Bern."


def test_tools_are_parsed_and_sent_back(client: openai.OpenAI) -> None:
    """`parse` gives the arguments as an object; its message too can be sent back."""
    messages = say("weather")
    parsed = client.chat.completions.parse(model=NAME, messages=messages, tools=TOOLS[:1])
    message = parsed.choices[0].message
    (call,) = message.tool_calls or []
    assert call.function.parsed_arguments == Weather(city="Bern", unit="C")
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    again = client.chat.completions.create(model=NAME, messages=messages, tools=TOOLS[:1])
    assert again.choices[0].message.content == "It rains in Bern."
    with client.chat.completions.stream(
        model=NAME, messages=say("both"), tools=TOOLS[:1]
    ) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.content == "Let me see."
    assert (final.tool_calls or [])[0].function.parsed_arguments == Weather(city="Bern", unit="C")


def test_a_schema_or_a_tool(client: openai.OpenAI) -> None:
    """With both, the model answers in the schema's JSON or calls."""
    for words in ("person", "weather"):
        message = (
            client.chat.completions.parse(
                model=NAME, messages=say(words), tools=TOOLS[:1], response_format=Person
            )
            .choices[0]
            .message
        )
        assert (message.parsed is None) == (words == "weather")
        assert bool(message.tool_calls) == (words == "weather")


@pytest.mark.parametrize("limit", [1, 4, 8, 12])
def test_a_call_that_is_cut_is_closed_and_says_so(client: openai.OpenAI, limit: int) -> None:
    """Out of tokens inside a call: legal arguments, and finish_reason "length"."""
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(
        model=NAME, messages=say("weather"), tools=TOOLS, tool_choice=choice, max_tokens=limit
    ).choices[0]
    assert answer.finish_reason == "length"
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert list(json.loads(call.function.arguments)) == ["city", "unit"]


def test_the_asynchronous_client(server: Serving) -> None:
    """Several calls at once, streams among them, each with its own answer."""

    async def run() -> None:
        async with openai.AsyncOpenAI(**options(server)) as client:

            async def streamed(words: str) -> str:
                stream = await client.chat.completions.create(
                    model=NAME, messages=say(words), stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            async def parsed() -> Person | None:
                answer = await client.chat.completions.parse(
                    model=NAME, messages=say("person"), response_format=Person
                )
                return answer.choices[0].message.parsed

            async def called() -> str:
                answer = await client.chat.completions.create(
                    model=NAME, messages=say("weather"), tools=TOOLS
                )
                (call,) = answer.choices[0].message.tool_calls or []
                assert call.type == "function"
                return call.function.name

            hello, person, name, other = await asyncio.gather(
                streamed("hello"), parsed(), called(), streamed("person")
            )
            assert (hello, name, other) == (SAYS["hello"], "get_weather", SAYS["person"])
            assert person == Person(name="Ada", kind="human", age=36)
            assert [model.id async for model in client.models.list()] == [NAME]

    asyncio.run(run())


def test_errors_are_typed(server: Serving, client: openai.OpenAI) -> None:
    """What goes wrong arrives as the exception that the client has for it, with our message."""
    create: Any = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="'other' is not served"):
        create(model="other", messages=say("hello"))
    with pytest.raises(openai.BadRequestError, match="one choice") as bad:
        create(model=NAME, messages=say("hello"), n=2)
    assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "n")
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "x"}}}
    with pytest.raises(openai.BadRequestError, match=r"/\$ref"):
        create(model=NAME, messages=say("hello"), response_format=schema)
    image = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]
    with pytest.raises(openai.BadRequestError, match="only text is taken"):
        create(model=NAME, messages=[{"role": "user", "content": image}])
    with pytest.raises(openai.APIStatusError) as large:
        create(model=NAME, messages=say("x" * 9_000_000))
    assert large.value.status_code == 413
    with (
        openai.OpenAI(**options(server, api_key="wrong")) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()


def test_a_full_server_is_tried_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """503 with Retry-After: the client waits for as long, and then gets its answer."""
    refusals = iter([Full("full", retry_after_s=1), Full("full", retry_after_s=1)])
    with serving(lambda _language: ScriptedEngine()) as server:
        submit = server.runner.submit

        def full_at_first(call: Call) -> None:
            for refusal in refusals:
                raise refusal
            submit(call)

        monkeypatch.setattr(server.runner, "submit", full_at_first)
        with (
            openai.OpenAI(**options(server)) as client,
            pytest.raises(openai.InternalServerError) as busy,
        ):
            client.chat.completions.create(model=NAME, messages=say("hello"))
        assert busy.value.status_code == 503
        assert busy.value.response.headers["retry-after"] == "1"
        started = time.monotonic()
        with openai.OpenAI(**options(server, max_retries=2)) as client:
            answer = client.chat.completions.create(model=NAME, messages=say("hello"))
        assert time.monotonic() - started >= 1
        assert answer.choices[0].message.content == "ok"


def test_a_client_that_waits_no_longer_frees_the_slot() -> None:
    """The client's own timeout is its own error, and its call leaves the engine."""
    gate = threading.Event()

    held: list[Call] = []

    def hold(calls: Any) -> None:
        held.extend(calls)
        assert gate.wait(20)

    engine = ScriptedEngine(before_step=hold)
    with serving(lambda _language: engine) as server:
        with (
            openai.OpenAI(**options(server, timeout=1)) as client,
            pytest.raises(openai.APITimeoutError),
        ):
            client.chat.completions.create(model=NAME, messages=say("hello"))
        wait_for(lambda: held and held[0].cancelled, "the server has seen it go")
        gate.set()
        assert server.chat()[0] == 200
        reasons = [line["finish_reason"] for line in server.log.of("request.finished")]
        assert reasons == ["cancelled", "stop"]


def test_an_error_in_a_stream_is_raised() -> None:
    """An engine that fails in the middle of a stream is an exception, not a short answer."""
    steps = iter(range(3))

    def fail(_calls: Any) -> None:
        if next(steps, None) is None:
            raise RuntimeError("boom")

    with (
        serving(lambda _language: ScriptedEngine(lambda _c: "x" * 50, before_step=fail)) as server,
        openai.OpenAI(**options(server)) as client,
    ):
        stream = client.chat.completions.create(model=NAME, messages=say("hello"), stream=True)
        with pytest.raises(openai.APIError, match="the engine failed"):
            for _chunk in stream:
                pass
