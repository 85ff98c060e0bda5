"""Retention: the oldest goes, by age and beyond the size limit, a few rows at a time.

An event goes once every lane has passed it. One that is too old, or that stands at the bottom of a
database that is too large, and is still unread, becomes a dead letter ("expired") first: the
slowest lane never holds the others' events back for ever, and nothing vanishes in silence. Ids are
never given again (AUTOINCREMENT).

Every step is one transaction that aims at `STEP_S`, so that nobody waits for it.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from agentd.bus import Bus, sql
from agentd.clock import iso
from agentd.config.daemon import RetentionConfig
from agentd.config.duration import written
from agentd.events import Lane
from agentd.states import DeadReason
from agentd.storage.rows import FUTURE, QUIET, Rows, Unfinished, give_up

STEP_S = 0.025  # a transaction that takes longer makes the next one smaller
ROWS_FIRST, ROWS_MAX = 50, 500  # rows in one transaction
LOOK_ROWS = 2000  # rows looked at, outside of transactions, to see how far age reaches
LOW_WATER = 0.9  # share of the size limit down to which the oldest go
SESSIONS_AT_ONCE = 20  # that the size limit drops before it looks again
LETTERS_SHARE = 0.25  # of the size limit, that dead letters may fill
SHRINK_FROM_BYTES = 16_000_000  # free pages go back to the disk when they take so much
SHRINK_FROM, SHRINK_TO = 0.25, 0.05  # ... and this share of the file; until they take that
LEAVE = timedelta(days=7)  # a removed agent's cursors hold back pruning for so long


@dataclass(frozen=True)
class Pruned:
    """What a step did. `what` is a stable name; `agent` whom it concerns, where it is one."""

    what: str
    count: int
    agent: str | None = None


class Pruning(Protocol):
    """A kind of pruning: does at most so many rows of it, None where there is nothing to do."""

    __name__: str

    def __call__(self, now: datetime, rows: int) -> Pruned | None:
        """Do it, inside a transaction."""


class Retention:
    """Prunes one database. Call `step` until it returns None."""

    def __init__(self, bus: Bus, rules: RetentionConfig) -> None:
        self.rules = rules
        self._bus, self._db = bus, bus.db
        self._sizes = defaultdict[str, int](lambda: ROWS_FIRST)  # by part: a row's cost differs
        self._rows = Rows(bus)
        self._cut = 0  # every event up to this id is too old
        self._over = False  # above the size limit, and not down at its low water yet
        self._excess = 0.0  # bytes above the low water
        self._letter_bytes = self._letters_seen = 0  # of dead letters, up to the id seen
        self._shrinking = False

    def step(self, *, by_age: bool = True) -> Pruned | None:
        """Do one short transaction's worth of pruning; None: there is nothing left to do.

        Without `by_age` only the size limit counts: for a wall clock that cannot be trusted now.

        Raises:
            StorageError: the database cannot be written.
        """
        now = self._bus.clock.now()
        self._look(now, by_age)
        for part in self._parts(by_age):
            with self._bus.transaction():
                began = self._bus.clock.monotonic()  # the write lock is ours
                done = part(now, self._sizes[part.__name__])
                took_s = self._bus.clock.monotonic() - began
            if done is not None:
                self._pace(part.__name__, took_s)
                return done
        self._rows.busy.clear()
        return None

    def live_bytes(self) -> int:
        """Return the bytes of all pages that hold something."""
        pages, free, page = self._db.run(sql.SIZE)[0]
        return int((pages - free) * page)

    @property
    def over(self) -> bool:
        """Whether it is above its size limit."""
        return self._over

    def _parts(self, by_age: bool) -> Iterator[Pruning]:
        if by_age:
            yield from (self._removed_lanes, self._memories, self._unanswered)
            yield from (self._old_letters, self._old_sessions, self._old_unread, self._old_events)
        if self._over:
            yield from (self._many_letters, self._oldest, self._slowest)
        if self._shrinking:
            yield self._shrink

    def _pace(self, part: str, took_s: float) -> None:
        rows = self._sizes[part]
        if took_s > STEP_S:
            self._sizes[part] = max(1, rows // 2)
        elif took_s < STEP_S / 4:
            self._sizes[part] = min(ROWS_MAX, rows * 2)

    def _look(self, now: datetime, by_age: bool) -> None:
        """Read what the parts need to know, before the write lock is taken."""
        pages, free, page = self._db.run(sql.SIZE)[0]
        limit, live = self.rules.database_bytes, (pages - free) * page
        self._excess = live - limit * LOW_WATER
        self._over = live > limit or (self._over and self._excess > 0)
        if self._over:  # the letters since the last look: all of them are too many to read again
            more, self._letters_seen = self._db.run(sql.LETTER_BYTES, (self._letters_seen,))[0]
            self._letter_bytes += more
        much = free * page > SHRINK_FROM_BYTES and free > pages * SHRINK_FROM
        self._shrinking = (self._shrinking or much) and free > pages * SHRINK_TO
        if by_age:
            self._reach(now)

    def _reach(self, now: datetime) -> None:
        """Move the cut: every event up to the first one that is young enough to stay.

        From the bottom and not by the newest old one: a clock that was set back for a minute must
        not make everything before it old.
        """
        old, future = iso(now - self.rules.events), iso(now + FUTURE)
        passed, look = self._cut, 1
        while rows := self._db.run(sql.CREATED, (passed, look)):
            look = LOOK_ROWS  # the first row alone mostly says it
            for event_id, created_at in rows:
                if old <= created_at <= future:
                    return
                passed = event_id
                if created_at < old:
                    self._cut = event_id

    # --- agents that were removed

    def _removed_lanes(self, now: datetime, rows: int) -> Pruned | None:
        gone = {a.name: a.removed_at for a in self._bus.agents.list() if a.removed_at is not None}
        for lane, _ in self._bus.lanes.slowest():
            removed_at = gone.get(lane.agent)
            if removed_at is None or removed_at > now - LEAVE:
                continue
            error = f"its agent was removed at {iso(removed_at)}"
            upto = self._bus.events.last_id()
            buried, done = self._rows.expire(lane, now, error, upto, rows, before=iso(removed_at))
            if done:
                self._db.run(sql.DELETE_CURSOR, (lane.consumer,))
                self._db.run(sql.DELETE_DELIVERY, (lane.consumer,))
            if buried or done:
                return _expired(lane, buried)
        return None

    def _memories(self, now: datetime, rows: int) -> Pruned | None:
        holding = {lane.agent for lane, _ in self._bus.lanes.slowest()}
        for agent in self._bus.agents.list():
            if agent.removed_at is None or agent.removed_at > now - self.rules.removed:
                continue
            if facts := self._db.change(sql.DELETE_FACTS, (agent.name, rows)):
                return Pruned("facts", facts, agent.name)
            if agent.name in holding:
                continue  # what its lanes have yet to read is found by its row
            if seen := self._db.change(sql.DELETE_SEEN, (agent.name, rows)):
                return Pruned("seen_files", seen, agent.name)
            self._db.run(sql.DELETE_SCHEDULES, (agent.name,))
            self._db.run(sql.DELETE_LATERS, (agent.name,))
            self._db.run(sql.DELETE_AGENT, (agent.name,))
            return Pruned("agents", 1, agent.name)
        return None

    # --- by age

    def _unanswered(self, now: datetime, rows: int) -> Pruned | None:
        for *found, question, ended_at in self._db.run(sql.OLDEST_PARKED, (rows,)):
            if str(ended_at) >= iso(now - self.rules.sessions):
                continue
            error = f"nobody answered within {written(self.rules.sessions)}: {question}"
            session = Unfinished(*found)
            give_up(self._bus, session, DeadReason.UNANSWERED, error)
            return Pruned("unanswered", 1, session.agent)
        return None

    def _old_letters(self, now: datetime, rows: int) -> Pruned | None:
        return self._drop_letters(self._rows.old_letters(now - self.rules.dead_letters, now, rows))

    def _old_sessions(self, now: datetime, rows: int) -> Pruned | None:
        old = self._rows.old_sessions(now - self.rules.sessions, now, rows)
        return self._drop_sessions(old, rows)

    def _old_unread(self, now: datetime, rows: int) -> Pruned | None:
        error = f"was not read within {written(self.rules.events)}"
        for lane, cursor in self._bus.lanes.slowest():
            if cursor >= self._cut:
                return None
            if lane.consumer not in self._rows.busy:
                buried, done = self._rows.expire(lane, now, error, self._cut, rows)
                if buried or done:
                    return _expired(lane, buried)
        return None

    def _old_events(self, now: datetime, rows: int) -> Pruned | None:
        upto = min(self._cut, self._rows.passed_by_all())
        return _pruned("events", self._rows.drop_events(upto, rows))

    # --- by size

    def _many_letters(self, now: datetime, rows: int) -> Pruned | None:
        """Drop the oldest letters where they fill more than their share."""
        excess = self._letter_bytes - self.rules.database_bytes * LETTERS_SHARE
        victims = []
        if excess > 0:
            for letter in self._db.run(sql.OLDEST_LETTERS, (rows,)):
                victims.append(letter)
                excess -= letter[2]
                if excess <= 0:
                    break
        return self._drop_letters(victims)

    def _oldest(self, now: datetime, rows: int) -> Pruned | None:
        """Drop what is oldest: events that all have read, or sessions that rest."""
        floor = self._rows.passed_by_all()
        events = self._db.run(sql.OLDEST_EVENTS, (0, floor, rows))
        young = now - QUIET  # `sessions_per_hour` counts those
        at_once = min(rows, SESSIONS_AT_ONCE)
        sessions = self._db.run(sql.SESSIONS_BEFORE, (iso(young), 1))
        if sessions and (not events or sessions[0][1] <= events[0][1]):
            return self._drop_sessions(self._rows.old_sessions(young, now, at_once), at_once)
        if not events:
            return self._drop_sessions(self._rows.sessions_ahead(now, at_once), at_once)
        return _pruned("events", self._rows.drop_events(self._enough(events), rows))

    def _slowest(self, now: datetime, rows: int) -> Pruned | None:
        """Expire the oldest unread events of the slowest lane that nobody works on."""
        error = f"the database is above its limit of {self.rules.database_bytes} bytes"
        last = self._bus.events.last_id()
        for lane, cursor in self._bus.lanes.slowest():
            if cursor < last and lane.consumer not in self._rows.busy:
                upto = self._enough(self._db.run(sql.OLDEST_EVENTS, (cursor, last, rows))) or last
                buried, done = self._rows.expire(lane, now, error, upto, rows)
                if buried or done:
                    return _expired(lane, buried)
        return None

    def _shrink(self, now: datetime, rows: int) -> Pruned | None:
        before = self._db.run(sql.SIZE)[0][1]
        self._db.run(sql.incremental_vacuum(rows))
        given = before - self._db.run(sql.SIZE)[0][1]
        if given <= 0:
            self._shrinking = False  # a file from before pages could be given back
            return None
        return Pruned("pages", given)

    # --- what they share

    def _enough(self, events: list[tuple[int, str, int]]) -> int:
        """Return the id up to which these events, the oldest, must go; 0 for none."""
        upto, excess = 0, self._excess
        for event_id, _, size in events:
            upto, excess = event_id, excess - size
            if excess <= 0:
                break
        return upto

    def _drop_sessions(self, victims: list[tuple[int, str]], rows: int) -> Pruned | None:
        sessions, deleted = self._rows.drop_sessions((row[0] for row in victims), rows)
        return _pruned("sessions", sessions) or _pruned("steps", deleted)

    def _drop_letters(self, letters: list[tuple[int, str, int]]) -> Pruned | None:
        for letter_id, _, size in letters:
            self._db.run(sql.DROP_LETTER, (letter_id,))
            if letter_id <= self._letters_seen:
                self._letter_bytes -= size
        return _pruned("dead_letters", len(letters))


def _expired(lane: Lane, buried: int) -> Pruned:
    """Return that events of a lane were given up; without any, that the lane went on or went."""
    return Pruned("expired" if buried else "lanes", buried or 1, lane.agent)


def _pruned(what: str, count: int) -> Pruned | None:
    return Pruned(what, count) if count else None
