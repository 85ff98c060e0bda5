"""External model servers: every way to say the same is read, and each fault is named as it is."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.config.daemon import ModelConfig
from agentd.errors import CallDeadline, ModelMisconfigured, ModelUnavailable
from agentd.llm.address import Address
from agentd.llm.completion import Completion
from agentd.llm.endpoint import LEAST_CALL, Endpoint
from agentd.llm.faults import CallRefused, LogprobsRefused
from agentd.llm.listing import look
from agentd.paths import Paths
from agentd.testing import FakeModelServer, Reply, Request, wait_for
from tests.commandline import agentd
from tests.livehome import Home, a_home

FORMAT = {"response_format": {"type": "json_schema"}}
BODY = {"messages": [{"role": "user", "content": "hi"}], **FORMAT}
Serve = Callable[..., FakeModelServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[FakeModelServer] = []

    def start(*answers: Any, **options: Any) -> FakeModelServer:
        given = answers[0] if answers and callable(answers[0]) else answers
        servers.append(FakeModelServer(given or ("{}",), **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask(
    server: FakeModelServer, deadline_s: float = 10.0, body: Mapping[str, Any] | None = None
) -> Completion:
    endpoint = Endpoint(
        lambda: Address(server.url, "fake", server.token), own=False, queue_wait_s=deadline_s
    )
    return endpoint.chat(body or BODY, {}, deadline_s=deadline_s, progress=lambda: None)


def event(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


ROLE = event(delta={"role": "assistant"})
ONE, TWO = event(delta={"content": "he"}), event(delta={"content": "llo"})
STOP = event(delta={}, finish_reason="stop")
END = b"data: [DONE]\n\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
GOOD = ROLE + ONE + TWO + STOP + USAGE + END
WHOLE = json.dumps({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]})
STREAMS: dict[str, bytes] = {
    "plain": GOOD,
    "no end": ROLE + ONE + TWO + STOP,
    "no reason": ROLE + ONE + TWO + END,
    "no space": GOOD.replace(b"data: ", b"data:"),
    "CRLF": GOOD.replace(b"\n", b"\r\n"),
    "CR": GOOD.replace(b"\n", b"\r"),
    "trailing spaces": GOOD.replace(b"\n\n", b"  \t\n\n"),
    "comments": b": hi\n\n" + GOOD.replace(b"data: ", b": ping\n:\nevent: message\nid: 3\ndata: "),
    "retry first": b"retry: 100\n\n" + GOOD,
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "empty lines first": b"\r\n\n" + GOOD,
    "many lines": GOOD.replace(b'{"choices"', b'{\ndata: "choices"'),
    "no empty lines": GOOD.replace(b"\n\n", b"\n"),
    "no last line end": (ROLE + ONE + TWO + STOP).rstrip(b"\n"),
    "an empty event": b"data:\n\ndata\n\n" + GOOD,
    "nothing in it": b'data: {"choices":null,"usage":null}\n\ndata: {}\n\n' + GOOD,
    "null content": event(delta={"role": "assistant", "content": None}, finish_reason=None) + GOOD,
    "parts": event(delta={"content": [{"type": "text", "text": "hello"}]}) + STOP,
    "thoughts in parts": event(
        delta={
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "reasoning", "text": "hm"},
                {"type": "text", "text": "hello"},
            ]
        }
    )
    + STOP,
    "reasoning, by another name": event(delta={"reasoning": "hm"}) + GOOD,
    "reasoning": event(delta={"reasoning_content": "hm", "content": ""}) + GOOD,
    "the reason early": event(delta={"content": "he"}, finish_reason="stop") + TWO + END,
    "all of it at the end": ONE + TWO + event(message={"content": "hello"}, finish_reason="stop"),
    "text alone": event(text="hello", finish_reason="stop"),
    "another choice": event(index=1, delta={"content": "bye"}) + GOOD,
    "sent on after its end": GOOD + b"data: what is this\n\n",
    "a null error": GOOD.replace(b'{"choices"', b'{"error": null, "choices"'),
    "whole": WHOLE.encode(),
    "whole, in lines": json.dumps(json.loads(WHOLE), indent=2).encode() + b"\r\n",
    "whole, with a mark": b"\xef\xbb\xbf \n" + WHOLE.encode(),
    "whole, without a reason": WHOLE.replace('"stop"', "null").encode(),
}
TYPES = [
    "text/event-stream",
    "Text/Event-Stream; Charset=UTF-8",
    "TEXT/EVENT-STREAM",
    "text/event-stream;charset=utf-8",
    "application/json",
    "text/plain",
    "application/octet-stream",
    "",
]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_dress_of_an_answer_is_read(serve: Serve, name: str, packed: bool) -> None:
    """Also packed by a proxy, though nobody asked for that."""
    answer = ask(serve(Reply(garbage=STREAMS[name], gzip=packed)))
    assert (answer.text, answer.finish_reason) == ("hello", "stop")
    if b"completion_tokens" in STREAMS[name]:
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("name", ["plain", "comments", "whole"])
def test_an_answer_is_told_by_what_it_is(serve: Serve, name: str, content_type: str) -> None:
    """Servers name their streams, and what is none, in many ways."""
    reply = Reply(garbage=STREAMS[name], content_type=content_type)
    assert ask(serve(reply)).text == "hello"


def test_an_emoji_in_two_halves_is_one(serve: Serve) -> None:
    """JSON writes it as two, and a server may send them apart."""
    halves = b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n'
    halves += b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n' + STOP
    assert ask(serve(Reply(garbage=halves))).text == "\U0001f600"


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS"])
def test_an_answer_that_was_cut_says_so(serve: Serve, reason: str) -> None:
    """In whatever words: the loop must not act on half a decision."""
    reply = Reply(garbage=ONE + event(delta={}, finish_reason=reason) + END)
    assert ask(serve(reply)).finish_reason == "length"


@pytest.mark.parametrize(
    "usage",
    [
        "[]",
        '"x"',
        *(f'{{"prompt_tokens":{count}}}' for count in ('"x"', -1, 2**63, 10**400, 1.5, "[7]")),
    ],
)
def test_odd_counts_are_none(serve: Serve, usage: str) -> None:
    """What a server counts is for people; nothing depends on it."""
    odd = b'data: {"choices":[],"usage":' + usage.encode() + b"}\n\n"
    assert ask(serve(Reply(garbage=ONE + odd + STOP))).usage.prompt_tokens == 0


@pytest.mark.parametrize(
    "garbage",
    [
        ROLE + ONE,  # ends without a word
        ROLE + ONE + b'data: {"choices":[{"delta":{"cont',
        event(delta={"content": "x"}, finish_reason="error"),
        b'data: {"choices":[{"delta":{"content":5}}]}\n\n',
        b'data: {"choices":["x"]}\n\n',
        b'data: {"choices":5}\n\n',
        b"data: 5\n\n",
        b"hello",
        b"",
        b"[]",
        b'data: {"error":"out of memory"}\n\n',
        b'event: error\ndata: {"message":"out of memory"}\n\n',
        b'data: {"object":"error","message":"out of memory","code":500}\n\n',
        b'{"detail":"Internal"}',
        event(delta={"content": "x"}, finish_reason=5),
        event(delta={"content": "x"}, finish_reason=True),
        event(delta={"content": "x"}, finish_reason=["stop"]),
        b'data: {"choices":[{"delta":{"content":' + b'[{"text":' * 400 + b"]}" * 400 + b"}]}\n\n",
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_tried_again_and_then_an_error(serve: Serve, garbage: bytes) -> None:
    """Never half an answer, never a traceback; a server that comes to itself is given the time."""
    bad = Reply(garbage=garbage)
    assert ask(serve(bad, "hello")).text == "hello"
    with pytest.raises(CallRefused):
        ask(serve(lambda request: "ok" if is_least(request) else bad))
    with pytest.raises(ModelUnavailable) as caught:
        ask(serve(bad))
    assert not isinstance(caught.value, ModelMisconfigured)


def is_least(request: Request) -> bool:
    """Whether it was asked for nothing but a sign of life."""
    return bool(request.body["messages"] == [{"role": "user", "content": LEAST_CALL}])


REFUSALS = {
    "out of the blue": Reply("Bad Request", status=400),
    "parameter": Reply("Unsupported parameter: 'max_tokens' is not supported", status=400),
    "field": Reply("Extra inputs are not permitted", status=422),
    "credit": Reply("Your credit balance is too low", status=400),
    "TLS wanted": Reply("The plain HTTP request was sent to HTTPS port", status=400),
    "conflict": Reply("endpoint is paused", status=409),
    "upgrade": Reply("Upgrade Required", status=426),
    "law": Reply("Unavailable For Legal Reasons", status=451),
    "certificate": Reply("SSL Certificate Error", status=495),
    "in a stream": Reply(garbage=b'{"error":{"message":"no","type":"invalid_request_error"}}'),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_server_that_refuses_any_call_costs_no_event(serve: Serve, kind: str) -> None:
    """Told by asking it for the least; where it answers that, this very call is to blame."""
    reply = REFUSALS[kind]
    server = serve(reply)
    with pytest.raises(ModelMisconfigured, match="refused the call"):
        ask(server)
    assert [is_least(request) for request in server.requests] == [False, True]
    assert "response_format" not in server.requests[1].body
    with pytest.raises(CallRefused):
        ask(serve(lambda request: "ok" if is_least(request) else reply))


@pytest.mark.parametrize(
    "reply",
    [
        Reply("model requires more system memory (5.6 GiB) than is available", status=500),
        Reply("CUDA error", status=500),
        Reply("HTTP Version Not Supported", status=505),
    ],
)
def test_a_server_that_fails_at_any_call_is_down(serve: Serve, reply: Reply) -> None:
    """The event waits for it, as for one that refuses connections."""
    with pytest.raises(ModelUnavailable, match=f"HTTP {reply.status}") as caught:
        ask(serve(reply))
    assert not isinstance(caught.value, ModelMisconfigured)


@pytest.mark.parametrize(
    "full",
    [
        *(Reply("later", status=status) for status in (408, 425, 429, 503, 520, 521, 524, 529)),
        Reply(garbage=b'{"error":{"message":"Overloaded","type":"overloaded_error"}}', status=500),
    ],
)
def test_a_full_server_is_asked_again(serve: Serve, full: Reply) -> None:
    """As often as there is time; `Retry-After: 0` is no reason to hammer."""
    assert ask(serve(full, "hello")).text == "hello"
    server = serve(replace(full, headers={"Retry-After": "0"}))
    with pytest.raises(ModelUnavailable):
        ask(server, deadline_s=0.5)
    assert len(server.requests) < 8


def test_comments_in_a_stream_of_others_do_not_lengthen_the_deadline(serve: Serve) -> None:
    """`: queued` and `: admitted` are our own server's words."""
    server = serve(Reply("hello", queued=1000, pause_s=5.0))
    with pytest.raises(CallDeadline):
        ask(server, deadline_s=0.5)


