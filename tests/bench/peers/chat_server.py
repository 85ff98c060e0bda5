"""The fake model server in a process of its own, with what other libraries ask of one.

Prints its URL and serves until it is killed. A request with `tools` gets a call of one, as OpenAI
has it, the rest is answered as in every test. `GET /spent` says what the server itself took, and
begins a session.
"""

import io
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from agentd.testing import fake_server
from agentd.testing.fake_server import FakeModelServer, Reply, Request
from tests.bench.turn import TURNS, WINDOW, next_answer

FINAL = "final_answer"  # a tool of smolagents, with which it ends


class Handler(fake_server._Handler):
    """Speaks to all sides."""

    disable_nagle_algorithm = True  # headers and body are two writes; no side waits for the second
    lock = threading.Condition()
    spent_s, calls, under_way = 0.0, 0, 0

    def do_POST(self) -> None:
        """Answer, and note the time from the whole request to the whole answer."""
        kept, body = self.rfile, self.rfile.read(int(self.headers["Content-Length"]))
        self.rfile = io.BytesIO(body)
        began = time.perf_counter()
        with Handler.lock:
            Handler.under_way += 1
        super().do_POST()
        self.rfile = kept
        with Handler.lock:
            Handler.spent_s += time.perf_counter() - began
            Handler.under_way -= 1
            Handler.lock.notify_all()

    def do_GET(self) -> None:
        """Say what was spent since this was last asked, and in how many chat calls."""
        if self.path != "/spent":
            return super().do_GET()
        with Handler.lock:
            Handler.lock.wait_for(lambda: Handler.under_way == 0)
            spent = {"seconds": Handler.spent_s, "calls": Handler.calls}
            Handler.spent_s, Handler.calls = 0.0, 0
        return self._send(200, spent)

    def _chat(self, request: Request, reply: Reply) -> None:
        turn, Handler.calls = Handler.calls, Handler.calls + 1
        tools = [tool["function"]["name"] for tool in request.body.get("tools", ())]
        if not tools:
            return super()._chat(request, reply)
        message: dict[str, Any] = {"role": "assistant", "content": None}
        if turn < TURNS - 1:
            path = f"src/file{turn}.py"
            message["tool_calls"] = [_call(turn, "read_file", {"path": path, "start": 1})]
        elif FINAL in tools:
            message["tool_calls"] = [_call(turn, FINAL, {"answer": "all read"})]
        else:
            message["content"] = "all read"
        finish = "tool_calls" if "tool_calls" in message else "stop"
        return self._send(
            200,
            {
                "id": f"chatcmpl-{turn}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self.server.fake.model,
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 150, "completion_tokens": 20, "total_tokens": 170},
            },
        )


def _call(turn: int, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": f"call_{turn}", "type": "function", "function": function}


def _decide(request: Request) -> Reply | dict[str, Any]:
    if request.body.get("tools"):
        return Reply()
    return next_answer(request.body["messages"][-1]["content"])


def main() -> None:
    """Serve until killed."""
    server = FakeModelServer(_decide, token="", window=WINDOW)
    server._server.RequestHandlerClass = Handler
    print(server.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
