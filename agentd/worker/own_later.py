"""Lets the events that an agent has set for itself come when they are due."""

from datetime import timedelta

from agentd.bus import Bus
from agentd.bus.later import LaterEvent
from agentd.clock import Clock, iso
from agentd.config.timetable import wanted
from agentd.events import LATER, NewEvent
from agentd.logs.logger import Logger
from agentd.states import Priority


class OwnLater:
    """One agent's events to come. A paused agent has no worker, so they wait for it."""

    def __init__(self, agent: str, missed: str | timedelta, clock: Clock, log: Logger) -> None:
        self._agent, self._missed, self._clock, self._log = agent, missed, clock, log

    def look(self, bus: Bus) -> float | None:
        """Publish what is due; return the seconds to the next one, None where there is none."""
        while following := bus.later.list(self._agent, limit=1):
            wait_s = (following[0].due - self._clock.now()).total_seconds()
            if wait_s > 0:
                return wait_s
            self._come(bus, following[0])
        return None

    def _come(self, bus: Bus, later: LaterEvent) -> None:
        still = wanted(later.due, self._clock.now(), self._missed)
        event = NewEvent(LATER, later.payload, target=later.agent)
        event_id = None
        with bus.transaction():
            if bus.later.drop(later.id) and still:
                event_id = bus.publish(
                    later.agent, event, priority=Priority.SCHEDULE, cause=later.cause, system=True
                )
        told = {"later": later.id, "due": iso(later.due)}
        if still:
            self._log.info("later.due", event_id=event_id, **told)
        else:
            self._log.info("later.skipped", **told)