FORMAT_FAULTS = [
    Reply("response_format is not supported", status=400),
    Reply("Failed to parse grammar", status=400),
    Reply("json_schema: unsupported keyword", status=422),
    Reply("failed to compile grammar: too many rules", status=500),
    Reply("Structured outputs are not available for this model", status=400),
    Reply("guided decoding is off", status=501),
    Reply(garbage=b'data: {"error":{"message":"bad grammar","type":"invalid_request_error"}}\n\n'),
    Reply(garbage=b'{"error":{"message":"cannot convert schema to GBNF","code":500}}'),
]


@pytest.mark.parametrize("fault", FORMAT_FAULTS)
def test_a_server_without_masks_says_so_in_many_ways(serve: Serve, fault: Reply) -> None:
    """`LLM.decide` then asks without one; see `test_llm`."""
    from agentd.llm.faults import MaskRefused

    server = serve(fault)
    with pytest.raises(MaskRefused):
        ask(server)
    assert len(server.requests) == 1


def test_a_word_about_logprobs_is_no_refusal_of_what_nobody_asked_for(serve: Serve) -> None:
    """A prompt may be about them, and a server may quote it in any error."""
    quotes = Reply("bad prompt: 'what are logprobs?'", status=400)
    with pytest.raises(CallRefused):
        ask(serve(quotes, "it answers the least of calls"))
    with pytest.raises(LogprobsRefused):
        ask(serve(quotes), body={**BODY, "logprobs": True})


