"""The agents that should run, against those that do: a slot for each file of agents.d."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentd.config.agent_files import TOML, agent_names
from agentd.errors import Problem, StorageError
from agentd.states import WorkerState
from agentd.supervisor.restart import Rules
from agentd.supervisor.slot import RETRY_S, Shared, Slot

SHOWN = 200  # agents without a version that `status` shows; of the others the refused are counted


class Agents:
    """Holds one slot per file, and passes on what concerns them."""

    def __init__(self, shared: Shared, rules: Rules) -> None:
        self.slots: dict[str, Slot] = {}
        self.problem: Problem | None = None  # of the folder itself
        self._shared, self._rules = shared, rules
        self._scan_again: asyncio.TimerHandle | None = None
        self._leaving: dict[Slot, asyncio.Task[None]] = {}  # removals under way

    def scan(self) -> None:
        """Bring slots in line with the files that are there; check the new ones."""
        if self._scan_again is not None:
            self._scan_again.cancel()
            self._scan_again = None
        present = self._present()
        if present is None:
            self._scan_again = asyncio.get_running_loop().call_later(RETRY_S, self.scan)
            return
        for name in self.slots.keys() - present:
            slot = self.slots.pop(name)
            self._leaving[slot] = self._shared.jobs.start(self._leave(slot), f"remove {name}")
        leaving = {slot.name: task for slot, task in self._leaving.items()}  # the latest of a name
        for name in sorted(present - self.slots.keys()):
            self.slots[name] = Slot(name, self._shared, self._rules, leaving.get(name))
            self.slots[name].check()

    def _present(self) -> set[str] | None:
        """Return the agents that have a file; None where that cannot be told now."""
        folder = self._shared.paths.agents_d
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
                self._shared.log.error("agents.unreadable", **problem)
            self.problem = problem
            return None
        self.problem = None
        return set(names)

    async def _leave(self, slot: Slot) -> None:
        await slot.remove()
        del self._leaving[slot]

    async def forget_vanished(self) -> None:
        """Note that agents are gone whose files were removed while no supervisor ran."""
        records, log = self._shared.records, self._shared.log
        while (present := self._present()) is None:
            await asyncio.sleep(RETRY_S)  # ends by cancellation
        try:
            for name in (await records.agents()).keys() - present:
                await records.remove(name)
                log.info("agent.removed", agent=name)
        except StorageError as error:
            log.error("agent.not_recorded", what=error.what)

    def files_changed(self, files: Iterable[Path]) -> None:
        """Check again the agents that these files concern."""
        before = set(self.slots)
        self.scan()
        concerned: set[str] = set()
        for path in files:
            if path.suffix == TOML:
                concerned.add(path.stem)
                continue
            own = {name for name, slot in self.slots.items() if slot.module == path.stem}
            # A file that is no agent's own is shared, or a helper: it may concern everyone. The
            # version's hash decides who is restarted.
            concerned |= own or self.slots.keys()
            # What is being checked may name another module by now.
            concerned |= {name for name, slot in self.slots.items() if slot.checking}
        for name in concerned & before & self.slots.keys():  # the scan began with the new ones
            self.slots[name].check()

    def set_rules(self, rules: Rules) -> None:
        """Apply changed restart rules, from the next crash or stop on."""
        self._rules = rules
        for slot in self.slots.values():
            slot.managed.life.rules = rules

    def reload(self, name: str | None = None) -> None:
        """Check every agent again, or one, and start again what was given up."""
        self.scan()
        for slot in self.slots.values():
            if name in (None, slot.name):
                if slot.managed.life.state is WorkerState.PARKED:
                    slot.restart()
                slot.check()

    def check_users_of(self, server: str) -> None:
        """Check again the agents that name tools of an MCP server."""
        for slot in self.slots.values():
            if server in slot.mcp:
                slot.check()

    def restart_after_config(self, *, everyone: bool) -> None:
        """Start again what was given up: agentd.toml may have been why. `everyone`: all workers.

        They read it when they start, and one that found it wrong then was parked.
        """
        for slot in self.slots.values():
            life = slot.managed.life
            if life.state is WorkerState.PARKED or (everyone and life.wanted):
                slot.restart()

    async def stop(self, grace_s: float) -> None:
        """Stop all workers at once, and return when they are gone."""
        if self._scan_again is not None:
            self._scan_again.cancel()
        for slot in self.slots.values():
            slot.close()
            slot.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=grace_s)
        gone = (slot.gone() for slot in self.slots.values())
        await asyncio.gather(*gone, *self._leaving.values(), return_exceptions=True)

    def kill(self) -> None:
        """Kill all workers' groups at once."""
        for slot in (*self.slots.values(), *self._leaving):
            slot.managed.kill()

    def versions(self) -> dict[str, str]:
        """Return the version of each agent that runs, or would if it were not paused or parked."""
        return {name: slot.version for name, slot in self.slots.items() if slot.version}

    def folders(self) -> list[str]:
        """Return what enabled agents may touch, as their files have it. From any thread."""
        return [folder for slot in list(self.slots.values()) for folder in slot.folders]

    def document(self) -> tuple[list[dict[str, Any]], int]:
        """Return the agents' states for `status`, by name, and how many refused are left out."""
        slots = [slot for slot in self.slots.values() if slot.version]
        fresh = [slot for slot in self.slots.values() if not slot.version]
        fresh.sort(key=lambda slot: (slot.problem is not None, slot.name))
        states = [slot.document() for slot in (*slots, *fresh[:SHOWN])]
        unshown = sum(slot.problem is not None for slot in fresh[SHOWN:])
        return sorted(states, key=lambda agent: str(agent["name"])), unshown
