"""The chat completions protocol as we read it: one answer, in whatever dress it comes."""

import codecs
import itertools
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agentd.errors import ModelMisconfigured
from agentd.llm import wire
from agentd.llm.decision import Usage
from agentd.llm.faults import (
    STOPPING,
    BadAnswer,
    BrokenOff,
    Busy,
    Fault,
    json_object,
    refuse,
)
from agentd.net.exchange import HTTPException

DONE = "[DONE]"  # what a stream ends with
CUT_REASONS = frozenset({"length", "max_tokens", "max_length", "MAX_TOKENS", "model_length"})
THOUGHT = re.compile("think|thought|reason")  # in the type of a part of a content
TOKENS_MAX = 2**31  # of a count that is believed


@dataclass(frozen=True)
class Completion:
    """A finished chat completion."""

    text: str
    finish_reason: str
    usage: Usage
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of our own server
    tokens: Sequence[Mapping[str, Any]] = ()  # with `logprobs`: text and alternatives


def collect(
    reply: wire.HttpReply, tick: Callable[[bytes], None], own: bool, asked: Container[str]
) -> Completion:
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
    reading = _Reading(own, asked)
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

    def __init__(self, own: bool, asked: Container[str]) -> None:
        self._own, self._asked = own, asked
        self._text: list[str] = []
        self._finish = ""
        self._usage: dict[str, Any] = {}
        self._labels: dict[str, Mapping[str, float]] = {}
        self._tokens: list[Mapping[str, Any]] = []

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
                if str(choice.get("index") or 0) != "0":
                    continue  # one was asked for
                if choice.get("delta") is not None:
                    self._text.append(_content(choice["delta"].get("content")))
                elif (message := choice.get("message")) is not None:
                    self._text = [_content(message.get("content"))]  # all of it, once more perhaps
                else:
                    self._text.append(_content(choice.get("text")))
                self._labels |= (choice.get("agentd_labels") or {}) if self._own else {}
                self._tokens += _tokens(choice.get("logprobs"))
                reason = _reason(choice.get("finish_reason")) or self._finish
                if reason == "error":
                    raise BadAnswer("the model server failed in the middle of its answer")
                self._finish = "length" if reason in CUT_REASONS else reason
        except (
            AttributeError,
            TypeError,
            KeyError,
            RecursionError,
        ) as problem:
            # JSON, but of another shape.
            what = f"the model server's answer is no chat completion: {problem}"
            raise BadAnswer(what) from problem

    def _fail(self, chunk: dict[str, Any]) -> NoReturn:
        fault = Fault.said(chunk)
        if STOPPING in fault.code.split():
            raise BrokenOff(f"the model server's answer broke off: {fault.message}")
        if fault.tells_of_load:
            raise Busy(fault.message, None)
        refuse(fault, self._own, self._asked)

    def answer(self) -> Completion:
        """Return what was read. Raises HTTPException if its end is missing."""
        if not self._finish:
            raise HTTPException("the answer was cut off")
        # Half a character in one chunk, half in the next: JSON's way to write an emoji.
        text = "".join(self._text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        details = self._usage.get("prompt_tokens_details")
        usage = Usage(
            prompt_tokens=_number(self._usage.get("prompt_tokens")),
            cached_tokens=_number(details.get("cached_tokens")) if isinstance(details, dict) else 0,
            completion_tokens=_number(self._usage.get("completion_tokens")),
        )
        return Completion(text, self._finish, usage, self._labels, self._tokens)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _only_tells(chunk: dict[str, Any]) -> bool:
    """Whether this is FastAPI's way to refuse, with a status of 200."""
    return "choices" not in chunk and isinstance(chunk.get("detail"), str)


def _reason(reason: Any) -> str:
    if reason is None or isinstance(reason, str):
        return reason or ""
    raise TypeError(f"a finish_reason of type {type(reason).__name__}")


def _content(content: Any) -> str:
    """Return the text of a content: a text, nothing, or a list of parts, thoughts left out."""
    if isinstance(content, list):
        return "".join(
            _content(part.get("text"))
            for part in content
            if not THOUGHT.search(str(part.get("type")))
        )
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(f"a content of type {type(content).__name__}")


def _tokens(logprobs: Any) -> list[Mapping[str, Any]]:
    """Return the answer's tokens with their alternatives; of another shape, nothing."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    tokens = content if isinstance(content, list) else []
    return [token for token in tokens if isinstance(token, dict)]


def _number(value: Any) -> int:
    return value if type(value) is int and 0 <= value < TOKENS_MAX else 0
