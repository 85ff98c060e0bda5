"""What the demo shows while agents work."""

import shutil
import sys

from agentd.bus import Bus
from agentd.commands.output import ProgressLine, compact, local, plain, say, shorten
from agentd.events import Event, is_result, result_of
from agentd.sessions.archive import Archive
from agentd.states import SessionState

UNSAID = frozenset({"agent.started", "review.finding"})  # the screens below say it all


def summary(event: Event) -> str:
    """Say in a few words what is in an event of the demo's agents; others show their payload."""
    payload = event.payload
    if is_result(event):
        return plain(result_of(event)[0])
    if event.event_type == "repo.changed":
        number = payload["total_files"]
        files = "1 file" if number == 1 else f"{number} files"
        return f"{files} {'on top of' if payload['uncommitted'] else 'in'} {payload['head'][:10]}"
    return compact(payload)


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
        text = f"{event.agent}{to}  {plain(event.event_type)}  {summary(event)}"
        return shorten(text, max(40, self._width - 12))

    def close(self) -> None:
        """Leave a clean line."""
        self._line.clear()
