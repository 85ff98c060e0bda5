"""What an event answers, and what came of it: a tree of events and of sessions."""

from typing import Any

from agentd.bus import Bus, sql
from agentd.bus.json_text import UNREADABLE
from agentd.clock import iso
from agentd.events import Event
from agentd.views.event_line import event_line

CAUSES_MAX = 32  # events before it
EFFECTS_MAX = 20  # that answer one event
SESSIONS_SHOWN = 5  # of one event
NODES_MAX = 200  # in all
SESSION_KEYS = ("id", "agent", "state", "started_at", "ended_at")


def causes(bus: Bus, event_id: int) -> dict[str, Any]:
    """Return the events that led to one, the oldest first, and the tree of what came of it.

    `causes` is a list of nodes, `event` is the event's own. A node has id, agent, event_type,
    created_at, target, line (in words), sessions (that answered it), effects (nodes) and more
    (whether there are more effects than these). Of a pruned event the id is known: it is `gone`.
    """
    before: list[dict[str, Any]] = []
    event = bus.events.get(event_id)
    at = event.cause_id if event else None
    seen = {event_id}
    while at is not None and at not in seen and len(before) < CAUSES_MAX:
        seen.add(at)  # a person's SQL may have made a circle
        cause = bus.events.get(at)
        before.append(_node(bus, at, cause))
        at = cause.cause_id if cause else None
    top = _node(bus, event_id, event)
    level, seen = [top], {event_id}
    while level:
        level = [found for node in level for found in _effects(bus, node, seen)]
    return {"causes": before[::-1], "event": top}


def _effects(bus: Bus, node: dict[str, Any], seen: set[int]) -> list[dict[str, Any]]:
    """Add to a node what answers its event, and return that."""
    rows = bus.db.read(sql.EFFECTS, (node["id"], EFFECTS_MAX + 1), sql.EVENT_COLUMNS)
    node["more"] = len(rows) > EFFECTS_MAX
    for row in rows[:EFFECTS_MAX]:
        if row[0] in seen:
            continue
        if len(seen) >= NODES_MAX:
            node["more"] = True
            break
        seen.add(row[0])
        try:
            event = bus.events.read(row)
        except UNREADABLE:
            event = None
        node["effects"].append(_node(bus, row[0], event))
    return list(node["effects"])


def _node(bus: Bus, event_id: int, event: Event | None) -> dict[str, Any]:
    rows = bus.db.run(sql.SESSIONS_OF, (event_id, SESSIONS_SHOWN))
    return {
        "id": event_id,
        "gone": event is None,
        "agent": event and event.agent,
        "event_type": event and event.event_type,
        "created_at": event and iso(event.created_at),
        "target": event and event.target,
        "line": event and event_line(event),
        "sessions": [dict(zip(SESSION_KEYS, row, strict=True)) for row in rows],
        "effects": [],
        "more": False,
    }


def event_document(bus: Bus, event_id: int) -> dict[str, Any] | None:
    """Return an event and its tree; None where there is neither it nor anything that came of it.

    `event` is null for one that was pruned.
    """
    event, tree = bus.events.get(event_id), causes(bus, event_id)
    if event is None and not (tree["event"]["sessions"] or tree["event"]["effects"]):
        return None
    return {"id": event_id, "event": event and event.document(), "tree": tree}
