"""Lanes: how a consumer reads the outbox, in order, one event at a time.

A cursor's value is the id up to which its lane is done.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentd.bus import sql
from agentd.bus.agent_rows import AgentRows
from agentd.bus.database import Watcher, atomic
from agentd.bus.dead import DeadLetters
from agentd.bus.event_rows import EventRows
from agentd.bus.json_text import UNREADABLE, compact
from agentd.clock import Clock
from agentd.errors import LostLane, StorageError
from agentd.events import DIRECT, Event, Lane
from agentd.states import DeadReason

STEP_OVER_EVENTS = 1000  # unwanted events after which a caught-up cursor is moved in the file, too
STEP_OVER_S = 60.0  # the same after this time, so that pruning is not held back

WAITING_MAX = 1_000  # events that are counted as waiting


class Lanes(Watcher):
    """The lanes of one database, as this connection reads and steps them."""

    def __init__(
        self, events: EventRows, agents: AgentRows, dead: DeadLetters, clock: Clock
    ) -> None:
        self.db = events.db
        self._events = events
        self._agents = agents
        self._dead = dead
        self._clock = clock
        self._cursors: dict[str, int] = {}  # by consumer, as last read: the fence of `step`
        self._cursors_before: dict[str, int] = {}
        # By lane: the id up to which nothing is wanted, and since when the file's cursor lags.
        self._passed: dict[Lane, tuple[int, float]] = {}
        self.db.watch(self)

    def open(self, lane: Lane, *, after: int | None = None) -> None:
        """Create the lane's cursor, after an event's id or after the last; keep one there is."""
        after = self._events.last_id() if after is None else after
        self.db.run(sql.CREATE_CURSOR, (lane.consumer, after))

    def next(self, lane: Lane) -> Event | None:
        """Return the lane's next event, or None when it is caught up. Does not step the lane.

        An event that cannot be read becomes a dead letter and is stepped over.

        Raises:
            LostLane: somebody else steps this lane.
            StorageError: the lane has no cursor.
        """
        while (row := self._wanted(lane)) is not None:
            try:
                return self._events.read(row)
            except UNREADABLE as error:
                self._give_up(lane, row[0], str(error))
        return None

    @atomic
    def _give_up(self, lane: Lane, event_id: int, error: str) -> None:
        self._dead.add_row(lane.agent, DeadReason.INVALID, error, event_id)
        self._move(lane.consumer, event_id)

    def _wanted(self, lane: Lane) -> Any:
        """Return the row of the lane's next event; None: it is caught up, which is remembered."""
        consumer = lane.consumer
        cursor, last = self._position(consumer)
        passed, since = self._passed.get(lane, (cursor, self._clock.monotonic()))
        if cursor < self._cursors.get(consumer, 0) or last < passed:
            passed = cursor  # a person moved it back, or restored an older database
        self._cursors[consumer] = cursor
        if passed >= last:
            return None
        # `last` was read before the lane's events are: none that is wanted can be missed.
        row = self.following(lane, max(cursor, passed))
        if row is None:
            self._step_over(lane, cursor, last, since)
        return row

    def _position(self, consumer: str) -> tuple[int, int]:
        """Return where the cursor stands and the highest id, in one snapshot."""
        cursor, last = self.db.run(sql.POSITION, (consumer,))[0]
        if cursor is None:
            raise StorageError(
                "this lane has no cursor", where=consumer, hint="accept the agent first"
            )
        last = last or 0
        if cursor > last:  # where no event was yet: only a person put it there
            self._cursors[consumer] = cursor
            self._move(consumer, last)
        return min(cursor, last), last

    def following(self, lane: Lane, after: int) -> Any:
        """Return the row of the first event after an id that the lane wants, None without one."""
        given: tuple[Any, ...]
        if lane.direct:
            statement, given = sql.NEXT_DIRECT, (lane.agent, after)
        elif not (types := self._types(lane.subscribe)):
            return None
        elif len(types) == 1:
            statement, given = sql.NEXT_OF_TYPE, (types[0], after, lane.agent)
            fitting = sql.NEXT_FITTING_OF_TYPE
        else:
            statement, given = sql.NEXT_OF_TYPES, (compact(types), after, lane.agent)
            fitting = sql.NEXT_FITTING_OF_TYPES
        if not lane.direct and lane.where:
            statement, given = fitting, (*given, lane.where)
        rows = self.db.read(statement, given, sql.EVENT_COLUMNS)
        return rows[0] if rows else None

    def _types(self, subscribe: Sequence[str]) -> list[str]:
        """Expand prefixes to the exact types that exist: one seek each beats a sorted range."""
        types = [item for item in subscribe if not item.endswith(".*")]
        for item in subscribe:
            if item.endswith(".*"):
                types += self._events.types(item)
        return list(dict.fromkeys(types))

    def _step_over(self, lane: Lane, cursor: int, last: int, since: float) -> None:
        """Remember that nothing up to `last` is wanted; now and then move the cursor there."""
        now = self._clock.monotonic()
        if last - cursor >= STEP_OVER_EVENTS or now - since >= STEP_OVER_S:
            self._move(lane.consumer, last)
            since = now
        self._passed[lane] = (last, since)

    def step(self, lane: Lane, event: Event) -> None:
        """Step the lane past the event.

        Raises:
            LostLane: the cursor is not where `next` saw it.
        """
        self._move(lane.consumer, event.id)

    def _move(self, consumer: str, event_id: int) -> None:
        if self.db.change(sql.STEP, (event_id, consumer, self._cursors.get(consumer))) != 1:
            raise LostLane(
                "somebody else stepped this lane", where=consumer, hint="is a second worker alive?"
            )
        self._cursors[consumer] = event_id

    def hold(self, lane: Lane) -> None:
        """Make sure that the lane's cursor still stands where `next` saw it.

        Raises:
            LostLane: it does not.
        """
        cursor = self._cursor(lane)
        if cursor is None or cursor != self._cursors.get(lane.consumer):
            raise LostLane("somebody else stepped this lane", where=lane.consumer)

    def waiting(self, lane: Lane) -> int:
        """Return how many events wait on the lane, the one being worked on included.

        Counted up to `WAITING_MAX`: who looks at a hundred agents does not count millions.
        """
        cursor = self._cursor(lane) or 0
        if lane.direct:
            return int(self.db.run(sql.WAITING_DIRECT, (lane.agent, cursor, WAITING_MAX))[0][0])
        types = compact(self._types(lane.subscribe))
        given = (types, cursor, lane.agent, lane.where or "{}", WAITING_MAX)
        return int(self.db.run(sql.WAITING_TYPES, given)[0][0])

    def slowest(self) -> list[tuple[Lane, int]]:
        """Return every lane there is a cursor of, the slowest first, with the id it has passed.

        What an agent that the bus does not know subscribes to is not known either.
        """
        known = {row.name: row for row in self._agents.list()}
        found = []
        for consumer, cursor in self.db.read(sql.CURSORS, (), "consumer, last_seen_id"):
            if not isinstance(consumer, str):
                continue  # not UTF-8: nobody's, and it must not hold back pruning
            name = consumer.removesuffix(DIRECT)
            lane = Lane(name, consumer.endswith(DIRECT))
            if (row := known.get(name)) is not None:
                lane = replace(lane, subscribe=row.subscribe, where=row.where)
            found.append((lane, int(cursor)))
        return found

    def expire(
        self, lane: Lane, error: str, *, upto: int, before: str | None = None, rows: int
    ) -> tuple[int, bool]:
        """Bury, unread, what the lane wants of the events up to the id `upto`.

        Inside a transaction. At most `rows` events; `before`: only those created earlier. The
        cursor moves along. Returns how many were buried, and whether none is left.
        """
        cursor = passed = self._look_at(lane)
        buried, last = 0, False
        while not last and buried < rows:
            row = self.following(lane, passed)
            last = row is None or row[0] > upto or (before is not None and row[4] >= before)
            if not last:
                self._dead.add_row(lane.agent, DeadReason.EXPIRED, error, row[0])
                passed, buried = row[0], buried + 1
        if last and before is None:
            passed = upto
        if passed > cursor:
            self._move(lane.consumer, passed)
        return buried, last

    def pass_over(self, lane: Lane, event_id: int) -> None:
        """Step the lane past an event that is given up; inside a transaction. Never back."""
        if event_id > self._look_at(lane):
            self._move(lane.consumer, event_id)

    def _look_at(self, lane: Lane) -> int:
        cursor = self._cursor(lane)
        assert cursor is not None, "only lanes that have a cursor are looked at"
        self._cursors[lane.consumer] = cursor
        return cursor

    def _cursor(self, lane: Lane) -> int | None:
        rows = self.db.run(sql.CURSOR, (lane.consumer,))
        return int(rows[0][0]) if rows else None

    def begun(self) -> None:
        """Keep where the cursors stood."""
        self._cursors_before = dict(self._cursors)

    def rolled_back(self) -> None:
        """Go back to there."""
        self._cursors = self._cursors_before
        self._passed.clear()  # it may count ids that were never given in the end
