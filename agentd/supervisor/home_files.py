"""The files that must stay where they are while we run: the home's lock and the database.

A removed lock is taken anew, else a second supervisor could start here. A database is three files,
itself, its log and the log's index. What is written once one of them has lost its name is lost when
the last of us closes it, or overwritten by who opens the new one: so all stop, and what the open
files hold is copied out first.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from agentd.clock import Clock
from agentd.errors import AgentdError, StorageError
from agentd.logs.logger import Logger
from agentd.paths import Paths, private_folder
from agentd.process.lock import LockFile
from agentd.storage import copies, database_files
from agentd.supervisor.housekeeping import Housekeeping
from agentd.supervisor.records import Records
from agentd.whole import put_in_place

RESCUE_S = 60.0  # for a copy of a large database
CLOSE_S = 5.0  # for our own connections, before anything is put in the old one's place
HINT = "stop agentd before you touch its folders"


class HomeFiles:
    """Which files they were when we began."""

    def __init__(self, paths: Paths, lock: LockFile, clock: Clock, log: Logger) -> None:
        self._paths, self._lock, self._clock, self._log = paths, lock, clock, log
        self._files: database_files.Files = {}  # of the database, while it is open
        self._gone: Path | None = None  # the first of them that was missed

    def remember(self) -> None:
        """Note which files these are, once all are there, and tell whoever opens the database."""
        self._files = database_files.files_of(self._paths.database)
        self._record()

    def forget(self) -> None:
        """Take the names back: who closes the database in order removes its log and index."""
        self._files = {}
        self._record()

    def check(self) -> StorageError | None:
        """Return what is wrong, None while all is in its place."""
        if self.database_gone():
            return self._removed(f"{HINT}, and start it again")
        return None if self._lock.in_place else self._lock_again()

    def database_gone(self) -> bool:
        """Whether the database must be rescued: one of its files is not in its place."""
        self._gone = self._gone or database_files.moved(self._paths.database, self._files)
        return self._gone is not None

    def _lock_again(self) -> StorageError | None:
        path = self._paths.lock
        try:
            self._paths.create_private()
            if self._lock.acquire():
                self._record()
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

    def _record(self) -> None:
        self._lock.record(os.getpid(), clock=self._clock, **{database_files.NAMED: self._files})

    async def rescue(
        self, records: Records, housekeeping: Housekeeping, hurry: asyncio.Event
    ) -> StorageError:
        """Save what the open files hold; return what to stop with. Given up at `hurry`.

        The copy takes the place of our own file, or a free one; a file that somebody put there
        stays, and the copy lies beside it. All workers must be gone by now.
        """
        database = self._paths.database
        copy = copies.stamped(database, "rescued", self._clock.now())
        with contextlib.suppress(OSError):
            private_folder(copy.parent)  # it may be gone as well
        try:
            await _unhurried(records.copy(copy), hurry, RESCUE_S)
            await close(records, housekeeping, hurry)
            done = self._put(copy)
        except (AgentdError, OSError, TimeoutError) as error:
            done = f"what it held could not be saved: {error}"
            with contextlib.suppress(TimeoutError):  # the last to close it writes its log back
                await close(records, housekeeping, hurry)
        return self._removed(f"{done}; {HINT}")

    def _removed(self, hint: str) -> StorageError:
        return database_files.removed(self._gone or self._paths.database, hint)

    def _put(self, copy: Path) -> str:
        """Give the copy the database's name if that is free, or our own file's; return what."""
        database = self._paths.database
        ours = database_files.in_place(database, self._files)
        theirs = database.exists() and not ours
        for path in (database_files.wal_of(database), database_files.shm_of(database)):
            # Left lying, an old log would be replayed into whatever has the name now; so would one
            # that somebody's program began beside our file.
            if not theirs or database_files.in_place(path, self._files):
                path.unlink(missing_ok=True)
        try:
            put_in_place(copy, database, new=not ours)
        except FileExistsError:
            return f"what it held until then is in {copy}"
        return "what it held was saved and put back"


async def close(records: Records, housekeeping: Housekeeping, hurry: asyncio.Event) -> None:
    """Close the database: the last to do so writes its log back.

    Raises:
        TimeoutError: it takes too long, or `hurry` is set. Its threads end with the process.
    """

    both = asyncio.gather(housekeeping.closed(), records.closed())
    await _unhurried(both, hurry, CLOSE_S)


async def _unhurried(work: Awaitable[Any], hurry: asyncio.Event, limit_s: float) -> None:
    working, hurrying = asyncio.ensure_future(work), asyncio.ensure_future(hurry.wait())
    first = asyncio.FIRST_COMPLETED
    await asyncio.wait({working, hurrying}, timeout=limit_s, return_when=first)
    hurrying.cancel()
    if not working.done():
        working.cancel()
        raise TimeoutError("it took too long, or a second signal came")
    working.result()
