"""The watcher as the supervisor runs it: while an accepted agent watches something."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from agentd.clock import iso
from agentd.errors import ConfigError
from agentd.process.child import Child
from agentd.sandbox.enter import put_into
from agentd.states import WorkerState
from agentd.supervisor.children import Managed
from agentd.supervisor.host_parts import HostParts
from agentd.supervisor.restart import Life
from agentd.watcher.watch_policy import NAME, config_of, watch_policy

STOP_S = 1.0
PARKED_S = 60.0  # from a crash loop to one more try
STALE_S = 10.0  # between two starts because a watched folder came, went or was replaced


class WatcherHost:
    """Runs the watcher. In the event loop. `versions` gives the accepted agents and theirs."""

    def __init__(
        self, parts: HostParts, versions: Callable[[], Mapping[str, str]], life: Life
    ) -> None:
        self._parts, self._versions = parts, versions
        self._clock = parts.clock
        self._since = iso(self._clock.now())
        self._watching: dict[str, bool] = {}  # by version, whether it watches anything
        self._running: tuple[str, ...] = ()
        self._started = float("-inf")
        self._closed = False
        self.managed = Managed(
            NAME, self._spawn, life, parts.reaper, log=parts.log, clock=parts.clock
        )

    def document(self) -> dict[str, Any] | None:
        """Return what `status` says; None where nothing is watched."""
        if not self._running:
            return None
        document = self.managed.document()
        return {**document, "problem": self.managed.problem, "agents": self._names()}

    def poll(self) -> None:
        """Let it watch what is to be watched now."""
        if self._closed:
            return
        wanted = tuple(sorted(filter(self._watches, self._pairs())))
        life, age_s = self.managed.life, self._clock.monotonic() - self._started
        if not wanted:
            if self._running:
                self.managed.stop(WorkerState.STOPPED, "nothing is watched", grace_s=STOP_S)
        elif wanted != self._running:
            self._running = wanted
            life.forgive()
            self.managed.restart()
        elif self.managed.beat.get("stale") and age_s > STALE_S and not life.stopping:
            self.managed.restart()
        elif life.state is WorkerState.PARKED and age_s > PARKED_S:
            life.try_once()
            self.managed.start()
        self._running = wanted

    def reread(self) -> None:
        """Start it anew: where results are written has changed."""
        if self._running and not self._closed:
            self.managed.restart()

    async def stop(self) -> None:
        """Stop it for good, and return when it is gone."""
        self._closed = True
        self.managed.stop(WorkerState.STOPPED, "the supervisor stops", grace_s=STOP_S)
        await self.managed.gone()

    def _pairs(self) -> list[str]:
        pairs = [f"{name}/{version}" for name, version in self._versions().items()]
        self._watching = {pair: known for pair, known in self._watching.items() if pair in pairs}
        return pairs

    def _names(self) -> list[str]:
        return [version.partition("/")[0] for version in self._running]

    def _watches(self, version: str) -> bool:
        if version not in self._watching:
            try:
                self._watching[version] = bool(config_of(version, self._parts.paths).watch)
            except ConfigError:
                return False  # its worker says so, and it is built again
        return self._watching[version]

    def _spawn(self) -> Child:
        self._started = self._clock.monotonic()
        paths, required = self._parts.paths, self._parts.required
        paths.create_for(NAME)
        argv = self._parts.commands.watcher(required, self._since, self._running)
        if sys.platform == "darwin":
            argv = put_into(watch_policy(self._running, paths), argv)
        return self._parts.spawn(NAME, argv, control=False)
