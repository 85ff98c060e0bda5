"""The agents that should run, against those that do: files in agents.d, versions, workers."""

import asyncio
import random
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentd.admission.first_look import Look
from agentd.admission.version import prune
from agentd.clock import Clock
from agentd.config.agent_files import agent_names
from agentd.errors import StorageError
from agentd.logs.logger import Logger
from agentd.paths import Paths
from agentd.process import environment
from agentd.process.child import Child
from agentd.process.jobs import Jobs, in_thread
from agentd.states import WorkerState
from agentd.supervisor.argv import Commands
from agentd.supervisor.checks import Admissions, CheckResult, Problem, refused
from agentd.supervisor.children import Managed, Reaper
from agentd.supervisor.model import describe
from agentd.supervisor.records import Records
from agentd.supervisor.restart import Ended, Life, Rules
from agentd.supervisor.sift import Sifter

RETRY_S = 5.0  # until a check or a look that failed for a passing reason is made again
REBUILD_S = 60.0  # between two times that a version is built anew because it was found broken


@dataclass
class Slot:
    """One file of agents.d and what became of it."""

    name: str
    managed: Managed
    version: str = ""  # the accepted one, that runs or will; "" while there is none
    module: str = ""  # its `agent = ...`, as last read: which files concern it
    paused: bool = False
    recorded: bool = False  # whether the bus was asked if it is paused
    enabled: bool = True
    problem: Problem | None = None  # of the file as it is now; an earlier version may be running
    unchecked: bool = False  # the file changed since its check began
    rebuild_at: float = float("-inf")  # not before, on the monotonic clock
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)
    checking: "asyncio.Task[CheckResult] | None" = field(default=None, repr=False)


