"""The HTTP side, the queue and the runner, over a scripted engine: no MLX here."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from agentd.model_server.calls import Call, EngineBroken, Full, Piece, Refused
from agentd.model_server.engine.queue import FairQueue
from agentd.model_server.engine.thread import EngineThread
from agentd.model_server.engine.watchdog import Progress, Watchdog
from agentd.model_server.http.pieces import Deliveries
from agentd.model_server.language.text_stream import TextStream
from agentd.states import Priority
from agentd.testing import ManualClock
from agentd.testing.tiny_model import ScriptedEngine, ScriptedLanguage
from tests.serving import DEADLINE_S, NAME, ListLog, Serving, chat_body, serving, wait_for


class Gate:
    """Holds the engine before each step until opened; remembers whom it saw."""

    def __init__(self, *, opened: bool = False) -> None:
        self.open = threading.Event()
        self.steps = 0
        if opened:
            self.open.set()

    def __call__(self, calls: Sequence[Call]) -> None:
        self.steps += 1
        assert self.open.wait(20)


def start(server: Serving, headers: dict[str, str] | None = None, **more: Any) -> threading.Thread:
    thread = threading.Thread(target=server.chat, args=(headers,), kwargs=more)
    thread.start()
    return thread


def hang_up_in(server: Serving, body: dict[str, Any]) -> http.client.HTTPConnection:
    """Send a request and return its connection without reading the answer."""
    connection = server.connect()
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": "Bearer test-token"},
    )
    return connection


def test_answers_in_openai_shape() -> None:
    """A plain completion has the fields that OpenAI's clients read, and honest usage."""
    with serving(lambda _language: ScriptedEngine(lambda call: "fine")) as server:
        status, answer = server.chat()
    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "fine"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["usage"]["prompt_tokens"] == len("user: hello\n")


def test_streams_pieces_usage_and_end() -> None:
    """A stream is the same answer in pieces, then usage, then [DONE]."""
    with serving(lambda _language: ScriptedEngine(lambda call: "añb")) as server:
        body = chat_body(stream=True, stream_options={"include_usage": True})
        _status, headers, data = server.exchange(
            "POST", "/v1/chat/completions", json.dumps(body).encode()
        )
    assert headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in data.decode().split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
    assert "".join(deltas) == "añb"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 4


def test_everything_but_health_needs_the_token() -> None:
    """Without the token only /health answers; a wrong one is as bad as none."""
    with serving(lambda _language: ScriptedEngine()) as server:
        assert server.get("/health", token=None) == (200, {"status": "alive"})
        for path in ("/ready", "/metrics", "/v1/models", "/nowhere"):
            for token in (None, "wrong", "tést"):
                with contextlib.suppress(UnicodeEncodeError):
                    assert server.get(path, token=token)[0] == 401
        status, _headers, _data = server.exchange("POST", "/v1/chat/completions", b"{}", token="x")
        assert status == 401
        assert server.get("/ready")[0] == 200


def called(**more: Any) -> dict[str, Any]:
    """Return an assistant's message with one call."""
    function = {"name": "f", "arguments": "{}", **more}
    return {"role": "assistant", "tool_calls": [{"id": "1", "function": function}]}


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def function(**more: Any) -> list[dict[str, Any]]:
    """Return a list of one tool."""
    return [{"type": "function", "function": {"name": "f", **more}}]


