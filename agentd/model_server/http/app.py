"""The HTTP side: authentication, bodies, and answers in OpenAI's shapes."""

import asyncio
import hmac
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agentd.model_server.calls import Call, Full, Mask, Refused
from agentd.model_server.engine.thread import EngineThread
from agentd.model_server.http import conversation, requests, scores
from agentd.model_server.http.answers import (
    AnswerWriter,
    EventStream,
    error_response,
    while_there,
)
from agentd.model_server.http.body import ForModel
from agentd.model_server.http.callers import Authenticated, caller, peer
from agentd.model_server.http.known_schemas import KnownSchemas
from agentd.model_server.http.pieces import Deliveries, Pieces
from agentd.model_server.http.text_answers import TextWriter
from agentd.model_server.protocols import Language, Prompt
from agentd.model_server.tool_calls import OfferedTool, ToolChoice

BODY_BYTES_MAX = 8_000_000
TOKENIZE_BYTES_MAX = 2_000_000  # tokenising 1 MB takes two seconds and more
BODY_S = 30.0  # a body that takes longer to arrive is given up
# Requests that are read, and that wait for a compilation, at a time: of agents, and as many
# of other programs, which fill no threads but their own.
READING_MAX, COMPILING_MAX = 8, 16
KINDS = ("agents", "others")
STALE_S = 30.0  # a busy engine without a step for this long is not ready

Asked = TypeVar("Asked", bound=ForModel)
T = TypeVar("T")


