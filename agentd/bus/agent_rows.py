"""What the bus knows of agents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.bus.json_text import read_strings
from agentd.clock import Clock, iso, moment_or


@dataclass(frozen=True)
class AgentRow:
    """What the bus knows of an agent. `version` is the accepted folder's hash."""

    name: str
    version: str
    subscribe: tuple[str, ...]
    where: str  # of `events.Lane`
    paused: bool
    accepted_at: datetime
    removed_at: datetime | None


class AgentRows:
    """Every agent that was ever accepted and is not forgotten; `Bus.accept` writes one.

    What a person broke in a row is written anew when its agent is next accepted.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self._clock = clock

    def list(self) -> Sequence[AgentRow]:
        """Return them all, by name."""
        now = self._clock.now()
        return [
            AgentRow(
                name,
                str(version),
                read_strings(subscribe),
                str(fits or ""),
                bool(paused),
                moment_or(accepted_at, now),
                moment_or(removed_at, now) if removed_at else None,
            )
            for name, version, subscribe, fits, paused, accepted_at, removed_at in self.db.read(
                sql.AGENTS, (), sql.AGENT_COLUMNS
            )
            if isinstance(name, str)  # else nobody is called so
        ]

    def present(self) -> dict[str, AgentRow]:
        """Return those that were not removed, by their names."""
        return {row.name: row for row in self.list() if row.removed_at is None}

    def remove(self, name: str) -> None:
        """Note that an agent is gone. Its cursors stay for a while, in case it comes back."""
        self.db.run(sql.REMOVE, (iso(self._clock.now()), name))

    def set_paused(self, name: str, paused: bool) -> bool:
        """Pause an agent or let it go on; return False when it is not known."""
        return self.db.change(sql.SET_PAUSED, (int(paused), name)) > 0
