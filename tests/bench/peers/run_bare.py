"""The least loop: one kept connection, and no library."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from .rounds import READ_FILE, TASK, TEXT, URL, take_turns

place = urlsplit(URL)
connection = http.client.HTTPConnection(place.hostname or "", place.port)


def session() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    while True:
        body = {"model": "fake", "messages": messages, "tools": [READ_FILE]}
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        message = json.loads(connection.getresponse().read())["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            return
        for call in message["tool_calls"]:
            json.loads(call["function"]["arguments"])
            result = {"role": "tool", "tool_call_id": call["id"], "content": TEXT}
            messages.append(result)


take_turns(session)
