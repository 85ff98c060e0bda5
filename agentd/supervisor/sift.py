"""Sorts new files before an agent is made of one: thousands of wrong ones cost next to nothing.

A refused file is a line in a table: no process, no timer. Looking goes on in a thread, a few files
at a time, so that children are watched meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from agentd.admission.first_look import Look
from agentd.clock import Clock, iso
from agentd.errors import StorageError, shown
from agentd.logs.logger import Logger
from agentd.process.jobs import Jobs, in_thread
from agentd.states import WorkerState

AT_ONCE = 20  # files looked at between two breaths
LOGGED = 20  # refusals of one round that are logged one by one
RETRY_S = 5.0  # until the database is asked again, which could not be read
SHOWN = 200  # refused files that `status` shows; the others are counted


@dataclass(frozen=True)
class RefusedFile:
    """A file that no agent can be made of."""

    state: WorkerState
    problem: dict[str, str]
    enabled: bool
    since: str
    module: str

    def document(self, name: str) -> dict[str, Any]:
        """Return what `status` says of it: the keys of any agent."""
        reason = self.problem["what"] if self.enabled else "enabled = false in its file"
        return {
            "name": shown(name),
            "state": self.state.value,
            "stopping": False,
            "pid": None,
            "since": self.since,
            "restarts": 0,
            "crashes": 0,
            "reason": reason,
            "beat": {},
            "version": "",
            "module": self.module,
            "enabled": self.enabled,
            "paused": False,
            "checking": False,
            "problem": self.problem,
        }


class Sifter:
    """Looks at files that no agent is made of yet; `admit` is called with those that may be one.

    `known` returns the agents that were accepted once: they get their slot in any case, and with it
    their last good version.
    """

    def __init__(
        self,
        look: Callable[[str], Look],
        known: Callable[[], Awaitable[Set[str]]],
        admit: Callable[[str], None],
        jobs: Jobs,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.refused: dict[str, RefusedFile] = {}
        self._look, self._known, self._admit, self._jobs = look, known, admit, jobs
        self._log, self._clock = log, clock
        self._waiting: dict[str, None] = {}  # in the order in which they came
        self._looking: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def names(self) -> set[str]:
        """The files that it has: refused ones, and those to be looked at."""
        return self.refused.keys() | self._waiting.keys() | self._looking

    @property
    def busy(self) -> bool:
        """Whether files wait to be looked at."""
        return self._task is not None

    def about(self, module: str) -> set[str]:
        """Return the refused files that name this module."""
        return {name for name, refused in self.refused.items() if refused.module == module}

    def add(self, names: Iterable[str]) -> None:
        """Look at these files soon, perhaps again."""
        self._waiting.update(dict.fromkeys(names))
        if self._waiting and self._task is None:
            self._task = self._jobs.start(self._sift(), "sift")

    def drop(self, names: Iterable[str]) -> None:
        """Forget files that are gone."""
        for name in names:
            self.refused.pop(name, None)
            self._waiting.pop(name, None)
            self._looking.discard(name)

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def document(self) -> list[dict[str, Any]]:
        """Return the first of the refused files, by name."""
        return [self.refused[name].document(name) for name in sorted(self.refused)[:SHOWN]]

    @property
    def unshown(self) -> int:
        """How many refused files `document` leaves out."""
        return max(0, len(self.refused) - SHOWN)

    async def _sift(self) -> None:
        refusals = 0
        try:
            while self._waiting:
                names = list(self._waiting)[:AT_ONCE]
                for name in names:
                    del self._waiting[name]
                self._looking = set(names)
                looks = await in_thread(self._look_at, names)
                try:
                    wrong = any(seen.problem is not None for seen in looks)
                    known = await self._known() if wrong else set()
                except StorageError:
                    self._waiting.update(dict.fromkeys(self._looking))
                    await asyncio.sleep(RETRY_S)  # ends by cancellation
                    continue
                for name, seen in zip(names, looks, strict=True):
                    if name not in self._looking or name in self._waiting:
                        continue  # gone, or changed meanwhile
                    if seen.problem is None or name in known:
                        self.refused.pop(name, None)
                        self._admit(name)
                    else:
                        refusals += self._refuse(name, seen, quiet=refusals >= LOGGED)
                self._looking = set()
        finally:
            self._task = None
        if refusals > LOGGED:
            self._log.warning("agents.refused", count=refusals, logged=LOGGED)

    def _look_at(self, names: Sequence[str]) -> list[Look]:
        return [self._look(name) for name in names]

    def _refuse(self, name: str, seen: Look, *, quiet: bool) -> bool:
        assert seen.problem is not None
        error = seen.problem
        problem = error.document()
        before = self.refused.get(name)
        if before is not None and before.problem == problem:
            return False
        resting = WorkerState.WAITING if seen.waiting else WorkerState.INVALID
        state = resting if seen.enabled else WorkerState.STOPPED
        since = iso(self._clock.now())
        self.refused[name] = RefusedFile(state, problem, seen.enabled, since, seen.module)
        if not quiet:
            self._log.warning("agent.refused", agent=shown(name), waiting=seen.waiting, **problem)
        return True
