"""A fake model server: real HTTP on loopback, scripted answers, and every fault of a real one."""

import json
import socket
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from agentd.testing.scripted import BYTES_PER_TOKEN, WINDOW, ScoreScript
from agentd.testing.waiting import WAIT_S

RUNNING: set[tuple[str, int]] = set()  # the fake servers of this process, the only models of tests


@dataclass(frozen=True)
class Reply:
    """What the fake server does with one call. The default parts make a good answer."""

    text: str = ""
    finish_reason: str = "stop"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    queued: int = 0  # `: queued` comments before the answer
    pieces: int = 4  # the text arrives in so many chunks
    pause_s: float = 0.0  # before each chunk: a slow model
    cut: bool = False  # the connection breaks in the middle of the answer
    hang: bool = False  # nothing further comes after the headers, until the caller goes away
    garbage: bytes | None = None  # the whole body instead
    stream: bool = True  # False: one JSON document, as servers do that cannot stream
    content_type: str = "text/event-stream"  # of a stream, and of `garbage`
    gzip: bool = False  # the body is packed, though nobody asked for it
    # Of labels, by "TOOL.FIELD" and label; and `logprobs` as OpenAI's, with the last chunk.
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    logprobs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Request:
    """A request that the fake server received."""

    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Mapping[str, Any]


Answer = Reply | str | Mapping[str, Any]


