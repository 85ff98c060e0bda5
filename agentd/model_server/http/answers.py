"""Answers on their way to the client, whole or as a stream, in OpenAI's shapes."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from agentd.model_server.calls import Call, Piece, Refused, TokenLogprob
from agentd.model_server.engine.thread import EngineThread
from agentd.model_server.http import requests
from agentd.model_server.http.logprobs import shown
from agentd.model_server.http.pieces import Pieces
from agentd.model_server.tool_calls import AnswerPart, CallReader, Form

T = TypeVar("T")

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # json.dumps makes one for each text

COMMENT_S = 2.0  # a stream says at least this often that it is alive


async def while_there(
    request: Request, runner: EngineThread, call: Call, work: Coroutine[Any, Any, T]
) -> T:
    """Do what brings a call's answer to its client, and listen to the client meanwhile.

    Raises:
        ClientDisconnect: it hung up; nothing more is generated.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        gone.cancel()
        working.cancel()
        runner.cancel(call)  # of no effect once it is finished


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class AnswerWriter:
    """One call's answer on its way to the client.

    `form` says how tool calls are written in it, if it may have one. What is the shape of a chat
    here has another one in `TextWriter`.
    """

    _KIND, _CHUNK, _ID = "chat.completion", "chat.completion.chunk", "chatcmpl"
    _LAST: Mapping[str, Any] = {"delta": {}}

    def __init__(
        self,
        runner: EngineThread,
        call: Call,
        pieces: Pieces,
        body: requests.Generating,
        model: str,
        request: Request,
        form: Form | None = None,
    ) -> None:
        self._runner = runner
        self.call = call
        self._pieces = pieces
        self._model = model
        self._request = request
        assert runner.language is not None
        self._decode = runner.language.decode
        wanted = call.top_logprobs is not None
        self._logprobs: list[TokenLogprob] | None = [] if wanted else None  # to be sent
        self._labels_wanted = isinstance(body, requests.Chat) and body.agentd_labels is not None
        self._usage_wanted = bool(body.stream_options and body.stream_options.include_usage)
        self._created = int(time.time())
        self._reader = CallReader(form)
        self._call_id = f"call_{secrets.token_hex(12)}"

    async def whole(self) -> Response:
        """Wait for the whole answer; a client that hangs up meanwhile cancels it."""
        message, reason = await self.while_there(self._collect())
        choice = {"index": 0, **message, **self._ending(reason)}
        return JSONResponse({**self._head(), "choices": [choice], "usage": self._usage()})

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events, comments while the call waits, and [DONE]."""
        before, after = self._around_text()
        for delta in self._first():
            yield self._chunk(delta)
        admitted = False
        while True:
            try:
                piece = await self._pieces.get(COMMENT_S)
            except TimeoutError:
                yield b": working\n\n" if admitted else b": queued\n\n"
                continue
            admitted = admitted or piece.admitted
            if piece.error is not None:
                yield _event(error_body(piece.error))
                return
            if piece.cancelled:
                return
            if piece.admitted:
                yield b": admitted\n\n"
            part = self._part(piece)
            if part.content and part.name is None and not part.arguments and not self._logprobs:
                yield before + _json(part.content) + after  # what nearly all chunks are
            else:
                for delta in self._deltas(part):
                    yield self._chunk(delta)
            if piece.finish:
                yield self._chunk(self._LAST, self._reason(piece.finish))
                break
        if self._usage_wanted:
            yield _event({**self._head(chunk=True), "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what brings the answer to the client, as the function of this name does."""
        return await while_there(self._request, self._runner, self.call, work)

    async def _collect(self) -> tuple[dict[str, Any], str]:
        """Return the whole answer, as a choice has it, and why it ended."""
        content, arguments = [], []
        while True:
            piece = await self._pieces.get()
            if piece.error is not None:
                raise piece.error
            if piece.cancelled:
                raise ClientDisconnect
            part = self._part(piece)
            content.append(part.content)
            arguments.append(part.arguments)
            if piece.finish:
                break
        return self._whole("".join(content), "".join(arguments)), self._reason(piece.finish)

    def _whole(self, text: str, arguments: str) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if self._reader.name is not None:
            message["content"] = text or None
            message["tool_calls"] = [self._tool_call(self._reader.name, arguments)]
        return {"message": message}

    def _first(self) -> Iterator[dict[str, Any]]:
        yield {"delta": {"role": "assistant", "content": ""}}

    def _part(self, piece: Piece) -> AnswerPart:
        if self._logprobs is not None:
            self._logprobs += piece.logprobs
        return self._reader.feed(piece.text, last=piece.finish is not None)

    def _ending(self, finish: str | None) -> dict[str, Any]:
        """Return what a choice says besides its text; the log-probabilities are sent by this."""
        told: dict[str, Any] = {"finish_reason": finish, "logprobs": None}
        if self._logprobs:
            told["logprobs"], self._logprobs = shown(self._logprobs, self._decode), []
        if finish and self._labels_wanted:
            told["agentd_labels"] = self.call.labels
        return told

    def _deltas(self, part: AnswerPart) -> Iterator[dict[str, Any]]:
        """Yield what a part of the answer adds to the choice."""
        if part.content:
            yield {"delta": {"content": part.content}}
        if part.name is not None:
            yield {"delta": {"tool_calls": [{"index": 0, **self._tool_call(part.name, "")}]}}
        if part.arguments:
            function = {"arguments": part.arguments}
            yield {"delta": {"tool_calls": [{"index": 0, "function": function}]}}

    def _tool_call(self, name: str, arguments: str) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return {"id": self._call_id, "type": "function", "function": function}

    def _reason(self, finish: str) -> str:
        return "tool_calls" if finish == "stop" and self._reader.name is not None else finish

    def _head(self, *, chunk: bool = False) -> dict[str, Any]:
        return {
            "id": f"{self._ID}-{self.call.number}",
            "object": self._CHUNK if chunk else self._KIND,
            "created": self._created,
            "model": self._model,
        }

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, **delta, **self._ending(finish)}
        return _event({**self._head(chunk=True), "choices": [choice]})

    def _around_text(self) -> tuple[bytes, bytes]:
        """Return what stands before and behind the text of a chunk that brings nothing else."""
        [delta] = self._deltas(AnswerPart(self._call_id))  # nothing else in it is this
        before, after = self._chunk(delta).split(_json(self._call_id))
        return before, after

    def _usage(self) -> dict[str, Any]:
        call = self.call
        return {
            "prompt_tokens": len(call.prompt),
            "completion_tokens": call.completion_tokens,
            "total_tokens": len(call.prompt) + call.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": call.cached_tokens},
        }


class EventStream(Response):
    """Sends an answer as it comes, and cancels it when the client hangs up.

    Starlette's own StreamingResponse relies on a failing send, which comes only with the next
    token; this one listens at the same time.
    """

    media_type = "text/event-stream"

    def __init__(self, answer: AnswerWriter) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; return when it is sent or the client is gone."""
        with contextlib.suppress(ClientDisconnect):  # too late for another status
            await self._answer.while_there(self._send(send))

    async def _send(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for data in self._answer.stream():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _json(data) + b"\n\n"


def _json(data: Any) -> bytes:
    return _ENCODER.encode(data).encode()


def error_response(error: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as an answer."""
    told = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == HTTPStatus.UNAUTHORIZED:
        told["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        error_body(error), status_code=error.status, headers={**told, **(headers or {})}
    )


def error_body(error: Refused) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "code": error.code,
            "param": error.param or None,
        }
    }
