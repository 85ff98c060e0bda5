"""A supervisor's side of a `fork_server`: orders a child, and hears how it ended.

The server is the parent of what it forks. So while it lives it tells how each of them ended. Where
it is gone they live on: all that holds them to the supervisor is their own. Then the end of one is
known by its lock, and the exit code by nobody: that counts as a kill, as whatever nobody saw.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError
from agentd.process.channel import Channel, ChannelClosed, close_all
from agentd.process.lock import LockFile
from agentd.process.started import Ends
from agentd.process.takeover import kill_group

ANSWER_S = 5.0  # for a server to fork: it takes 5 ms, where the machine has nothing else to do
PS_S = 2.0
UNSEEN = -signal.SIGKILL  # the exit code where nobody saw one


class NotForked(AgentdError):
    """A server did not fork. `lost`: nor will it do anything else any more."""

    def __init__(self, what: str, *, lost: bool) -> None:
        super().__init__(what)
        self.lost = lost


class ForkOrders:
    """Orders to one server, and what it tells. For one thread.

    `ended` is called for each end that is heard, also of one that nobody asked for just then: no
    more can be read of it, so nothing else would tell.
    """

    def __init__(self, channel: Channel, ended: Callable[[], None] = lambda: None) -> None:
        self.lost = False  # the server is gone
        self.living: set[int] = set()  # children of whose end nobody knows yet
        self._channel, self._ended = channel, ended
        self._ids = itertools.count()
        self._codes: dict[int, int] = {}  # by pid, of those that ended and were not asked for yet

    def fileno(self) -> int:
        """Return a descriptor that is readable when the server has told something."""
        return self._channel.fileno()

    def fork(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, ends: Ends) -> "Forked":
        """Return a new child. Blocks for some milliseconds.

        Raises:
            NotForked: the server refuses, is gone, or did not answer within `ANSWER_S`.
            OSError: the system refuses.
        """
        number = next(self._ids)
        order = {"id": number, "argv": list(argv), "env": dict(env), "cwd": str(cwd)}
        fds = [*ends.numbers.values(), ends.output]
        until = time.monotonic() + ANSWER_S
        try:
            self._channel.send({**order, "names": list(ends.numbers)}, fds, deadline_s=ANSWER_S)
            while (answer := self._receive(until)).get("id") != number:
                pass
        except (ChannelClosed, TimeoutError) as error:
            raise NotForked(str(error), lost=True) from error
        if "refused" in answer:
            raise NotForked(str(answer["refused"]), lost=False)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        self.living.add(pid := int(answer["pid"]))
        return Forked(pid, self, ends.lock.path)

    def hear(self) -> None:
        """Take note of all that the server has told."""
        while not self.lost:
            try:
                found = self._channel.receive_now()
            except ChannelClosed:
                self.lost = True
                return
            if found is None:
                return
            self._note(found)

    def code(self, pid: int) -> int | None:
        """Return the exit code of a child that has ended."""
        self.hear()
        return self._codes.pop(pid, None)

    def close(self) -> None:
        """Hear the server to its end: it is gone."""
        self.hear()
        self.lost = True
        self._channel.close()

    def _receive(self, until: float) -> dict[str, Any]:
        return self._note(self._channel.receive(max(0.0, until - time.monotonic())))

    def _note(self, found: tuple[dict[str, Any], list[int]]) -> dict[str, Any]:
        told, fds = found
        close_all(fds)
        if "ended" in told:
            self._codes[int(told["ended"])] = int(told["code"])
            self._ended()
        return told


class Forked:
    """A child of a server; a `started.Started`."""

    def __init__(self, pid: int, orders: ForkOrders, lock: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._orders, self._lock = orders, LockFile(lock)

    def poll(self) -> int | None:
        """Return its exit code once it is dead, its group killed."""
        if self.returncode is None:
            self.returncode = self._orders.code(self.pid)
            if self.returncode is None and self._orders.lost and not self._lock.held():
                self._kill_rest()
                self.returncode = UNSEEN
            if self.returncode is not None:
                self._orders.living.discard(self.pid)
        return self.returncode

    def _kill_rest(self) -> None:
        """Kill what an orphan left in its group.

        Nobody held its number for us once it was dead: a living process that has it is another
        one. As long as the group has a member no process gets its number. Where this look is too
        early or too late, its guardian kills the group: the lifeline ends next.
        """
        if state_of(self.pid) in ("", "Z"):
            kill_group(self.pid)

    def stopped(self) -> bool:
        """Say whether it is stopped by a signal: the system tells whoever is no parent, too."""
        return self.poll() is None and state_of(self.pid) in ("T", "t")


def state_of(pid: int) -> str:
    """Return the letter of a process's state as `ps` has it; "" for no process."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            return ""
    argv = ["ps", "-o", "stat=", "-p", str(pid)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PS_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()[:1]
