"""Carries out what the worker calls for: one call at a time, each with its deadline and cancel."""

import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from agentd.events import Result
from agentd.hands.orders import Orders
from agentd.process.channel import BYE, Channel, ChannelClosed, close_all
from agentd.process.child import end_group
from agentd.process.stop import Cancel
from agentd.sandbox.enter import nested
from agentd.tools.base import ToolCall, answered, failed, reply
from agentd.tools.closed import KnownClosed
from agentd.tools.handlers import PROGRAMS, Handler, handler
from agentd.tools.place import locate

GIT = "git."  # begins the calls of agentd.tools.git


class Hands:
    """Answers the calls that come by `channel`, and goes with whoever makes them.

    To be made before the sandbox is entered: it looks at what is closed.
    """

    def __init__(self, channel: Channel, orders: Orders) -> None:
        self._channel, self._orders = channel, orders
        self._closed = KnownClosed(orders.closed, writing=bool(orders.permissions.write))
        self._requests: SimpleQueue[tuple[dict[str, Any], Cancel]] = SimpleQueue()
        self._before = cache(partial(nested, orders.programs))  # made for the first program

    def run(self) -> None:
        """Serve until no call comes for a while, or a program left others, which have to go."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        until = time.monotonic() + self._orders.age_s
        left_running = False
        while not left_running and (left_s := until - time.monotonic()) > 0:
            try:
                request, cancel = self._requests.get(timeout=min(left_s, self._orders.idle_s))
            except Empty:
                break
            call = ToolCall(
                permissions=self._orders.permissions,
                closed=self._closed,
                environ=self._orders.environ,
                deadline_s=float(request["deadline_s"]),
                cancel=cancel,
            )
            self._send({"id": request["id"], **self._answer(request, call)})
            left_running = call.left_running
        self._send({BYE: True})

    def _read(self) -> None:
        """Take requests and cancels as they come. The worker's end is ours, and our programs'."""
        latest: tuple[int, Cancel] | None = None
        with suppress(ChannelClosed):
            while True:
                document, fds = self._channel.receive()
                close_all(fds)
                if latest is not None and document.get("cancel") == latest[0]:
                    latest[1].stop()
                elif "call" in document:
                    latest = (document["id"], Cancel())
                    self._requests.put((document, latest[1]))
        end_group()

    def _answer(self, request: Mapping[str, Any], call: ToolCall) -> dict[str, Any]:
        name = str(request["call"])
        try:
            return reply(lambda: answered(name, self._handler(name, call), call, request["args"]))
        except Exception as error:  # a fault of ours: the supervisor logs what we print
            sys.excepthook(type(error), error, error.__traceback__)
            return failed("tool", f"{name} failed: a fault of agentd: {type(error).__name__}")

    def _handler(self, name: str, call: ToolCall) -> Handler:
        looks = name.startswith(GIT)
        # On macOS a program has the sandbox of who starts it.
        if sys.platform == "linux" and (looks or name in PROGRAMS):
            call.before = self._before()
        return partial(_look, name.removeprefix(GIT)) if looks else handler("hands", name)

    def _send(self, document: Mapping[str, Any]) -> None:
        try:
            self._channel.send(document)
        except ValueError:
            self._channel.send({"id": document["id"], **failed("tool", "its answer is too large")})
        except OSError:  # the worker is gone, or reads nothing any more
            end_group()


def _look(name: str, call: ToolCall, repo: str, **args: Any) -> Result:
    """Look at a repository of which all that git reads may be read."""
    from agentd.tools.git_command import held_to, part_of
    from agentd.tools.git_looks import LOOKS

    marks = call.closed.marks(writing=False)

    def readable(path: Path) -> None:
        locate(str(path), call.permissions.readable, marks)

    with held_to(readable), part_of(call):
        return Result({"git": LOOKS[name](Path(repo), **args)}, trusted=False)
