"""The register of agents: accepted, removed, paused, forgiven."""

from collections.abc import Sequence
from typing import Literal

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.doorbell import Doorbell
from agentd.bus.json_text import compact
from agentd.bus.lanes import Lanes
from agentd.bus.schedules import Schedules
from agentd.clock import Clock, iso
from agentd.events import Lane


class Registry:
    """Writes what the bus knows of agents, with their lanes and schedules; see `AgentRows`."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        lanes: Lanes,
        schedules: Schedules,
        doorbell: Doorbell,
    ) -> None:
        self.db = db
        self._clock = clock
        self._lanes = lanes
        self._schedules = schedules
        self._doorbell = doorbell

    @atomic
    def accept(
        self,
        name: str,
        version: str,
        *,
        subscribe: Sequence[str] = (),
        start: Literal["now", "beginning"] = "now",
        schedule: str | None = None,
    ) -> None:
        """Note an agent's accepted version; the first time, create both lanes' cursors.

        A changed subscription holds from the cursor onward. A paused agent stays paused.
        `schedule`: the name of the one that holds from now; None: it has none.
        """
        back = self.db.run(sql.WAS_REMOVED, (name,))
        self._schedules.hold(name, None if back else schedule)
        for direct in (True, False):
            self._lanes.open(Lane(name, direct), after=0 if start == "beginning" else None)
        self.db.run(sql.DROP_BREAKER_OF_OTHER, (name, version))
        self.db.run(sql.ACCEPT, (name, version, compact(list(subscribe)), iso(self._clock.now())))
        self._doorbell.look_again()

    def remove(self, name: str) -> None:
        """Note that an agent is gone. Its cursors stay for a while, in case it comes back."""
        self.db.run(sql.REMOVE, (iso(self._clock.now()), name))

    def set_paused(self, name: str, paused: bool) -> bool:
        """Pause an agent or let it go on; return False when it is not known."""
        return self.db.change(sql.SET_PAUSED, (int(paused), name)) > 0

    @atomic
    def forgive(self, name: str) -> None:
        """Let an agent try again whose breaker tripped (see `agentd.sessions.breaker`)."""
        self.db.run(sql.DROP_BREAKER, (name,))
        self._doorbell.wake(name)
