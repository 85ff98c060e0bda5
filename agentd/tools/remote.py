"""Tools that another process of ours carries out: one call at a time, over a channel.

The process is started at the first call; the supervisor hands its channel over. It may end by
itself between two calls. It says so first, so what was sent meanwhile was not begun.
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentd.errors import (
    AgentdError,
    PermissionRefused,
    SandboxUnavailable,
    Stopped,
    ToolError,
    ToolsChanged,
)
from agentd.events import INTERRUPTED, UNKNOWN, Result
from agentd.process.channel import BYE, Channel, ChannelClosed, close_all
from agentd.process.supervisor_link import SupervisorLink, channel_of

if TYPE_CHECKING:
    from agentd.process.stop import Cancel

GRACE_S = 2.0  # beyond a call's deadline, and after its cancel, before its process is killed
KINDS = {"refused": PermissionRefused, "changed": ToolsChanged}  # of errors; others: ToolError
DIED = "its process ended in the middle of it"
LATE = "took too long and was stopped"


class _Died(Exception):
    """The process is gone. `begun`: perhaps in the middle of the call."""

    def __init__(self, *, begun: bool) -> None:
        super().__init__(begun)
        self.begun = begun


class _Late(Exception):
    """A call was sent, and nobody answered in time."""


class Remote:
    """One kind of helper, as one agent reaches it.

    `kind` is the word by which the supervisor is asked for a channel, `kill` the one by which it
    ends a process that ignores its cancel; without it only the channel is given up.
    """

    def __init__(self, link: SupervisorLink, kind: str, *, kill: str | None = None) -> None:
        self._link, self._kind, self._kill = link, kind, kill
        self._channel: Channel | None = None
        self._number = 0
        self._lock = threading.Lock()

    def call(
        self,
        name: str,
        args: Mapping[str, Any],
        deadline_s: float,
        cancel: "Cancel",
        *,
        idempotent: bool = False,
    ) -> Result:
        """Carry out the tool `name`; an `idempotent` one once more, where its process died in it.

        Raises:
            PermissionRefused, ToolError: as the tool has it, or its process died.
            Stopped: `cancel` came.
            SandboxUnavailable: the process cannot be closed off here as it has to be.
        """
        with self._lock:
            until = time.monotonic() + deadline_s
            for again in (idempotent, False):
                try:
                    return self._call(name, args, until, cancel)
                except _Late:
                    doubt = "" if idempotent else f": {UNKNOWN}"
                    raise ToolError(f"{name}: {LATE}{doubt}") from None
                except _Died:
                    if not again:
                        break
        raise ToolError(f"{name}: {DIED}" if idempotent else INTERRUPTED)

    def _call(self, name: str, args: Mapping[str, Any], until: float, cancel: "Cancel") -> Result:
        while True:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise ToolError(f"{name}: {LATE}")
            self._number += 1
            request = {"id": self._number, "call": name, "args": args, "deadline_s": left_s}
            channel = self._connected(left_s, cancel)
            try:
                return _result(self._exchange(channel, request, left_s + GRACE_S, cancel))
            except _Died as ended:
                self._leave()
                if ended.begun:
                    raise

    def _connected(self, left_s: float, cancel: "Cancel") -> Channel:
        if self._channel is not None:
            try:
                while (waiting := self._channel.receive_now()) is not None:
                    close_all(waiting[1])  # the answer to a call that was given up, or a goodbye
                return self._channel
            except ChannelClosed:
                self._leave()
        try:
            _, fds = self._link.ask({"ask": self._kind}, left_s, cancel)
        except (Stopped, SandboxUnavailable):
            raise
        except AgentdError as error:
            raise ToolError(f"{self._kind} cannot be had: {error}") from error
        self._channel = channel_of(fds)
        return self._channel

    def _exchange(
        self, channel: Channel, request: Mapping[str, Any], left_s: float, cancel: "Cancel"
    ) -> dict[str, Any]:
        """Send the request and return its answer; a process that does not answer is ended."""
        sent = False
        try:
            channel.send(request, deadline_s=left_s, cancel=cancel)
            sent = True
            return _answer(channel, request["id"], left_s, cancel)
        except ChannelClosed as error:
            # What was sent to the very end may still be in the channel.
            raise _Died(begun=not _said_bye(channel)) from error
        except TimeoutError as error:
            self._end()
            if sent:
                raise _Late from error
            raise ToolError(f"{request['call']}: {LATE}") from error
        except Stopped:
            if not (sent and self._cancelled(channel, request["id"])):
                self._end()
            raise

    def _cancelled(self, channel: Channel, number: int) -> bool:
        """Cancel a call. False: its process takes no notice."""
        try:
            channel.send({"cancel": number}, deadline_s=GRACE_S)
            _answer(channel, number, GRACE_S, None)
        except (OSError, _Died):
            return False
        return True

    def _end(self) -> None:
        """Have the process ended: what it works at is nobody's wish any more."""
        self._leave()
        if self._kill is not None:
            with suppress(AgentdError):  # then it is gone, or the supervisor is, and all with it
                self._link.ask({"ask": self._kill}, GRACE_S)

    def _leave(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def remotes_of(link: SupervisorLink) -> Mapping[str, Remote]:
    """Return the processes that carry tools out for a worker, by the tools' place."""
    if not link.there:
        return {}
    return {
        "hands": Remote(link, "hands", kill="kill_hands"),
        "fetcher": Remote(link, "fetcher"),  # neither it nor the MCP host is this agent's alone
        "mcp": Remote(link, "mcp"),
    }


def _answer(
    channel: Channel, number: int, deadline_s: float, cancel: "Cancel | None"
) -> dict[str, Any]:
    """Return the answer of this number; what else comes answers calls that were given up."""
    until = time.monotonic() + deadline_s
    while True:
        answer, fds = channel.receive(until - time.monotonic(), cancel)
        close_all(fds)
        if answer.get("id") == number:
            return answer
        if BYE in answer:
            raise _Died(begun=False)


def _said_bye(channel: Channel) -> bool:
    with suppress(ChannelClosed):
        while (found := channel.receive_now()) is not None:
            close_all(found[1])
            if BYE in found[0]:
                return True
    return False


def _result(answer: Mapping[str, Any]) -> Result:
    error = answer.get("error")
    if isinstance(error, dict):
        texts = {key: str(error.get(key, "")) for key in ("what", "where", "hint")}
        raise KINDS.get(str(error.get("kind")), ToolError)(**texts)
    value = answer.get("value")
    if not isinstance(value, dict):
        raise ToolError("answered with no JSON object")
    return Result(value, trusted=answer.get("trusted") is True, effect=answer.get("effect") is True)
