"""Looks whether macOS keeps us out of folders that agents may touch, and asks the person early.

The first look at such a folder opens macOS's question. It should come when an agent is added, with
somebody at the machine, and not from a worker at night, which would wait for the answer and count
as hung. In a daemon thread: the look waits as well.
"""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentd.config.agent_files import agent_names
from agentd.config.toml import read_toml
from agentd.errors import ConfigError
from agentd.logs.logger import Logger
from agentd.macos.privacy import is_folder, kept_out
from agentd.paths import Paths

LOOK_S = 60.0  # between looks: what a person allowed or took back is seen then


class Consent:
    """What macOS refuses now: `problem`, None while there is nothing."""

    def __init__(self, paths: Paths, log: Logger) -> None:
        self.problem: dict[str, str] | None = None
        self._paths, self._log = paths, log
        self._wake = threading.Event()
        self._folders: list[Path] = []

    def start(self) -> None:
        """Look now and then, on a Mac."""
        if sys.platform == "darwin":
            threading.Thread(target=self._run, name="consent", daemon=True).start()

    def look_again(self) -> None:
        """Look at once: agents have changed."""
        self._wake.set()

    def look(self) -> None:
        """Look now, at what the agents may touch now."""
        self._folders = list(_folders(self._paths.agents_d))
        self._probe()

    def _probe(self) -> None:
        found = kept_out(self._folders)
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
            self.look()
            while not self._wake.wait(LOOK_S):
                self._probe()  # no file has changed


def _folders(agents_d: Path) -> Iterator[Path]:
    """Give the folders that enabled agents may touch, and those that their parameters name."""
    try:
        names = agent_names(agents_d)
    except OSError:
        return  # the supervisor's own look tells
    for name in names:
        try:
            table = read_toml(agents_d / f"{name}.toml")
        except ConfigError:
            continue  # its check tells
        permissions, params = table.get("permissions"), table.get("params")
        if table.get("enabled") is False:
            continue
        named: list[Any] = []
        if isinstance(permissions, dict):
            for key in ("read", "write"):
                roots = permissions.get(key)
                named += roots if isinstance(roots, list) else []
        if isinstance(params, dict):
            named += params.values()
        for text in named:
            if isinstance(text, str) and text.startswith(("/", "~/")) and "\0" not in text:
                path = Path(text).expanduser()
                yield path if is_folder(path) else path.parent
