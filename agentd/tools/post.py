"""POST of JSON to a person's own servers: for what sends results, and for no agent.

The hosts are those of agentd.toml, a person's word, so they may be of this machine or its network.
No redirect is followed. A URL may hold a bot's token: no error says more of it than the host.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from agentd.errors import Stopped, ToolError
from agentd.events import Result
from agentd.macos.privacy import network_hint
from agentd.net.connection import connected, look_up_in_time
from agentd.net.exchange import BROKEN, Response, exchange
from agentd.net.wait import Deadline, Waiter
from agentd.tools.base import ToolCall, clean_line
from agentd.tools.http import TOLD_CHARACTERS, check_url

ANSWER_BYTES = 1_000_000  # a hundred updates of Telegram are less
HEADERS = {"User-Agent": "agentd", "Content-Type": "application/json"}


def post(call: ToolCall, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Result:
    """Post `body`; give the answer's `status`, its `text`, and `wait_s` where it says how long."""
    target = check_url(url, call.permissions.net)
    with ExitStack() as stack:
        waiter = stack.enter_context(Waiter.of(Deadline(call.clock, call.left_s), call.cancel))
        try:
            found = look_up_in_time(target.host, target.port, waiter)
            connection = stack.enter_context(connected(found, target.port, waiter))
            if target.scheme == "https":
                connection.encrypt(target.host)
            data, fields = json.dumps(body).encode(), {**HEADERS, **headers}
            reply = exchange(connection, "POST", target.authority, target.path, fields, data)
            text = _text(reply)
        except Stopped:
            raise
        except (*BROKEN, UnicodeError, ValueError) as error:
            call.check()
            told = clean_line(str(error) or type(error).__name__, TOLD_CHARACTERS)
            hint = network_hint(error)
            why = f"{told} ({hint})" if hint else told
            raise ToolError(f"{target.authority} cannot be reached: {why}") from error
    wait = reply.header("Retry-After")
    wait_s = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 8 else 0.0
    return Result({"status": reply.status, "text": text, "wait_s": wait_s}, trusted=False)


def _text(reply: Response) -> str:
    data = bytearray()
    for piece in reply.pieces():
        data += piece
        if len(data) > ANSWER_BYTES:
            raise ValueError("it answers with too much")
    return data.decode("utf-8", "replace")
