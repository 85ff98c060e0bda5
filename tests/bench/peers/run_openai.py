"""The loop that everybody writes first: OpenAI's client, tool calls, a list of messages."""

import json
from typing import Any

from openai import OpenAI

from .rounds import READ_FILE, TASK, TEXT, URL, take_turns

client = OpenAI(base_url=URL, api_key="none")


def session() -> None:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    tools: list[Any] = [READ_FILE]
    while True:
        answer = client.chat.completions.create(model="fake", messages=messages, tools=tools)
        message: Any = answer.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return
        for call in message.tool_calls:
            json.loads(call.function.arguments)
            result = {"role": "tool", "tool_call_id": call.id, "content": TEXT}
            messages.append(result)


take_turns(session)
