"""The outbox: everyone appends to it, and people read it. Consumers read it by lanes.py."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database, Transaction
from agentd.bus.dead import DeadLetters
from agentd.bus.json_text import compact, is_utf8, payload_text, read_json
from agentd.bus.schema import OPENING, Opening
from agentd.bus.wake import Bell, Waker
from agentd.clock import Clock, SystemClock, iso, parse_iso
from agentd.errors import EventRefused, RowRefused, StorageError
from agentd.events import DEPTH_MAX, EVENT_TYPE, SYSTEM_TYPES, Event, NewEvent
from agentd.states import DeadReason, Priority

NAME_CHARACTERS_MAX = 400  # of an event type, a target or a dedup_key
SUBSCRIPTIONS_S = 1.0  # how long the table of subscriptions is trusted when choosing whom to wake
PREFIX_END = "/"  # the character after "."
TYPES_END = "{"  # the character after "z", with which a type may begin
UNREADABLE = (ValueError, TypeError, RecursionError)  # a row that somebody wrote by hand
_PRIORITIES = {priority.value: priority for priority in Priority}


class Outbox:
    """The part of the bus that events are written to; see `Bus`."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock | None = None,
        wake: Path | None = None,
        opening: Opening = OPENING,
    ) -> None:
        self.clock = clock or SystemClock()
        self.db = Database(path, opening)
        self.dead = DeadLetters(self.db, self.clock)
        self._wake_folder = wake
        self._bell = Bell(wake) if wake is not None else None
        self._to_wake: set[str] = set()
        self._subscriptions: list[tuple[str, tuple[str, ...]]] = []
        self._subscriptions_until = float("-inf")
        self.db.committed = self._committed
        self.db.rolled_back = self._rolled_back

    def close(self) -> None:
        """Close the connection."""
        self.db.close()
        if self._bell is not None:
            self._bell.close()

    def transaction(self) -> Transaction:
        """Return a context manager: all of what is written inside it, or nothing.

        One inside another joins it. Keep it short: it holds the database's one write lock.
        """
        return self.db.transaction()

    def waker(self, name: str) -> Waker:
        """Return a new socket on which the consumer `name` is woken.

        Raises:
            StorageError: it cannot be made.
        """
        if self._wake_folder is None:
            raise StorageError("this bus was opened without a folder for wake-up sockets")
        return Waker(self._wake_folder, name)

    # --- publishing

    def publish(
        self,
        agent: str,
        event: NewEvent,
        *,
        priority: Priority | None = None,
        cause: Event | None = None,
        system: bool = False,
    ) -> int | None:
        """Append an event and return its id; consumers are woken after the commit.

        None: its dedup_key is known, or its chain of causes is too long (a dead letter, "loop").
        `priority` defaults to the cause's, else to `event`. `system` allows system types.

        Raises:
            EventRefused: type, payload or a name in it cannot be published.
        """
        payload = self.check(agent, event, system=system)
        if priority is None:
            priority = Priority.EVENT if cause is None else cause.priority
        cause_id, depth = (None, 0) if cause is None else (cause.id, cause.depth + 1)
        if depth > DEPTH_MAX:
            self._bury_loop(agent, event, payload, priority, cause_id, depth)
            return None
        try:
            self.db.run(
                sql.PUBLISH,
                (
                    agent,
                    event.event_type,
                    payload,
                    iso(self.clock.now()),
                    event.target,
                    priority.value,
                    cause_id,
                    depth,
                    event.dedup_key,
                ),
            )
        except RowRefused as error:
            raise EventRefused(error.what, where=event.event_type, hint=error.hint) from error
        connection = self.db.connection
        if connection.changes() == 0:
            if event.dedup_key is not None:
                return None
            what = "the database refused the row: a trigger left it out"
            raise EventRefused(what, where=event.event_type)
        event_id = connection.last_insert_rowid()
        if self._bell is not None:
            self._to_wake.update(self._interested(agent, event.event_type, event.target))
            if not self.db.in_transaction:
                self._committed()
        return event_id

    def publish_many(
        self,
        agent: str,
        events: Iterable[NewEvent],
        *,
        priority: Priority | None = None,
        cause: Event | None = None,
        system: bool = False,
    ) -> list[int | None]:
        """Append several events in one transaction; see `publish`."""
        with self.transaction():
            return [
                self.publish(agent, event, priority=priority, cause=cause, system=system)
                for event in events
            ]

    def check(self, agent: str, event: NewEvent, *, system: bool = False) -> str:
        """Return the event's payload as JSON text, if it may be published.

        Raises:
            EventRefused: it may not; says why.
        """
        kind = event.event_type
        if not _is_type(kind):
            raise EventRefused(
                f"{kind!r} is no event type", hint='write dotted lower case: "repo.changed"'
            )
        if not system and kind.startswith(SYSTEM_TYPES):
            raise EventRefused(
                "this type is the system's own", where=kind, hint="choose another first word"
            )
        if not _are_names(agent, event.target, event.dedup_key):
            raise EventRefused("producer, target or dedup_key is no proper name", where=kind)
        return payload_text(kind, event.payload)

    def _bury_loop(
        self,
        agent: str,
        event: NewEvent,
        payload: str,
        priority: Priority,
        cause_id: int | None,
        depth: int,
    ) -> None:
        unwritten = Event(
            0,
            agent,
            event.event_type,
            event.payload,
            self.clock.now(),
            event.target,
            priority,
            cause_id,
            depth,
            event.dedup_key,
        )
        self.dead.add(
            agent,
            DeadReason.LOOP,
            f"answers a chain of {depth} events; at most {DEPTH_MAX} may follow one another",
            unwritten,
            payload=payload,
        )

    # --- reading

    def events(
        self,
        *,
        after: int = 0,
        agent: str | None = None,
        event_type: str | None = None,
        limit: int = 100,
        newest: bool = False,
        odd: Callable[[int, str], object] | None = None,
    ) -> list[Event]:
        """Return events in id order: the first `limit` after `after`, or the `newest` of them.

        `agent` is the producer; `event_type` is exact or a `prefix.*`. What cannot be read is
        left out; `odd` is told its id and why.
        """
        prefix = event_type is not None and event_type.endswith(".*")
        first, end = prefix_range(event_type) if event_type and prefix else (event_type, "")
        statement = sql.events(
            agent=agent is not None,
            exact=event_type is not None and not prefix,
            prefix=prefix,
            newest=newest,
        )
        given = {"after": after, "limit": limit, "agent": agent, "event_type": first, "end": end}
        rows = self.db.read(statement, given, sql.EVENT_COLUMNS)
        events = []
        for row in reversed(rows) if newest else rows:
            try:
                events.append(self._read(row))
            except UNREADABLE as error:  # its consumer buries it, with the reason
                if odd is not None:
                    odd(row[0], str(error))
        return events

    def event(self, event_id: int) -> Event | None:
        """Return one event, or None when it is not there, was pruned or cannot be read."""
        rows = self.db.read(sql.EVENT, (event_id,), sql.EVENT_COLUMNS)
        try:
            return self._read(rows[0]) if rows else None
        except UNREADABLE:
            return None

    def types(self) -> list[str]:
        """Return the event types that the outbox holds, by an index."""
        rows = self.db.read(sql.TYPES_BETWEEN, ("", TYPES_END), "name")
        return [name for (name,) in rows if isinstance(name, str)]

    def last_id(self) -> int:
        """Return the highest id ever given."""
        rows = self.db.run(sql.LAST_ID)
        return int(rows[0][0]) if rows else 0

    def _read(self, row: Any) -> Event:
        if bytes in map(type, row):
            raise ValueError("holds text that is not UTF-8")
        if not _is_type(row[2]):
            raise ValueError("its event_type is none: it is dotted lower case, like repo.changed")
        if not _are_names(row[1], row[5], row[9]):
            raise ValueError("its agent, target or dedup_key is no proper name")
        try:
            payload = read_json(row[3])
        except json.JSONDecodeError:  # SQLite lets JSON5 pass, which a person may have written
            try:
                payload = read_json(self.db.run(sql.STRICT_JSON, (row[3],))[0][0])
            except RowRefused as error:
                raise ValueError(str(error.__cause__)) from error
        if "\\u" in row[3] and not is_utf8(compact(payload)):
            raise ValueError("its payload holds half a character (a lone surrogate)")
        return Event(
            row[0],
            row[1],
            row[2],
            payload,
            parse_iso(row[4]),
            row[5],
            _PRIORITIES[row[6]],
            row[7],
            row[8],
            row[9],
        )

    # --- after transactions

    def _interested(self, agent: str, event_type: str, target: str | None) -> list[str]:
        """Return who should be woken."""
        if target is not None:
            return [target]
        now = self.clock.monotonic()
        if now >= self._subscriptions_until:
            rows = self.db.read(sql.SUBSCRIPTIONS, (), "name, subscribe")
            self._subscriptions = [
                (name, subscriptions(items)) for name, items in rows if isinstance(name, str)
            ]
            self._subscriptions_until = now + SUBSCRIPTIONS_S
        return [
            name
            for name, items in self._subscriptions
            if name != agent and any(matches(event_type, item) for item in items)
        ]

    def _committed(self) -> None:
        if self._to_wake and self._bell is not None:
            names, self._to_wake = self._to_wake, set()
            self._bell.ring(names)

    def _rolled_back(self) -> None:
        self._to_wake.clear()


def _is_type(kind: str) -> bool:
    return len(kind) <= NAME_CHARACTERS_MAX and EVENT_TYPE.fullmatch(kind) is not None


def _are_names(*names: str | None) -> bool:
    return all(
        name is None or (0 < len(name) <= NAME_CHARACTERS_MAX and is_utf8(name)) for name in names
    )


def subscriptions(text: Any) -> tuple[str, ...]:
    """Return what an agent's row says it reads; without what a person wrote there that is none."""
    try:
        items = read_json(text)
    except UNREADABLE:
        return ()  # written anew when the agent is next accepted
    return tuple(item for item in items if isinstance(item, str) and is_utf8(item))


def matches(event_type: str, item: str) -> bool:
    """Whether a subscription, exact or a `prefix.*`, means this type."""
    return event_type == item or (item.endswith(".*") and event_type.startswith(item[:-1]))


def prefix_range(item: str) -> tuple[str, str]:
    """Return the range of types of `prefix.*`: from "prefix." to before "prefix/"."""
    return item[:-1], item[:-2] + PREFIX_END
