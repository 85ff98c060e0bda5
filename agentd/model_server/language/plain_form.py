"""Conversations for chat templates that know no tools, or no system messages: told in words."""

import json
from collections.abc import Sequence
from typing import Any

from agentd.model_server.language.template import described
from agentd.model_server.protocols import Message
from agentd.model_server.tool_calls import OfferedTool

EXPLANATION = """\
You can call one function to help with the request. The functions, each with the JSON Schema \
of its arguments:
<tools>
{tools}
</tools>
To call a function, answer with nothing but its name and arguments, like this:
<tool_call>
{{"name": "NAME", "arguments": ARGUMENTS}}
</tool_call>
Its result then comes within <tool_response></tool_response>. Otherwise answer in plain text."""


def explained(messages: Sequence[Message], tools: Sequence[OfferedTool]) -> list[Message]:
    """Return messages for a template that knows no tools: all is told in words.

    JSON from outside has its angle brackets escaped, so that it cannot close what it stands in.
    """
    told: list[Message] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "tool":
            result = {"name": message.get("name", ""), "content": content}
            role, content = "user", f"<tool_response>\n{_escaped(result)}\n</tool_response>"
        for call in message.get("tool_calls", ()):
            function = json.dumps(call["function"], ensure_ascii=False)
            content = f"{content}\n<tool_call>\n{function}\n</tool_call>".lstrip("\n")
        if told and role == told[-1]["role"] == "user":  # templates want roles to alternate
            told[-1] = {"role": role, "content": f"{told[-1]['content']}\n{content}"}
        else:
            told.append({"role": role, "content": content})
    if not tools:
        return told
    text = EXPLANATION.format(tools="\n".join(_escaped(described(tool)) for tool in tools))
    if told and told[0]["role"] == "system":
        return [{"role": "system", "content": f"{told[0]['content']}\n\n{text}"}, *told[1:]]
    return [{"role": "system", "content": text}, *told]


def without_system(messages: Sequence[Message]) -> list[Message]:
    """Return messages for a template that takes no system message.

    Its text goes into the next message of the user, or where none comes to the end of the last.
    """
    told: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            told.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            told.append(message)
    if waiting and told and told[-1]["role"] == "user":
        waiting.insert(0, told.pop()["content"])
    return [*told, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else told


def with_text_arguments(messages: Sequence[Message]) -> list[Message]:
    """Return messages for a template that takes the arguments of past calls as JSON text."""
    return [
        {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    text = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": text}}


def _escaped(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
