"""The chat completions protocol as we read it: what a status means, and a stream's one answer."""

import codecs
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from agentd.errors import ModelError, ModelMisconfigured
from agentd.llm import wire

RETRY_AFTER_MAX_S = 60.0  # a server that asks for more is asked earlier
BUSY = frozenset({429, 502, 503, 504})
STOPPING = "stopping"  # the code with which our own server ends its calls when it stops
MESSAGE_MAX = 300  # characters of a server's message in our error
DONE = "[DONE]"  # what a stream ends with
CUT_REASONS = frozenset({"length", "max_tokens", "max_length", "MAX_TOKENS", "model_length"})
COMPLETION = "completion_tokens"
# Statuses with which servers refuse a schema; 0: an error inside of a stream.
FORMAT_STATUSES = frozenset({0, 400, 404, 415, 422, 500, 501})
ABOUT_FORMAT = re.compile(
    r"(?i)response.?format|json.?schema|grammar|guided|schema|structured.?output|gbnf|xgrammar|outlines"
)
ABOUT_MODEL = re.compile(
    r"(?i)model_not_found|\bmodels?\b.{0,100}(?:not (?:found|exist|loaded|available|supported)"
    r"|does ?n[o']t exist|unknown)|\b(?:unknown|invalid|no such|no) model\b|model_not_"
)
ABOUT_KEY = re.compile(r"invalid_api_key|authentication|permission_denied|unauthorized|forbidden")
ABOUT_LOAD = re.compile(r"overloaded|rate_limit|unavailable|too_many")
TITLE = re.compile(r"(?is)<title[^>]{0,100}>(.{1,300}?)</title>")


@dataclass(frozen=True)
class Answer:
    """A finished chat completion."""

    text: str
    finish_reason: str
    usage: Mapping[str, int]  # prompt_tokens, cached_tokens (of these), completion_tokens


class MaskRefused(ModelError):
    """The server does not take a response_format with a schema."""


class Busy(Exception):
    """503 and its like: try again after `retry_after` seconds, or by our own backoff."""

    def __init__(self, what: str, retry_after: float | None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class BadAnswer(Exception):
    """The server answered, but not in its protocol, or with an error of its own."""


class BrokenOff(BadAnswer):
    """The answer ended in the middle: the server died, or was stopped."""


def check(reply: wire.Reply, own: bool, masked: bool) -> None:
    """Raise what a status other than 200 means."""
    status = reply.status
    if 200 <= status < 300:
        return
    if 300 <= status < 400 and not own:
        raise ModelMisconfigured(
            f"the model server redirects to {reply.header('Location')[:MESSAGE_MAX] or 'nowhere'}",
            where="[model] url",
            hint="set it to where the server is; redirects are not followed",
        )
    said = Fault.of(reply.body())
    if status in BUSY:
        raise Busy(f"HTTP {status}: {said.message}", _retry_after(reply.header("Retry-After")))
    _refuse(replace(said, status=status), own, masked)


@dataclass(frozen=True)
class Fault:
    """What a server says is wrong, in an error's body or inside of a stream."""

    message: str
    code: str = ""  # its words: "model_not_found", "invalid_request_error" ...
    status: int = 0  # 0: none was given

    @classmethod
    def of(cls, body: bytes) -> "Fault":
        """Read an error's body: OpenAI's shape, FastAPI's, a web page, or plain text."""
        text = body.decode("utf-8", "replace").strip()
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            title = TITLE.search(text)
            return cls(
                " ".join((title[1] if title else text).split())[:MESSAGE_MAX] or "no message"
            )
        return cls.said(data)

    @classmethod
    def said(cls, data: Any) -> "Fault":
        """Read an error as JSON."""
        error = data
        if isinstance(data, dict):
            error = data.get("error") or data.get("detail") or data.get("message") or data
        code, status, message = "", 0, error
        for part in (data, error):
            if isinstance(part, dict):
                message = part.get("message") or message
                words = [part.get(key) for key in ("type", "code")]
                code = " ".join([code, *(word for word in words if isinstance(word, str))]).strip()
                numbers = [part.get(key) for key in ("code", "status", "status_code")]
                status = next((n for n in numbers if type(n) is int and 400 <= n < 600), status)
        text = message if isinstance(message, str) else json.dumps(message)
        return cls(text[:MESSAGE_MAX] or "no message", code.lower(), status)


def _refuse(fault: Fault, own: bool, masked: bool) -> NoReturn:
    """Raise what a fault that is no passing one means."""
    status, message = fault.status, fault.message
    how = f" with HTTP {status}" if status else ""
    if own:
        if status in (401, 403, 404):  # token or model are others by now: look them up anew
            raise BadAnswer(f"the model server refused the call{how}: {message}")
    elif masked and status in FORMAT_STATUSES and ABOUT_FORMAT.search(f"{fault.code} {message}"):
        raise MaskRefused(f"HTTP {status}: {message}" if status else message)
    elif ABOUT_MODEL.search(f"{fault.code} {message}") or status == 404:
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] url and name",
            hint="is there a model of this name? A URL ends in /v1 as a rule; `agentd model "
            "status` shows what the server has",
        )
    elif status in (401, 403, 407) or ABOUT_KEY.search(fault.code):
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] api_key_file",
            hint="put the server's key into that file",
        )
    elif status in (402, 405, 410):
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] url",
            hint="is it an OpenAI-compatible server, with /v1 at the end as a rule?",
        )
    if status >= 500 or (not status and "invalid_request" not in fault.code):
        raise BadAnswer(f"the model server failed{how}: {message}")
    raise ModelError(
        f"the model server refused the call{how}: {message}", hint="see the model server's log"
    )


