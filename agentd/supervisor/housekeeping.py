"""Keeps the home bounded and watches the database's health, in a thread of its own.

Every look: what is too old or too much goes, a few rows at a time, between other people's writes; a
full disk, a lock that is held for long, a log that a stuck reader keeps from shrinking become a
problem that `agentd status` shows. Each goes away by itself when its cause does.
"""

import asyncio
import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agentd.approval.signature import person_key
from agentd.approval.unanswered import expire
from agentd.bus import Bus, Opening
from agentd.bus.bus_thread import BusThread
from agentd.clock import Clock
from agentd.config.daemon import DaemonConfig
from agentd.errors import DamagedDatabase, Problem, StorageError
from agentd.events import DAEMON
from agentd.logs.logger import Logger, bound
from agentd.paths import Paths
from agentd.process.jobs import in_thread
from agentd.storage.health import FREE_LOW_BYTES, WAL_MUCH_BYTES, Sizes, sizes
from agentd.storage.retention import Pruned, Retention
from agentd.whole import PARTIAL, remove

ROUND_S = 15.0  # between looks at the database
SWEEP_S = 3600.0  # between looks at the folders
BUSY_MS = 2_000  # housekeeping is never urgent; a lock that is held for longer is worth a word
PAUSE_S = 0.01  # between two steps, at least: others want to write as well
# The clock of a machine that has just started or woken may be wrong, and is set right in minutes:
# until then nothing is too old.
JUMP_S = 60.0
TRUST_S = 600.0
STUCK_LOOKS = 2  # in which a reader kept the log from being written back


