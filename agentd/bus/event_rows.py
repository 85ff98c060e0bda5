"""The outbox as it is read: by people, by sessions, and row by row by `lanes`."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.bus.json_text import UNREADABLE, compact, is_utf8, read_json
from agentd.clock import parse_iso
from agentd.events import EVENT_TYPE, SYSTEM_TYPES, Event, is_result
from agentd.states import Priority

PAGE = 500  # rows that are read at a time
NAME_CHARACTERS_MAX = 400  # of an event type, a target or a dedup_key
PREFIX_END = "/"  # the character after "."
TYPES_END = "{"  # the character after "z", with which a type may begin
_PRIORITIES = {priority.value: priority for priority in Priority}


@dataclass(frozen=True)
class NewResults:
    """Results in id order, how many older ones were left out, and up to which id it was looked."""

    events: Sequence[Event]
    more: int
    until: int


# What gives an agent the results of others: their types, after which id, not older than, how many.
NewsReader = Callable[[Sequence[str], int, str, int], NewResults]


class EventRows:
    """The events of one database. What a person wrote there by hand may be none; see `read`."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def list(
        self,
        *,
        after: int = 0,
        agent: str | None = None,
        event_type: str | None = None,
        limit: int = 100,
        newest: bool = False,
        odd: Callable[[int, str], object] | None = None,
    ) -> Sequence[Event]:
        """Return events in id order: the first `limit` after `after`, or the `newest` of them.

        `agent` is the producer; `event_type` is exact or a `prefix.*`. What cannot be read is
        left out; `odd` is told its id and why.
        """
        rows = self.each(
            after=after, agent=agent, event_type=event_type, page=limit, newest=newest, odd=odd
        )
        found = [*islice(rows, limit)]
        return found[::-1] if newest else found

    def each(
        self,
        *,
        after: int = 0,
        agent: str | None = None,
        event_type: str | None = None,
        since: str | None = None,
        until: str | None = None,
        page: int = PAGE,
        newest: bool = False,
        odd: Callable[[int, str], object] | None = None,
    ) -> Iterator[Event]:
        """Yield events in id order, or the `newest` first; `page` of them are read at a time.

        `since` and `until`: of those created then, and before. For the rest see `list`.
        """
        prefix = event_type is not None and event_type.endswith(".*")
        first, end = _range(event_type) if event_type and prefix else (event_type, "")
        statement = sql.events(
            agent=agent is not None,
            exact=event_type is not None and not prefix,
            prefix=prefix,
            since=since is not None,
            until=until is not None,
            newest=newest,
        )
        given = {"agent": agent, "event_type": first, "end": end, "since": since, "until": until}
        place = {"after": after, "before": sql.ID_END}
        page = min(page, PAGE)
        while True:
            rows = self.db.read(statement, {**given, **place, "limit": page}, sql.EVENT_COLUMNS)
            for row in rows:
                try:
                    event = self.read(row)
                except UNREADABLE as error:  # its consumer buries it, with the reason
                    if odd is not None:
                        odd(row[0], str(error))
                else:
                    yield event
            if not page or len(rows) < page:
                return
            place["before" if newest else "after"] = rows[-1][0]

    def results(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        agent: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int = 100,
    ) -> Sequence[Event]:
        """Return events that have a title, in id order: the first after `after`, or the newest.

        `before`: of the newest, only ids below it. `since`: when the oldest may have been created,
        `until`: before when the newest. `agentd.events.is_result` has the last word.
        """
        statement = sql.results(agent=agent is not None, newest=after is None)
        given: dict[str, Any] = {"agent": agent, "since": since, "until": until}
        given |= {"after": after or 0, "before": before or sql.ID_END, "limit": limit}
        rows = self.db.read(statement, given, sql.EVENT_COLUMNS)
        events = []
        for row in reversed(rows) if after is None else rows:
            with suppress(*UNREADABLE):  # its consumer buries it, with the reason
                events.append(self.read(row))
        return events

    def newest_result(self, agent: str, among: int) -> Event | None:
        """Return an agent's newest result, if it is among so many newest events."""
        given = (agent, self.last_id() - among, compact(SYSTEM_TYPES))
        for row in self.db.read(sql.LAST_RESULT, given, sql.EVENT_COLUMNS):
            with suppress(*UNREADABLE):
                event = self.read(row)
                return event if is_result(event) else None
        return None

    def news(
        self, reader: str, types: Sequence[str], after: int, since: str, limit: int
    ) -> NewResults:
        """Return the newest results of other agents, of these types, as a `NewsReader` does."""
        until = self.last_id()
        given = {"after": after, "until": until, "since": since, "limit": limit}
        given |= {"reader": reader, "types": compact(list(types))}
        found = []
        for row in reversed(self.db.read(sql.OTHERS_RESULTS, given, sql.EVENT_COLUMNS)):
            with suppress(*UNREADABLE):
                found.append(self.read(row))
        del given["limit"]
        count = int(self.db.run(sql.COUNT_OTHERS_RESULTS, given)[0][0])
        return NewResults([*filter(is_result, found)], max(0, count - limit), until)

    def get(self, event_id: int) -> Event | None:
        """Return one event, or None when it is not there, was pruned or cannot be read."""
        rows = self.db.read(sql.EVENT, (event_id,), sql.EVENT_COLUMNS)
        try:
            return self.read(rows[0]) if rows else None
        except UNREADABLE:
            return None

    def types(self, prefix: str | None = None) -> Sequence[str]:
        """Return the event types that the outbox holds, by an index; or those of a `prefix.*`."""
        between = ("", TYPES_END) if prefix is None else _range(prefix)
        rows = self.db.read(sql.TYPES_BETWEEN, between, "name")
        return [name for (name,) in rows if isinstance(name, str)]

    def last_id(self) -> int:
        """Return the highest id ever given."""
        rows = self.db.run(sql.LAST_ID)
        return int(rows[0][0]) if rows else 0

    def read(self, row: Any) -> Event:
        """Return the event of a row of EVENT_COLUMNS.

        Raises:
            UNREADABLE: it is none, and why.
        """
        if bytes in map(type, row):
            raise ValueError("holds text that is not UTF-8")
        event_id, agent, kind, text, at, target, priority, cause_id, depth, dedup_key = row
        if not is_type(kind):
            raise ValueError("its event_type is none: it is dotted lower case, like repo.changed")
        if not are_names(agent, target, dedup_key):
            raise ValueError("its agent, target or dedup_key is no proper name")
        try:
            payload = read_json(text)
        except json.JSONDecodeError:  # SQLite lets JSON5 pass, which a person may have written
            payload = read_json(self.db.strict_json(text))
        if "\\u" in text and not is_utf8(compact(payload)):
            raise ValueError("its payload holds half a character (a lone surrogate)")
        head = (event_id, agent, kind, payload, parse_iso(at), target, _PRIORITIES[priority])
        return Event(*head, cause_id, depth, dedup_key)


def is_type(kind: str) -> bool:
    """Whether an event may be of this type."""
    return len(kind) <= NAME_CHARACTERS_MAX and EVENT_TYPE.fullmatch(kind) is not None


def are_names(*names: str | None) -> bool:
    """Whether an event may carry these names, where it has any."""
    return all(
        name is None or (0 < len(name) <= NAME_CHARACTERS_MAX and is_utf8(name)) for name in names
    )


def _range(prefix: str) -> tuple[str, str]:
    """Return the range of types of `prefix.*`: from "prefix." to before "prefix/"."""
    return prefix[:-1], prefix[:-2] + PREFIX_END