def answers(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


REFUSED: list[tuple[bytes | dict[str, Any], int, str]] = [
    (b"", 400, "not JSON"),
    (b"{", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
    (b'{"model": "\xc3\x28"}', 400, "not JSON"),
    (b"[" * 100_000, 400, "not JSON"),
    (b'{"model": NaN}', 400, "NaN"),
    (b'{"model": 1e999}', 400, "JSON"),
    (b'{"seed": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    (b"[]", 400, ""),
    (b'"x"', 400, ""),
    (b'{"model": "scripted", "messages": [{"role":"user","content":"\\ud800"}]}', 400, "JSON"),
    (b'{"model": "scripted", "messages": [{"role":"user","\\ud800":"x"}]}', 400, "JSON"),
    (json.dumps({f"k{n}": 0 for n in range(20_000)}).encode(), 400, "k0: unknown parameter"),
    (chat_body(messages=[]), 400, "messages"),
    (chat_body(messages="hello"), 400, "messages"),
    (chat_body(messages=[{"role": "user", "content": "x"}] * 2001), 400, "messages"),
    (chat_body(messages=[{"role": "ghost", "content": "x"}]), 400, "messages.0.role"),
    (chat_body(messages=[{"role": "user", "content": None}]), 400, "messages.0.content"),
    (chat_body(messages=[{"role": "user", "text": "x"}]), 400, "messages.0.text: unknown"),
    (chat_body(messages=[{"role": "tool", "content": "x"}]), 400, "messages.0.tool_call_id"),
    (
        chat_body(messages=[called(), {"role": "tool", "content": "x", "tool_call_id": "2"}]),
        400,
        "messages.1.tool_call_id: no call",
    ),
    (chat_body(messages=[called(arguments="{")]), 400, "messages.0.tool_calls.0.function.arg"),
    (chat_body(messages=[called(arguments="[]")]), 400, "must be a JSON object"),
    (chat_body(messages=[called(arguments='{"a": NaN}')]), 400, "NaN"),
    (chat_body(messages=[called(arguments="[" * 9999)]), 400, "is not JSON"),
    (chat_body(messages=[called(name="a b")]), 400, "messages.0.tool_calls.0.function.name"),
    (chat_body(messages=[{**called(), "role": "user"}]), 400, "messages.0.tool_calls: only"),
    (
        chat_body(messages=[{"role": "user", "content": "x", "tool_call_id": "1"}]),
        400,
        "messages.0.tool_call_id: only",
    ),
    (
        chat_body(
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1"}}],
                }
            ]
        ),
        400,
        "messages.0.content: only text is taken",
    ),
    (chat_body(messages=[{"role": "user", "content": [{"type": "text"}]}]), 400, "only text"),
    (chat_body(model="other"), 404, "other"),
    (chat_body(model=None), 400, "model"),
    (chat_body(n=2), 400, "one choice"),
    (chat_body(top_logprobs=5), 400, "top_logprobs: needs logprobs: true"),
    (chat_body(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    (chat_body(tools=[{"type": "function"}]), 400, "tools.0.function"),
    (chat_body(tools=[{"type": "custom", "custom": {"name": "x"}}]), 400, "tools.0"),
    (chat_body(tools=[TOOL, TOOL]), 400, "tools.1.function.name: another"),
    (chat_body(tools=function(name="a b")), 400, "tools.0.function.name"),
    (chat_body(tools=function(parameters={"type": "string"})), 400, "tools.0.function.parameters"),
    (chat_body(tools=[TOOL] * 129), 400, "tools"),
    (chat_body(tools=[TOOL], tool_choice="sometimes"), 400, "tool_choice"),
    (chat_body(tools=[TOOL], tool_choice={"type": "function"}), 400, "tool_choice"),
    (
        chat_body(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        400,
        "tool_choice: 'g' is none of the tools",
    ),
    (chat_body(tool_choice="required"), 400, "tool_choice: a call is required"),
    (chat_body(tools=[TOOL], stop="x"), 400, "stop: would cut"),
    (chat_body(functions=[{"name": "f"}]), 400, "functions: an older form; use tools"),
    (chat_body(presence_penalty=0.5), 400, "penalties"),
    (chat_body(logit_bias={"1": 5}), 400, "logit bias"),
    (chat_body(response_format={"type": "json_object"}), 400, "honours no schema"),
    (chat_body(response_format={"type": "xml"}), 400, "json_object"),
    (chat_body(reasoning_effort="high"), 400, "reasoning_effort"),
    (chat_body(modalities=["text", "audio"]), 400, "only text is given"),
    (chat_body(store=True), 400, "nothing is stored"),
    (chat_body(max_tokens=0), 400, "max_tokens"),
    (chat_body(max_tokens=True), 400, "max_tokens"),
    (chat_body(temperature=9), 400, "temperature"),
    (chat_body(stop=""), 400, "stop"),
    (chat_body(stop=["x"] * 17), 400, "stop"),
    (
        chat_body(
            stop="x",
            response_format={"type": "json_schema", "json_schema": {"schema": {"type": "null"}}},
        ),
        400,
        "stop: would cut",
    ),
    # JSON Schema's short words for all and for nothing.
    (chat_body(response_format=answers(True)), 400, "honours no schema"),
    (chat_body(response_format=answers(1)), 400, "response_format"),
    (chat_body(guided_json={}), 400, "guided_json: unknown parameter"),
    (chat_body(content="x" * 20_000), 400, "window"),
]


@pytest.fixture(scope="module")
def scripted() -> Any:
    with serving(lambda _language: ScriptedEngine(), body_bytes_max=300_000) as server:
        yield server


HARMLESS: list[dict[str, Any]] = [
    {"n": 1, "user": "me", "metadata": {"a": "b"}, "store": False, "logprobs": False},
    {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "service_tier": "auto"},
    {"prompt_cache_key": "x", "safety_identifier": "y", "modalities": ["text"]},
    {"prediction": {"type": "content", "content": "x"}, "reasoning_effort": "none"},
    {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
    {"response_format": {"type": "text"}, "stop": ["a"], "seed": 5, "stream_options": None},
    {"messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "me"}]},
    {"messages": [called(), {"role": "tool", "content": "x", "tool_call_id": "1"}]},
    {"messages": [{**called(), "content": None, "refusal": None, "annotations": []}]},
]


@pytest.mark.parametrize("more", HARMLESS)
def test_what_changes_nothing_is_accepted(scripted: Serving, more: dict[str, Any]) -> None:
    """Parameters that clients send by default, and that ask for what is given anyway, pass."""
    assert scripted.chat(**more)[0] == 200


@pytest.mark.parametrize(("body", "status", "says"), REFUSED)
def test_bad_requests_are_refused_clearly(
    scripted: Serving, body: bytes | dict[str, Any], status: int, says: str
) -> None:
    """Garbage and unsupported parameters give an OpenAI-shaped 4xx that names the place."""
    found, answer = scripted.post("/v1/chat/completions", body)
    assert found == status
    assert says in answer["error"]["message"]
    assert answer["error"]["type"] == "invalid_request_error"


def test_goes_on_after_bad_http(scripted: Serving) -> None:
    """Malformed HTTP, huge headers and huge bodies end nothing but their own connection."""
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", scripted.port), timeout=10) as sock,
        ):
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    for headers in ({"Content-Length": "400000"}, {"Transfer-Encoding": "chunked"}):
        with contextlib.suppress(OSError):
            body = iter([b"x" * 100_000] * 4) if "Transfer-Encoding" in headers else b"x" * 400_000
            status, _h, data = scripted.exchange(
                "POST",
                "/v1/chat/completions",
                body,  # type: ignore[arg-type]
            )
            assert status == 413
            assert json.loads(data)["error"]["code"] == "body_too_large"
    assert scripted.get("/nowhere")[0] == 404
    assert scripted.get("/v1/chat/completions")[0] == 405
    assert scripted.chat()[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Agentd-Priority": "emperor"},
        {"X-Agentd-Weight": "0"},
        {"X-Agentd-Weight": "many"},
        {"X-Agentd-Deadline": "-1"},
        {"X-Agentd-Agent": "a" * 300},
    ],
)
def test_bad_headers_are_refused(scripted: Serving, headers: dict[str, str]) -> None:
    """A header that makes no sense is named, not ignored."""
    status, answer = scripted.chat(headers)
    assert status == 400
    assert answer["error"]["param"] == next(iter(headers))


def test_tokenize_counts_messages_and_text(scripted: Serving) -> None:
    """Both forms give count, window and tokens; both at once or none are refused."""
    messages = [{"role": "user", "content": "hi"}]
    assert scripted.post("/tokenize", {"content": "abc"}) == (
        200,
        {"count": 3, "max_model_len": 10_000, "tokens": [97, 98, 99]},
    )
    assert scripted.post("/tokenize", {"prompt": "ab"})[1]["count"] == 2
    assert scripted.post("/tokenize", {"messages": messages})[1]["count"] == len("user: hi\n")
    assert scripted.post("/tokenize", {})[0] == 400
    assert scripted.post("/tokenize", {"content": "a", "messages": messages})[0] == 400
    assert scripted.post("/tokenize", {"content": "a", "model": "other"})[0] == 404
    assert scripted.post("/tokenize", {"messages": messages, "tools": [TOOL]})[0] == 200
    assert scripted.post("/tokenize", {"content": "a" * 300_000})[0] == 413


def test_person_first_then_weight_then_round_robin() -> None:
    """The queue's order: class, weight, and within that the agent served longest ago."""
    queue = FairQueue(20)

    def put(agent: str, priority: Priority, weight: int = 5) -> None:
        queue.put(Call([], lambda piece: None, agent=agent, priority=priority, weight=weight))

    for _ in range(3):
        put("busy", Priority.EVENT)
    put("calm", Priority.EVENT)
    put("late", Priority.SCHEDULE)
    put("heavy", Priority.EVENT, weight=1)
    put("me", Priority.PERSON, weight=9)
    order: list[str] = []
    while call := queue.next():
        queue.take(call)
        order.append(call.agent)
    assert order == ["me", "heavy", "busy", "calm", "busy", "busy", "late"]


def test_a_full_queue_has_room_for_a_person() -> None:
    """Schedules that fill the queue cannot keep a person out: the last of them loses its place."""
    queue = FairQueue(2)
    first, second, person, other = (
        Call([], lambda piece: None, agent="a", priority=priority)
        for priority in (Priority.SCHEDULE, Priority.SCHEDULE, Priority.PERSON, Priority.SCHEDULE)
    )
    assert queue.put(first) is None
    assert queue.put(second) is None
    assert queue.put(person) is second
    with pytest.raises(Full):
        queue.put(other)
    assert queue.next() is person


def test_a_persons_call_overtakes_waiting_ones() -> None:
    """The headers reach the queue: a person's call is admitted before older waiting ones."""
    gate = Gate()
    engine = ScriptedEngine(before_step=gate)
    with serving(lambda _language: engine) as server:
        threads = [start(server, {"X-Agentd-Agent": "first"})]
        wait_for(lambda: gate.steps)
        for agent, priority in (("cron", "schedule"), ("mail", "event"), ("me", "person")):
            headers = {"X-Agentd-Agent": agent, "X-Agentd-Priority": priority}
            threads.append(start(server, headers))
            wait_for(lambda: server.runner.waiting() == len(threads) - 1)
        gate.open.set()
        for thread in threads:
            thread.join(20)
    assert engine.order == [f"other:{name}" for name in ("first", "me", "mail", "cron")]


def test_full_queue_answers_503_with_retry_after() -> None:
    """A call too many is refused at once, says when to come back, and harms nobody."""
    gate = Gate()
    with serving(lambda _language: ScriptedEngine(before_step=gate), queue_size=1) as server:
        first = start(server)
        wait_for(lambda: gate.steps)
        second = start(server)
        wait_for(lambda: server.runner.waiting() == 1)
        status, headers, data = server.exchange(
            "POST", "/v1/chat/completions", json.dumps(chat_body()).encode()
        )
        gate.open.set()
        first.join(20)
        second.join(20)
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert json.loads(data)["error"]["code"] == "queue_full"
        assert [line["finish_reason"] for line in server.log.of("request.finished")] == ["stop"] * 2


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_frees_the_slot_within_a_step(stream: bool) -> None:
    """A client that goes away, streaming or not, is noticed while a step goes on.

    That step's token is the only one for nobody; the next call is served.
    """
    held = threading.Event()
    steps = 0

    def before_step(calls: Sequence[Call]) -> None:
        nonlocal steps
        steps += 1
        assert steps <= 6 or held.wait(20)

    answers = {"long": "x" * 100_000, "short": "ok"}
    engine = ScriptedEngine(
        lambda call: answers["long" if len(call.prompt) > 12 else "short"], before_step=before_step
    )
    with serving(lambda _language: engine) as server:
        connection = hang_up_in(
            server, chat_body(content="long prompt", stream=stream, max_tokens=100_000)
        )
        wait_for(lambda: steps == 7)
        [(call, _)] = server.runner._active.values()
        connection.sock.close() if connection.sock else None
        connection.close()
        wait_for(lambda: call.cancelled)
        held.set()
        lines = wait_for(lambda: server.log.of("request.finished"))
        assert lines[0]["finish_reason"] == "cancelled"
        assert lines[0]["completion_tokens"] == 6 + 1
        assert server.chat(content="a")[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_in_the_queue_leaves_it(stream: bool) -> None:
    """A call whose client is gone before its turn never reaches the engine."""
    gate = Gate()
    engine = ScriptedEngine(before_step=gate)
    with serving(lambda _language: engine) as server:
        first = start(server, {"X-Agentd-Agent": "first"})
        wait_for(lambda: gate.steps)
        connection = hang_up_in(server, chat_body(stream=stream))
        wait_for(lambda: server.runner.waiting() == 1)
        connection.close()
        waiting = server.runner._queue._waiting
        wait_for(lambda: all(call.cancelled for call in waiting))
        gate.open.set()
        first.join(20)
        wait_for(lambda: len(server.log.of("request.finished")) == 2)
    assert engine.order == ["other:first"]


def test_a_waiting_stream_says_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """While queued, comments keep the connection alive and tell the client not to count time."""
    monkeypatch.setattr("agentd.model_server.http.answers.COMMENT_S", 0.02)
    gate = Gate()
    with serving(lambda _language: ScriptedEngine(before_step=gate)) as server:
        first = start(server)
        wait_for(lambda: gate.steps)
        connection = hang_up_in(server, chat_body(stream=True))
        response = connection.getresponse()
        while not response.readline().startswith(b": queued"):
            pass
        gate.open.set()
        rest = response.read()
        first.join(20)
        connection.close()
    assert b": admitted" in rest
    assert rest.endswith(b"data: [DONE]\n\n")


def test_deadline_counts_from_admission() -> None:
    """A call that takes too long in its slot ends with 504; the time in the queue is free."""
    gate = Gate()
    engine = ScriptedEngine(lambda call: "x" * 1000, before_step=gate)
    with serving(lambda _language: engine, call_deadline_s=60) as server:
        results: list[tuple[int, Any]] = []
        first = start(server)
        wait_for(lambda: gate.steps)
        late = threading.Thread(
            target=lambda: results.append(server.chat({"X-Agentd-Deadline": "0.000001"}))
        )
        late.start()
        wait_for(lambda: server.runner.waiting() == 1)
        assert not results  # its deadline is long over, but it was not admitted yet
        gate.open.set()
        first.join(20)
        late.join(20)
    assert results[0][0] == 504
    assert results[0][1]["error"]["code"] == "deadline"


@pytest.mark.parametrize(("step_s", "finish"), [(3600.0, "stop"), (5.0, "deadline")])
def test_a_server_that_was_stopped_ends_no_call(step_s: float, finish: str) -> None:
    """After a SIGSTOP of an hour the calls go on; slow steps still use their deadline up."""
    clock = ManualClock()
    engine = ScriptedEngine(lambda call: "x" * 20, before_step=lambda calls: clock.advance(step_s))
    pieces: list[Piece] = []
    ended: list[BaseException] = []
    runner = EngineThread(
        ScriptedLanguage, lambda _language: engine, ListLog(), on_end=ended.append, clock=clock
    )
    runner.start()
    runner.submit(Call([1], pieces.append, deadline_s=60))
    last = wait_for(lambda: pieces and (pieces[-1].finish or pieces[-1].error), "it ends")
    runner.stop(20)
    assert (last if isinstance(last, str) else last.code) == finish


def test_a_failed_step_costs_no_call() -> None:
    """A step that raises once is made again: the client gets its answer all the same."""
    failures = iter([RuntimeError("boom")])

    def fail(calls: Sequence[Call]) -> None:
        for error in failures:
            raise error

    engine = ScriptedEngine(lambda call: "fine", before_step=fail)
    with serving(lambda _language: engine) as server:
        status, answer = server.chat()
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "fine")
        assert engine.recoveries == 1
        assert len(server.log.of("step.failed")) == 1


def test_an_exception_fails_its_own_request_only() -> None:
    """A call whose steps keep raising gets a 500; the server goes on with the next call."""
    failures = iter([RuntimeError("boom")] * 2)

    def fail(calls: Sequence[Call]) -> None:
        for error in failures:
            raise error

    engine = ScriptedEngine(before_step=fail)
    with serving(lambda _language: engine) as server:
        status, answer = server.chat()
        assert (status, answer["error"]["code"]) == (500, "engine_error")
        assert "boom" not in json.dumps(answer)  # the traceback is for the log
        assert server.chat()[0] == 200
        assert engine.recoveries == 2
        assert len(server.log.of("request.failed")) == 1


def test_refusals_in_steps_do_not_end_the_engine() -> None:
    """One agent's hopeless schema, however often it is sent, is no fault of the engine."""
    refusals = iter([Refused("too complex", code="unsupported_schema")] * 9)

    class Picky(ScriptedEngine):
        def admit(self, call: Call) -> None:
            for error in refusals:
                raise error
            super().admit(call)

    with serving(lambda _language: Picky()) as server:
        assert [server.chat()[0] for _ in range(10)] == [400] * 9 + [200]
        assert not server.ended


def test_a_fault_of_the_server_has_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even what nobody expected is answered as JSON, and the next request is served."""

    def fail(_self: object, _messages: object) -> list[int]:
        raise TypeError("secret")

    with serving(lambda _language: ScriptedEngine()) as server:
        with monkeypatch.context() as patch:
            patch.setattr(ScriptedLanguage, "encode_chat", fail)
            status, answer = server.chat()
        assert (status, answer["error"]["code"]) == (500, "server_error")
        assert "secret" not in answer["error"]["message"]
        assert server.chat()[0] == 200


def test_a_body_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that announces a body and sends none holds nothing for ever."""
    monkeypatch.setattr("agentd.model_server.http.app.BODY_S", 0.05)
    with serving(lambda _language: ScriptedEngine()) as server:
        connection = server.connect()
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Authorization", "Bearer test-token")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        assert connection.getresponse().status == 408
        connection.close()


def test_stopping_while_loading_answers_at_once() -> None:
    """Calls that wait for a model to load hear of the stop before the loading is over."""
    loaded = threading.Event()

    def load(_language: object) -> ScriptedEngine:
        assert loaded.wait(20)
        return ScriptedEngine()

    with serving(load, wait_ready=False) as server:
        wait_for(lambda: server.runner.language)
        results: list[int] = []
        waiting = threading.Thread(target=lambda: results.append(server.chat()[0]))
        waiting.start()
        wait_for(lambda: server.runner.waiting() == 1)
        server.runner.stop(0)
        waiting.join(20)
        assert results == [503]
        assert server.get("/ready") == (503, {"status": "stopping"})
        loaded.set()


def test_who_is_gone_takes_no_place_in_the_queue() -> None:
    """Callers that gave up while the model was loading do not keep others out."""
    loaded = threading.Event()

    def load(_language: object) -> ScriptedEngine:
        assert loaded.wait(20)
        return ScriptedEngine()

    with serving(load, wait_ready=False, queue_size=1) as server:
        wait_for(lambda: server.runner.language)
        for _ in range(3):
            connection = hang_up_in(server, chat_body())
            wait_for(lambda: server.runner.waiting() == 1)
            connection.close()
            wait_for(lambda: server.runner.waiting() == 0)
        loaded.set()
        assert server.chat()[0] == 200


@pytest.mark.parametrize("error", [RuntimeError("again"), EngineBroken("gone")])
def test_a_broken_engine_ends_the_process_not_only_the_thread(error: Exception) -> None:
    """An engine that cannot go on reports its end, and nobody is left waiting."""

    def fail(calls: Sequence[Call]) -> None:
        raise error

    with serving(lambda _language: ScriptedEngine(before_step=fail)) as server:
        statuses = []
        while not server.ended:
            statuses.append(server.chat()[0])
        assert set(statuses) <= {500, 503}
        assert isinstance(server.ended[0], EngineBroken)
        assert server.chat()[0] == 503


def test_stop_strings_end_the_answer_before_them() -> None:
    """A stop string is never sent, even when it comes in pieces."""
    with serving(lambda _language: ScriptedEngine(lambda call: "one END two")) as server:
        _status, answer = server.chat(stop=["END", "zzz"])
    assert answer["choices"][0]["message"]["content"] == "one "
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_text_stream_holds_back_what_may_be_a_stop() -> None:
    """Characters cut between tokens, and beginnings of stop strings, wait for their rest."""
    stream = TextStream(["<end>"])
    assert stream.feed("é".encode()[:1]) == ""
    assert stream.feed("é".encode()[1:]) == "é"
    assert stream.feed(b"a<en") == "a"
    assert stream.feed(b"x") == "<enx"
    assert stream.feed(b"b<end>c") == "b"
    assert stream.stopped
    assert TextStream().feed(b"\xc3", last=True) == "\ufffd"


def test_not_ready_while_loading_but_alive() -> None:
    """/health answers from the start, /ready only after the engine is there; calls wait."""
    loaded = threading.Event()

    def load(_language: object) -> ScriptedEngine:
        assert loaded.wait(20)
        return ScriptedEngine()

    with serving(load, wait_ready=False) as server:
        assert server.get("/health")[0] == 200
        assert server.get("/ready")[0] == 503
        wait_for(lambda: server.runner.language)
        waiting = start(server)
        wait_for(lambda: server.runner.waiting() == 1)
        loaded.set()
        waiting.join(20)
        assert server.get("/ready")[0] == 200


def test_an_idle_model_leaves_memory_and_comes_back() -> None:
    """After the idle time the engine is let go, its caches saved; the next call loads it again."""
    engines: list[ScriptedEngine] = []

    def load(_language: object) -> ScriptedEngine:
        engines.append(ScriptedEngine(lambda call: "fine"))
        return engines[-1]

    with serving(load, unload_after_s=0.05) as server:
        assert server.chat()[0] == 200
        wait_for(lambda: not server.runner.loaded)
        assert server.get("/ready") == (200, {"status": "ready", "model": NAME, "loaded": False})
        before = len(engines)  # it may have been idle before the first call as well
        wait_for(lambda: engines[-1].saves == 1, "its caches are saved")
        assert "agentd_loaded 0" in server.exchange("GET", "/metrics")[2].decode()
        assert server.chat()[0] == 200
        assert len(engines) == before + 1
        assert server.log.of("model.unloaded")
    wait_for(lambda: engines[-1].saves == 1, "an orderly stop saves, too")


def test_metrics_are_prometheus_text() -> None:
    """Every line parses; tokens, times and the decode gap of what was served are in it."""
    with serving(lambda _language: ScriptedEngine(lambda call: "four")) as server:
        for _ in range(3):
            server.chat()
        text = server.exchange("GET", "/metrics")[2].decode()
    values = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# TYPE agentd_\w+ (counter|gauge|summary)", line)
            continue
        found = re.fullmatch(r"(agentd_\w+(?:\{\w+=\"[^\"]*\"\})?) (-?[\d.e+-]+)", line)
        assert found, line
        values[found[1]] = float(found[2])
    assert values['agentd_requests_total{outcome="stop"}'] == 3
    assert values["agentd_completion_tokens_total"] == 12
    assert values["agentd_prompt_tokens_total"] == 3 * len("user: hello\n")
    assert values["agentd_first_token_seconds_count"] == 3
    assert values["agentd_decode_gap_seconds_count"] == 9
    assert values['agentd_request_seconds{quantile="0.95"}'] > 0
    assert {"agentd_queue_length", "agentd_running", "agentd_cache_bytes"} <= values.keys()


def test_watchdog_counts_ticks_without_steps_only_while_busy() -> None:
    """Idle is fine, slow is fine, standing still while busy is not."""
    progress = Progress()
    dog = Watchdog(progress, stall_s=3, load_s=100, tick_s=1, on_stall=print)
    progress.ready = True
    assert not any(dog.tick() for _ in range(10))  # idle
    progress.busy = True
    assert [dog.tick() for _ in range(3)] == [False, False, True]
    progress.step()
    assert not dog.tick()
    progress.ready, progress.steps = False, 99
    assert not any(dog.tick() for _ in range(50))  # loading may take longer


def test_stopping_refuses_and_ends_what_waits() -> None:
    """After stop nobody waits for ever, and nobody is taken in any more."""
    gate = Gate()
    with serving(lambda _language: ScriptedEngine(before_step=gate)) as server:
        results: list[int] = []
        threads = [
            threading.Thread(target=lambda: results.append(server.chat()[0])) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: gate.steps and server.runner.waiting() == 2)
        gate.open.set()
        server.runner.stop(20)
        for thread in threads:
            thread.join(20)
        assert set(results) <= {200, 503}
        with pytest.raises(Full):
            server.runner.submit(Call([], lambda piece: None))


def test_a_log_line_per_request() -> None:
    """Each call leaves one line with who, how many tokens and how long, and no prompt."""
    with serving(lambda _language: ScriptedEngine()) as server:
        headers = {"X-Agentd-Agent": "digest", "X-Agentd-Session": "7"}
        server.chat(headers, content="secret words")
        (line,) = server.log.of("request.finished")
        metrics = server.exchange("GET", "/metrics")[2].decode()
    assert (line["agent"], line["session_id"], line["finish_reason"]) == ("other:digest", 7, "stop")
    assert line["completion_tokens"] == 2
    assert line["queue_ms"] >= 0
    assert "secret words" not in json.dumps(line)
    assert 'agentd_requests_total{outcome="stop"} 1' in metrics


def test_what_a_slow_reader_has_not_fetched_is_one_piece() -> None:
    """Pieces that wait are joined: order and end are kept, and memory is that of the text."""

    async def run() -> list[Piece]:
        pieces = Deliveries().pieces()

        def emit() -> None:
            pieces.emit(Piece(admitted=True))
            for number in range(1000):
                pieces.emit(Piece(f"{number} "))
            pieces.emit(Piece("end", finish="stop"))

        await asyncio.to_thread(emit)
        found = [await pieces.get()]
        while not found[-1].last:
            found.append(await pieces.get())
        return found

    found = asyncio.run(run())
    assert "".join(piece.text for piece in found) == "".join(f"{n} " for n in range(1000)) + "end"
    assert found[0].admitted and found[-1].finish == "stop"
    assert len(found) < 10


def test_pieces_of_a_step_come_with_one_wake_up() -> None:
    """However many rows a step has: each wake-up costs the engine's thread Python's lock."""

    async def run() -> tuple[list[Piece], int]:
        deliveries, loop, woken = Deliveries(), asyncio.get_running_loop(), 0
        rows = [deliveries.pieces() for _ in range(20)]
        wake = loop.call_soon_threadsafe

        def counted(*arguments: Any, **more: Any) -> asyncio.Handle:
            nonlocal woken
            woken += arguments[0] == deliveries._arrive
            return wake(*arguments, **more)

        def step() -> None:
            with deliveries.together():
                for number, pieces in enumerate(rows):
                    pieces.emit(Piece(str(number)))

        vars(loop)["call_soon_threadsafe"] = counted
        await asyncio.to_thread(step)
        found = [await pieces.get(DEADLINE_S) for pieces in rows]
        with pytest.raises(TimeoutError):
            await rows[0].get(0.01)
        rows[0].emit(Piece("alone"))
        rows[0].emit(Piece(" too"))  # the loop has not come to the one before
        return [*found, await rows[0].get(DEADLINE_S)], woken

    found, woken = asyncio.run(run())
    assert [piece.text for piece in found] == [*map(str, range(20)), "alone too"]
    assert woken == 2


def test_a_piece_knows_whether_it_is_the_last() -> None:
    """Readers stop at a finish, an error or a cancellation."""
    assert not Piece("a").last
    assert Piece(finish="stop").last
    assert Piece(cancelled=True).last