CONFIGURATION: dict[str, tuple[Reply, str]] = {
    "key": (Reply("bad key", status=401), "api_key_file"),
    "key of another": (Reply("not allowed", status=403), "api_key_file"),
    "path": (Reply("Not Found", status=404), "url"),
    "method": (Reply("Method Not Allowed", status=405), "url"),
    "model": (Reply("The model `fake` does not exist", status=404), "name"),
    "model, 400": (Reply("model 'fake' not found, try pulling it first", status=400), "name"),
    "model, 422": (Reply("Unknown model fake", status=422), "name"),
    "model, in a stream": (
        Reply(garbage=b'data: {"error":{"message":"no","code":"model_not_found"}}\n\n'),
        "name",
    ),
    "key, in a stream": (
        Reply(garbage=b'{"error":{"message":"no","type":"authentication_error"}}'),
        "api_key_file",
    ),
    "no credit": (Reply("pay first", status=402), "url"),
    "key, in words": (Reply("API key not valid. Please pass a valid API key.", status=400), "key"),
    "model, in words": (Reply("foo/bar is not a valid model ID", status=400), "name"),
    "model, given up": (Reply("The model `x` has been decommissioned", status=400), "name"),
    "window": (Reply("maximum context length is 2048 tokens", status=400), "context_window"),
    "size": (Reply("Payload Too Large", status=413), "context_window"),
    "redirect": (Reply(status=307, headers={"Location": "https://h.invalid/v1"}), "url"),
    "moved": (Reply(status=301, headers={"Location": "/other"}), "url"),
    "page": (Reply(garbage=b"\n<!doctype html><title>Hello</title>", content_type="text/html"), ""),
}


