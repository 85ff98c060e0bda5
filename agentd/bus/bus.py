"""The bus: its parts on one connection, and what they do in one transaction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.bus.agent_rows import AgentRows
from agentd.bus.database import Database, atomic
from agentd.bus.dead import DeadLetters
from agentd.bus.doorbell import Doorbell
from agentd.bus.event_rows import EventRows
from agentd.bus.facts import AgentFacts
from agentd.bus.lanes import Lanes
from agentd.bus.outbox import Outbox
from agentd.bus.registry import Registry
from agentd.bus.schedules import Schedules
from agentd.bus.schema import OPENING, Opening
from agentd.clock import Clock, SystemClock
from agentd.events import Event, Lane, NewEvent


class Bus:
    """One connection to the bus, for one thread. Another thread or process opens its own.

    `wake` is the folder of the consumers' datagram sockets; without it nobody is woken.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        wake: Path | None = None,
        opening: Opening = OPENING,
    ) -> None:
        self.clock = clock = clock or SystemClock()
        self.db = db = Database(path, opening)
        self.events = EventRows(db)
        self.agents = AgentRows(db, clock)
        self.facts = AgentFacts(db, clock)
        self.doorbell = Doorbell(self.agents, clock, wake)
        self.dead = DeadLetters(db, clock, self.doorbell)
        self.outbox = Outbox(db, clock, self.dead, self.doorbell)
        self.lanes = Lanes(self.events, self.agents, self.dead, clock)
        self.schedules = Schedules(db, self.outbox)
        self.registry = Registry(db, clock, self.lanes, self.schedules, self.doorbell)
        # What everybody calls, without the detour.
        self.publish, self.transaction = self.outbox.publish, db.transaction
        self.next, self.step = self.lanes.next, self.lanes.step

    @atomic
    def finish(
        self,
        lane: Lane,
        event: Event,
        *,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
        cause: Event | None = None,
    ) -> list[int | None]:
        """Remember, step the lane and publish in one transaction; return the new events' ids.

        For consumers without sessions; `Sessions.close` adds the session's state to it. `cause`
        is what the published events answer, if not the lane's event.

        Raises:
            EventRefused, LostLane: nothing was written.
        """
        self.facts.remember(lane.agent, remember or {})
        self.lanes.step(lane, event)
        return self.outbox.publish_many(lane.agent, publish, cause=cause or event)

    def close(self) -> None:
        """Close the connection."""
        self.db.close()
        self.doorbell.close()
