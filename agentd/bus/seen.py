"""Files of watched folders that an agent has been told of, by their content."""

from collections.abc import Collection
from dataclasses import dataclass

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.json_text import compact
from agentd.bus.outbox import Outbox
from agentd.clock import Clock, iso
from agentd.events import DAEMON, FILE, Lane, NewEvent
from agentd.states import Priority

SEEN_MAX = 20_000  # contents of one agent that are kept beyond the files that are there


@dataclass(frozen=True)
class SeenFile:
    """A content, where it was seen last, and that file's stamp."""

    fingerprint: str
    path: str
    stamp: str


class SeenFiles:
    """The seen files of one database."""

    def __init__(self, db: Database, outbox: Outbox, clock: Clock) -> None:
        self.db = db
        self._outbox, self._clock = outbox, clock

    def of(self, agent: str) -> list[SeenFile]:
        """Return what an agent has seen."""
        rows = self.db.read(sql.SEEN, (agent,), sql.SEEN_COLUMNS)
        return [SeenFile(*map(str, row)) for row in rows]

    def open_event(self, agent: str, file: SeenFile) -> int | None:
        """Return the event by which an agent knows of a file as it is, and is not done with it."""
        lane = Lane(agent, direct=True).consumer
        asked = (agent, FILE, file.path, file.fingerprint, lane)
        ((event_id,),) = self.db.run(sql.OPEN_FILE, asked)
        return None if event_id is None else int(event_id)

    @atomic
    def tell(
        self,
        agent: str,
        file: SeenFile,
        event: NewEvent | None,
        *,
        producer: str = DAEMON,
        priority: Priority = Priority.EVENT,
        again: bool = False,
    ) -> int | None:
        """Note a file as seen and publish its event, in one transaction; return the event's id.

        None: this content was seen before, unless it is to be told `again`; or there is no event.
        """
        new = not self.db.run(sql.WAS_SEEN, (agent, file.fingerprint))
        now = iso(self._clock.now())
        self.db.run(sql.SEE, (agent, file.fingerprint, file.path, file.stamp, now))
        if event is None or not (new or again):
            return None
        return self._outbox.publish(producer, event, priority=priority, system=True)

    def forget(self, agent: str, there: Collection[str]) -> None:
        """Forget the oldest beyond SEEN_MAX whose path is none of those that are there."""
        self.db.run(sql.FORGET_SEEN, (agent, compact(list(there)), SEEN_MAX))
