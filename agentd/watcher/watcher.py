"""The watcher's loop: what is there, against what each agent has been told.

A file is told of once for its content, in the transaction that notes it as seen. So a kill at any
moment loses nothing and tells nothing twice: the next look finds what is left. Notices of changes
only make looks come sooner.
"""

import select
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from agentd.bus import Bus, Opening
from agentd.bus.seen import SeenFile
from agentd.config.agent import AgentConfig
from agentd.config.delivery import is_day_file
from agentd.config.timetable import wanted
from agentd.errors import shown
from agentd.events import FILE, NewEvent
from agentd.logs.logger import Logger
from agentd.macos import privacy
from agentd.paths import Paths
from agentd.process.heart import Heart
from agentd.process.stop import Stop
from agentd.storage.database_files import open_bus
from agentd.storage.storage_retry import StorageRetry
from agentd.watcher.contents import fingerprint
from agentd.watcher.look import File, FoundFiles, look
from agentd.watcher.notices import Notices
from agentd.watcher.watch_policy import patterns

LOOK_S = 30.0  # between looks where nothing is noticed
UNNOTICED_S = 5.0  # the same where notices cannot be had, or a folder is not there
SOON_S = 1.0  # between looks while a file is being written, and at least between any two
STABLE_S = 2.0  # a file is whole once it has stayed the same for so long ...
OLD_S = 60.0  # ... or did not change since
PROMISE_S = 90.0  # for the next beat: a look at a slow disk, or a lock on the database
FORGET_EVERY = 500  # files told, between two times that old ones are forgotten
Identities = dict[Path, tuple[int, int]]  # device and inode
AGENTS_SHOWN, PROBLEM_CHARACTERS = 10, 200  # of problems, in a beat


