"""Tries whether macOS keeps us out of folders that agents may touch, and asks the person early.

The first access to such a folder opens macOS's question. It should come when an agent is added,
with somebody at the machine, and not from a worker at night, which would wait for the answer and
count as hung. In a daemon thread: the access waits as well.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agentd.errors import ConfigError, Problem
from agentd.logs.logger import Logger
from agentd.macos.privacy import is_folder, kept_out
from agentd.paths import expanded

EVERY_S = 60.0  # between two tries: what a person allowed or took back is seen then


class FolderAccess:
    """What macOS refuses now: `problem`, None while there is nothing.

    `named` returns the absolute paths that agents may touch; it is called in the thread.
    """

    def __init__(self, named: Callable[[], Iterable[str]], log: Logger) -> None:
        self.problem: Problem | None = None
        self._named, self._log = named, log
        self._wake = threading.Event()

    def start(self) -> None:
        """Try now and then, on a Mac."""
        if sys.platform == "darwin":
            threading.Thread(target=self._run, name="folder access", daemon=True).start()

    def try_soon(self) -> None:
        """Try at once: agents have changed."""
        self._wake.set()

    def try_now(self) -> None:
        """Try all the folders."""
        found = kept_out(_folders(self._named()))
        problem = found and {
            "what": "macOS keeps agentd out of this folder",
            "where": str(found[0]),
            "hint": found[1],
        }
        if problem and problem != self.problem:
            self._log.warning("folder.refused", **problem)
        self.problem = problem

    def _run(self) -> None:
        while True:
            self._wake.clear()
            self.try_now()
            self._wake.wait(EVERY_S)


def _folders(named: Iterable[str]) -> Iterator[Path]:
    for text in named:
        try:
            path = expanded(text)
        except ConfigError:
            continue  # nobody's home folder: its agent's check tells
        yield path if is_folder(path) else path.parent
