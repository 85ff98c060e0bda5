"""Never two copies of a child: its lock is taken from whoever still holds it."""

import os
import signal
from pathlib import Path

from agentd.errors import AlreadyRunning
from agentd.process.lock import LockFile
from agentd.process.until import until

TAKEOVER_S = 5.0  # for a killed group to release its lock
TAKEOVER_STEP_S = 0.02  # flock has no wait with a deadline


def take_over(path: Path) -> tuple[LockFile, int | None]:
    """Take a child's lock, killing the process group that still holds it.

    Returns the lock and the pid that was killed, if any. Blocks for a few milliseconds while a
    killed group dies, or others look whether the lock is held.

    Raises:
        AlreadyRunning: the holder recorded no group, or did not die, within `TAKEOVER_S`.
    """
    lock = LockFile(path)
    killed: int | None = None
    pgid: object = None
    for _ in until(TAKEOVER_S, TAKEOVER_STEP_S):
        if lock.acquire():
            return lock, killed
        pgid = lock.holder().get("pgid")
        if isinstance(pgid, int) and pgid > 1 and pgid != os.getpgrp():
            killed = pgid
            kill_group(pgid)
    raise AlreadyRunning(
        f"another copy of this process will not die (process group {pgid})",
        where=str(path),
        hint="end that process by hand",
    )


def kill_group(pgid: int) -> bool:
    """Kill a process group. False: nobody is left in it."""
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says this of a group in which only zombies are left.
        return False
    return True
