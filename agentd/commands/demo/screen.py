"""What the demo shows while agents work."""

import shutil
import sys

from agentd.bus import Bus
from agentd.commands.output import ProgressLine, local, plain, say, shorten
from agentd.events import Event
from agentd.sessions.archive import Archive
from agentd.states import SessionState
from agentd.views.event_line import event_line

UNSAID = frozenset({"agent.started", "review.finding"})  # the screens below say it all


class Screen:
    """Prints new events as they come, and under them what is being worked on."""

    def __init__(self, bus: Bus) -> None:
        self._archive = Archive(bus)
        self._bus = bus
        self._last = 0
        self._line = ProgressLine(sys.stdout, indent="  ")
        self._width = shutil.get_terminal_size((100, 24)).columns

    def update(self) -> None:
        """Print what is new."""
        for event in self._bus.events.list(after=self._last):
            self._last = event.id
            if event.event_type not in UNSAID:
                self._line.clear()
                say(f"  {local(event.created_at)}  {self._line_of(event)}", flush=True)
        for row in self._archive.list(state=SessionState.RUNNING, limit=1):
            age = (self._bus.clock.now() - row.started_at).total_seconds()
            self._line.say(f"{row.agent} works on event {row.event_id}", f"{age:.0f} s")

    def _line_of(self, event: Event) -> str:
        to = f" -> {event.target}" if event.target else ""
        text = f"{event.agent}{to}  {plain(event.event_type)}  {event_line(event)}"
        return shorten(text, max(40, self._width - 12))

    def close(self) -> None:
        """Leave a clean line."""
        self._line.clear()