class Agents:
    """Holds one slot per file and makes processes follow."""

    def __init__(
        self,
        paths: Paths,
        commands: Commands,
        rules: Rules,
        records: Records,
        admissions: Admissions,
        reaper: Reaper,
        changed: Callable[[Managed, Ended | None], None],
        jobs: Jobs,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.slots: dict[str, Slot] = {}
        self.rules = rules
        self.problem: Problem | None = None  # of the folder itself
        self._paths, self._commands, self._records = paths, commands, records
        self._admissions, self._reaper, self._changed = admissions, reaper, changed
        self._log, self._clock, self._jobs = log, clock, jobs
        self._chance = random.Random()
        self._closing = False
        self._scan_again: asyncio.TimerHandle | None = None
        self._leaving: dict[str, tuple[Slot, asyncio.Task[None]]] = {}  # removals under way
        self._sifter = Sifter(self._look, self._known, self._admit, jobs, log=log, clock=clock)

    def scan(self) -> None:
        """Bring slots in line with the files that are there; look at the new ones."""
        if self._scan_again is not None:
            self._scan_again.cancel()
            self._scan_again = None
        present = self._present()
        if present is None:
            self._scan_again = asyncio.get_running_loop().call_later(RETRY_S, self.scan)
            return
        for name in self.slots.keys() - present:
            self._remove(self.slots.pop(name))
        self._sifter.drop(self._sifter.names - present)
        self._sifter.add(sorted(present - self.slots.keys() - self._sifter.names))

    def _present(self) -> set[str] | None:
        """Return the agents that have a file; None where that cannot be told now."""
        folder = self._paths.agents_d
        try:
            names = agent_names(folder)
        except (FileNotFoundError, NotADirectoryError):
            names = []  # somebody moved it away
        except OSError as error:  # no descriptor left, no permission, a failing disk
            problem = {
                "what": f"cannot be read: {error.strerror}",
                "where": str(folder),
                "hint": "until it can, the agents go on as they are",
            }
            if problem != self.problem:
                self._log.error("agents.unreadable", **problem)
            self.problem = problem
            return None
        self.problem = None
        return set(names)

    async def forget(self) -> None:
        """Note that agents are gone whose files were removed while no supervisor ran."""
        while (present := self._present()) is None:
            await asyncio.sleep(RETRY_S)  # ends by cancellation
        try:
            for name in (await self._records.agents()).keys() - present:
                await self._records.remove(name)
                self._log.info("agent.removed", agent=name)
        except StorageError as error:
            self._log.error("agent.not_recorded", what=error.what)

    def files_changed(self, files: Iterable[Path]) -> None:
        """Check again the agents that these files concern."""
        self.scan()
        concerned: set[str] = set()
        for path in files:
            if path.suffix == ".toml":
                concerned.add(path.stem)
                continue
            own = {name for name, slot in self.slots.items() if slot.module == path.stem}
            # A file that is no agent's own is shared, or a helper: it may concern everyone. The
            # version's hash decides who is restarted.
            concerned |= own or self.slots.keys()
            concerned |= self._sifter.about(path.stem)
        for name in concerned & self.slots.keys():
            self._check_soon(self.slots[name])
        self._sifter.add(sorted(concerned & self._sifter.names))

    def set_rules(self, rules: Rules) -> None:
        """Apply changed restart rules, from the next crash or stop on."""
        self.rules = rules
        for slot in self.slots.values():
            slot.managed.life.rules = rules

    def reload(self, name: str | None = None) -> None:
        """Check every agent again, or one, and start again what was given up."""
        self.scan()
        for slot in self.slots.values():
            if name not in (None, slot.name):
                continue
            if slot.managed.life.state is WorkerState.PARKED:
                self._restart(slot)
            self._check_soon(slot)
        wanted = self._sifter.names
        self._sifter.add(sorted(wanted if name is None else wanted & {name}))

    def configured(self, *, everyone: bool) -> None:
        """Start again what was given up: agentd.toml may have been why. `everyone`: all workers.

        They read it when they start, and one that found it wrong then was parked.
        """
        for slot in self.slots.values():
            life = slot.managed.life
            if life.state is WorkerState.PARKED or (everyone and life.kept):
                self._restart(slot)

    async def pause(self, name: str) -> None:
        """Stop an agent until `resume`, also beyond a restart of the supervisor.

        Raises:
            StorageError: it is paused, but the pause could not be written down.
        """
        if slot := self.slots.get(name):
            slot.paused = True
            slot.managed.stop(WorkerState.PAUSED, "paused by a person")
            await self._records.set_paused(name, True)

    async def resume(self, name: str) -> None:
        """Start a paused or parked agent again.

        Raises:
            StorageError: it goes on, but that could not be written down.
        """
        if slot := self.slots.get(name):
            slot.paused = False
            if slot.managed.life.state in (WorkerState.PAUSED, WorkerState.PARKED):
                self._restart(slot)
            elif slot.managed.life.stopping:
                slot.managed.restart()
            await self._records.set_paused(name, False)
            await self._records.forgive(name)

    def restart(self, name: str) -> None:
        """Stop an agent in order and start it again."""
        slot = self.slots.get(name)
        if slot is not None and not slot.paused:
            self._restart(slot)

    async def stop(self, grace_s: float) -> None:
        """Stop all workers at once, and return when they are gone."""
        self._closing = True
        if self._scan_again is not None:
            self._scan_again.cancel()
        await self._sifter.close()
        for slot in self.slots.values():
            if slot.task is not None:
                slot.task.cancel()
            slot.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=grace_s)
        await asyncio.gather(*(slot.managed.gone() for slot in self.slots.values()))
        tasks = [slot.task for slot in self.slots.values() if slot.task is not None]
        tasks += [task for _, task in self._leaving.values()]
        await asyncio.gather(*tasks, return_exceptions=True)

    def kill(self) -> None:
        """Kill all workers' groups at once."""
        for slot in (*self.slots.values(), *(slot for slot, _ in self._leaving.values())):
            slot.managed.kill()

    def document(self) -> list[dict[str, Any]]:
        """Return every agent's state for `status`, by name."""
        slots = [
            {
                "name": slot.name,
                **describe(slot.managed),
                "version": slot.version,
                "module": slot.module,
                "enabled": slot.enabled,
                "paused": slot.paused,
                "checking": slot.task is not None,
                "problem": slot.problem or slot.managed.problem,
            }
            for slot in self.slots.values()
        ]
        return sorted([*slots, *self._sifter.document()], key=lambda agent: str(agent["name"]))

    @property
    def unshown(self) -> int:
        """How many refused files `document` leaves out."""
        return self._sifter.unshown

    def _look(self, name: str) -> Look:
        return self._commands.look(name, self._paths)

    async def _known(self) -> Set[str]:
        return (await self._records.agents()).keys()

    def _admit(self, name: str) -> None:
        self.slots[name] = self._new(name)
        self._check_soon(self.slots[name])

    def _new(self, name: str) -> Slot:
        def spawn() -> Child:
            crash = slot.managed.crash
            return Child.spawn(
                name,
                self._commands.worker(name, slot.version),
                self._paths.locks,
                env=environment.for_child() | (crash.environment() if crash else {}),
                cwd=self._paths.data,
                clock=self._clock,
            )

        def changed(managed: Managed, ended: Ended | None) -> None:
            self._changed(managed, ended)
            if ended is Ended.PARKED and managed.broken:
                self._rebuild(slot)

        life = Life(self.rules, self._clock, self._chance)
        managed = Managed(
            name, spawn, life, self._reaper, changed, log=self._log, clock=self._clock
        )
        slot = Slot(name, managed)
        return slot

    def _restart(self, slot: Slot) -> None:
        if not slot.version:
            return  # nothing to run; its next check decides
        slot.managed.life.forgive()
        slot.managed.restart()

    def _rebuild(self, slot: Slot) -> None:
        """Have a version built again that somebody removed or changed: its next check does that."""
        if slot.problem is not None:
            return  # its file is wrong by now: nothing can be built of it
        now = self._clock.monotonic()
        wait_s = max(0.0, slot.rebuild_at - now)
        slot.rebuild_at = now + wait_s + REBUILD_S
        asyncio.get_running_loop().call_later(wait_s, self._check_later, slot)

    # --- checking

    def _check_soon(self, slot: Slot) -> None:
        slot.unchecked = True
        if slot.checking is not None:
            slot.checking.cancel()  # of a file that is another by now; it may even hang
        if slot.task is None and not self._closing:
            slot.task = self._jobs.start(self._check(slot), f"check {slot.name}")

    async def _check(self, slot: Slot) -> None:
        try:
            while slot.unchecked:
                slot.unchecked = False
                again = not await self._check_once(slot)
                if again and not slot.unchecked:
                    asyncio.get_running_loop().call_later(RETRY_S, self._check_later, slot)
        finally:
            slot.task = None

    def _check_later(self, slot: Slot) -> None:
        if self.slots.get(slot.name) is slot:
            self._check_soon(slot)

    async def _check_once(self, slot: Slot) -> bool:
        """Check the file and act on it. False: it must be checked again later."""
        seen = await in_thread(self._look, slot.name)
        slot.module = seen.module or slot.module
        if leaving := self._leaving.get(slot.name):
            await asyncio.shield(leaving[1])  # a file that came back: its last worker goes first
        if (error := seen.problem) is not None:
            verdict = refused(error.what, error.where, error.hint, waiting=seen.waiting)
        else:
            checking = self._admissions.check(slot.name, first=bool(slot.version))
            slot.checking = asyncio.create_task(checking)
            try:
                verdict = await slot.checking
            except asyncio.CancelledError:
                if not slot.unchecked or self._closing or self.slots.get(slot.name) is not slot:
                    raise
                return True  # overtaken, see `_check_soon`
            finally:
                slot.checking = None
        if slot.unchecked or self.slots.get(slot.name) is not slot:
            return True  # overtaken by another change, which is checked next
        try:
            if verdict.ok:
                await self._accept(slot, verdict)
            elif seen.enabled:
                await self._refuse(slot, verdict)
            else:
                slot.problem = verdict.problem  # worth showing; but nobody wants it to run
                await self._disable(slot)
        except StorageError as error:
            slot.problem = error.document()
            self._log.error("agent.not_recorded", agent=slot.name, **slot.problem)
            return False
        return not verdict.again

    async def _accept(self, slot: Slot, verdict: CheckResult) -> None:
        if slot.problem is not None:
            self._log.info("agent.repaired", agent=slot.name)
        slot.problem, slot.enabled = None, True
        if not verdict.enabled:
            await self._disable(slot)
            return
        stored = await self._records.accept(
            slot.name,
            verdict.version,
            subscribe=verdict.subscribe,
            start=verdict.start,
            schedule=verdict.schedule,
        )
        # Afterwards a person's word given meanwhile counts for more than what was stored.
        slot.paused, slot.recorded = slot.paused or (stored and not slot.recorded), True
        if slot.paused is not stored:
            await self._records.set_paused(slot.name, slot.paused)
        same, before = slot.version == verdict.version, slot.version
        slot.version = verdict.version
        if slot.paused:
            slot.managed.stop(WorkerState.PAUSED, "paused by a person")
        elif not same or not slot.managed.life.kept or slot.managed.broken:
            self._log.info("agent.accepted", agent=slot.name, version=verdict.version)
            slot.managed.life.forgive()
            slot.managed.restart()
        in_use = {before, slot.version}  # the old worker may still have to read its version
        await in_thread(prune, self._paths.versions / slot.name, in_use)

    async def _disable(self, slot: Slot) -> None:
        slot.enabled, slot.version = False, ""
        slot.managed.stop(WorkerState.STOPPED, "enabled = false in its file")
        # To the bus it is not there: its cursors must not hold back pruning for ever.
        await self._records.remove(slot.name)

    async def _refuse(self, slot: Slot, verdict: CheckResult) -> None:
        if slot.problem != verdict.problem:
            problem = verdict.problem or {}
            self._log.warning("agent.refused", agent=slot.name, waiting=verdict.waiting, **problem)
        slot.problem, slot.enabled = verdict.problem, True
        if not slot.version:
            # A supervisor that comes back finds the last good version in the bus.
            row = (await self._records.agents()).get(slot.name)
            if row is not None and (self._paths.versions / slot.name / row.version).is_dir():
                slot.version, slot.paused = row.version, row.paused
        if not slot.version:
            state = WorkerState.WAITING if verdict.waiting else WorkerState.INVALID
            slot.managed.stop(state, (verdict.problem or {}).get("what", ""))
        elif slot.paused:
            slot.managed.stop(WorkerState.PAUSED, "paused by a person")
        elif not slot.managed.life.kept:
            self._restart(slot)

    # --- removing

    def _remove(self, slot: Slot) -> None:
        _, before = self._leaving.get(slot.name, (None, None))
        task = self._jobs.start(self._leave(slot, before), f"remove {slot.name}")
        self._leaving[slot.name] = slot, task

    async def _leave(self, slot: Slot, before: "asyncio.Task[None] | None") -> None:
        if before is not None:
            await before
        if slot.task is not None:
            slot.task.cancel()
        slot.managed.stop(WorkerState.STOPPED, "its file was removed")
        await slot.managed.gone()
        try:
            await self._records.remove(slot.name)
        except StorageError as error:
            self._log.error("agent.not_recorded", agent=slot.name, what=error.what)
        self._log.info("agent.removed", agent=slot.name)
        if self._leaving[slot.name][0] is slot:
            del self._leaving[slot.name]
