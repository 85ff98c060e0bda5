"""Requests as OpenAI's clients send them, checked. What would be ignored silently is refused."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentd.model_server.calls import Refused
from agentd.model_server.engine import Message
from agentd.states import Priority

DEFAULT_MAX_TOKENS = 512
HEADER_TEXT_MAX = 200


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _TextPart(_Body):
    type: Literal["text"]
    text: str


class _Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]
    name: str | None = None

    def plain(self) -> Message:
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class _Text(_Body):
    type: Literal["text"]


class _JsonSchema(_Body):
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class _JsonSchemaFormat(_Body):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _StreamOptions(_Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


_Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Chat(_Body):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: Annotated[_Text | _JsonSchemaFormat, Field(discriminator="type")] | None = None
    # Accepted where they change nothing.
    n: Literal[1] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    def plain_messages(self) -> list[Message]:
        """Return the conversation as role and text."""
        return [message.plain() for message in self.messages]

    def limit(self) -> int:
        """Return the most tokens to generate."""
        return self.max_completion_tokens or self.max_tokens or DEFAULT_MAX_TOKENS

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def answer_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema that the answer must fit, if one is asked for."""
        form = self.response_format
        return form.json_schema.schema_ if isinstance(form, _JsonSchemaFormat) else None


class Tokenize(_Body):
    """The body of POST /tokenize: messages, or plain text as `content` or `prompt`."""

    model: str | None = None
    messages: list[_Message] | None = None
    content: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None


class Caller(BaseModel):
    """Who calls, from the X-Agentd-* headers. All are optional."""

    model_config = ConfigDict(extra="forbid")

    agent: str = Field("", max_length=HEADER_TEXT_MAX)
    session: str | None = Field(None, max_length=HEADER_TEXT_MAX)
    priority: Priority = Priority.EVENT
    weight: int = Field(5, ge=1, le=9)
    deadline: float | None = Field(None, gt=0)


def parse(body: bytes, kind: type[Chat] | type[Tokenize]) -> Any:
    """Read a body.

    Raises:
        Refused: it is not JSON, or not what this endpoint takes; names the field.
    """
    try:
        # RecursionError: thousands of brackets. ValueError: also numbers of thousands of digits.
        data = json.loads(body, parse_constant=_no_constant)
        # Half a surrogate pair is no text, and 1e999 is read as infinity.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}", code="invalid_json") from error
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _refused(error, data) from error


def caller(headers: Mapping[str, str]) -> Caller:
    """Read the X-Agentd-* headers. Raises Refused."""
    prefix = "x-agentd-"
    given = {
        name: headers[prefix + name] for name in Caller.model_fields if prefix + name in headers
    }
    try:
        return Caller.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"X-Agentd-{str(first['loc'][0]).capitalize()}"
        raise Refused(f"{name}: {first['msg']}", code="invalid_header", param=name) from error


def _refused(error: ValidationError, data: object) -> Refused:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return Refused(f"{place}: unknown parameter", code="unknown_parameter", param=place)
    known = isinstance(data, dict) and data.get(key) is not None
    if known and key in UNSUPPORTED:
        return Refused(f"{key}: {UNSUPPORTED[key]}", code="unsupported_parameter", param=key)
    return Refused(f"{place}: {first['msg']}" if place else first["msg"], param=place)


UNSUPPORTED = {
    "n": "only one choice is given per request",
    "store": "nothing is stored",
    "logprobs": "log probabilities are not given",
    "top_logprobs": "log probabilities are not given",
    "presence_penalty": "penalties are not supported",
    "frequency_penalty": "penalties are not supported",
    "logit_bias": "a logit bias is not supported",
    "tools": "tools are not supported; use response_format with a json_schema",
    "tool_choice": "tools are not supported; use response_format with a json_schema",
    "response_format": 'must be {"type": "text"} or {"type": "json_schema", "json_schema": '
    '{"name": ..., "schema": {...}}}',
}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