class Server:
    """The routes, bound to one runner. `build` gives the ASGI application.

    `token` returns the one in force; `quiet_s` says for how many seconds a busy engine has made no
    step.
    """

    def __init__(
        self,
        runner: EngineThread,
        *,
        name: str,
        token: Callable[[], str],
        call_deadline_s: float = 120.0,
        body_bytes_max: int = BODY_BYTES_MAX,
        quiet_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._quiet_s = quiet_s
        self._runner = runner
        self._deliveries = Deliveries()
        runner.together = self._deliveries.together
        self._name = name
        self._token = token
        self._call_deadline_s = call_deadline_s
        self._body_bytes_max = body_bytes_max
        self._started = int(time.time())
        self._schemas = KnownSchemas()
        # Threads of their own: who waits for a compilation must not keep prompts from being read.
        self._reading = {kind: ThreadPoolExecutor(READING_MAX, "read") for kind in KINDS}
        self._compiling = {kind: ThreadPoolExecutor(COMPILING_MAX, "masks") for kind in KINDS}

    def build(self) -> Starlette:
        """Return the ASGI application."""
        app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._metrics),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._one_model),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/score", self._score, methods=["POST"]),
            ],
            middleware=[Middleware(Authenticated, knows=self.knows)],
            exception_handlers={
                Refused: _refused,
                HTTPException: _http_error,
                ClientDisconnect: _gone,
                Exception: _broken,
            },
        )
        app.router.redirect_slashes = False  # to where the request's own Host header says
        return app

    def knows(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request's headers, names in lower case, show the token."""
        scheme, _, given = dict(headers).get(b"authorization", b"").partition(b" ")
        known = hmac.compare_digest(given.strip(), self._token().encode())
        return known and scheme.lower() == b"bearer"

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        progress = self._runner.progress
        stuck = self._quiet_s() > STALE_S
        stopping = self._runner.stopping
        if progress.ready and not stuck and not stopping:
            loaded = self._runner.loaded  # else it is when the next call comes
            return JSONResponse({"status": "ready", "model": self._name, "loaded": loaded})
        status = "stopping" if stopping else "stalled" if progress.ready else "loading"
        return JSONResponse({"status": status}, status_code=503, headers={"Retry-After": "1"})

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._runner.report(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def _one_model(self, request: Request) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._about())

    def _about(self) -> dict[str, object]:
        language = self._runner.language
        return {
            "id": self._name,
            "object": "model",
            "created": self._started,
            "owned_by": "agentd",
            "max_model_len": language.window if language else None,
        }

    async def _tokenize(self, request: Request) -> Response:
        data = await self._body(request, min(TOKENIZE_BYTES_MAX, self._body_bytes_max))
        body = await self._read(request, requests.parse, data, requests.Tokenize)
        if body.model is not None:
            self._check_model(body.model)
        language = self._language()
        text = body.content if body.content is not None else body.prompt
        if (body.messages is None) == (text is None):
            raise Refused("give either messages, or content (also called prompt)")
        if body.messages is not None:
            messages = conversation.plain(body.messages)
            tools = conversation.plain_tools(body.tools or [])
            tokens = (await self._read(request, language.encode_chat, messages, tools)).tokens
        else:
            tokens = await self._read(request, language.encode, text or "")
        return JSONResponse(
            {"count": len(tokens), "max_model_len": language.window, "tokens": tokens}
        )

    async def _chat(self, request: Request) -> Response:
        asked, body = await self._posted(request, requests.Chat)
        body = await self._read(request, body.with_schema, self._schemas)
        language = self._language()
        tools = conversation.plain_tools(body.tools or [])
        choice = conversation.choice(body.tool_choice, tools)
        prompt = await self._read(request, _prompt, body, tools, language)
        mask = await self._mask(request, body, tools, choice, language)
        pieces = self._deliveries.pieces()
        call = self._call(body, prompt, pieces, asked, language)
        call.mask, call.top_logprobs = mask, body.logprobs_wanted()
        call.continues = body.answer_schema() is None  # a log holds results, not decisions
        form = language.form if choice.names else None
        answer = AnswerWriter(self._runner, call, pieces, body, self._name, request, form)
        return await self._answered(answer, body)

    async def _complete(self, request: Request) -> Response:
        asked, body = await self._posted(request, requests.Completions)
        language = self._language()
        prompt = await self._read(request, _text_prompt, body.prompt, language)
        pieces = self._deliveries.pieces()
        call = self._call(body, prompt, pieces, asked, language)
        answer = TextWriter(self._runner, call, pieces, body, self._name, request)
        return await self._answered(answer, body)

    def _call(
        self,
        body: requests.Generating,
        prompt: Prompt,
        pieces: Pieces,
        asked: Mapping[str, Any],
        language: Language,
    ) -> Call:
        return Call(
            prompt=prompt.tokens,
            checkpoints=prompt.checkpoints,
            emit=pieces.emit,
            **asked,
            max_tokens=min(body.limit(), language.window - len(prompt.tokens)),
            **vars(body.sampling(language.sampling)),
            seed=body.seed,
            stop=tuple(body.stop or ()),
        )

    async def _answered(self, answer: AnswerWriter, body: requests.Generating) -> Response:
        self._runner.submit(answer.call)
        if body.stream:
            return EventStream(answer)
        return await answer.whole()

    async def _score(self, request: Request) -> Response:
        asked, body = await self._posted(request, scores.ScoreRequest)
        scoring = await self._read(request, scores.scoring, body, self._language())
        pieces = self._deliveries.pieces()
        call = Call((), pieces.emit, **asked, scoring=scoring)
        self._runner.submit(call)
        await while_there(request, self._runner, call, scores.finished(pieces))
        return JSONResponse(scores.answer(call, scoring, self._name))

    async def _posted(self, request: Request, kind: type[Asked]) -> tuple[dict[str, Any], Asked]:
        """Return what a call says of who asks this model, and what is asked. Raises Refused."""
        asked = caller(request.headers).asks(peer(request), self._call_deadline_s)
        data = await self._body(request, self._body_bytes_max)
        body = await self._read(request, requests.parse, data, kind)
        self._check_model(body.model)
        return asked, body

    async def _mask(
        self,
        request: Request,
        body: requests.Chat,
        tools: Sequence[OfferedTool],
        choice: ToolChoice,
        language: Language,
    ) -> Mask | None:
        """Return the answer's grammar, if it has one. Waits for its compilation."""
        schema = body.answer_schema()
        if body.stop and (schema is not None or choice.names):
            what = "JSON that response_format asks for" if schema is not None else "tool's call"
            raise Refused(f"stop: would cut the {what}", param="stop")
        if body.agentd_labels and schema is None:
            what = "needs a response_format with a schema"
            raise Refused(f"agentd_labels: {what}", param="agentd_labels")
        if body.agentd_label_words and not body.agentd_labels:
            raise Refused("agentd_label_words: needs agentd_labels", param="agentd_label_words")
        if tools:
            mask = await self._compiled(request, language.call_mask, tools, choice, schema)
        elif schema is not None:
            mask = await self._compiled(request, language.mask, schema)
        else:
            return None
        if not body.agentd_labels:
            return mask
        labelled = partial(language.labelled, words=bool(body.agentd_label_words))
        return await self._compiled(request, labelled, mask, schema, body.agentd_labels)

    async def _read(self, request: Request, work: Callable[..., T], *arguments: Any) -> T:
        """Do what takes a prompt's length of time in a thread of the caller's kind."""
        return await _in(self._reading[_kind(request)], work, arguments)

    async def _compiled(self, request: Request, work: Callable[..., T], *arguments: Any) -> T:
        """Do what may wait for a compilation in a thread of the caller's kind."""
        return await _in(self._compiling[_kind(request)], work, arguments)

    def _check_model(self, name: str) -> None:
        if name != self._name:
            raise Refused(
                f"the model {name[:200]!r} is not served here; {self._name!r} is",
                status=404,
                code="model_not_found",
                param="model",
            )

    def _language(self) -> Language:
        if self._runner.language is None:
            raise Full("the model is loading", retry_after_s=1, code="loading")
        return self._runner.language

    async def _body(self, request: Request, limit: int) -> bytes:
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


def _kind(request: Request) -> str:
    return "others" if peer(request).agent is None else "agents"


async def _in(pool: ThreadPoolExecutor, work: Callable[..., T], arguments: Sequence[Any]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _prompt(body: requests.Chat, tools: Sequence[OfferedTool], language: Language) -> Prompt:
    """Tokenise; up to some 10 ms as a rule, so not on the event loop."""
    messages = conversation.plain(body.messages)
    return _within(language.encode_chat(messages, tools, limit=language.window), language)


def _text_prompt(text: str, language: Language) -> Prompt:
    prompt = language.encode_text(text, limit=language.window)
    if not prompt.tokens:
        raise Refused("prompt: an empty text has nothing to go on from", param="prompt")
    return _within(prompt, language, "prompt")


def _within(prompt: Prompt, language: Language, param: str = "messages") -> Prompt:
    """Return the prompt if it leaves room in the window. Raises Refused."""
    size = len(prompt.tokens)
    if size >= language.window:
        raise Refused(
            f"the prompt has {size} tokens, the model's window is {language.window}",
            code="context_length_exceeded",
            param=param,
        )
    return prompt


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(error)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refused(str(error.detail), status=error.status_code, code="http_error")
    return error_response(refusal, error.headers)


def _gone(request: Request, error: Exception) -> Response:
    """Answer nobody: the client is gone. The status is nginx's."""
    return Response(status_code=499)


def _broken(request: Request, error: Exception) -> Response:
    """Answer a fault of ours in the same shape. Starlette raises it again, for uvicorn's log."""
    name = type(error).__name__
    return error_response(Refused(f"the server failed: {name}", status=500, code="server_error"))
