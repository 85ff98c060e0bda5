"""Answers on their way to the client, whole or as a stream, in OpenAI's shapes."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from agentd.model_server import api
from agentd.model_server.calls import Call, Piece, Refused
from agentd.model_server.runner import Runner

COMMENT_S = 2.0  # a stream says at least this often that it is alive


class Answer:
    """One call's answer on its way to the client."""

    def __init__(
        self,
        runner: Runner,
        call: Call,
        pieces: "asyncio.Queue[Piece]",
        body: api.Chat,
        model: str,
        request: Request,
    ) -> None:
        self._runner = runner
        self._call = call
        self._pieces = pieces
        self._model = model
        self._request = request
        self._usage_wanted = bool(body.stream_options and body.stream_options.include_usage)
        self._created = int(time.time())

    async def whole(self) -> Response:
        """Wait for the whole answer; a client that hangs up meanwhile cancels it."""
        gone = asyncio.ensure_future(self.hung_up())
        collected = asyncio.ensure_future(self._collect())
        try:
            await asyncio.wait({gone, collected}, return_when=asyncio.FIRST_COMPLETED)
            if not collected.done():
                raise ClientDisconnect
            text, reason = collected.result()
        finally:
            gone.cancel()
            collected.cancel()
            self._runner.cancel(self._call)  # of no effect once it is finished
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return JSONResponse(
            {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}
        )

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield server-sent events, comments while the call waits, and [DONE]."""
        yield self._chunk({"role": "assistant", "content": ""})
        admitted = False
        while True:
            try:
                piece = await asyncio.wait_for(self._pieces.get(), COMMENT_S)
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
            if piece.text:
                yield self._chunk({"content": piece.text})
            if piece.finish:
                yield self._chunk({}, piece.finish)
                break
        if self._usage_wanted:
            head = self._head("chat.completion.chunk")
            yield _event({**head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def cancel(self) -> None:
        """Stop generating."""
        self._runner.cancel(self._call)

    async def _collect(self) -> tuple[str, str]:
        text = []
        while True:
            piece = await self._pieces.get()
            text.append(piece.text)
            if piece.error is not None:
                raise piece.error
            if piece.cancelled:
                raise ClientDisconnect
            if piece.finish:
                return "".join(text), piece.finish

    async def hung_up(self) -> None:
        """Return when the client is gone."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self._call.number}",
            "object": kind,
            "created": self._created,
            "model": self._model,
        }

    def _chunk(self, delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _usage(self) -> dict[str, Any]:
        call = self._call
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

    def __init__(self, answer: Answer) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; return when it is sent or the client is gone."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(self._answer.hung_up())
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._answer.cancel()
            sending.cancel()
            gone.cancel()

    async def _send(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async for data in self._answer.stream():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def into(pieces: "asyncio.Queue[Piece]") -> Any:
    """Return a function for the engine's thread that puts pieces into the event loop's queue."""
    loop = asyncio.get_running_loop()

    def emit(piece: Piece) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    return emit


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


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