def _retry_after(value: str) -> float | None:
    """Return the header's seconds, bounded; its other form, a date, is left to our own backoff."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_MAX_S) if seconds >= 0 else None


def json_object(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object in `data`, or raise BadAnswer."""
    value = json_value(data)
    if not isinstance(value, dict):
        raise BadAnswer(f"the model server answered no JSON object: {data[:80]!r}")
    return value


def json_value(data: bytes | str) -> Any:
    """Return the JSON in `data`, or raise BadAnswer."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the model server answered no JSON: {data[:80]!r}") from error


def collect(reply: wire.Reply, tick: Callable[[bytes], None], own: bool, masked: bool) -> Answer:
    """Read the whole answer; `tick` gets every line of it as it comes.

    What it is, is told by how it begins: servers name their streams in many ways.

    Raises:
        MaskRefused, ModelMisconfigured, ModelError, Busy, BadAnswer, BrokenOff: what it says.
        HTTPException: it was cut off.
    """
    lines = _ticked(reply.lines(), tick)
    first = next(lines, b"").removeprefix(codecs.BOM_UTF8).lstrip()
    if first.startswith(b"<") and not own:
        page = b"\n".join([first, *lines])
        raise ModelMisconfigured(
            f"the model server answered a web page: {Fault.of(page).message}",
            where="[model] url",
            hint="set it to where the server's API is: it ends in /v1 as a rule",
        )
    reading = _Reading(own, masked)
    if _is_stream(first):
        reading.stream(itertools.chain([first], lines))
    else:
        reading.whole(b"\n".join([first, *lines]))
    return reading.answer()


def _is_stream(first: bytes) -> bool:
    name = first.partition(b":")[0].strip()
    return first.startswith(b":") or name in (b"data", b"event", b"id", b"retry")


def _ticked(lines: Iterator[bytes], tick: Callable[[bytes], None]) -> Iterator[bytes]:
    begun = False
    for line in lines:
        if line:
            tick(line)
        begun = begun or bool(line.strip())
        if begun:  # empty lines before anything else say nothing
            yield line


class _Reading:
    """One answer, from its chunks or as a whole."""

    def __init__(self, own: bool, masked: bool) -> None:
        self._own, self._masked = own, masked
        self._text: list[str] = []
        self._finish = ""
        self._usage: dict[str, Any] = {}

    def stream(self, lines: Iterable[bytes]) -> None:
        """Read an event stream as the HTML standard says, and as servers write it besides."""
        event, data = "", list[str]()
        for line in lines:
            name, _, value = line.decode("utf-8", "replace").partition(":")
            value = value.strip()
            if name == "event":
                event = value
            elif name == "data" and value == DONE:
                self._event(event, data)
                self._finish = self._finish or "stop"
                return
            elif name == "data":
                data.append(value)
            elif not line.strip():
                self._event(event, data)
                event, data = "", []
        if _is_json("\n".join(data)):  # the last event, without its empty line; else it was cut
            self._event(event, data)

    def _event(self, event: str, data: list[str]) -> None:
        """Take one event: one document, or one a line where no empty line parts them."""
        text = "\n".join(data)
        if not text.strip():
            return
        for document in [text] if _is_json(text) else data:
            if not document:
                continue
            chunk = json_object(document)
            self._chunk({"error": chunk} if event == "error" and "error" not in chunk else chunk)

    def whole(self, body: bytes) -> None:
        """Read one JSON document, of a server that does not stream."""
        self._chunk(json_object(body))
        self._finish = self._finish or "stop"

    def _chunk(self, chunk: dict[str, Any]) -> None:
        try:
            error = chunk.get("error")
            if error or chunk.get("object") == "error" or _only_tells(chunk):
                self._fail(chunk)
            if isinstance(usage := chunk.get("usage"), dict):
                self._usage = usage
            for choice in chunk.get("choices") or ():
                if choice.get("index"):
                    continue  # one was asked for
                if choice.get("delta") is not None:
                    self._text.append(_content(choice["delta"].get("content")))
                elif (message := choice.get("message")) is not None:
                    self._text = [_content(message.get("content"))]  # all of it, once more perhaps
                else:
                    self._text.append(_content(choice.get("text")))
                reason = choice.get("finish_reason") or self._finish
                if reason == "error":
                    raise BadAnswer("the model server failed in the middle of its answer")
                self._finish = "length" if reason in CUT_REASONS else reason
        except (AttributeError, TypeError, KeyError) as problem:  # JSON, but of another shape
            what = f"the model server's answer is no chat completion: {problem}"
            raise BadAnswer(what) from problem

    def _fail(self, chunk: dict[str, Any]) -> NoReturn:
        fault = Fault.said(chunk)
        if STOPPING in fault.code.split():
            raise BrokenOff(f"the model server's answer broke off: {fault.message}")
        if fault.status in BUSY or ABOUT_LOAD.search(fault.code):
            raise Busy(fault.message, None)
        _refuse(fault, self._own, self._masked)

    def answer(self) -> Answer:
        """Return what was read. Raises HTTPException if its end is missing."""
        if not self._finish:
            raise wire.HTTPException("the answer was cut off")
        # Half a character in one chunk, half in the next: JSON's way to write an emoji.
        text = "".join(self._text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        numbers = {key: _number(self._usage.get(key)) for key in ("prompt_tokens", COMPLETION)}
        details = self._usage.get("prompt_tokens_details")
        cached = _number(details.get("cached_tokens")) if isinstance(details, dict) else 0
        return Answer(text, self._finish, {**numbers, "cached_tokens": cached})


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _only_tells(chunk: dict[str, Any]) -> bool:
    """Whether this is FastAPI's way to refuse, with a status of 200."""
    return "choices" not in chunk and isinstance(chunk.get("detail"), str)


def _content(content: Any) -> str:
    """Return the text of a content: a text, nothing, or a list of parts."""
    if isinstance(content, list):
        return "".join(_content(part.get("text")) for part in content)
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(f"a content of type {type(content).__name__}")


def _number(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
