"""Requests as OpenAI's clients send them, checked. What would be ignored silently is refused."""

from dataclasses import fields, replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from agentd.model_server.calls import Refused, Sampling
from agentd.model_server.http.body import Body, ForModel, refusal, strict_json
from agentd.model_server.http.conversation import TOOLS_MAX, ChatMessage, ToolParam
from agentd.model_server.http.known_schemas import KnownSchemas

DEFAULT_MAX_TOKENS = 512
MESSAGES_MAX = 2000


class _Text(Body):
    type: Literal["text"]


class _JsonSchema(Body):
    name: str = "answer"
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | StrictBool | None = Field(None, alias="schema")
    # Of the schema beside it; or of one that was sent before, in its place.
    agentd_sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None

    @model_validator(mode="after")
    def _one_is_given(self) -> Self:
        if self.schema_ is None and self.agentd_sha256 is None:
            raise PydanticCustomError("missing", "a schema is needed")
        return self


class _JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: _JsonSchema


class _JsonObject(Body):
    type: Literal["json_object"]


class _StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


_Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Zero = Annotated[float, Field(ge=0, le=0)]
_Offset = Annotated[float, Field(ge=-1000, le=1000)]  # nats
_Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES_MAX)]
_Tools = Annotated[list[ToolParam], Field(max_length=TOOLS_MAX)]


class Generating(ForModel):
    """What the bodies of both endpoints that generate have in common."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=1, le=2)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: Annotated[
        list[_Stop] | None,
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
        Field(max_length=16),
    ] = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # Accepted where they change nothing.
    n: Literal[1] | None = None
    user: str | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    def limit(self) -> int:
        """Return the most tokens to generate."""
        return self.max_tokens or DEFAULT_MAX_TOKENS

    def sampling(self, usual: Sampling) -> Sampling:
        """Return how to sample; what the request leaves open is as the model has it."""
        given = {field.name: getattr(self, field.name) for field in fields(Sampling)}
        return replace(usual, **{key: value for key, value in given.items() if value is not None})


class Completions(Generating):
    """The body of POST /v1/completions: a text, which the answer goes on from."""

    prompt: Annotated[
        str,
        BeforeValidator(lambda given: _only(given) if isinstance(given, list) else given),
    ]
    # Accepted where they change nothing.
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: Annotated[None, BeforeValidator(lambda given: _no_logprobs(given))] = None
    suffix: Literal[""] | None = None


def _no_logprobs(given: Any) -> None:
    if given is not None:
        raise PydanticCustomError("logprobs", "ask /v1/chat/completions for log-probabilities")


def _only(prompts: list[Any]) -> Any:
    """Return the one prompt of a list of one."""
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise PydanticCustomError("prompt", "must be one text, or a list of one text")
    return prompts[0]


class Chat(Generating):
    """The body of POST /v1/chat/completions."""

    messages: _Messages
    max_completion_tokens: int | None = Field(None, ge=1)
    response_format: (
        Annotated[_Text | _JsonObject | _JsonSchemaFormat, Field(discriminator="type")] | None
    ) = None
    tools: _Tools | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None  # an answer has one call at most either way
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    agentd_labels: dict[str, dict[str, _Offset]] | None = None
    agentd_label_words: bool | None = None  # how likely labels are as words counts
    # Accepted where they change nothing.
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    prediction: dict[str, Any] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: Literal["medium"] | None = None
    audio: None = None
    web_search_options: None = None
    functions: None = None
    function_call: None = None

    def limit(self) -> int:
        """Return the most tokens to generate."""
        return self.max_completion_tokens or super().limit()

    def logprobs_wanted(self) -> int | None:
        """Return how many tokens' log-probabilities to give beside each token's own, if any.

        Raises:
            Refused: only those of other tokens are asked for.
        """
        if self.top_logprobs and not self.logprobs:
            raise Refused("top_logprobs: needs logprobs: true", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None

    def with_schema(self, known: KnownSchemas) -> Self:
        """Find a schema that is named by its digest, and keep one that is given with it.

        Raises:
            Refused: it is not known, or the digest is another one's.
        """
        if isinstance(self.response_format, _JsonSchemaFormat):
            form = self.response_format.json_schema
            if form.agentd_sha256 is not None:
                form.schema_ = known.schema(form.agentd_sha256, form.schema_)
        return self

    def answer_schema(self) -> dict[str, Any] | None:
        """Return the JSON Schema that the answer must fit, if one is asked for."""
        form = self.response_format
        if isinstance(form, _JsonObject):
            return {"type": "object"}
        if not isinstance(form, _JsonSchemaFormat):
            return None
        schema = form.json_schema.schema_
        assert schema is not None  # `with_schema` saw to it
        if isinstance(schema, bool):  # JSON Schema's short words for all and for nothing
            return {} if schema else {"not": {}}
        return schema


class Tokenize(Body):
    """The body of POST /tokenize: messages, or plain text as `content` or `prompt`."""

    model: str | None = None
    messages: _Messages | None = None
    tools: _Tools | None = None
    content: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None


Asked = TypeVar("Asked", bound=Body)


def parse(body: bytes, kind: type[Asked]) -> Asked:
    """Read a body.

    Raises:
        Refused: it is not JSON, or not what this endpoint takes; names the field.
    """
    try:
        data = strict_json(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}", code="invalid_json") from error
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise refusal(error, data, UNSUPPORTED) from error


UNSUPPORTED = {
    "n": "only one choice is given per request",
    "store": "nothing is stored",
    "presence_penalty": "penalties are not supported",
    "frequency_penalty": "penalties are not supported",
    "logit_bias": "a logit bias is not supported",
    "response_format": 'must be {"type": "text"}, {"type": "json_object"} or '
    '{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}',
    "best_of": "only one choice is given per request",
    "echo": "the prompt is not repeated",
    "suffix": "nothing is put in before a suffix",
    "service_tier": "there is one tier, the default",
    "modalities": "only text is given",
    "audio": "only text is given",
    "reasoning_effort": "models answer without reasoning; only none is taken",
    "verbosity": "cannot be set",
    "web_search_options": "nothing is fetched from the web",
    "functions": "an older form; use tools",
    "function_call": "an older form; use tool_choice",
}
