"""A client light enough to run fifty streams beside the servers on the same cores.

Plain sockets and HTTP/1.0, so that a stream comes without chunks and ends with the connection.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

LINE_BYTES_MAX = 4 * 2**20
CHAT = "/v1/chat/completions"
LATE = "no end within the client's deadline"


class Target(Protocol):
    """A server to ask."""

    port: int
    model: str  # what requests call its model
    headers: Mapping[str, str]


@dataclass
class Answer:
    """What came of one request. Moments are of the monotonic clock, in seconds."""

    sent: float = 0.0
    status: int = 0  # 0: no answer at all
    at: list[float] = field(default_factory=list)  # moments of the pieces of text
    text: str = ""
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    end: float = 0.0
    error: str = ""  # the server's code, or what went wrong on the way
    retry_after_s: float = 0.0
    whole: bool = False  # it came to its end
    hung_up: bool = False  # by us

    @property
    def answered(self) -> bool:
        """Whether it is a complete answer."""
        return self.whole and not self.error and self.finish is not None

    @property
    def first_s(self) -> float:
        """Seconds to the first piece of text; of an answer without one, to its end."""
        return (self.at[0] if self.at else self.end) - self.sent

    @property
    def latency_s(self) -> float:
        """Seconds to the end."""
        return self.end - self.sent

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, cached ones included."""
        return int(self.usage.get("prompt_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the server had in its cache."""
        details = self.usage.get("prompt_tokens_details") or {}
        return int(details.get("cached_tokens") or 0)

    @property
    def completion_tokens(self) -> int:
        """Generated tokens."""
        return int(self.usage.get("completion_tokens", 0))


Watch = Callable[[Answer], bool]  # called after each piece of text; True: hang up


async def chat(
    target: Target,
    body: Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    deadline_s: float,
    watch: Watch = lambda answer: False,
) -> Answer:
    """Ask for a completion, streaming or as `body` says. Never raises: see `Answer.error`."""
    data = json.dumps({"model": target.model, **body}).encode()
    return await post(target, CHAT, data, headers=headers, deadline_s=deadline_s, watch=watch)


async def post(
    target: Target,
    path: str,
    data: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    deadline_s: float,
    watch: Watch = lambda answer: False,
) -> Answer:
    """Post any bytes. Never raises: see `Answer.error`."""
    head = [f"POST {path} HTTP/1.0", "Host: 127.0.0.1", "Content-Type: application/json"]
    head.append(f"Content-Length: {len(data)}")
    head += [f"{name}: {value}" for name, value in {**target.headers, **(headers or {})}.items()]
    request = "\r\n".join([*head, "", ""]).encode() + data
    return await raw(target, request, deadline_s=deadline_s, watch=watch)


async def get(target: Target, path: str, *, deadline_s: float = 10.0) -> Answer:
    """Get a page; its text is the answer's. Never raises: see `Answer.error`."""
    head = [f"GET {path} HTTP/1.0", "Host: 127.0.0.1"]
    head += [f"{name}: {value}" for name, value in target.headers.items()]
    return await raw(target, "\r\n".join([*head, "", ""]).encode(), deadline_s=deadline_s)


async def raw(
    target: Target, request: bytes, *, deadline_s: float, watch: Watch = lambda answer: False
) -> Answer:
    """Send a request as it is, were it nonsense. Never raises: see `Answer.error`."""
    answer = Answer(sent=time.monotonic())
    try:
        async with asyncio.timeout(deadline_s):
            await _exchange(target, request, answer, watch)
    except TimeoutError:
        answer.error = LATE
    except (OSError, ValueError) as error:
        answer.error = answer.error or f"{type(error).__name__}: {error}"
    finally:
        answer.end = time.monotonic()
    return answer


async def _exchange(target: Target, request: bytes, answer: Answer, watch: Watch) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port, limit=LINE_BYTES_MAX)
    try:
        writer.write(request)
        await writer.drain()
        words = (await reader.readline()).split()
        if len(words) < 2:
            raise ConnectionError("closed without an answer")
        answer.status = int(words[1])
        kind = ""
        while line := (await reader.readline()).strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "content-type":
                kind = value.strip()
            elif name.lower() == "retry-after":
                answer.retry_after_s = float(value)
        if kind.startswith("text/event-stream"):
            await _events(reader, answer, watch)
        else:
            _page(await reader.read(), answer)
    finally:
        writer.close()


async def _events(reader: asyncio.StreamReader, answer: Answer, watch: Watch) -> None:
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue  # a comment, or the blank line after an event
        if line.startswith(b"data: [DONE]"):
            answer.whole = True
            return
        event = json.loads(line[6:])
        if _take(event, answer, "delta") and watch(answer):
            answer.hung_up = True
            return
    if not answer.error:
        answer.error = "the stream ended without [DONE]"


def _page(data: bytes, answer: Answer) -> None:
    try:
        page = json.loads(data)
    except ValueError:
        page = None
    if isinstance(page, dict) and ("choices" in page or "error" in page):
        _take(page, answer, "message")
    else:
        answer.text = data.decode("utf-8", "replace")
    answer.whole = True
    if answer.status != 200 and not answer.error:
        answer.error = f"status {answer.status}"


def _take(event: Mapping[str, Any], answer: Answer, key: str) -> bool:
    """Read one event or page; True if it brought text."""
    error = event.get("error")
    if error is not None:  # stock's is a text
        answer.error = str(
            error.get("code") or error.get("message") if isinstance(error, dict) else error
        )
        return False
    answer.usage = event.get("usage") or answer.usage
    brought = False
    for choice in event["choices"]:
        text = choice[key].get("content")
        if text:
            answer.text += text
            answer.at.append(time.monotonic())
            brought = True
        answer.finish = choice.get("finish_reason") or answer.finish
    return brought
