"""A request's messages and tools, as OpenAI's clients send them, checked and made plain."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from agentd.model_server.calls import Refused
from agentd.model_server.http.body import Body, strict_json, text_of
from agentd.model_server.protocols import Message
from agentd.model_server.tool_calls import OfferedTool, ToolChoice

TOOLS_MAX = 128  # OpenAI's own limit
CALLS_MAX = 128  # in one message
NO_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}

Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class PastFunction(Body):
    """Which function was called, and how."""

    name: Name
    arguments: str
    parsed_arguments: Any = None  # what the client's own helper read out of them


class PastCall(Body):
    """A call that the model has made."""

    id: Identifier
    type: Literal["function"] = "function"
    function: PastFunction
    index: int | None = None  # left over where a client collected a stream


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | None, BeforeValidator(text_of)] = None
    name: str | None = None
    tool_calls: list[PastCall] | None = Field(None, max_length=CALLS_MAX)
    tool_call_id: Identifier | None = None
    # As our own answers, and OpenAI's, have them: empty.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    parsed: Any = None  # what the client's own helper read out of the content


class Function(Body):
    """A function that may be called."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # the arguments fit the schema either way


class ToolParam(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


def plain(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return the conversation as the chat template takes it.

    A call's id is replaced by one of our own, in the order of the calls: templates are particular
    about them, and they come from outside.

    Raises:
        Refused: a message lacks what its role needs; names the place.
    """
    told: list[Message] = []
    ids: dict[str, tuple[str, str]] = {}  # by the client's id: ours, and the function's name
    count = 0
    for number, message in enumerate(messages):
        place = f"messages.{number}"
        role = "system" if message.role == "developer" else message.role
        calls = message.tool_calls or []
        if calls and role != "assistant":
            raise _wrong(f"{place}.tool_calls", "only an assistant's message has calls")
        if message.content is None and not calls:
            raise _wrong(f"{place}.content", "a text is needed")
        entry: Message = {"role": role, "content": message.content or ""}
        if calls:
            entry["tool_calls"] = []
        for at, call in enumerate(calls):
            ours, count = f"call{count:05}", count + 1
            ids[call.id] = (ours, call.function.name)
            arguments = _arguments(call.function.arguments, f"{place}.tool_calls.{at}.function")
            function = {"name": call.function.name, "arguments": arguments}
            entry["tool_calls"].append({"id": ours, "type": "function", "function": function})
        if role == "tool":
            if message.tool_call_id not in ids:
                raise _wrong(f"{place}.tool_call_id", "no call before has this id")
            entry["tool_call_id"], entry["name"] = ids[message.tool_call_id]
        elif message.tool_call_id is not None:
            raise _wrong(f"{place}.tool_call_id", "only a tool's message has one")
        told.append(entry)
    return told


def plain_tools(tools: Sequence[ToolParam]) -> list[OfferedTool]:
    """Return the tools. Raises Refused."""
    found: dict[str, OfferedTool] = {}
    for number, tool in enumerate(tools):
        function, place = tool.function, f"tools.{number}.function"
        schema = function.parameters or NO_PARAMETERS
        if function.name in found:
            raise _wrong(f"{place}.name", "another tool has this name")
        if schema.get("type") != "object":
            raise _wrong(f"{place}.parameters", 'must be a schema of type "object"')
        if not schema.get("properties") and schema.get("additionalProperties") in (None, True):
            schema = {**schema, "properties": {}, "additionalProperties": False}
        found[function.name] = OfferedTool(function.name, schema, function.description or "")
    return list(found.values())


def choice(given: Any, tools: Sequence[OfferedTool]) -> ToolChoice:
    """Return which tools an answer may call, by `tool_choice`. Raises Refused."""
    names = tuple(tool.name for tool in tools)
    match given:
        case None | "auto":
            return ToolChoice(names)
        case "none":
            return ToolChoice(())
        case "required":
            wanted, required = list(names), True
        case {"type": "function", "function": {"name": str(name)}}:
            wanted, required = [name], True
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [*allowed]}} if (
            mode in ("auto", "required")
        ):
            wanted, required = [_allowed(tool) for tool in allowed], mode == "required"
        case _:
            raise _wrong(
                "tool_choice",
                'must be "none", "auto", "required" or '
                '{"type": "function", "function": {"name": ...}}',
            )
    for name in wanted:
        if name not in names:
            raise _wrong("tool_choice", f"{name[:64]!r} is none of the tools")
    if required and not wanted:
        raise _wrong("tool_choice", "a call is required, and there are no tools")
    return ToolChoice(tuple(name for name in names if name in wanted), required)


def _allowed(tool: Any) -> str:
    match tool:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    raise _wrong("tool_choice", "an allowed tool must be a function with a name")


def _arguments(text: str, place: str) -> dict[str, Any]:
    try:
        value = strict_json(text or "{}")
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{place}.arguments", f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _wrong(f"{place}.arguments", "must be a JSON object, as text")
    return value


def _wrong(place: str, why: str) -> Refused:
    return Refused(f"{place}: {why}", param=place)
