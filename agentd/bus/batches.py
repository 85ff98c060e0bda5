"""Batches: what waits on a lane becomes one event, in the transaction that steps over all of it.

The batch is an event like others, addressed to the agent, with its members in its payload. So their
session is begun, cut, resumed, tried again, replayed and given up as any other one.
"""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.event_rows import EventRows
from agentd.bus.json_text import UNREADABLE, payload_text
from agentd.bus.lanes import Lanes
from agentd.bus.outbox import Outbox
from agentd.clock import Clock
from agentd.errors import EventRefused
from agentd.events import BATCH, DAEMON, Event, Lane, NewEvent, only_persons
from agentd.states import Priority

BYTES_MAX = 400_000  # of a batch's members together
URGENCY = list(Priority)  # the most urgent first


class Batches:
    """Makes the batches of one database."""

    def __init__(
        self, db: Database, events: EventRows, lanes: Lanes, outbox: Outbox, clock: Clock
    ) -> None:
        self.db = db
        self._events, self._lanes, self._outbox, self._clock = events, lanes, outbox, clock

    def gather(self, lane: Lane, within: timedelta, most: int) -> Event | float:
        """Make a batch of what waits on the lane, once `most` do, or the first `within` so long.

        Returns 0 when it is made, else the seconds until it will be; infinity where nothing waits.
        Or the lane's next event, which is no member: only a person may have written it, it is too
        large, or a session of its own was begun.

        Raises:
            LostLane: somebody else steps this lane.
        """
        first = self._lanes.next(lane)
        if first is None:
            return math.inf
        begun = self.db.run(sql.DELIVERY, (lane.consumer, first.id))
        if begun or not (size := _size(first)):
            return first
        members, closed = [first], False
        while len(members) < most and not closed:
            row = self._lanes.following(lane, members[-1].id)
            if row is None:
                break
            try:
                event = self._events.read(row)
            except UNREADABLE:  # buried when it is the lane's next one
                closed = True
                continue
            more = _size(event)
            size += more
            closed = not more or size > BYTES_MAX
            if not closed:
                members.append(event)
        waited = self._clock.now() - first.created_at  # less than nothing: the clock was set back
        if not closed and len(members) < most and timedelta() <= waited < within:
            return (within - waited).total_seconds()
        self._write(lane, members)
        return 0.0

    @atomic
    def _write(self, lane: Lane, members: list[Event]) -> None:
        batch = NewEvent(BATCH, {"events": [_part(one) for one in members]}, target=lane.agent)
        deepest = max(members, key=lambda one: one.depth)
        priority = min((one.priority for one in members), key=URGENCY.index)
        self._lanes.step(lane, members[-1])
        # As deep as its members are: it answers none of them.
        cause = replace(deepest, depth=deepest.depth - 1)
        self._outbox.publish(DAEMON, batch, priority=priority, cause=cause, system=True)


def _part(event: Event) -> dict[str, Any]:
    at = event.created_at.isoformat(timespec="seconds")
    about = {"id": event.id, "type": event.event_type, "agent": event.agent, "at": at}
    return {**about, "payload": dict(event.payload)}


def _size(event: Event) -> int:
    """Return a member's bytes; 0: it can be none."""
    if only_persons(event):
        return 0
    try:
        size = len(payload_text(BATCH, {"events": [_part(event)]}).encode())
    except EventRefused:  # it nests almost too deeply
        return 0
    return size if size <= BYTES_MAX else 0
