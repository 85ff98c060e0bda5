"""The real server, in its own process, under anything that a socket can carry."""

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from agentd import paths
from tests.raw_http import connected, status, to_end
from tests.schemas.drawn import LEAVES, objects
from tests.serving import NAME, TOKEN, Serving, wait_for
from tests.test_model_server_process import spawned

EXAMPLES = 200  # of each kind; raise for a longer search, which is then random
GROWTH_BYTES_MAX = 80_000_000  # MLX, tokenizers and compiled schemas settle within this
PATIENCE_S = 0.05  # to read what comes for a request that is not complete

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 200,
    database=None,
    suppress_health_check=list(HealthCheck),
)
KEY = f"Bearer {TOKEN}".encode()
ASKED: dict[str, Any] = {
    "model": NAME,
    "messages": [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ],
    "max_tokens": 2,
    "temperature": 0,
    "seed": 1,
    "stop": ["x"],
    "stream": False,
    "response_format": {"type": "text"},
}
CALLING = {
    **{key: value for key, value in ASKED.items() if key != "stop"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "required",
}


@pytest.fixture(scope="module")
def server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, psutil.Process]]:
    """The real process, for all tests here, and a look at it when they are over."""
    folder = tmp_path_factory.mktemp("fuzz")
    places = paths.discover({paths.HOME_VARIABLE: str(folder)})
    places.create()
    places.token.touch(0o600)
    places.token.write_text(TOKEN)
    with spawned(folder, tiny_model, "--call-deadline", "0.3") as (server, process):
        wait_for(lambda: server.get("/ready")[0] == 200)
        for _ in range(3):
            assert server.chat(max_tokens=2)[0] == 200
            assert server.chat(**CALLING)[0] == 200
        yield server, psutil.Process(process.pid)
        assert process.poll() is None


@pytest.fixture(autouse=True)
def harmless(server: tuple[Serving, psutil.Process]) -> Iterator[None]:
    """After each storm a normal request works, and neither files nor memory have piled up."""
    serving, process = server
    files, memory = process.num_fds(), process.memory_info().rss
    yield
    assert serving.get("/health")[0] == 200
    assert serving.chat(max_tokens=2)[0] == 200
    wait_for(lambda: process.num_fds() <= files, "no file stays open")
    assert process.memory_info().rss - memory < GROWTH_BYTES_MAX


def send(server: Serving, data: bytes, *, ends: bool) -> int:
    """Send bytes and return the reply's status, 0 for none.

    With `ends` the client says that no more comes, and the server must end the connection.
    """
    with connected(server.port) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            if ends:
                sock.shutdown(socket.SHUT_WR)
        if ends:
            return status(to_end(sock))
        sock.settimeout(PATIENCE_S)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return status(sock.recv(65536))
    return 0


TOKEN_BYTES = st.binary(max_size=12)
LINES = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 99999999999",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Expect: 100-continue",
        b"Connection: close",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Host: y",
        b"X-Agentd-Agent: \xff\xfe",
        b"X-Agentd-Deadline: nan",
        b"X-Agentd-Deadline: 1e999",
        b"X-Agentd-Weight: 99999999999999999999",
        b"Authorization: Bearer \xed\xa0\x80",
        b" folded",
        b":",
        b"A" * 40_000,
    ]
)


PATHS = [b"/v1/chat/completions", b"/tokenize", b"/v1/models/x%2fy", b"/health", b"*", b"/%ff"]
GOOD = json.dumps(ASKED).encode()


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests that are nearly right."""
    method = draw(st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"TRACE", b"PRI", b""]))
    path = draw(
        st.sampled_from(
            [
                b"/v1/chat/completions",
                b"/tokenize",
                b"/v1/models/x%2fy",
                b"/health",
                b"*",
                b"//",
                b"/%ff",
            ]
        )
    )
    version = draw(st.sampled_from([b"HTTP/1.1"] * 4 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1\x00"]))
    lines = [b"Host: x", b"Authorization: " + KEY, *draw(st.lists(LINES, max_size=4))]
    body = draw(
        st.sampled_from([b"", b"{}", json.dumps(ASKED).encode(), b"5\r\nhello\r\n0\r\n\r\n"])
    )
    if draw(st.booleans()):
        lines.append(b"Content-Length: %d" % len(body))
    head = b" ".join([method, path, version]) + b"\r\n" + b"\r\n".join(lines)
    data = head + b"\r\n\r\n" + body
    for _ in range(draw(st.integers(0, 4))):  # cut, repeat, insert
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 20))
        match draw(st.sampled_from(["cut", "repeat", "insert", "end"])):
            case "cut":
                data = data[:at] + data[at + size :]
            case "repeat":
                data = data[:at] + data[at : at + size] * 2 + data[at + size :]
            case "insert":
                data = data[:at] + draw(TOKEN_BYTES) + data[at:]
            case _:
                data = data[:at]
    return data * draw(st.sampled_from([1, 1, 1, 3]))


@FUZZ
@given(data=st.one_of(st.binary(max_size=300), requests(), requests()), ends=st.booleans())
def test_any_bytes(server: tuple[Serving, psutil.Process], data: bytes, ends: bool) -> None:
    """An answer that blames the client, or a closed connection; never a fault, never a hang."""
    found = send(server[0], data, ends=ends)
    event(f"status {found}")
    assert found < 500 or found in (503, 504, 505)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(
            ["\ud800", "user", "tool", "auto", "required", "x" * 5000, 2**70, -1, 1e300]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["role", "content", "type", "name", "function", "\ud800", "$ref", ""]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """Bodies that are nearly right: a value somewhere in a good one is another."""
    body = json.loads(json.dumps(draw(st.sampled_from([ASKED, CALLING]))))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            if draw(st.integers(0, 4)) == 0:
                del place[key]
            else:
                place[key] = draw(JSON)
            break
    return body


@FUZZ
@given(
    body=st.one_of(JSON, bodies(), bodies()),
    path=st.sampled_from(["/v1/chat/completions", "/v1/completions", "/tokenize"]),
)
def test_any_json(server: tuple[Serving, psutil.Process], body: Any, path: str) -> None:
    """Any JSON, and what some take for it, is answered, refused by its place, or out of time."""
    data = json.dumps(body).encode()
    found, headers, answer = server[0].exchange("POST", path, data)
    event(f"status {found}")
    if b'"stream": true' in data and found == 200:
        return
    assert found < 500 or found == 504
    assert headers["content-type"] == "application/json"
    if found != 200:
        assert json.loads(answer)["error"]["message"]


@settings(FUZZ, max_examples=EXAMPLES // 8)
@given(schema=objects(LEAVES), junk=JSON, where=st.sampled_from(["format", "tool", "junk"]))
def test_any_schema(
    server: tuple[Serving, psutil.Process], schema: dict[str, Any], junk: Any, where: str
) -> None:
    """Good schemas give an answer, strange ones a 400."""
    if where == "tool":
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        more: dict[str, Any] = {"tools": [tool], "tool_choice": "required"}
    else:
        found = {"name": "x", "schema": junk if where == "junk" else schema}
        more = {"response_format": {"type": "json_schema", "json_schema": found}}
    code, answer = server[0].chat(max_tokens=3, **more)
    event(f"status {code}")
    assert code in (200, 400, 504), answer
