"""Tells open pages what is new, as server-sent events: one look for all, while there are any.

`event`: an event that was published. `status`: whose state is another one by now. `asks`: how much
waits for a person. A browser that lost its connection says the last event that it has.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agentd.bus import Bus
from agentd.errors import AgentdError
from agentd.events import Event
from agentd.sessions.archive import Archive
from agentd.ui.page_reader import PageReader

LOOK_S = 0.15  # between looks whether anything was committed
STATUS_S = 1.0  # between looks at the supervisor's own view, where something was committed
QUIET_S = 5.0  # and where nothing was
COMMENT_S = 15.0  # a stream says at least this often that it is alive
EVENTS_MAX = 200  # at a time; the newest
BEHIND_MAX = 400  # messages that a page has not taken: it is left, and comes again
STREAMS_MAX = 60


class TooManyPages(AgentdError):
    """Too many pages are open."""


class LiveStream:
    """All streams of one process. In the event loop."""

    def __init__(self, reading: PageReader) -> None:
        self._reading = reading
        self._pages: set[asyncio.Queue[str | None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._ended = False
        self._last_id: int | None = None  # None: not known yet, what is new begins there
        self._asks: int | None = None
        self._states: dict[str, Any] = {}

    @property
    def watched(self) -> bool:
        """Whether a page is open."""
        return bool(self._pages)

    def end(self) -> None:
        """End all streams: the process stops."""
        self._ended = True
        for page in self._pages:
            _leave(page)

    async def stream(self, after: int | None, seen: int | None) -> AsyncIterator[str]:
        """Yield what is new after an event, or from now on, until the page is gone.

        `seen`: the state of the database that the page shows. Of another one it is told `again`.

        Raises:
            TooManyPages: there are too many.
        """
        if len(self._pages) >= STREAMS_MAX or self._ended:
            raise TooManyPages("too many pages are open", hint="close some of them")
        page: asyncio.Queue[str | None] = asyncio.Queue(BEHIND_MAX)
        self._pages.add(page)
        try:
            if self._looking is None:
                self._looking = asyncio.create_task(self._look())
                self._looking.add_done_callback(self._looked)
            yield "retry: 1000\n\n"
            if seen is not None and seen != self._reading.version():
                yield _message("again", {})
            if after is not None:
                events = await self._reading.call(lambda bus: _events(bus, after))
                for event in events:
                    yield _told(event)
            while True:
                try:
                    async with asyncio.timeout(COMMENT_S):
                        text = await page.get()
                except TimeoutError:
                    text = ":\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._pages.discard(page)
            if not self._pages and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def _tell(self, text: str) -> None:
        for page in self._pages:
            try:
                page.put_nowait(text)
            except asyncio.QueueFull:
                _leave(page)

    async def _look(self) -> None:
        """Look until nobody watches; what cannot be read now is looked at again."""
        seen, asked_at, loop = -1, float("-inf"), asyncio.get_running_loop()
        self._last_id = None
        stale = True  # something was committed since the supervisor was asked
        while True:
            try:
                if (version := self._reading.version()) != seen:
                    await self._tell_committed()
                    seen, stale = version, True
                if loop.time() - asked_at > (STATUS_S if stale else QUIET_S):
                    asked_at, stale = loop.time(), False
                    await self._tell_states()
            except AgentdError as error:  # a busy database, a supervisor that stops
                self._tell(_message("trouble", {"what": error.what}))
                await asyncio.sleep(STATUS_S)  # ends by cancellation
            await asyncio.sleep(LOOK_S)  # ends by cancellation

    def _looked(self, looking: "asyncio.Task[None]") -> None:
        """Let all pages come again where a fault ended the looking: they would hear nothing."""
        if not looking.cancelled():
            self._looking = None
            for page in self._pages:
                _leave(page)
            looking.result()  # raises, so that its traceback is logged

    async def _tell_committed(self) -> None:
        if (last_id := self._last_id) is None:
            last_id = await self._reading.call(lambda bus: bus.events.last_id())
        self._last_id = last_id
        events = await self._reading.call(lambda bus: _events(bus, last_id))
        for event in events:
            self._tell(_told(event))
        self._last_id = max([last_id, *(event.id for event in events)])
        asks = await self._reading.call(lambda bus: sum(Archive(bus).parked().values()))
        if asks != self._asks:
            self._asks = asks
            self._tell(_message("asks", {"count": asks}))

    async def _tell_states(self) -> None:
        states = _states(await self._reading.status())
        old, self._states = self._states, states
        changed = sorted(name for name in states | old if states.get(name) != old.get(name))
        if changed and old:
            self._tell(_message("status", {"changed": changed}))


def _leave(page: "asyncio.Queue[str | None]") -> None:
    """Let a page's stream end; what it has not taken it asks for again."""
    while not page.empty():
        page.get_nowait()
    page.put_nowait(None)


def _events(bus: Bus, after: int) -> list[Event]:
    return list(bus.events.list(after=after, limit=EVENTS_MAX, newest=True))


def _told(event: Event) -> str:
    told = {"id": event.id, "type": event.event_type, "agent": event.agent}
    return _message("event", told, event.id)


def _message(kind: str, told: Mapping[str, Any], number: int | None = None) -> str:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(told)}\n\n"


def _states(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what pages show of each process, by name."""
    keys = ("state", "reason", "pid", "paused", "checking", "enabled", "problem", "version")
    others = {name: status.get(name) for name in ("model", "deliver", "watcher")}
    named = {agent["name"]: agent for agent in status["agents"]}
    found = {
        name: [*(one.get(key) for key in keys), (one.get("beat") or {}).get("state")]
        for name, one in {**others, **named}.items()
        if one
    }
    return {**found, "": [status.get("problem"), status.get("stopping"), status.get("storage")]}
