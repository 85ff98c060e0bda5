"""A child's way to say that it makes progress: beats through a pipe, each with a promise."""

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from agentd.errors import AgentdError, BrokenVersion, DamagedDatabase

STOPPING = "stopping"  # the last beat's state of a process that was asked to stop
BEAT_BYTES_MAX = 16_000  # of one beat; fits an empty pipe everywhere
TEXT_MAX = 400  # characters of one text in a beat


class Heart:
    """A child's way to say that it makes progress. Without a supervisor it does nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def beat(self, promise_s: float, state: str = "idle", **more: Any) -> None:
        """Promise the next beat within `promise_s` seconds. Never blocks, from any thread.

        `state` is a word for people (idle, busy, loading ...); `more` is shown by `status` as it
        is, such as next="2026-01-01T09:00:00.000Z" or session=7.
        """
        self._send({"promise_s": promise_s, "state": state, **more})

    def problem(self, error: AgentdError) -> None:
        """Say why this process is about to exit; `status` shows it. Costs no promise."""
        message: dict[str, Any] = {"problem": _problem(error)}
        if isinstance(error, DamagedDatabase):
            message["damaged"] = True  # that concerns everybody
        if isinstance(error, BrokenVersion):
            message["broken"] = True  # that can be mended without a person
        self._send(message)

    def waits(self, error: AgentdError, promise_s: float) -> None:
        """Beat, and say what this process waits for: something that will pass."""
        self.beat(promise_s, "waits", problem=_problem(error))

    def answer(self, document: Mapping[str, Any]) -> bool:
        """Give what the process was started to find out; waits until all of it is written.

        On the pipe of the beats, of which an agent's module knows nothing: whatever that prints,
        it is no part of the answer. False: nobody asked by this way.
        """
        if self._fd is None:
            return False
        os.set_blocking(self._fd, True)
        with self._lock, open(self._fd, "wb", closefd=False) as pipe:
            pipe.write(json.dumps(document).encode() + b"\n")
        return True

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._fd is None:
            return
        line = json.dumps(message).encode() + b"\n"
        if len(line) > BEAT_BYTES_MAX:
            line = (
                json.dumps({key: message[key] for key in ("promise_s", "state")}).encode() + b"\n"
            )
        # A full pipe means that the supervisor is behind, and it will find beats enough in there.
        # A closed one means that it is gone: the lifeline's thread deals with that.
        with self._lock, contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, line)


def _problem(error: AgentdError) -> dict[str, str]:
    return {key: value[:TEXT_MAX] for key, value in error.document().items()}
