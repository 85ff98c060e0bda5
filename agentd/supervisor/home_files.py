"""The files that must stay where they are while we run: the home's lock and the database.

A removed lock is taken anew, else a second supervisor could start here. What we write into a
database that has no name any more is lost when the last of us closes it: so it is copied out first.
"""

import asyncio
import os
from pathlib import Path

from agentd.clock import Clock
from agentd.errors import AgentdError, StorageError
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.lock import LockFile
from agentd.storage import copies
from agentd.storage.health import shm_of, wal_of
from agentd.supervisor.housekeeping import Housekeeping
from agentd.supervisor.records import Records

RESCUE_S = 60.0  # for a copy of a large database
CLOSE_S = 5.0  # for our own connections, before anything is put in the old one's place
HINT = "stop agentd before you touch its folders"


class HomeFiles:
    """Which files they were when we began."""

    def __init__(self, paths: Paths, lock: LockFile, clock: Clock, log: Logger) -> None:
        self.database_gone = False
        self._paths, self._lock, self._clock, self._log = paths, lock, clock, log
        self._database: int | None = None
        self._beside: dict[Path, int | None] = {}  # the database's log and its index

    def remember(self) -> None:
        """Note which files these are; once all are there."""
        database = self._paths.database
        self._database = _inode(database)
        self._beside = {path: _inode(path) for path in (wal_of(database), shm_of(database))}

    def check(self) -> StorageError | None:
        """Return what is wrong, None while all is in its place."""
        if _inode(self._paths.database) != self._database:
            self.database_gone = True
            return StorageError(
                "this file was removed or replaced while agentd ran",
                where=str(self._paths.database),
                hint=f"{HINT}, and start it again",
            )
        self._beside = {path: _inode(path) for path in self._beside}
        return None if self._lock.in_place else self._lock_again()

    def _lock_again(self) -> StorageError | None:
        path = self._paths.lock
        try:
            self._paths.create_private()
            if self._lock.acquire():
                self._lock.record(os.getpid(), clock=self._clock)
                self._log.warning("lock.made_again", path=str(path))
                return None
        except StorageError as error:
            return error
        except OSError as error:
            what = f"was removed while agentd ran, and cannot be made again: {error.strerror}"
            return StorageError(what, where=str(path), hint=HINT)
        return StorageError(
            "this file was removed while agentd ran, and another supervisor has taken its place",
            where=str(path),
            hint=HINT,
        )

    async def rescue(
        self, records: Records, housekeeping: Housekeeping, hurry: asyncio.Event
    ) -> StorageError:
        """Save what the removed database held; return what to stop with. Given up at `hurry`.

        Its name is given to the copy if it is free; a file that somebody put there stays, and the
        copy lies beside it. All workers must be gone by now.
        """
        database = self._paths.database
        copy = copies.stamped(database, "rescued", self._clock.now())
        try:
            copying = asyncio.ensure_future(records.copy(copy))
            hurrying = asyncio.ensure_future(hurry.wait())
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait({copying, hurrying}, timeout=RESCUE_S, return_when=first)
            hurrying.cancel()
            if not copying.done():
                copying.cancel()
                raise TimeoutError("it took too long, or a second signal came")
            copying.result()
            async with asyncio.timeout(CLOSE_S):
                await housekeeping.closed()
                await records.closed()
            self._clear()
            try:
                database.hardlink_to(copy)
            except FileExistsError:
                done = f"what it held until then is in {copy}"
            else:
                copy.unlink()
                done = "what it held was saved and put back"
        except (AgentdError, OSError, TimeoutError) as error:
            done = f"what it held could not be saved: {error}"
        return StorageError(
            "this file was removed or replaced while agentd ran",
            where=str(database),
            hint=f"{done}; {HINT}",
        )

    def _clear(self) -> None:
        """Remove the old database's log: it would be replayed into whatever has the name now."""
        for path, inode in self._beside.items():
            if inode is not None and _inode(path) == inode:
                path.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