class FakeModelServer:
    """An OpenAI-compatible server on loopback with scripted answers, on threads of this process.

    `answers` is a list, used one by one with the last repeated, or a function of the request. A
    text or a mapping (sent as compact JSON) is a good answer, `Reply` any other. `GET /v1/models`
    lists `models` (default: `model` alone; empty: a server without that list). Use it as a context
    manager; `write_address` makes it the model server of an AGENTD_HOME.
    """

    def __init__(
        self,
        answers: Sequence[Answer] | Callable[[Request], Answer] = ('{"tool":"done","result":""}',),
        *,
        token: str = "test-token",
        model: str = "fake",
        window: int = WINDOW,
        models: Sequence[str] | None = None,
        tokenize: bool = True,
        loading: bool = False,
        scores: ScoreScript | None = None,
    ) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self.token = token
        self.model = model
        self.window = window
        self.models = [model] if models is None else models
        self.tokenize = tokenize
        self.scores = scores  # of a head and an item, for /v1/score; None: there is no such path
        self.loading = loading  # /tokenize says that the model is not there yet
        self.requests: list[Request] = []  # chat calls only
        self.tokenized: list[Request] = []
        # By digest, as callers sent them; clear it, and it is as if the server was started anew.
        self.schemas: dict[str | None, Mapping[str, Any]] = {}
        self.closing = threading.Event()
        self.hanging = threading.Semaphore(0)  # released once per call that hangs
        self.gone = threading.Semaphore(0)  # released once per hanging caller that went away
        self._server = _Listener(("127.0.0.1", 0), _Handler)
        self._server.fake = self
        RUNNING.add(self._address)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL, ending in /v1."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def write_address(self, run: Path) -> None:
        """Write model.json and model.token into the home's run folder, as the supervisor does."""
        run.mkdir(parents=True, exist_ok=True)
        (run / "model.token").write_text(self.token)
        (run / "model.json").write_text(json.dumps({"url": self.url, "model": self.model}))

    @property
    def connections(self) -> int:
        """How many connections were made to it."""
        return self._server.accepted

    def schema_of(self, body: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the schema that a call asks for, {} for none; None: its digest is not known."""
        form = (body.get("response_format") or {}).get("json_schema") or {}
        digest, schema = form.get("agentd_sha256"), form.get("schema")
        if digest is None or schema is not None:
            self.schemas[digest] = schema or {}
        return self.schemas.get(digest)

    def answer(self, request: Request) -> Reply:
        """Return what to do with a chat call, and record it."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        if callable(self._answers):
            item = self._answers(request)
        else:
            item = self._answers[min(number, len(self._answers) - 1)]
        if isinstance(item, Reply):
            return item
        return Reply(item if isinstance(item, str) else json.dumps(item, separators=(",", ":")))

    @property
    def _address(self) -> tuple[str, int]:
        return "127.0.0.1", self._server.server_address[1]

    def close(self) -> None:
        """Stop serving; hanging calls end."""
        RUNNING.discard(self._address)
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.end_connections()
        self._thread.join(WAIT_S)

    def __enter__(self) -> "FakeModelServer":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None
    ) -> None:
        self.close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    fake: FakeModelServer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()  # connections, also such as wait for a request
        self.accepted = 0  # connections so far

    def process_request(self, request: Any, client_address: Any) -> None:
        self.accepted += 1
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of callers that went away: the tests do that on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    _packer: Any = None  # of a reply that is packed
    _chunked = False  # whether the reply's body is sent in chunks, and the connection goes on

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        fake = self.server.fake
        length = int(self.headers.get("Content-Length") or 0)
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError:
            return self._send(400, {"error": {"message": "no JSON"}})
        request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        if fake.token and request.headers.get("authorization") != f"Bearer {fake.token}":
            return self._send(401, {"error": {"message": "bad token"}})
        if self.path == "/tokenize" and fake.tokenize:
            fake.tokenized.append(request)
            if fake.loading:
                return self._send(503, {"error": {"message": "loading"}}, {"Retry-After": "1"})
            return self._tokenize(body)
        if self.path == "/v1/chat/completions":
            if (schema := fake.schema_of(body)) is None:
                told = {"message": "no schema of this digest", "code": "unknown_schema"}
                return self._send(400, {"error": told})
            if schema:
                body["response_format"]["json_schema"]["schema"] = schema
            return self._chat(request, fake.answer(request))
        if self.path == "/v1/score" and fake.scores is not None:
            heads, items, score = body["heads"], body["items"], fake.scores
            rows = [[score(head, item) for item in items] for head in heads]
            return self._send(200, {"object": "list", "model": fake.model, "scores": rows})
        return self._send(404, {"error": {"message": "no such path"}})

    def do_GET(self) -> None:
        fake = self.server.fake
        if fake.token and self.headers.get("Authorization") != f"Bearer {fake.token}":
            return self._send(401, {"error": {"message": "bad token"}})
        if self.path == "/ready":
            return self._send(200, {"status": "ready"})
        if self.path == "/v1/models" and fake.models:
            listed = [{"id": name, "object": "model"} for name in fake.models]
            return self._send(200, {"object": "list", "data": listed})
        return self._send(404, {"error": {"message": "no such path"}})

    def _tokenize(self, body: Mapping[str, Any]) -> None:
        count = _prompt_tokens(body) if "messages" in body else _count(body["content"])
        self._send(200, {"count": count, "max_model_len": self.server.fake.window})

    def _chat(self, request: Request, reply: Reply) -> None:
        if reply.status != 200:
            message = {"error": {"message": reply.text or f"status {reply.status}"}}
            return self._send(reply.status, message, reply.headers)
        prompt = _prompt_tokens(request.body)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": _count(reply.text),
            "prompt_tokens_details": {"cached_tokens": prompt // 2},
        }
        if reply.garbage is None and not reply.stream:
            choice = {
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": reply.finish_reason,
            }
            return self._send(200, {"choices": [choice], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", reply.content_type)
        if reply.gzip:
            self.send_header("Content-Encoding", "gzip")
            self._packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        else:
            self._packer = None
        self._chunked = not (reply.cut or reply.hang or reply.garbage is not None)
        if self._chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if reply.garbage is not None:
            self._write(reply.garbage)
            return None
        for _ in range(reply.queued):
            self._write(b": queued\n\n")
        if reply.hang:
            return self._hang()
        size = max(1, -(-len(reply.text) // max(1, reply.pieces)))
        for start in range(0, len(reply.text), size):
            if self.server.fake.closing.wait(reply.pause_s):
                self.close_connection = True
                return None
            self._event({"choices": [{"delta": {"content": reply.text[start : start + size]}}]})
            if reply.cut:
                return None
        last: dict[str, Any] = {"delta": {}, "finish_reason": reply.finish_reason}
        if reply.labels:
            last["agentd_labels"] = reply.labels
        if reply.logprobs:
            last["logprobs"] = {"content": list(reply.logprobs)}
        self._event({"choices": [last]})
        self._event({"choices": [], "usage": usage})
        self._write(b"data: [DONE]\n\n")
        if self._chunked:
            self.wfile.write(b"0\r\n\r\n")
        return None

    def _hang(self) -> None:
        fake = self.server.fake
        fake.hanging.release()
        self.connection.settimeout(0.02)
        while not fake.closing.is_set():
            try:
                if not self.connection.recv(1):  # the caller closed its end
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        fake.gone.release()

    def _event(self, data: Mapping[str, Any]) -> None:
        self._write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def _write(self, data: bytes) -> None:
        if self._packer is not None:
            data = self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _send(
        self, status: int, data: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    """Return what messages have together with a template's words around each of them."""
    return sum(_count(m["content"]) + 4 for m in body["messages"])


def _count(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)
