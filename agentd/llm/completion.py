"""The chat completions protocol as we read it: what a status means, and a stream's one answer."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentd.errors import ModelError
from agentd.llm import wire

RETRY_AFTER_MAX_S = 60.0  # a server that asks for more is asked earlier
BUSY = frozenset({429, 502, 503, 504})
STOPPING = "stopping"  # the code with which our own server ends its calls when it stops
MESSAGE_MAX = 300  # characters of a server's message in our error


@dataclass(frozen=True)
class Answer:
    """A finished chat completion."""

    text: str
    finish_reason: str
    usage: Mapping[str, Any]


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
    if status == 200:
        return
    message = _message(reply.body())
    if status in BUSY:
        raise Busy(f"HTTP {status}: {message}", _retry_after(reply.header("Retry-After")))
    if status >= 500:
        raise BadAnswer(f"the model server failed with HTTP {status}: {message}")
    if status in (401, 403, 404) and own:  # token or model are others by now: look them up anew
        raise BadAnswer(f"the model server refused the call with HTTP {status}: {message}")
    if masked and not own and status in (400, 422) and _about_format(message):
        raise MaskRefused(f"HTTP {status}: {message}")
    hints = {
        401: "put the server's key into [model] api_key_file",
        403: "put the server's key into [model] api_key_file",
        404: "check [model] url and name",
    }
    raise ModelError(
        f"the model server refused the call with HTTP {status}: {message}",
        hint=hints.get(status, "see the model server's log"),
    )


def _about_format(message: str) -> bool:
    text = message.lower()
    return any(w in text for w in ("response_format", "json_schema", "grammar", "guided", "schema"))


def _message(body: bytes) -> str:
    """Return the message in an error's body: OpenAI's shape, FastAPI's, or plain text."""
    text = body.decode("utf-8", "replace").strip()
    try:
        data = json.loads(text)
    except ValueError:
        return text[:MESSAGE_MAX] or "no message"
    if isinstance(data, dict):
        error = data.get("error") or data.get("detail") or data.get("message") or data
        if isinstance(error, dict):
            error = error.get("message") or error
        return (error if isinstance(error, str) else json.dumps(error))[:MESSAGE_MAX]
    return text[:MESSAGE_MAX]


def _retry_after(value: str) -> float | None:
    """Return the header's seconds, bounded; its other form, a date, is left to our own backoff."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_MAX_S) if seconds >= 0 else None


def json_object(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object in `data`, or raise BadAnswer."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the model server answered no JSON: {data[:80]!r}") from error
    if not isinstance(value, dict):
        raise BadAnswer(f"the model server answered no JSON object: {data[:80]!r}")
    return value


def collect(reply: wire.Reply, tick: Callable[[bytes], None]) -> Answer:
    """Read the whole answer; `tick` gets every line of the stream as it comes."""
    if "text/event-stream" not in reply.header("Content-Type"):
        whole = json_object(reply.body())  # a server that does not stream
        return _answer([whole])
    chunks: list[dict[str, Any]] = []
    for data in _data(reply.lines(), tick):
        if data == "[DONE]":
            break
        chunks.append(json_object(data))
    return _answer(chunks)


def _data(lines: Iterator[bytes], tick: Callable[[bytes], None]) -> Iterator[str]:
    for line in lines:
        if line:
            tick(line)
        if line.startswith(b"data:"):
            yield line[5:].strip().decode("utf-8", "replace")


def _answer(chunks: list[dict[str, Any]]) -> Answer:
    text: list[str] = []
    finish = ""
    usage: Mapping[str, Any] = {}
    try:
        for chunk in chunks:
            if chunk.get("error"):
                message = _message(json.dumps(chunk).encode())
                error = chunk["error"]
                if isinstance(error, dict) and error.get("type") == "invalid_request_error":
                    raise ModelError(
                        f"the model server refused the call: {message}",
                        hint="see the model server's log",
                    )
                if isinstance(error, dict) and error.get("code") == STOPPING:
                    raise BrokenOff(f"the model server's answer broke off: {message}")
                raise BadAnswer(f"the model server failed: {message}")
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or ():
                part = choice.get("delta") or choice.get("message") or {}
                text.append(part.get("content") or "")
                finish = choice.get("finish_reason") or finish
        answer = "".join(text)
    except (AttributeError, TypeError) as problem:  # JSON, but of another shape
        raise BadAnswer(f"the model server's answer is no chat completion: {problem}") from problem
    if not finish:
        raise wire.HTTPException("the answer was cut off")
    return Answer(answer, finish, usage)
