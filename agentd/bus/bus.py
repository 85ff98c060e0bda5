"""The bus: its parts on one connection, and what they do in one transaction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agentd.bus import sql
from agentd.bus.agent_rows import AgentRows
from agentd.bus.batches import Batches
from agentd.bus.database import Database, atomic
from agentd.bus.dead import DeadLetters
from agentd.bus.doorbell import Doorbell
from agentd.bus.event_rows import EventRows
from agentd.bus.facts import AgentFacts
from agentd.bus.json_text import compact
from agentd.bus.lanes import Lanes
from agentd.bus.later import LaterEvents
from agentd.bus.outbox import Outbox
from agentd.bus.schedules import Schedules
from agentd.bus.schema import OPENING, Opening
from agentd.bus.search import EventSearch
from agentd.bus.seen import SeenFiles
from agentd.clock import EPOCH, Clock, SystemClock, iso
from agentd.events import Event, Lane, NewEvent


class Bus:
    """One connection to the bus, for one thread. Another thread or process opens its own.

    `wake` is the folder of the readers' datagram sockets; without it nobody is woken. `publish`,
    `transaction`, `next` and `step` are those of the parts.
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
        self.later = LaterEvents(db, clock)
        self.outbox = Outbox(db, clock, self.dead, self.later, self.doorbell)
        self.lanes = Lanes(self.events, self.agents, self.dead, clock)
        self.schedules = Schedules(db, self.outbox)
        self.search = EventSearch(db, self.events)
        self.batches = Batches(db, self.events, self.lanes, self.outbox, clock)
        self.seen = SeenFiles(db, self.outbox, clock)
        # What everybody calls, without the detour over the part.
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

        The end of every answered event. `Closing.close` (`agentd.sessions`) writes the session's
        state in the same transaction; consumers without sessions call this alone. `cause` is what
        the published events answer, if not the lane's event.

        Raises:
            EventRefused, LostLane: nothing was written.
        """
        self.facts.remember(lane.agent, remember or {})
        self.lanes.step(lane, event)
        return self.outbox.publish_many(lane.agent, publish, cause=cause or event)

    @atomic
    def accept(
        self,
        name: str,
        version: str,
        *,
        subscribe: Sequence[str] = (),
        start: Literal["now", "beginning"] = "now",
        where: str = "",
        schedule: str | None = None,
        at: Sequence[str] = (),
        watch: Sequence[str] = (),
    ) -> None:
        """Note an agent's accepted version; the first time, create both lanes' cursors.

        A changed subscription holds from the cursor onward. A paused agent stays paused. `where`:
        see `Lane`. `schedule`, `at` and `watch` are the names of what holds from now; the moments
        of `at` and the watched folders count from when they were first accepted.
        """
        now = self.clock.now()
        back = self.db.run(sql.WAS_REMOVED, (name,))
        self.schedules.keep_only(name, () if back else (*filter(None, [schedule]), *at, *watch))
        for moment in at:
            self.schedules.begin(name, moment, now)
        for pattern in watch:
            self.schedules.begin(name, pattern, EPOCH if start == "beginning" else now)
        for direct in (True, False):
            self.lanes.open(Lane(name, direct), after=0 if start == "beginning" else None)
        self.db.run(sql.DROP_BREAKER_OF_OTHER, (name, version))
        row = (name, version, compact(list(subscribe)), where or None, iso(now))
        self.db.run(sql.ACCEPT, row)
        self.doorbell.look_again()

    @atomic
    def forgive(self, name: str) -> None:
        """Let an agent try again whose breaker tripped (see `agentd.sessions.breaker`)."""
        self.db.run(sql.DROP_BREAKER, (name,))
        self.doorbell.wake(name)

    def close(self) -> None:
        """Close the connection."""
        self.db.close()
