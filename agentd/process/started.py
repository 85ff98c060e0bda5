"""A child's process as its supervisor holds it, however it was started."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from agentd.process.lock import LockFile
from agentd.process.takeover import kill_group

if TYPE_CHECKING:
    import subprocess


@dataclass(frozen=True)
class Ends:
    """What a child is given: descriptors by the variables that name them, and where it prints.

    `lock` is its own, which it holds until its last moment.
    """

    numbers: Mapping[str, int]
    output: int
    lock: LockFile

    def variables(self) -> dict[str, str]:
        """Return the variables, for a process in which the descriptors keep their numbers."""
        return {name: str(number) for name, number in self.numbers.items()}


class Started(Protocol):
    """A process that was started, the leader of its session and group."""

    pid: int
    returncode: int | None  # as `poll` last found it

    def poll(self) -> int | None:
        """Return its exit code (negative: the signal) once it is dead, its group killed."""

    def stopped(self) -> bool:
        """Say whether it is stopped by a signal."""


class Spawned:
    """Our own child, started by `subprocess`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.pid = process.pid
        self.returncode: int | None = None
        self._process = process
        self._stopped = False  # as last reported

    def poll(self) -> int | None:
        """Return its exit code once it is dead, its group killed."""
        return self._ended(self._process.poll())

    def stopped(self) -> bool:
        """Say whether it is stopped by a signal."""
        if self.poll() is not None:
            return False
        # Each report comes once: a stop when all threads have stopped, then that it goes on.
        while (report := os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED))[0]:
            self._stopped = os.WIFSTOPPED(report[1])
            if not self._stopped and not os.WIFCONTINUED(report[1]):  # it died this moment
                self._process.returncode = os.waitstatus_to_exitcode(report[1])
                return False
        return self._stopped

    def _ended(self, code: int | None) -> int | None:
        if code is not None and self.returncode is None:
            self.returncode = code
            kill_group(self.pid)
        return code
