"""One agent: its file checked, its worker made to follow."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentd.admission.old_versions import prune_versions
from agentd.bus.dead import short_error
from agentd.clock import Clock
from agentd.errors import DamagedDatabase, Problem, StorageError, shown
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process.child import Child
from agentd.process.jobs import Jobs, in_thread
from agentd.states import WorkerState
from agentd.supervisor.checks import CheckResult, Checks
from agentd.supervisor.children import Managed, Reaper
from agentd.supervisor.records import Records
from agentd.supervisor.requests import Asker, Hearing, Requests
from agentd.supervisor.restart import Ended, Life, Rules
from agentd.supervisor.worker_forks import WorkerForks

RETRY_S = 5.0  # until a check that failed for a passing reason is made again; doubled each time
RETRY_MAX_S = 120.0
REBUILD_S = 60.0  # between two times that a version is built anew because it was found broken


@dataclass(frozen=True)
class Shared:
    """What the slots of one supervisor work with. `checked` is called after each check."""

    paths: Paths
    workers: WorkerForks
    records: Records
    checks: Checks
    reaper: Reaper
    jobs: Jobs
    requests: Requests
    checked: Callable[[], None]
    log: Logger
    clock: Clock
    chance: random.Random


class Slot:
    """One file of agents.d and what became of it.

    `after`: the removal of an earlier file of this name; its last worker goes first.
    """

    def __init__(
        self, name: str, shared: Shared, rules: Rules, after: "asyncio.Task[None] | None"
    ) -> None:
        self.name = name
        self.version = ""  # the accepted one, that runs or will; "" while there is none
        self.module = ""  # its `agent = ...`, as last read: which files concern it
        self.folders: tuple[str, ...] = ()  # that it may touch, as its file has them
        self.mcp: tuple[str, ...] = ()  # MCP servers whose tools it names
        self.wakes: Mapping[str, Any] = {}  # what wakes the accepted version
        self.enabled = True
        self.problem: Problem | None = None  # of the file as it is; an older version may be running
        self.managed = Managed(
            name,
            self._spawn,
            Life(rules, shared.clock, shared.chance),
            shared.reaper,
            self._on_change,
            hear=self._hear,
            log=shared.log,
            clock=shared.clock,
        )
        self._shared, self._after = shared, after
        self._paused = False
        self._recorded = False  # whether the bus was asked if it is paused
        self._unchecked = False  # the file changed since its check began
        self._failed_checks = 0  # in a row, for reasons that pass
        self._rebuild_at = float("-inf")  # not before, on the monotonic clock
        self._closed = False  # nothing is checked any more: it is removed, or the supervisor stops
        self._task: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[CheckResult] | None = None

    @property
    def checking(self) -> bool:
        """Whether its file is being checked, or waits for that."""
        return self._task is not None

    def document(self) -> dict[str, Any]:
        """Return the agent's state for `status`."""
        return {
            "name": shown(self.name),
            **self.managed.document(),
            "version": self.version,
            "module": self.module,
            "enabled": self.enabled,
            "paused": self._paused,
            "checking": self.checking,
            "problem": self.problem or self.managed.problem,
            "triggers": self.wakes,
        }

    def check(self) -> None:
        """Check the file soon, and act on what is found."""
        if self._closed:
            return
        self._unchecked = True
        if self._checking is not None:
            self._checking.cancel()  # of a file that is another by now; it may even hang
        if self._task is None:
            self._task = self._shared.jobs.start(self._check(), f"check {self.name}")

    async def pause(self) -> None:
        """Stop the worker until `resume`, also beyond a restart of the supervisor.

        One that has nothing to run keeps its state, and the reason; it rests once it has.

        Raises:
            StorageError: it is paused, but the pause could not be written down.
        """
        self._paused = True
        if self.version:
            self._rest_paused()
        await self._shared.records.set_paused(self.name, True)

    async def resume(self) -> None:
        """Start a paused or parked worker again.

        Raises:
            StorageError: it goes on, but that could not be written down.
        """
        self._paused = False
        if self.managed.life.state in (WorkerState.PAUSED, WorkerState.PARKED):
            self.restart()
        elif self.managed.life.stopping:
            self.managed.restart()
        await self._shared.records.set_paused(self.name, False)
        await self._shared.records.forgive(self.name)

    def restart(self) -> None:
        """Start the worker anew, if there is something to run and nobody paused it."""
        if self.version and not self._paused:
            self.managed.life.forgive()
            self.managed.restart()

    def close(self) -> None:
        """Check nothing any more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def remove(self) -> None:
        """Stop the worker for good: its file is gone. Returns when all is done."""
        self.close()
        if self._after is not None:
            await self._after
        self.managed.stop(WorkerState.STOPPED, "its file was removed")
        await self.gone()
        try:
            await self._shared.records.remove(self.name)
        except StorageError as error:
            self._shared.log.error("agent.not_recorded", agent=self.name, what=error.what)
        self._shared.log.info("agent.removed", agent=self.name)

    async def gone(self) -> None:
        """Return when neither a process nor a check is left."""
        await self.managed.gone()
        if self._task is not None:
            await asyncio.wait({self._task})

    # --- checking

    def _rebuild(self) -> None:
        """Have a version built again that somebody removed or changed: its next check does that."""
        if self.problem is not None:
            return  # its file is wrong by now: nothing can be built of it
        now = self._shared.clock.monotonic()
        wait_s = max(0.0, self._rebuild_at - now)
        self._rebuild_at = now + wait_s + REBUILD_S
        asyncio.get_running_loop().call_later(wait_s, self.check)

    async def _check(self) -> None:
        try:
            while self._unchecked:
                self._unchecked = False
                again = not await self._check_once()
                self._failed_checks = self._failed_checks + 1 if again else 0
                if again and not self._unchecked:
                    wait_s = min(RETRY_MAX_S, RETRY_S * 2 ** (self._failed_checks - 1))
                    asyncio.get_running_loop().call_later(wait_s, self.check)
        finally:
            self._task = None
            self._shared.checked()

    async def _check_once(self) -> bool:
        """Check the file and act on it. False: it must be checked again later."""
        if self._after is not None:
            await asyncio.shield(self._after)
        checking = self._shared.checks.check(self.name, first=bool(self.version))
        self._checking = asyncio.create_task(checking)
        try:
            found = await self._checking
        except asyncio.CancelledError:
            if self._closed or not self._unchecked:
                raise
            return True  # overtaken by another change, which is checked next
        finally:
            self._checking = None
        if self._unchecked:
            return True
        self.module, self.folders = found.module or self.module, found.folders
        try:
            if found.ok:
                await self._accept(found)
            elif found.enabled:
                await self._refuse(found)
            else:
                self.problem = found.problem  # worth showing; but nobody wants it to run
                await self._disable()
        except StorageError as error:
            self.problem = error.document()
            self._shared.log.error("agent.not_recorded", agent=self.name, **self.problem)
            return False
        return not found.again

    async def _accept(self, found: CheckResult) -> None:
        if self.problem is not None:
            self._shared.log.info("agent.repaired", agent=self.name)
        self.problem, self.enabled = None, True
        if not found.enabled:
            await self._disable()
            return
        stored = await self._shared.records.accept(
            self.name,
            found.version,
            subscribe=found.subscribe,
            start=found.start,
            **found.triggers,
        )
        # Afterwards a person's word given meanwhile counts for more than what was stored.
        self._paused, self._recorded = self._paused or (stored and not self._recorded), True
        if self._paused is not stored:
            await self._shared.records.set_paused(self.name, self._paused)
        before, self.version, self.mcp = self.version, found.version, found.mcp
        self.wakes = found.wakes
        if self._paused:
            self._rest_paused()
        elif before != self.version or not self.managed.life.wanted or self.managed.broken:
            self._shared.log.info("agent.accepted", agent=self.name, version=self.version)
            self.restart()
        in_use = {before, self.version}  # the old worker may still have to read its version
        await in_thread(prune_versions, self._shared.paths.versions / self.name, in_use)

    async def _disable(self) -> None:
        self.enabled, self.version = False, ""
        self.managed.stop(WorkerState.STOPPED, "enabled = false in its file")
        # To the bus it is not there: its cursors must not hold back pruning for ever.
        await self._shared.records.remove(self.name)

    async def _refuse(self, found: CheckResult) -> None:
        problem = found.problem or {}
        if self.problem != problem:
            self._shared.log.warning(
                "agent.refused", agent=shown(self.name), waiting=found.waiting, **problem
            )
        self.problem, self.enabled = problem, True
        if found.changed:
            self.version = ""  # what was accepted is no more what its tools do
        elif not self.version:
            await self._take_up_recorded()
        if not self.version:
            state = WorkerState.WAITING if found.waiting else WorkerState.INVALID
            if state is WorkerState.INVALID and self.managed.life.state is not state:
                self._announce("agent.refused", reason=short_error(problem.get("what", "")))
            self.managed.stop(state, problem.get("what", ""))
        elif self._paused:
            self._rest_paused()
        elif not self.managed.life.wanted:
            self.restart()

    async def _take_up_recorded(self) -> None:
        """Take up what the bus knows of an earlier supervisor's run: the last good version."""
        row = (await self._shared.records.agents()).get(self.name)
        if row is not None and (self._shared.paths.versions / self.name / row.version).is_dir():
            self.version, self._paused = row.version, row.paused

    # --- the worker

    def _on_change(self, ended: Ended | None) -> None:
        """Its state changed: say on the bus that it runs, or that it ended unasked.

        Crashed, killed or given up.
        """
        managed, reason = self.managed, short_error(self.managed.life.reason)
        if ended is None and managed.life.state is WorkerState.RUNNING:
            self._announce("agent.started", version=self.version, pid=managed.pid)
        if ended in (Ended.CRASHED, Ended.PARKED):
            code = managed.code
            self._announce(
                "agent.crashed",
                exit=code if code is not None and code >= 0 else None,
                signal=-code if code is not None and code < 0 else None,
                restarts=managed.life.restarts,
                reason=reason,
            )
        if ended is Ended.PARKED:
            self._announce("agent.parked", reason=reason)
            if managed.damaged and managed.problem:
                self._shared.jobs.report(DamagedDatabase(**managed.problem))
            if managed.broken:
                self._rebuild()

    def _announce(self, event_type: str, **payload: Any) -> None:
        self._shared.records.announce(event_type, {"agent": self.name, **payload})

    def _rest_paused(self) -> None:
        self.managed.stop(WorkerState.PAUSED, "paused by a person")

    def _spawn(self) -> Child:
        crash, shared = self.managed.crash, self._shared
        shared.paths.create_for(self.name)
        return shared.workers.worker(self.name, self.version, crash.environment() if crash else {})

    def _hear(self, worker: Child) -> Hearing:
        assert worker.control is not None
        asker = Asker(self.name, self.version, worker.pid)
        return self._shared.requests.hear(worker.control, asker)
