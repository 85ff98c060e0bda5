"""What agents came to, newest first: for the list of results, the page and its search."""

from datetime import datetime
from typing import Any

from agentd.bus import Bus
from agentd.clock import EPOCH, iso
from agentd.events import Event, is_result, result_of


def results(
    bus: Bus,
    *,
    agent: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    words: str = "",
    before: int | None = None,
    limit: int = 20,
) -> list[dict[str, Any]]:
    """Return the newest results as documents, each with its `source`, the event that it answers.

    `agent`: only what it published. `since`, `until`: from when, and until before when. `words`:
    only those that hold all of them, each as a whole or as a beginning. `before`: only ids below
    it, which is how one goes on to older ones.
    """
    found: list[Event] = []
    while len(found) < limit:  # a blank title is none, which only `is_result` knows
        rows = _read(bus, agent, since, until, words, before, limit - len(found))
        if not rows:
            break
        found += filter(is_result, rows)
        before = rows[-1].id
    return [with_source(bus, event) for event in found]


def _read(
    bus: Bus,
    agent: str | None,
    since: datetime | None,
    until: datetime | None,
    words: str,
    before: int | None,
    limit: int,
) -> list[Event]:
    """Return the next events that have a title, newest first."""
    if words.strip():
        matching = bus.search.find(
            words,
            limit=limit,
            agent=agent,
            since=since or EPOCH,
            until=until,
            before=before,
            results=True,
        )
        return [one.event for one in matching]
    rows = bus.events.results(
        before=before,
        agent=agent,
        since=iso(since) if since else None,
        until=iso(until) if until else None,
        limit=limit,
    )
    return [*reversed(rows)]


def result(bus: Bus, event_id: int) -> dict[str, Any] | None:
    """Return one result, None where there is none of this id, or not any more."""
    event = bus.events.get(event_id)
    return with_source(bus, event) if event is not None and is_result(event) else None


def with_source(bus: Bus, event: Event) -> dict[str, Any]:
    """Return a result's document, and of the event that it answers id, agent and type, or null."""
    cause = bus.events.get(event.cause_id) if event.cause_id is not None else None
    keys = ("id", "agent", "event_type")
    source = None if cause is None else {key: getattr(cause, key) for key in keys}
    return {**document(event), "source": source}


def document(event: Event) -> dict[str, Any]:
    """Return a result as `agentd results --json` shows it."""
    title, text = result_of(event)
    return {
        "id": event.id,
        "agent": event.agent,
        "event_type": event.event_type,
        "created_at": iso(event.created_at),
        "title": title,
        "text": text,
        "payload": dict(event.payload),
    }
