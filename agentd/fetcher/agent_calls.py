"""One agent's calls: several at a time, each with its deadline and its cancel."""

import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from agentd.process.channel import BYE, BadFrame, Channel, ChannelClosed, close_all
from agentd.process.stop import Cancel
from agentd.tools.base import DEADLINE_S, Grants, ToolCall, answered, failed, reply
from agentd.tools.handlers import handler

CALLS_MAX = 8  # of one agent at a time; its worker makes one
CALL_MAX_S = 600.0  # of one, whatever is asked for


class AgentCalls:
    """Answers what comes by `sock`, for an agent that may reach the hosts of `net`.

    `place`: what it may call, see `tools.handlers`. `waits`: its calls mostly wait for others, and
    can be cut off.
    """

    def __init__(
        self,
        sock: socket.socket,
        net: Sequence[str],
        place: str = "fetcher",
        *,
        waits: bool = False,
    ) -> None:
        self._socket, self._channel = sock, Channel(sock)
        self._place, self._waits = place, waits
        self._grants = Grants(net=tuple(net))
        self._threads: list[threading.Thread] = []
        self._running: dict[int, Cancel] = {}  # by the call's number
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor that is readable when something came."""
        return self._channel.fileno()

    @property
    def busy(self) -> bool:
        """Whether a call is being carried out that does more than wait."""
        return bool(self._running) and not self._waits

    def take(self) -> None:
        """Begin, or cancel, what has come: one frame, then it is the others' turn, or the end's.

        Raises:
            ChannelClosed: nothing more comes, or nothing that a worker of ours sends.
        """
        if (found := self._channel.receive_now()) is None:
            return
        document, fds = found
        close_all(fds)
        number = document.get("cancel", document.get("id"))
        running = self._running.get(number) if isinstance(number, int) else None
        if "cancel" in document and running is not None:
            running.stop()
        elif "call" in document and isinstance(number, int) and running is None:
            self._begin(number, document)
        elif "cancel" not in document:
            raise BadFrame("no call")

    def end(self) -> None:
        """Answer what was begun, and say that nothing else was."""
        for cancel in list(self._running.values()) if self._waits else ():
            cancel.stop()
        for thread in self._threads:
            thread.join()
        self._say({BYE: True})

    def close(self) -> None:
        """Stop all calls: nobody waits for them."""
        for cancel in list(self._running.values()):
            cancel.stop()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a thread may be sending
        with self._sending:
            self._channel.close()

    def _begin(self, number: int, document: Mapping[str, Any]) -> None:
        self._threads = [*filter(threading.Thread.is_alive, self._threads)]
        if len(self._threads) >= CALLS_MAX:  # also those whose answers it does not read
            raise BadFrame(f"more than {CALLS_MAX} calls at a time")
        cancel = self._running[number] = Cancel()
        work = threading.Thread(target=self._run, args=(number, document, cancel), daemon=True)
        self._threads.append(work)
        work.start()

    def _run(self, number: int, document: Mapping[str, Any], cancel: Cancel) -> None:
        answer = self._answer(document, cancel)
        # Before it is sent: who has the answer may make the next call.
        del self._running[number]
        self._say({"id": number, **answer})

    def _answer(self, document: Mapping[str, Any], cancel: Cancel) -> dict[str, Any]:
        name, args = str(document["call"]), document.get("args", {})
        try:
            # This way round: what is no number counts as the longest.
            deadline_s = min(CALL_MAX_S, float(document.get("deadline_s", DEADLINE_S)))
            call = ToolCall(permissions=self._grants, deadline_s=deadline_s, cancel=cancel)
            return reply(lambda: answered(name, handler(self._place, name), call, args))
        except Exception as error:  # arguments that no worker of ours sends
            return failed("tool", f"{name[:80]}: {error}"[:400])

    def _say(self, document: Mapping[str, Any]) -> None:
        """Send a frame; the agent's worker may be gone, or read nothing: then nobody misses it."""
        with self._sending, suppress(ChannelClosed, TimeoutError):
            self._channel.send(document)
