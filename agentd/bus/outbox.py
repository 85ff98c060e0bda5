"""The outbox as it is written: everyone appends to it."""

from collections.abc import Iterable

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.dead import DeadLetters
from agentd.bus.doorbell import Doorbell
from agentd.bus.event_rows import are_names, is_type
from agentd.bus.json_text import payload_text
from agentd.bus.later import LaterEvents
from agentd.clock import Clock, iso
from agentd.errors import EventRefused, RowRefused
from agentd.events import DEPTH_MAX, LATER, PERSON, SYSTEM_TYPES, Event, NewEvent
from agentd.states import DeadReason, Priority


class Outbox:
    """Publishes events; see `EventRows` and `Lanes`, which read them."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        dead: DeadLetters,
        later: LaterEvents,
        doorbell: Doorbell,
    ) -> None:
        self.db = db
        self._later = later
        self._clock = clock
        self._dead = dead
        self._doorbell = doorbell

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

        None: its dedup_key is known; or its chain of causes is too long (a dead letter, "loop"); or
        it is kept until it is due (LATER).
        `priority` defaults to the cause's, else to `event`. `system` allows system types.

        Raises:
            EventRefused: type, payload or a name in it cannot be published.
        """
        payload = self.check(agent, event, system=system)
        if event.event_type == LATER and not system:
            self._later.add(agent, payload, self._later.check(event.payload), cause)
            return None
        if priority is None:
            priority = Priority.EVENT if cause is None else cause.priority
        cause_id, depth = (None, 0) if cause is None else (cause.id, cause.depth + 1)
        if agent == PERSON:  # who asks on and on is no loop
            depth = 0
        now, kind, target = self._clock.now(), event.event_type, event.target
        fate = (cause_id, depth, event.dedup_key)
        if depth > DEPTH_MAX:
            error = f"answers a chain of {depth} events; at most {DEPTH_MAX} may follow one another"
            unwritten = Event(0, agent, kind, event.payload, now, target, priority, *fate)
            self._dead.add(agent, DeadReason.LOOP, error, unwritten, payload=payload)
            return None
        row = (agent, kind, payload, iso(now), target, priority.value, *fate)
        try:
            event_id = self.db.insert(sql.PUBLISH, row)
        except RowRefused as error:
            raise EventRefused(error.what, where=kind, hint=error.hint) from error
        if not event_id:
            if event.dedup_key is not None:
                return None
            raise EventRefused("the database refused the row: a trigger left it out", where=kind)
        self._doorbell.written(agent, kind, target)
        return event_id

    @atomic
    def publish_many(
        self,
        agent: str,
        events: Iterable[NewEvent],
        *,
        cause: Event | None = None,
        system: bool = False,
    ) -> list[int | None]:
        """Append several events in one transaction; see `publish`."""
        return [self.publish(agent, event, cause=cause, system=system) for event in events]

    def check(self, agent: str, event: NewEvent, *, system: bool = False) -> str:
        """Return the event's payload as JSON text, if it may be published.

        Raises:
            EventRefused: it may not; says why.
        """
        kind = event.event_type
        if not is_type(kind):
            raise EventRefused(
                f"{kind!r} is no event type", hint='write dotted lower case: "repo.changed"'
            )
        if kind == LATER and not system:
            self._later.check(event.payload)
        elif not system and kind.startswith(SYSTEM_TYPES):
            raise EventRefused(
                "this type is the system's own", where=kind, hint="choose another first word"
            )
        if not are_names(agent, event.target, event.dedup_key):
            raise EventRefused("producer, target or dedup_key is no proper name", where=kind)
        return payload_text(kind, event.payload)
