"""The doorbell: who is woken after a commit."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from agentd.bus.agent_rows import AgentRow, AgentRows
from agentd.bus.database import Watcher
from agentd.bus.wake import Bell, Ear
from agentd.clock import Clock
from agentd.errors import StorageError
from agentd.events import matches

SUBSCRIPTIONS_S = 1.0  # how long the table of agents is trusted when choosing whom to wake


class Doorbell(Watcher):
    """Wakes readers, once their event is committed. `folder` holds the readers' sockets.

    Without a folder nobody is woken.
    """

    def __init__(self, agents: AgentRows, clock: Clock, folder: Path | None) -> None:
        self.db = agents.db
        self._agents = agents
        self._clock = clock
        self._folder = folder
        self._bell = Bell(folder) if folder is not None else None
        self._names: set[str] = set()  # of whom to wake after this transaction
        self._readers: Mapping[str, AgentRow] = {}
        self._readers_until = float("-inf")
        self.db.watch(self)

    def ear(self, name: str) -> Ear:
        """Return a new socket on which the reader `name` is woken.

        Raises:
            StorageError: it cannot be made.
        """
        if self._folder is None:
            raise StorageError("this bus was opened without a folder for wake-up sockets")
        return Ear(self._folder, name)

    def written(self, producer: str, event_type: str, target: str | None) -> None:
        """Wake those whom a new event concerns, now or when its transaction is committed."""
        if self._bell is not None:
            self.wake(*([target] if target is not None else self._interested(producer, event_type)))

    def wake(self, *names: str) -> None:
        """Wake these readers, now or when the transaction is committed."""
        self._names.update(names)
        if not self.db.in_transaction:
            self.committed()

    def look_again(self) -> None:
        """Read anew who subscribes to what, when that is next asked."""
        self._readers_until = float("-inf")

    def _interested(self, producer: str, event_type: str) -> Iterator[str]:
        now = self._clock.monotonic()
        if now >= self._readers_until:
            self._readers = self._agents.present()
            self._readers_until = now + SUBSCRIPTIONS_S
        for name, row in self._readers.items():
            if name != producer and any(matches(event_type, item) for item in row.subscribe):
                yield name

    def committed(self) -> None:
        """Ring."""
        names, self._names = self._names, set()
        if names and self._bell is not None:
            self._bell.ring(names)

    def rolled_back(self) -> None:
        """Ring nobody: nothing was written."""
        self._names.clear()
