"""What a model server's refusals and failures mean: by status, by its words, by their place."""

import http.client
import json
import re
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from agentd.errors import CallDeadline, ModelError, ModelMisconfigured
from agentd.json_schema.schema_digest import DIGEST
from agentd.llm import wire

RETRY_AFTER_MAX_S = 60.0  # a server that asks for more is asked earlier
# Full, loading, or a gateway without its server behind it: Cloudflare's 52x, Anthropic's 529.
BUSY = frozenset({408, 425, 429, 502, 503, 504, *range(520, 528), 529})
STOPPING = "stopping"  # the code with which our own server ends its calls when it stops
UNKNOWN_SCHEMA = "unknown_schema"  # its code for a schema's digest that it does not know
MESSAGE_MAX = 300  # characters of a server's message in our error
# Statuses with which servers refuse a schema; 0: an error inside of a stream.
FORMAT_STATUSES = frozenset({0, 400, 404, 415, 422, 500, 501})
ABOUT_FORMAT = re.compile(
    r"(?i)response.?format|json.?schema|grammar|guided|schema|structured.?output|gbnf|xgrammar|outlines"
)
ABOUT_LOGPROBS = re.compile(r"(?i)log_?prob")
ABOUT_MODEL = re.compile(
    r"(?i)model_not_found|\bmodels?\b.{0,100}(?:not (?:found|exist|loaded|available|supported)"
    r"|does ?n[o']t exist|unknown|decommissioned|deprecated)|not a valid model"
    r"|\b(?:unknown|invalid|no such|no) model\b|model_not_|model_decommissioned"
)
ABOUT_KEY = re.compile(
    r"(?i)invalid_api_key|authentication|permission_denied|unauthori[sz]ed|forbidden"
    r"|\bapi[ _-]?key\b|credentials"
)
ABOUT_LOAD = re.compile(r"overloaded|rate_limit|unavailable|too_many")
ABOUT_WINDOW = re.compile(
    r"(?i)context_length|(?:context|maximum|max)[ _-](?:\w{1,20}[ _-])?(?:length|window|size)"
    r"|\btoo (?:long|large|many tokens)"
)
TITLE = re.compile(r"(?is)<title[^>]{0,100}>(.{1,300}?)</title>")


class CallRefused(ModelError):
    """The server will not answer this call. Whether it answers any other has to be asked."""


DEADLINE = "deadline"  # our own server's code for a call that took too long since its admission


class MaskRefused(ModelError):
    """The server does not take a response_format with a schema."""


class SchemaUnknown(ModelError):
    """Our own server does not have a schema that was named by its digest, or knows no digests."""


class LogprobsRefused(ModelError):
    """The server does not give `logprobs`, or not so many alternatives."""


class Busy(Exception):
    """503 and its like: try again after `retry_after` seconds, or by our own backoff."""

    def __init__(self, what: str, retry_after: float | None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class BadAnswer(Exception):
    """The server answered, but not in its protocol, or with an error of its own."""


class BrokenOff(BadAnswer):
    """The answer ended in the middle: the server died, or was stopped."""


def check(reply: wire.HttpReply, own: bool, asked: Container[str] = ()) -> None:
    """Raise what a status other than 200 means; `asked` are the keys of the call's body."""
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
    if own and said.code.endswith(DEADLINE):
        raise CallDeadline(
            f"the model server gave up: {said.message}",
            hint="raise [model] call_deadline, or use a smaller model",
        )
    if status < 200:
        raise BadAnswer(f"the model server answered with HTTP {status}, which is no answer")
    if status in BUSY or said.tells_of_load:
        raise Busy(f"HTTP {status}: {said.message}", _retry_after(reply.header("Retry-After")))
    refuse(replace(said, status=status), own, asked)


@dataclass(frozen=True)
class Fault:
    """What a server says is wrong, in an error's body or inside of a stream."""

    message: str
    code: str = ""  # its words: "model_not_found", "invalid_request_error" ...
    status: int = 0  # 0: none was given

    @property
    def tells_of_load(self) -> bool:
        """Whether the server is only full, or not ready yet."""
        return self.status in BUSY or ABOUT_LOAD.search(self.code) is not None

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


def refuse(fault: Fault, own: bool, asked: Container[str]) -> NoReturn:
    """Raise what a fault that is no passing one means."""
    status, message, said = fault.status, fault.message, f"{fault.code} {fault.message}"
    may_mean_form = not own and status in FORMAT_STATUSES
    how = f" with HTTP {status}" if status else ""
    if own:
        if status in (401, 403, 404):  # token or model are others by now: look them up anew
            raise BadAnswer(f"the model server refused the call{how}: {message}")
        if UNKNOWN_SCHEMA in fault.code.split() or DIGEST in message:
            raise SchemaUnknown(message)
    elif may_mean_form and "logprobs" in asked and ABOUT_LOGPROBS.search(said):
        raise LogprobsRefused(f"the model server refused the call{how}: {message}")
    elif may_mean_form and "response_format" in asked and ABOUT_FORMAT.search(said):
        raise MaskRefused(f"HTTP {status}: {message}" if status else message)
    elif ABOUT_MODEL.search(said) or status == 404:
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] url and name",
            hint="is there a model of this name? A URL ends in /v1 as a rule; `agentd model "
            "status` shows what the server has",
        )
    elif status == 413 or (status < 500 and ABOUT_WINDOW.search(said)):
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] context_window",
            hint="set it to the window that the server really has",
        )
    elif status in (401, 403, 407) or ABOUT_KEY.search(said):
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] api_key_file, or api_key",
            hint="put the server's key there",
        )
    elif status in (402, 405, 410):
        raise ModelMisconfigured(
            f"the model server refused the call{how}: {message}",
            where="[model] url",
            hint="is it an OpenAI-compatible server, with /v1 at the end as a rule?",
        )
    if status >= 500 or (not status and "invalid_request" not in fault.code):
        raise BadAnswer(f"the model server failed{how}: {message}")
    raise CallRefused(
        f"the model server refused the call{how}: {message}", hint="see the model server's log"
    )


def _retry_after(value: str) -> float | None:
    """Return the header's seconds, bounded; its other form, a date, is left to our own backoff."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_MAX_S) if seconds >= 0 else None


def is_not_http(error: Exception) -> bool:
    """Whether what answers speaks another protocol."""
    gone = isinstance(error, http.client.RemoteDisconnected)  # a BadStatusLine, too
    return isinstance(error, http.client.BadStatusLine) and not gone


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