@pytest.mark.parametrize("kind", CONFIGURATION)
def test_a_fault_of_configuration_is_told_at_once(serve: Serve, kind: str) -> None:
    """With the key of [model] that is wrong; nothing is tried again, and no event is to blame."""
    reply, key = CONFIGURATION[kind]
    server = serve(reply)
    with pytest.raises(ModelMisconfigured) as caught:
        ask(server)
    assert f"[model] {key}" in caught.value.where or key in caught.value.where
    assert caught.value.hint and len(server.requests) == 1


def speaking(answer: bytes) -> tuple[str, threading.Thread]:
    """Start something on a port that answers the same bytes to whoever comes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.agentd_online  # a server of its own
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_port_of_another_kind_is_told_at_once(scheme: str) -> None:
    """http to what speaks TLS or SSH, and https to what does not."""
    place, thread = speaking(b"\x15\x03\x03\x00\x02\x02\x46SSH-2.0-x\r\n\r\n")
    endpoint = Endpoint(lambda: Address(f"{scheme}://{place}/v1", "m"), own=False)
    with pytest.raises(ModelMisconfigured) as caught:
        endpoint.chat(BODY, {}, deadline_s=10.0, progress=lambda: None)
    assert caught.value.where == "[model] url"
    thread.join(5)


@pytest.mark.agentd_online  # a server that is no longer there
def test_a_server_that_is_down_is_waited_for(serve: Serve) -> None:
    """It is no fault of configuration: it may come back."""
    server = serve()
    server.close()
    endpoint = Endpoint(lambda: Address(server.url, "m"), own=False)
    with pytest.raises(ModelUnavailable) as caught:
        endpoint.chat(BODY, {}, deadline_s=0.3, progress=lambda: None)
    assert not isinstance(caught.value, ModelMisconfigured)


def discovered(server: FakeModelServer, tmp_path: Path, **more: Any) -> Endpoint:
    key = tmp_path / "key"
    key.write_text(server.token)
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path / "run", tmp_path / "run")
    given = {"url": server.url, "api_key_file": str(key), **more}
    return Endpoint.discover(paths, ModelConfig.model_validate(given))


def test_another_server_nearby_keeps_no_thread_for_an_agent(serve: Serve, tmp_path: Path) -> None:
    """Each kept connection would take one of its few from other agents, for seconds."""
    server = serve("a")
    one = discovered(server, tmp_path, name="m")
    for number in (1, 2):
        assert one.chat(BODY, {}, deadline_s=10, progress=lambda: None).text == "a"
        assert server.connections == number
        wait_for(lambda: not server._server._open)


def test_the_only_model_of_a_server_is_taken(serve: Serve, tmp_path: Path) -> None:
    """Where [model] name was left alone: its default names a model of our own."""
    server = serve("hello", models=["qwen3"])
    endpoint = discovered(server, tmp_path)
    assert endpoint.model() == "qwen3"
    endpoint.chat(BODY, {}, deadline_s=5.0, progress=lambda: None)
    assert server.requests[0].body["model"] == "qwen3"
    assert discovered(server, tmp_path, name="mine").model() == "mine"
    assert discovered(serve(models=[]), tmp_path).model() == "smollm2-135m"  # it has no list
    assert discovered(serve(models=["one", "one", "", "\ud800"]), tmp_path).model() == "one"
    with pytest.raises(ModelMisconfigured, match="2 models: one, two"):
        discovered(serve(models=["one", "two"]), tmp_path).model()
    wrong = discovered(server, tmp_path)
    (tmp_path / "key").write_text("another")
    with pytest.raises(ModelMisconfigured, match="401"):
        wrong.model()


def test_a_page_for_everything_counts_no_tokens(serve: Serve) -> None:
    """A server without /tokenize answers it in many ways; none is a fault of the agent's event."""
    server = serve(tokenize=False)
    endpoint = Endpoint(lambda: Address(server.url, "m", server.token), own=False)
    assert endpoint.tokenize({"content": "a"}) is None


