"""Events that agents have set for themselves, until they are due.

An agent publishes one as `later.due` with the moment in its payload. It is kept here, in the
transaction of the session that published it, and comes back through the agent's direct lane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.bus.json_text import UNREADABLE, read_json
from agentd.clock import EPOCH, Clock, iso, moment_or, parse_iso
from agentd.errors import EventRefused
from agentd.events import LATER, Event
from agentd.states import Priority

OPEN_MAX = 20  # of one agent
AHEAD_MAX = timedelta(days=90)
WHAT_CHARACTERS_MAX = 200
LISTED_MAX = 10_000


@dataclass(frozen=True)
class LaterEvent:
    """An event to come. `cause` is what it answers, as far as a chain of causes needs it."""

    id: int
    agent: str
    due: datetime
    payload: Mapping[str, Any]
    cause: Event | None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"id": self.id, "agent": self.agent, "due": iso(self.due), "what": self.what}

    @property
    def what(self) -> str:
        """What it is about, in the agent's words."""
        return str(self.payload.get("what", ""))


class LaterEvents:
    """The events to come of one database."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self._clock = clock

    def check(self, payload: Mapping[str, Any]) -> datetime:
        """Return when such an event is due.

        Raises:
            EventRefused: it says nothing, too much, or no moment within the next 90 days.
        """
        what, due = payload.get("what"), payload.get("due")
        if not isinstance(what, str) or not 0 < len(what) <= WHAT_CHARACTERS_MAX:
            wanted = f"`what` is a text of 1 to {WHAT_CHARACTERS_MAX} characters"
            raise EventRefused(wanted, where=LATER)
        try:
            moment = parse_iso(str(due))
        except ValueError as error:
            raise EventRefused(f"`due`: {error}", where=LATER) from error
        if moment > self._clock.now() + AHEAD_MAX:
            raise EventRefused(f"is due in more than {AHEAD_MAX.days} days", where=LATER)
        return moment

    def add(self, agent: str, payload: str, due: datetime, cause: Event | None) -> None:
        """Keep one until it is due.

        Raises:
            EventRefused: the agent has too many.
        """
        if self.count(agent) >= OPEN_MAX:
            hint = "`agentd later` lists them, `agentd later drop ID` takes one back"
            raise EventRefused(f"{agent} has {OPEN_MAX} to come already", where=LATER, hint=hint)
        reason = (None, 0) if cause is None else (cause.id, cause.depth)
        self.db.run(sql.ADD_LATER, (agent, iso(due), payload, *reason))

    def count(self, agent: str) -> int:
        """Return how many an agent has."""
        return int(self.db.run(sql.COUNT_LATERS, (agent,))[0][0])

    def list(self, agent: str | None = None, *, limit: int = LISTED_MAX) -> Sequence[LaterEvent]:
        """Return those of one agent or of all, the next one first."""
        statement = sql.LATERS if agent is None else sql.LATERS_OF
        given = (limit,) if agent is None else (agent, limit)
        rows = self.db.read(statement, given, sql.LATER_COLUMNS)
        return [_later(row) for row in rows]

    def drop(self, later_id: int) -> bool:
        """Forget one; False: it is not there, or due by now."""
        return self.db.change(sql.DROP_LATER, (later_id,)) > 0


def _later(row: Any) -> LaterEvent:
    later_id, agent, due, text, cause_id, depth = row
    moment = moment_or(due, EPOCH)
    try:
        payload = read_json(text)
    except UNREADABLE:  # by a person's hand
        payload = {"what": "", "due": iso(moment)}
    cause = None
    if cause_id is not None:
        cause = Event(
            cause_id, agent, LATER, {}, moment, agent, Priority.SCHEDULE, None, depth, None
        )
    return LaterEvent(later_id, str(agent), moment, payload, cause)