class FileWatcher:
    """Looks for the files of some agents, by their names. `started`: when the daemon was.

    `folders`: which of theirs are there, as the sandbox has them. `days`: where results are
    written, in files that no agent is told of: it would read its own.
    """

    def __init__(
        self,
        agents: Mapping[str, AgentConfig],
        folders: Identities,
        paths: Paths,
        opening: Opening,
        started: datetime,
        heart: Heart,
        log: Logger,
        days: Path | None = None,
    ) -> None:
        self._days = days
        self._agents, self._folders, self._paths, self._opening = agents, folders, paths, opening
        self._started, self._heart, self._log = started, heart, log
        self._patterns = {name: patterns(config) for name, config in agents.items()}
        self._told: dict[str, dict[str, str]] = {}  # by agent and path, the stamp
        self._contents: dict[str, tuple[str, str]] = {}  # by path, a stamp and its fingerprint
        self._growing: dict[str, tuple[str, float]] = {}  # by path, a stamp and since when
        self._problems: dict[str, str] = {}  # by agent
        self._count = 0

    def run(self, stop: Stop) -> None:
        """Look until a stop.

        Raises:
            DamagedDatabase: only a repair helps. Anything else that the storage has is waited for.
            Stopped: while it waited for the storage.
        """
        retry = StorageRetry(self._heart, stop, self._log, PROMISE_S)
        bus = retry(lambda: open_bus(self._paths, self._opening))
        every = [pattern for found in self._patterns.values() for pattern in found]
        there = self._folders.keys()
        deep = {p.folder for p in every if p.deep} & there
        with closing(bus), closing(Notices({p.folder for p in every} & there - deep, deep)) as bell:
            for name in self._agents:
                seen = retry(partial(bus.seen.of, name))
                self._told[name] = {file.path: file.stamp for file in seen}
                self._contents.update({f.path: (f.stamp, f.fingerprint) for f in seen})
            while not stop.asked:
                wait_s = retry(lambda: self._round(bus, bell))
                self._wait(stop, bell, wait_s)

    def _wait(self, stop: Stop, bell: Notices, seconds: float) -> None:
        """Wait for a stop; after a moment for a notice as well; at most so long."""
        if not select.select([stop.fileno()], [], [], SOON_S)[0]:
            select.select([stop.fileno(), bell.fileno()], [], [], seconds - SOON_S)
        bell.drain()

    def _round(self, bus: Bus, bell: Notices) -> float:
        """Look once for all agents; return for how long to wait."""
        self._beat(bell)
        there: set[str] = set()
        growing: set[str] = set()
        for name in self._agents:
            found = look(self._patterns[name], lambda: self._beat(bell))
            told = self._told[name]
            for path in told.keys() - found.files.keys():
                del told[path]
            for file in found.files.values():
                if is_day_file(Path(file.path), self._days):
                    continue
                if told.get(file.path) != file.stamp and not self._tell(bus, name, file, found):
                    growing.add(file.path)
                self._beat(bell)
            there |= found.files.keys()
            self._note_problems(name, found)
        for known in (self._contents, self._growing):
            for path in known.keys() - (there if known is self._contents else growing):
                del known[path]
        self._beat(bell, last=True)
        if growing:
            return SOON_S
        wanted_folders = {one.folder for every in self._patterns.values() for one in every}
        missing = wanted_folders - self._folders.keys()
        return UNNOTICED_S if bell.failed or missing else LOOK_S

    def _tell(self, bus: Bus, name: str, file: File, found: FoundFiles) -> bool:
        """Note a file as seen, and tell the agent if it is new; False: it is not whole yet."""
        if file.partial or not self._is_whole(file):
            return False
        try:
            content = self._content(file)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                text = privacy.described(Path(file.path), error)
                found.problem(f"{shown(file.path)}: {text}")
            return True  # until it changes, or the next start
        if content is None:
            return False
        event = event_of(name, file, content) if self._is_new(bus, name, file) else None
        stored = SeenFile(content, shown(file.path), file.stamp)
        event_id = bus.seen.tell(name, stored, event)
        self._told[name][file.path] = file.stamp
        self._count += 1
        if event_id is not None:
            self._log.info("file.changed", agent=name, event_id=event_id, size=file.size)
        if self._count % FORGET_EVERY == 0:
            bus.seen.forget(name, [shown(path) for path in found.files])
        return True

    def _is_whole(self, file: File) -> bool:
        """Whether it has stayed the same for long enough."""
        now = time.monotonic()
        stamp, since = self._growing.get(file.path, ("", now))
        if stamp != file.stamp:
            since = now
        self._growing[file.path] = file.stamp, since
        return now - since >= STABLE_S or time.time() - file.came > OLD_S

    def _content(self, file: File) -> str | None:
        stamp, content = self._contents.get(file.path, ("", ""))
        if stamp == file.stamp:
            return content
        found = fingerprint(file, lambda: self._heart.beat(PROMISE_S, "reads"))
        if found is not None:
            self._contents[file.path] = file.stamp, found
        return found

    def _is_new(self, bus: Bus, name: str, file: File) -> bool:
        """Whether it came since the pattern was accepted, and not too long before the daemon."""
        trigger = f"watch {file.pattern.text}"
        last = bus.schedules.last_run(name, trigger)
        if last is None:  # removed by hand: it counts from now
            bus.schedules.begin(name, trigger, bus.clock.now())
        came = datetime.fromtimestamp(file.came, UTC)
        # The bus keeps milliseconds: in the one of the acceptance it was there before.
        came = came.replace(microsecond=came.microsecond // 1000 * 1000)
        if came <= (last.due if last is not None else bus.clock.now()):
            return False
        missed = self._agents[name].missed
        if came >= self._started or wanted(came, bus.clock.now(), missed):
            return True
        self._log.info("file.skipped", agent=name, size=file.size)
        return False

    def _note_problems(self, name: str, found: FoundFiles) -> None:
        text = "; ".join(found.problems)
        if text != self._problems.get(name, ""):
            self._log.warning("watch.problem", agent=name, what=text or "none any more")
        self._problems[name] = text

    def _beat(self, bell: Notices, *, last: bool = False) -> None:
        """Say that it goes on; what is wrong; and whether the sandbox has what is there."""
        problems = {
            name: text[:PROBLEM_CHARACTERS] for name, text in self._problems.items() if text
        }
        self._heart.beat(
            PROMISE_S,
            "idle" if last else "looks",
            problems=dict(list(problems.items())[:AGENTS_SHOWN]),
            notices=bell.failed or "work",
            stale=identities(self._agents.values()) != self._folders,
        )


def identities(configs: Iterable[AgentConfig]) -> Identities:
    """Return which of the watched folders are there, and which folders these are."""
    found = {}
    for folder in {pattern.folder for config in configs for pattern in patterns(config)}:
        try:
            status = folder.stat()
        except OSError:
            continue
        found[folder] = status.st_dev, status.st_ino
    return found


def event_of(agent: str, file: File, content: str) -> NewEvent:
    """Return the event that tells an agent of a file."""
    path = Path(file.path)
    payload = {
        "path": shown(file.path),
        "name": shown(path.name),
        "size": file.size,
        "fingerprint": content,
        "folder": shown(str(path.parent)),
    }
    return NewEvent(FILE, payload, target=agent)