URLS = [
    "http://127.0.0.1:99999/v1",
    "http://h:abc/v1",
    "http://h:0/v1",
    "http://a..b/v1",
    f"http://{'a' * 64}.invalid/v1",
    "http:///v1",
    "ftp://h.invalid/v1",
    "http://[::1/v1",
]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_nothing_can_be_asked_at_is_refused(url: str) -> None:
    """When the file is read, not at each call."""
    with pytest.raises(ValueError, match="url"):
        ModelConfig.model_validate({"url": url})


def test_what_a_look_at_a_server_cannot_foresee_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of its own asks; its error reaches who wanted to know."""

    def odd(*_args: Any) -> None:
        raise UnicodeError("odd")

    monkeypatch.setattr("agentd.llm.listing._look", odd)
    with pytest.raises(UnicodeError):
        look(ModelConfig(url="http://127.0.0.1:1/v1"))


@pytest.mark.parametrize(
    "fault",
    [
        Reply("bad key", status=401),
        Reply("no", status=404),
        Reply("Extra inputs are not permitted", status=422),
    ],
)
def test_a_wrong_key_or_model_costs_no_event(tmp_path: Path, fault: Reply) -> None:
    """The agent rests with the reason, and answers all of its events once that is mended."""
    replies: list[Any] = [fault]
    with a_home(tmp_path) as home:
        home.model._answers = lambda _request: replies[0]
        home.start()
        home.send()
        home.send()
        resting = home.until(lambda: parked(home), "it rests")
        assert fault.text in resting["reason"] and "[model]" in resting["problem"]["what"]
        assert resting["dead_letters"] == 0 and resting["waiting"]["subscribed"] == 2
        replies[0] = {"tool": "done", "result": "Hello!"}
        agentd(home.root, "resume", "hello")
        home.until(lambda: len(home.answered()) == 2, "both are answered")
        assert home.rows("SELECT count(*) FROM dead_letters") == [(0,)]
        assert home.rows("SELECT max(attempt) FROM sessions") <= [(2,)]


def parked(home: Home) -> dict[str, Any] | None:
    agents = json.loads(agentd(home.root, "status", "--json").stdout)["agents"]
    agent = next(agent for agent in agents if agent["name"] == "hello")
    return agent if agent["state"] == "PARKED" else None


def test_commands_ask_an_external_server_how_it_is(tmp_path: Path) -> None:
    """RUNNING with its only model's name; WAITING while it is down; what is wrong, where it is."""
    with a_home(tmp_path) as home:
        home.start()
        model = status(home)
        assert (model["state"], model["name"], model["models"]) == ("RUNNING", "fake", ["fake"])
        assert "RUNNING" in agentd(tmp_path, "status").stdout
        assert "STOPPED" not in agentd(tmp_path, "model", "status").stdout
        assert finding(home) == "ok" and agentd(tmp_path, "check").returncode == 0
        home.model.models = ["one", "two"]
        assert "'smollm2-135m'; it has: one, two" in status(home)["reason"]
        assert finding(home) == "warning" and agentd(tmp_path, "check").returncode == 0
        home.model.token = "secret"
        model = status(home)
        assert model["state"] == "PARKED" and "api_key_file" in model["problem"]["where"]
        assert finding(home) == "problem" and agentd(tmp_path, "check").returncode == 1
        home.model.close()
        model = status(home)
        assert model["state"] == "WAITING" and "refused" in model["problem"]["what"]
        assert "refused" in agentd(tmp_path, "status").stdout
        assert finding(home) == "problem"
        checked = agentd(tmp_path, "check")
        assert checked.returncode == 0 and "refused" in checked.stdout
        home.stop()


def status(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(agentd(home.root, "status", "--json").stdout)["model"]
    told = json.loads(agentd(home.root, "model", "status", "--json").stdout)
    assert (found["state"], found["problem"]) == (told["state"], told["problem"])
    return found


def finding(home: Home) -> str:
    from agentd.config.daemon import load_daemon
    from agentd.doctor.setup import model

    (found,) = model(home.paths, load_daemon(home.paths.daemon_file))
    return str(found.level)


@pytest.mark.agentd_online  # a server of its own
def test_a_look_at_a_server_that_says_nothing_is_short() -> None:
    """A command must not hang because a server does."""
    from agentd.llm.listing import look

    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        seen = look(ModelConfig.model_validate({"url": url}), seconds=0.2)
    assert "did not answer within 0.2 s" in str(seen.error)
    assert not seen.wrong
