"""How far each way has come, in the database: its cursor on the bus, and what is noted of it.

Both are written in one transaction. A cursor holds pruning back as any other does; one that
retention moved all the same shows how many events went unseen.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentd.bus import Bus, sql
from agentd.bus.json_text import compact
from agentd.errors import SessionFailed
from agentd.events import DELIVER, Lane


@dataclass(frozen=True)
class Position:
    """What one way has passed. `sent` messages went on `day`; `lost` events before it saw them."""

    passed: int  # an event's id
    letters: int  # a dead letter's id
    day: str = ""
    sent: int = 0
    lost: int = 0
    last: str | None = None  # when something was delivered last
    begun: int = 0  # the event up to which a message was begun
    tested: int = 0  # the last test's event

    @classmethod
    def of(cls, noted: Any) -> "Position | None":
        """Return what was noted; None for nothing that we wrote."""
        try:
            return cls(**noted)
        except TypeError:
            return None


class Positions:
    """The positions of one way."""

    def __init__(self, bus: Bus, way: str) -> None:
        self.bus = bus
        self._key, self._consumer = f"way:{way}", Lane(f"{DELIVER}/{way}", direct=False).consumer

    def last(self) -> tuple[int, int]:
        """Return the highest ids of events and of dead letters."""
        event_id, letter_id = self.bus.db.run(sql.LAST_IDS)[0]
        return event_id or 0, letter_id or 0

    def read(self) -> Position:
        """Return where the way stands: at the newest event, where it is new."""
        noted = Position.of(noted_of(self.bus).get(self._key))
        rows = self.bus.db.run(sql.CURSOR, (self._consumer,))
        last_event, last_letter = self.last()
        if not rows:
            self.bus.db.run(sql.CREATE_CURSOR, (self._consumer, last_event))
            return Position(last_event, last_letter)
        cursor = int(rows[0][0])
        if cursor > last_event:  # where no event was yet: only a person puts it there
            self.bus.db.run(sql.STEP, (last_event, self._consumer, cursor))
            cursor = last_event
        if noted is None:
            return Position(cursor, last_letter)
        gone = max(0, cursor - noted.passed)
        letters = min(noted.letters, last_letter)
        return replace(noted, passed=cursor, letters=letters, lost=noted.lost + gone)

    def write(self, position: Position, more: Mapping[str, Any] | None = None) -> None:
        """Note where the way stands now, and `more` of what this process notes."""
        with self.bus.transaction():
            self.bus.db.run(sql.CREATE_CURSOR, (self._consumer, position.passed))
            cursor = int(self.bus.db.run(sql.CURSOR, (self._consumer,))[0][0])
            self.bus.db.run(sql.STEP, (max(position.passed, cursor), self._consumer, cursor))
            self.bus.facts.remember(DELIVER, {self._key: vars(position), **(more or {})})


def noted_of(bus: Bus) -> dict[str, Any]:
    """Return all that this process has noted; nothing, where somebody wrote what is none."""
    try:
        return bus.facts.of(DELIVER)
    except SessionFailed:
        return {}


def forget_ways(bus: Bus, kept: Collection[str] = ()) -> None:
    """Forget all ways but these: one that comes back begins with what is new."""
    with bus.transaction():
        for statement in (sql.DROP_WAYS, sql.DROP_WAY_FACTS):
            bus.db.run(statement, (compact(list(kept)),))
