"""When each agent's schedule was last due, and what it published then."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.json_text import compact, read_strings
from agentd.bus.outbox import Outbox
from agentd.clock import iso, parse_iso
from agentd.events import DAEMON, Lane, NewEvent
from agentd.states import Priority

# Keys of a schedule's last runs that are kept beside it, whatever becomes of their events: enough
# for the night the clocks go back, and for hours by which a wall clock is set back.
FIRED_KEPT = 64


@dataclass(frozen=True)
class LastRun:
    """A schedule's past. `unanswered`: the event that it last published still waits."""

    due: datetime
    unanswered: bool


class Schedules:
    """The schedules of one database."""

    def __init__(self, db: Database, outbox: Outbox) -> None:
        self.db = db
        self._outbox = outbox

    def last_run(self, agent: str, schedule: str) -> LastRun | None:
        """Return when the schedule was last due, or None if never."""
        consumer = Lane(agent, direct=True).consumer
        rows = self.db.run(sql.SCHEDULE, (agent, schedule, consumer))
        try:
            return LastRun(parse_iso(rows[0][0]), bool(rows[0][1])) if rows else None
        except ValueError:  # somebody wrote there what is no time: as if it had never been due
            return None

    def keep_only(self, agent: str, schedules: Collection[str]) -> None:
        """Forget when the agent's other schedules were due: they do not hold.

        One that is put back counts from then on, and so does that of an agent that comes back.
        """
        self.db.run(sql.DROP_OTHER_SCHEDULES, (agent, compact(list(schedules))))

    def begin(self, agent: str, schedule: str, moment: datetime) -> None:
        """Let a schedule count from a moment on, unless it does already."""
        self.db.run(sql.BEGIN_SCHEDULE, (agent, schedule, iso(moment)))

    def note(self, agent: str, schedule: str, due: datetime) -> None:
        """Note when the schedule was last due, without an event: a skipped run, or its anchor."""
        self.db.run(sql.SET_SCHEDULE, (agent, schedule, iso(due), None, None))

    @atomic
    def fire(
        self, agent: str, schedule: str, due: datetime, event: NewEvent, *, producer: str = DAEMON
    ) -> int | None:
        """Publish the schedule's event and note its due time, in one transaction.

        Returns its id, or None when its dedup_key is known (then only the time is noted).
        """
        event_id = keys = None
        rows = self.db.read(sql.FIRED, (agent, schedule), "fired")
        fired = read_strings(rows[0][0]) if rows and rows[0][0] else ()
        if event.dedup_key is None or event.dedup_key not in fired:
            event_id = self._outbox.publish(
                producer, event, priority=Priority.SCHEDULE, system=True
            )
            keys = compact([*fired, event.dedup_key][-FIRED_KEPT:])
        self.db.run(sql.SET_SCHEDULE, (agent, schedule, iso(due), event_id, keys))
        return event_id