class Housekeeping:
    """Prunes, checks and cleans for one supervisor."""

    def __init__(
        self,
        paths: Paths,
        config: DaemonConfig,
        announce: Callable[[str, dict[str, Any]], None],
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.problem: Problem | None = None
        self._paths, self._announce, self._log, self._clock = paths, announce, log, clock
        self._rules = config.retention
        self._thread = BusThread(paths, clock, Opening(create=False, busy_ms=BUSY_MS))
        self._opened = False
        self._retention: Retention | None = None
        self._sizes = Sizes(0, 0, 0)
        self._stuck = 0  # looks in a row
        self._seen = (clock.now(), clock.monotonic())
        self._trusted_at = clock.monotonic() + TRUST_S
        self._sweep_at = clock.monotonic()

    def configure(self, config: DaemonConfig) -> None:
        """Apply changed rules, from the next look on."""
        self._rules, self._retention = config.retention, None

    async def run(self) -> None:
        """Look now and then, until cancelled.

        Raises:
            DamagedDatabase: nothing but a repair will help.
        """
        try:
            while True:
                try:
                    problem = await self._round()
                except DamagedDatabase:
                    raise
                except StorageError as error:
                    problem = error.document()
                self._report_problem(problem)
                await asyncio.sleep(ROUND_S)  # ends by cancellation
        finally:
            self._thread.close()

    async def closed(self) -> None:
        """Return when the database is closed."""
        await self._thread.closed()

    def document(self) -> dict[str, Any]:
        """Return the sizes, in bytes, for `status`."""
        return {
            "database_bytes": self._sizes.database,
            "wal_bytes": self._sizes.wal,
            "free_bytes": self._sizes.free,
        }

    def _report_problem(self, problem: Problem | None) -> None:
        if problem is not None and problem != self.problem:
            self._log.warning("storage.problem", **problem)
        elif problem is None and self.problem is not None:
            self._log.info("storage.well")
        self.problem = problem

    async def _round(self) -> Problem | None:
        with contextlib.suppress(OSError):
            self._sizes = sizes(self._paths.database)
        touch_sockets(self._paths)
        bound()
        if not self._opened:
            await self._thread.open()
            self._opened = True
        await self._thread.call(_write_nothing)
        retention, rules = self._retention, self._rules
        if retention is None:
            retention = await self._thread.call(lambda bus: Retention(bus, rules))
            self._retention = retention
        by_age = self._trusts_clock()
        await self._prune(self._thread, retention, by_age)
        if by_age:
            await self._expire()
        while await self._thread.call(lambda bus: bus.search.index()):
            await asyncio.sleep(PAUSE_S)
        stuck = await self._thread.call(self._checkpoint)
        if self._clock.monotonic() >= self._sweep_at:
            self._sweep_at = self._clock.monotonic() + SWEEP_S
            known = await self._thread.call(lambda bus: {row.name for row in bus.agents.list()})
            now = self._clock.now()
            await in_thread(sweep, self._paths, known, now, self._rules.removed)
        return self._judge(retention.over, stuck)

    async def _expire(self) -> None:
        """Deny what a person was asked to allow, and nobody did in time."""
        now, paths = self._clock.now(), self._paths
        for one in await self._thread.call(lambda bus: expire(bus, person_key(paths), now)):
            asked = {"session_id": one.asked.session, "decision": one.asked.tool}
            self._log.warning("approval.expired", agent=one.agent, **asked)

    async def _prune(self, thread: BusThread, retention: Retention, by_age: bool) -> None:
        done = Counter[tuple[str, str | None]]()
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                step = await thread.call(lambda bus: retention.step(by_age=by_age))
                if step is None:
                    return
                done[step.what, step.agent] += step.count
                await asyncio.sleep(max(PAUSE_S, loop.time() - began))
        finally:
            for (what, agent), count in done.items():
                self._report(Pruned(what, count, agent))

    def _report(self, done: Pruned) -> None:
        lost = done.what in ("expired", "unanswered")
        write = self._log.warning if lost else self._log.info
        write("retention.pruned", what=done.what, count=done.count, of=done.agent)
        if lost:  # in the dead letters, each with its reason
            keys = {"agent": done.agent, "reason": done.what, "events": done.count}
            self._announce("agent.expired", keys)

    def _trusts_clock(self) -> bool:
        """Whether the wall clock has gone on like the monotonic one for long enough."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        before, since = self._seen
        self._seen = (now, monotonic)
        jump_s = (now - before).total_seconds() - (monotonic - since)
        if abs(jump_s) > JUMP_S:
            self._trusted_at = monotonic + TRUST_S
        return monotonic >= self._trusted_at

    def _checkpoint(self, bus: Bus) -> bool:
        """Write a large log back; return whether somebody who reads keeps it from that."""
        if self._sizes.wal <= WAL_MUCH_BYTES:
            self._stuck = 0
            return False
        frames, written = bus.db.checkpoint()
        self._stuck = self._stuck + 1 if written < frames else 0
        return self._stuck >= STUCK_LOOKS

    def _judge(self, over: bool, stuck: bool) -> Problem | None:
        where = str(self._paths.database)
        if self._sizes.free < FREE_LOW_BYTES:
            return {
                "what": f"the disk is nearly full: {self._sizes.free // 1_000_000} MB are free",
                "where": str(self._paths.data),
                "hint": "free some disk space",
            }
        if stuck:
            return {
                "what": "a program that reads the database and does not end keeps its log from"
                f" shrinking: {self._sizes.wal // 1_000_000} MB by now",
                "where": where,
                "hint": "`agentd doctor` says which one; end it",
            }
        if over:
            return {
                "what": "the database is above its size limit, and nothing more may go",
                "where": where,
                "hint": "raise [retention] database_bytes; the last hour's sessions are kept",
            }
        return None


def _write_nothing(bus: Bus) -> None:
    """Take the write lock for a moment: does anybody keep it, may we write at all?"""
    with bus.transaction():
        pass


LEFT = timedelta(hours=6)  # what is older was left behind; a large model may take that long


def sweep(paths: Paths, known: Collection[str], now: datetime, kept: timedelta) -> None:
    """Remove what agents left that the bus does not know, and leftovers.

    An agent that has a file is none of them: it may be accepted at this moment, or again.
    Versions and own folders go only where nothing changed for as long as they are `kept`: a file
    that is not accepted yet has some.
    """

    def gone(name: str) -> bool:
        ours = name in known or name == DAEMON
        return not ours and not (paths.agents_d / f"{name}.toml").exists()

    before = now - kept
    for folder in _folders(paths.versions):
        with contextlib.suppress(OSError):
            if folder.name not in known and folder.stat().st_mtime < before.timestamp():
                shutil.rmtree(folder)
    for folder in _folders(paths.own_folders):  # a database that was lost knows nobody for a while
        with contextlib.suppress(OSError):
            if gone(folder.name) and _newest(folder) < before.timestamp():
                shutil.rmtree(folder)
    for folder in _folders(paths.scratch):
        if gone(folder.name.partition(".")[0]):  # of a worker, of hands, or of a helper of ours
            remove(folder)
    for folder in _folders(paths.logs):
        with contextlib.suppress(OSError):  # not empty
            if gone(folder.name.partition(".")[0]):
                folder.rmdir()
    for left in leftovers(paths):
        with contextlib.suppress(OSError):
            if left.lstat().st_mtime < (now - LEFT).timestamp():
                remove(left)


def _newest(folder: Path) -> float:
    """Return when anything in a folder was last changed."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def touch_sockets(paths: Paths) -> None:
    """Touch our sockets: where they had to go to /tmp, others sweep, too.

    On macOS what was not touched for three days. Often, because a Mac may wake from as long a sleep
    just when it is time to sweep.
    """
    if not paths.sockets_apart:
        return
    for path in (paths.sockets, paths.status_socket, paths.wake, *paths.wake.glob("*.sock")):
        with contextlib.suppress(OSError):
            os.utime(path)


def _folders(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()]
    return []


PRUNE_PREFIX = ".prune-"  # of the folder in which a dry run prunes a copy


def leftovers(paths: Paths) -> list[Path]:
    """Return files and folders that somebody is writing, or has left; their age says which."""
    found = list(paths.data.glob(f"{PRUNE_PREFIX}*"))
    for folder in {paths.data, paths.database.parent, paths.run, paths.backups}:
        found += folder.glob(f".*{PARTIAL}")
    for folder in (paths.config, paths.agents_d, paths.agents, paths.baml_src):  # a person's own
        found += folder.glob(f".agentd-*{PARTIAL}")
    for word in ("repaired", "restored"):  # new databases that did not get their place
        found += paths.database.parent.glob(f"{paths.database.name}.{word}-*")
    found += paths.models.glob(".pull-*/")
    found += paths.versions.glob("*/.build-*")
    return found
