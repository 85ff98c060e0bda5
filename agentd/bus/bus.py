"""The bus: the outbox with its lanes, and what is written in one transaction with it.

One SQLite file holds events, cursors, agents, facts, schedules, dead letters and sessions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from agentd.bus import sql
from agentd.bus.json_text import compact, is_utf8, read_json, strict_json
from agentd.bus.lanes import Lanes
from agentd.bus.outbox import UNREADABLE, subscriptions
from agentd.clock import iso, moment_or, parse_iso
from agentd.errors import EventRefused, SessionFailed
from agentd.events import DAEMON, Event, Lane, NewEvent
from agentd.states import Priority

# Keys of a schedule's last runs that are kept beside it, whatever becomes of their events: enough
# for the night the clocks go back, and for hours by which a wall clock is set back.
FIRED_KEPT = 64


@dataclass(frozen=True)
class AgentRow:
    """What the bus knows of an agent. `version` is the accepted folder's hash."""

    name: str
    version: str
    subscribe: tuple[str, ...]
    paused: bool
    accepted_at: datetime
    removed_at: datetime | None


@dataclass(frozen=True)
class LastRun:
    """A schedule's past. `unanswered`: the event that it last published still waits."""

    due: datetime
    unanswered: bool


class Bus(Lanes):
    """One connection to the bus, for one thread. Another thread or process opens its own.

    `wake` is the folder of the consumers' datagram sockets; without it nobody is woken.
    """

    def finish(
        self,
        lane: Lane,
        event: Event,
        *,
        publish: Sequence[NewEvent] = (),
        remember: Mapping[str, Any] | None = None,
        cause: Event | None = None,
    ) -> list[int | None]:
        """Publish, remember and step the lane in one transaction; return the new events' ids.

        For consumers without sessions; `Sessions.close` adds the session's state to it. `cause`
        is what the published events answer, if not the lane's event.

        Raises:
            EventRefused, LostLane: nothing was written.
        """
        with self.transaction():
            ids = self.publish_many(lane.agent, publish, cause=cause or event)
            self.remember(lane.agent, remember or {})
            self.step(lane, event)
        return ids

    # --- agents

    def accept(
        self,
        name: str,
        version: str,
        *,
        subscribe: Sequence[str] = (),
        start: Literal["now", "beginning"] = "now",
        schedule: str | None = None,
    ) -> None:
        """Note an agent's accepted version; the first time, create both lanes' cursors.

        A changed subscription holds from the cursor onward. A paused agent stays paused.
        `schedule`: the name of the one that holds from now; None: it has none.
        """
        with self.transaction():
            back = self.db.run(sql.WAS_REMOVED, (name,))
            self.hold_schedule(name, None if back else schedule)
            self.open_lane(Lane(name, True), start=start)
            self.open_lane(Lane(name, False), start=start)
            self.db.run(sql.DROP_BREAKER_OF_OTHER, (name, version))
            self.db.run(
                sql.ACCEPT, (name, version, compact(list(subscribe)), iso(self.clock.now()))
            )
        self._subscriptions_until = float("-inf")

    def remove(self, name: str) -> None:
        """Note that an agent is gone. Its cursors stay for a while, in case it comes back."""
        self.db.run(sql.REMOVE, (iso(self.clock.now()), name))

    def set_paused(self, name: str, paused: bool) -> bool:
        """Pause an agent or let it go on; return False when it is not known."""
        self.db.run(sql.SET_PAUSED, (int(paused), name))
        return self.db.connection.changes() > 0

    def forgive(self, name: str) -> None:
        """Let an agent try again whose breaker tripped (see `agentd.sessions.breaker`)."""
        with self.transaction():
            self.db.run(sql.DROP_BREAKER, (name,))
            self._to_wake.add(name)

    def agents(self) -> list[AgentRow]:
        """Return every agent that was ever accepted, by name."""
        now = self.clock.now()
        return [
            AgentRow(
                name,
                str(version),
                subscriptions(subscribe),
                bool(paused),
                moment_or(accepted_at, now),
                moment_or(removed_at, now) if removed_at else None,
            )
            for name, version, subscribe, paused, accepted_at, removed_at in self.db.read(
                sql.AGENTS, (), sql.AGENT_COLUMNS
            )
            if isinstance(name, str)  # else nobody is called so
        ]

    def facts(self, agent: str) -> dict[str, Any]:
        """Return what the agent remembers.

        Raises:
            SessionFailed: somebody wrote something there that cannot be read.
        """
        found = {}
        for key, value in self.db.read(sql.FACTS, (agent,), "key, value"):
            try:
                if isinstance(key, bytes):
                    raise ValueError("its key is not UTF-8")
                found[key] = read_json(value)
            except UNREADABLE as error:
                raise SessionFailed(
                    f"what it remembers cannot be read: {error}",
                    where=f"facts of {agent}, key {key!r}",
                    hint="correct or delete that row of the table `facts`",
                ) from error
        return found

    def remember(self, agent: str, facts: Mapping[str, Any]) -> None:
        """Write facts; inside the session's closing transaction.

        Raises:
            EventRefused: a value is not JSON.
        """
        for key, value in facts.items():
            if not is_utf8(key):
                raise EventRefused("a fact's key is not UTF-8", where=f"{agent} remembers {key!r}")
            text = strict_json(value, f"{agent} remembers {key}")
            self.db.run(sql.REMEMBER, (agent, key, text, iso(self.clock.now())))

    # --- schedules

    def last_run(self, agent: str, schedule: str) -> LastRun | None:
        """Return when the schedule was last due, or None if never."""
        consumer = Lane(agent, True).consumer
        rows = self.db.run(sql.SCHEDULE, (agent, schedule, consumer))
        try:
            return LastRun(parse_iso(rows[0][0]), bool(rows[0][1])) if rows else None
        except ValueError:  # somebody wrote there what is no time: as if it had never been due
            return None

    def hold_schedule(self, agent: str, schedule: str | None) -> None:
        """Forget when the agent's other schedules were due, or all: they do not hold.

        One that is put back counts from then on, and so does that of an agent that comes back.
        """
        self.db.run(sql.DROP_OTHER_SCHEDULES, (agent, schedule))

    def note_schedule(self, agent: str, schedule: str, due: datetime) -> None:
        """Note when the schedule was last due, without an event: a skipped run, or its anchor."""
        self.db.run(sql.SET_SCHEDULE, (agent, schedule, iso(due), None, None))

    def fire_schedule(
        self, agent: str, schedule: str, due: datetime, event: NewEvent, *, producer: str = DAEMON
    ) -> int | None:
        """Publish the schedule's event and note its due time, in one transaction.

        Returns its id, or None when its dedup_key is known (then only the time is noted).
        """
        event_id = keys = None
        with self.transaction():
            rows = self.db.read(sql.FIRED, (agent, schedule), "fired")
            fired = subscriptions(rows[0][0]) if rows and rows[0][0] else ()
            if event.dedup_key is None or event.dedup_key not in fired:
                event_id = self.publish(producer, event, priority=Priority.SCHEDULE, system=True)
                keys = compact([*fired, event.dedup_key][-FIRED_KEPT:])
            self.db.run(sql.SET_SCHEDULE, (agent, schedule, iso(due), event_id, keys))
        return event_id

    # --- dead letters

    def retry_letter(self, letter_id: int) -> int:
        """Retry a dead letter (see `DeadLetters.retry`) and wake whom it concerns.

        Raises:
            UsageError: there is none with this id.
        """
        with self.transaction():
            event_id = self.dead.retry(letter_id)
            if self._bell is not None:
                event = self.event(event_id)
                if event is not None:  # else its consumer finds it at the next poll
                    interested = self._interested(event.agent, event.event_type, event.target)
                    self._to_wake.update(interested)
        return event_id
