"""Removes files that nobody needs any more, of agents that are gone and of killed processes.

And keeps those that others might remove.
"""

import contextlib
import os
import shutil
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path

from agentd.paths import Paths
from agentd.storage.leftovers import leftovers, remove

LEFT = timedelta(hours=6)  # what is older was left behind; a large model may take that long


def sweep(paths: Paths, known: Collection[str], now: datetime, kept: timedelta) -> None:
    """Remove versions and scratch folders of agents that the bus does not know, and leftovers.

    Versions only where nothing changed for as long as they are `kept`: a file that is not accepted
    yet has some.
    """
    before = now - kept
    for folder in _folders(paths.versions):
        with contextlib.suppress(OSError):
            if folder.name not in known and folder.stat().st_mtime < before.timestamp():
                shutil.rmtree(folder)
    for folder in _folders(paths.scratch):
        if folder.name not in known:
            remove(folder)
    for left in leftovers(paths):
        with contextlib.suppress(OSError):
            if left.lstat().st_mtime < (now - LEFT).timestamp():
                remove(left)


def keep(paths: Paths) -> None:
    """Touch our sockets: where they had to go to /tmp, others sweep, too.

    On macOS what was not touched for three days. Often, because a Mac may wake from as long a sleep
    just when it is time to sweep.
    """
    if paths.sockets == paths.run:
        return
    for path in (paths.sockets, paths.status_socket, paths.wake, *paths.wake.glob("*.sock")):
        with contextlib.suppress(OSError):
            os.utime(path)


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]
    return []
