"""A child's way to ask its supervisor for something: a process to call, a secret, a proof.

One request at a time, over the control socket that was made with the child. Who asks is that
socket, so no request says it.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentd.errors import AgentdError, SandboxUnavailable
from agentd.process.channel import Channel, ChannelClosed, close_all
from agentd.process.child import CONTROL_VARIABLE, inherited

if TYPE_CHECKING:
    from agentd.process.stop import Cancel

# Of errors that mean more to who asks than their words do.
KINDS = {kind.__name__: kind for kind in (SandboxUnavailable,)}
ASK_S = 30.0  # for an answer, where the caller names no other


class SupervisorLink:
    """Asks the supervisor; `channel` is None where there is none (started by hand, tests)."""

    def __init__(self, channel: Channel | None) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._number = 0

    @classmethod
    def of_environment(cls, environ: "os._Environ[str]" = os.environ) -> "SupervisorLink":
        """Return this process's own link. Call it once, after `child_side`; `environ` loses it."""
        fd = inherited(environ, CONTROL_VARIABLE)
        return cls(None if fd is None else Channel(socket.socket(fileno=fd)))

    @property
    def there(self) -> bool:
        """Whether there is a supervisor to ask."""
        return self._channel is not None

    def ask(
        self,
        document: Mapping[str, Any],
        deadline_s: float = ASK_S,
        cancel: "Cancel | None" = None,
    ) -> tuple[dict[str, Any], list[int]]:
        """Return the answer to `{"ask": KIND, ...}`, and the caller's descriptors with it.

        Raises:
            AgentdError: the supervisor refuses, does not answer in time, or there is none.
            Stopped: `cancel` came first.
        """
        if self._channel is None:
            raise AgentdError(
                f"there is no supervisor to ask for {document['ask']}",
                hint="`agentd run` starts agents with one",
            )
        with self._lock:
            self._number += 1
            until = time.monotonic() + deadline_s
            try:
                self._channel.send(
                    {**document, "id": self._number}, deadline_s=deadline_s, cancel=cancel
                )
                answer, fds = self._answer(until, cancel)
            except TimeoutError as error:
                raise AgentdError(
                    f"the supervisor did not answer within {deadline_s:g} s",
                    where=str(document["ask"]),
                ) from error
            except ChannelClosed as error:
                raise AgentdError("the supervisor is gone", where=str(error)) from error
        if isinstance(problem := answer.get("error"), dict):
            raise error_of(problem)
        return answer, fds

    def _answer(self, until: float, cancel: "Cancel | None") -> tuple[dict[str, Any], list[int]]:
        assert self._channel is not None
        while True:
            answer, fds = self._channel.receive(until - time.monotonic(), cancel)
            if answer.pop("id", None) == self._number:
                return answer, fds
            close_all(fds)  # the answer to a request that was given up


def error_of(problem: Mapping[str, Any]) -> AgentdError:
    """Return the error that another process told: its document, with its `kind`."""
    words = {key: str(problem.get(key, "")) for key in ("what", "where", "hint")}
    return KINDS.get(str(problem.get("kind")), AgentdError)(**words)


def channel_of(fds: list[int]) -> Channel:
    """Return the channel that came with an answer.

    Raises:
        AgentdError: none came.
    """
    if not fds:
        raise AgentdError("the supervisor answered without a channel")
    close_all(fds[1:])
    return Channel(socket.socket(fileno=fds[0]))
