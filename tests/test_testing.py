"""The test kit that ships to users."""

import http.client
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from agentd.errors import ModelError, ModelUnavailable, Stopped
from agentd.llm.decision import LLM, Ask, Choice, Decision
from agentd.states import Priority
from agentd.testing import FakeModelServer, ManualClock, Reply, Request, ScriptedLLM, wait_for


class ReadFile(BaseModel):
    path: str


def ask(llm: LLM, log: str = "", allowed: frozenset[str] | None = None) -> Decision:
    ask = Ask(
        log=log,
        allowed=allowed,
        max_tokens=10,
        deadline_s=1,
        priority=Priority.EVENT,
        session=1,
        progress=lambda: None,
    )
    return llm.decide(ask)


def test_a_scripted_model_plays_its_script() -> None:
    """Pairs, typed values and errors, in order; then it says that the script is over."""
    llm = ScriptedLLM([("ReadFile", {"path": "a"}), ReadFile(path="b"), ModelUnavailable("down")])
    assert llm.names == {"ReadFile", "Done"}
    first = ask(llm, "log")
    assert first.value == Choice("ReadFile", {"path": "a"}) and first.args == {"path": "a"}
    assert ask(llm).value == ReadFile(path="b")
    with pytest.raises(ModelUnavailable):
        ask(llm)
    with pytest.raises(ModelError, match="no further answer"):
        ask(llm)
    assert llm.asked[0] == ("log", None)


def test_a_scripted_model_is_held_to_what_is_allowed() -> None:
    """A test that scripts what a mask would refuse is wrong, and says so."""
    with pytest.raises(AssertionError, match="ReadFile"):
        ask(ScriptedLLM([("ReadFile", {})]), allowed=frozenset({"Done"}))


def test_a_scripted_model_may_answer_by_the_log() -> None:
    """A function of the log, with typed values where classes are given."""
    llm = ScriptedLLM(lambda log: ("ReadFile", {"path": log}), typed={"ReadFile": ReadFile})
    assert ask(llm, "x").value == ReadFile(path="x")
    llm.close()
    with pytest.raises(Stopped):
        ask(llm)


def test_a_manual_clock_moves_only_when_told() -> None:
    """Both clocks together, or the wall clock alone."""
    clock = ManualClock()
    now, seconds = clock.now(), clock.monotonic()
    clock.advance(90)
    assert (clock.now() - now, clock.monotonic() - seconds) == (timedelta(seconds=90), 90)
    clock.set(now)
    assert clock.now() == now and clock.monotonic() == seconds + 90


def post(server: FakeModelServer, path: str, body: dict[str, Any], token: str) -> tuple[int, bytes]:
    host = server.url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=5)
    connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, data


MESSAGES = {"messages": [{"role": "user", "content": "hello world"}]}


def test_the_fake_server_streams_answers(tmp_path: Path) -> None:
    """Real HTTP, chunk by chunk, with usage at the end and the address where workers look."""

    def answer(request: Request) -> Reply:
        return Reply(request.body["messages"][0]["content"].upper(), pieces=2, queued=1)

    with FakeModelServer(answer) as server:
        status, data = post(server, "/v1/chat/completions", MESSAGES, server.token)
        lines = [line for line in data.decode().splitlines() if line]
        assert status == 200 and lines[0] == ": queued" and lines[-1] == "data: [DONE]"
        chunks = [json.loads(line[6:]) for line in lines[1:-1]]
        text = "".join(
            choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
        )
        assert text == "HELLO WORLD" and chunks[-1]["usage"]["completion_tokens"] == 3
        assert len(server.requests) == 1
        server.write_address(tmp_path)
        assert json.loads((tmp_path / "model.json").read_text())["url"] == server.url


def test_the_fake_server_refuses_like_a_real_one() -> None:
    """A wrong token, a wrong path and a full queue have their status codes."""
    with FakeModelServer([Reply(status=503, headers={"Retry-After": "2"})]) as server:
        path = "/v1/chat/completions"
        assert post(server, path, MESSAGES, "wrong")[0] == 401
        assert post(server, "/v1/other", MESSAGES, server.token)[0] == 404
        assert post(server, path, MESSAGES, server.token)[0] == 503
        status, data = post(server, "/tokenize", {"content": "12345678"}, server.token)
        assert (status, json.loads(data)["count"]) == (200, 2)


def test_wait_for_gives_up() -> None:
    """A condition that never comes true fails the test with its name, not by hanging."""
    assert wait_for(lambda: "yes") == "yes"
    with pytest.raises(AssertionError, match="a pig that flies"):
        wait_for(lambda: False, seconds=0.02, what="a pig that flies")
