"""What children ask the supervisor for by their control sockets, answered in its event loop.

Who asks is the socket, never a name in the message. One request of a child is answered at a time,
and nothing is read meanwhile. Who sends garbage, or does not read its answers, is heard no more;
who asks without end is read slowly.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.channel import BadFrame, Channel, ChannelClosed, close_all
from agentd.process.jobs import fault

ASK_BYTES_MAX = 64_000  # of one request, and of its answer
ANSWER_S = 60.0  # for a handler to answer
BURST = 100  # requests of one child within `BURST_S`; further ones wait
BURST_S = 1.0


@dataclass(frozen=True)
class Asker:
    """Who asks: a child of this supervisor."""

    name: str  # the agent's
    version: str  # that it runs
    pid: int

    def folder(self, paths: Paths) -> Path:
        """Return the folder of that version."""
        return paths.versions / self.name / self.version


# A document and descriptors, which are closed once they are sent.
Answer = tuple[dict[str, Any], Sequence[int]]
Handler = Callable[[Asker, dict[str, Any]], Awaitable[Answer]]


class Requests:
    """The table of what can be asked for, by the request's word `ask`.

    `gone` is called when nobody of an asker is heard any more: most likely it died.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], gone: Callable[[Asker], None], log: Logger
    ) -> None:
        self.handlers, self.gone, self.log = handlers, gone, log

    def hear(self, control: socket.socket, asker: Asker) -> "Hearing":
        """Answer what comes by this socket until `Hearing.end`, which closes it."""
        return Hearing(self, control, asker)


class Hearing:
    """One child that is heard. In the event loop."""

    def __init__(self, requests: Requests, control: socket.socket, asker: Asker) -> None:
        self._requests, self._asker = requests, asker
        self._channel = Channel(control, frame_max=ASK_BYTES_MAX)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._window, self._asked = self._loop.time(), 0
        self._ended = False
        self._listen()

    def end(self) -> None:
        """Hear it no more, and give up what is being answered."""
        if self._ended:
            return
        self._ended = True
        self._loop.remove_reader(self._channel.fileno())
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._channel.close()
        self._requests.gone(self._asker)

    def _listen(self) -> None:
        self._loop.add_reader(self._channel.fileno(), self._read)

    def _read(self) -> None:
        try:
            found = self._channel.receive_now()
        except BadFrame as error:
            self._drop(str(error))
            return
        except ChannelClosed:  # most likely it died
            self.end()
            return
        if found is None:
            return
        document, fds = found
        close_all(fds)  # nobody is sent any by a child
        self._loop.remove_reader(self._channel.fileno())
        self._task = self._loop.create_task(self._answer(document))

    async def _answer(self, document: dict[str, Any]) -> None:
        answer, fds = await self._result(document)
        try:
            self._channel.send({**answer, "id": document.get("id")}, fds, deadline_s=0)
        except ChannelClosed:
            self.end()
            return
        except (TimeoutError, ValueError) as error:
            self._drop(f"cannot be answered: {error}")
            return
        finally:
            close_all(list(fds))
        self._task = None
        if not self._ended:
            self._timer = self._loop.call_later(self._pause_s(), self._listen)

    async def _result(self, document: dict[str, Any]) -> Answer:
        """Return what the handler answers; whatever a child sent, it fails nobody else."""
        kind = document.get("ask")
        handler = self._requests.handlers.get(kind) if isinstance(kind, str) else None
        try:
            if handler is None:
                raise AgentdError(f"nobody here answers {str(kind)[:40]!r}")
            async with asyncio.timeout(ANSWER_S):
                answer, fds = await handler(self._asker, document)
        except AgentdError as error:
            return {"error": {**error.document(), "kind": type(error).__name__}}, ()
        except TimeoutError:
            return {"error": AgentdError(f"{kind} took longer than {ANSWER_S:g} s").document()}, ()
        except Exception as error:  # the top of what a child can cause; its traceback is logged
            self._requests.log.error(
                "request.raised", agent=self._asker.name, ask=kind, exc_info=error
            )
            return {"error": fault(error).document()}, ()
        return {"ok": True, **answer}, fds

    def _pause_s(self) -> float:
        """Return the seconds until the next request is read."""
        now = self._loop.time()
        if now - self._window > BURST_S:
            self._window, self._asked = now, 0
        self._asked += 1
        return 0.0 if self._asked < BURST else max(0.0, self._window + BURST_S - now)

    def _drop(self, why: str) -> None:
        self._requests.log.warning(
            "requests.closed", agent=self._asker.name, pid=self._asker.pid, why=why
        )
        self.end()
