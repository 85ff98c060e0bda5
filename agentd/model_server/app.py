"""The HTTP side: authentication, bodies, and answers in OpenAI's shapes."""

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentd.model_server import api
from agentd.model_server.answers import Answer, EventStream, error_body, into
from agentd.model_server.calls import Call, Full, Piece, Refused
from agentd.model_server.engine import Language
from agentd.model_server.runner import Runner

BODY_BYTES_MAX = 8_000_000
BODY_S = 30.0  # a body that takes longer to arrive is given up
STALE_S = 30.0  # a busy engine without a step for this long is not ready


class Server:
    """The routes, bound to one runner. `build` gives the ASGI application.

    `quiet_s` says for how many seconds a busy engine has made no step.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        name: str,
        token: str,
        call_deadline_s: float = 120.0,
        body_bytes_max: int = BODY_BYTES_MAX,
        quiet_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._quiet_s = quiet_s
        self._runner = runner
        self._name = name
        self._token = token
        self._call_deadline_s = call_deadline_s
        self._body_bytes_max = body_bytes_max
        self._started = int(time.time())

    def build(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                Route("/v1/models", self._models),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            middleware=[Middleware(_Authenticated, token=self._token)],
            exception_handlers={
                Refused: _refused,
                HTTPException: _http_error,
                ClientDisconnect: _gone,
                Exception: _broken,
            },
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        progress = self._runner.progress
        stuck = self._quiet_s() > STALE_S
        stopping = self._runner.stopping
        if progress.ready and not stuck and not stopping:
            return JSONResponse({"status": "ready", "model": self._name})
        status = "stopping" if stopping else "stalled" if progress.ready else "loading"
        return JSONResponse({"status": status}, status_code=503, headers={"Retry-After": "1"})

    async def _metrics(self, request: Request) -> Response:
        text = self._runner.metrics.render(
            waiting=self._runner.waiting(),
            running=self._runner.running(),
            cache_bytes=self._runner.cache_bytes(),
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        language = self._runner.language
        model = {
            "id": self._name,
            "object": "model",
            "created": self._started,
            "owned_by": "agentd",
            "max_model_len": language.window if language else None,
        }
        return JSONResponse({"object": "list", "data": [model]})

    async def _tokenize(self, request: Request) -> Response:
        body: api.Tokenize = api.parse(await self._body(request), api.Tokenize)
        if body.model is not None:
            self._check_model(body.model)
        language = self._language()
        text = body.content if body.content is not None else body.prompt
        if (body.messages is None) == (text is None):
            raise Refused("give either messages, or content (also called prompt)")
        if body.messages is not None:
            messages = [message.plain() for message in body.messages]
            tokens = await asyncio.to_thread(language.encode_chat, messages)
        else:
            tokens = await asyncio.to_thread(language.encode, text or "")
        return JSONResponse(
            {"count": len(tokens), "max_model_len": language.window, "tokens": tokens}
        )

    async def _chat(self, request: Request) -> Response:
        caller = api.caller(request.headers)
        body: api.Chat = api.parse(await self._body(request), api.Chat)
        self._check_model(body.model)
        language = self._language()
        pieces: asyncio.Queue[Piece] = asyncio.Queue()
        call = await asyncio.to_thread(self._call, body, caller, language, into(pieces))
        self._runner.submit(call)
        answer = Answer(self._runner, call, pieces, body, self._name, request)
        if body.stream:
            return EventStream(answer)
        return await answer.whole()

    def _call(self, body: api.Chat, caller: api.Caller, language: Language, emit: Any) -> Call:
        """Tokenise and compile; up to some 10 ms, so not on the event loop."""
        prompt = language.encode_chat(body.plain_messages())
        room = language.window - len(prompt)
        if room < 1:
            raise Refused(
                f"the prompt has {len(prompt)} tokens, the model's window is {language.window}",
                code="context_length_exceeded",
                param="messages",
            )
        schema = body.answer_schema()
        if schema is not None and body.stops():
            raise Refused("stop: would cut the JSON that response_format asks for", param="stop")
        return Call(
            prompt=prompt,
            emit=emit,
            agent=caller.agent,
            session=caller.session,
            priority=caller.priority,
            weight=caller.weight,
            max_tokens=min(body.limit(), room),
            deadline_s=min(caller.deadline or self._call_deadline_s, self._call_deadline_s),
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=body.top_p or 1.0,
            top_k=body.top_k or 0,
            min_p=body.min_p or 0.0,
            seed=body.seed,
            stop=body.stops(),
            mask=language.mask(schema) if schema is not None else None,
        )

    def _check_model(self, name: str) -> None:
        if name != self._name:
            raise Refused(
                f"the model {name!r} is not served here; {self._name!r} is",
                status=404,
                code="model_not_found",
                param="model",
            )

    def _language(self) -> Language:
        if self._runner.language is None:
            raise Full("the model is loading", retry_after_s=1, code="loading")
        return self._runner.language

    async def _body(self, request: Request) -> bytes:
        limit = self._body_bytes_max
        too_large = Refused(f"a body may have {limit} bytes", status=413, code="body_too_large")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise too_large
        except TimeoutError as error:
            late = f"the body was not here after {BODY_S:g} s"
            raise Refused(late, status=408, code="body_too_slow") from error
        return bytes(body)


class _Authenticated:
    """Lets requests through that carry the token; /health needs none."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = Refused(
                    "a wrong or missing bearer token", status=401, code="unauthorized"
                )
                await _refused(None, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refused(request: Request | None, error: Exception) -> Response:
    assert isinstance(error, Refused)
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refused(str(error.detail), status=error.status_code, code="http_error")
    return JSONResponse(
        error_body(refusal), status_code=error.status_code, headers=dict(error.headers or {})
    )


def _gone(request: Request, error: Exception) -> Response:
    """Answer nobody: the client is gone. The status is nginx's."""
    return Response(status_code=499)


def _broken(request: Request, error: Exception) -> Response:
    """Answer a fault of ours in the same shape. Starlette raises it again, for uvicorn's log."""
    name = type(error).__name__
    return _refused(None, Refused(f"the server failed: {name}", status=500, code="server_error"))
