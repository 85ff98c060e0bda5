"""Delivers by one way, in a thread of its own: none waits for another one.

A message is begun, sent, recorded. A kill between the last two sends it again: rather twice than
lost. Where the database refuses the record, only that is tried again.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile
from typing import Any

from agentd.bus import Bus
from agentd.clock import Clock, iso
from agentd.deliver.day_file import DayFile
from agentd.deliver.messages import Message, one_or_many
from agentd.deliver.news import Item, Kind, NewsPage, listed, news, still_wanted
from agentd.deliver.position import Position, Positions
from agentd.deliver.silence import Silence
from agentd.deliver.ways import MessageWay, WayFailed
from agentd.errors import Problem
from agentd.logs.logger import Logger

EVENTS_MAX = 200  # read together
GATHER_S = 10.0  # that news waits for more: what comes together is one message
RETRY_FIRST_S, RETRY_MAX_S = 5.0, 900.0  # between two tries; doubles
WAIT_MAX_S = 3600.0  # for a server that says how long to wait
REFUSALS = 4  # of a message in a row, after which it is only told that there is one
UNTAKEN = "agentd has news that this server does not take"
LAG_EVENTS, LAG_S = 1000, 60.0  # after which a cursor moves that has nothing to deliver


class Courier:
    """One way, with its position. `round` is for its thread alone, `document` for any.

    `only`: of whom results are sent. A file gets all, at any time.
    """

    def __init__(
        self,
        name: str,
        way: MessageWay | DayFile,
        bus: Bus,
        silence: Silence,
        only: Sequence[str],
        poll_s: float,
        *,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.name = name
        self._way, self._bus, self._positions = way, bus, Positions(bus, name)
        self._silence, self._only, self._poll_s = silence, only, poll_s
        self._log, self._clock = log, clock
        self._owed: tuple[Position, Mapping[str, Any]] | None = None  # sent, and not recorded
        self._underway: tuple[Message, Position] | None = None  # begun, and not sent
        self._waited = False  # what is there now was held back: it goes as one message
        self._failures, self._not_before, self._again = 0, float("-inf"), ""
        self._moved = clock.monotonic()
        self._problem: Problem | None = None
        self._document: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._at = self._positions.read()
        self._positions.write(self._at)
        if self._at.begun > self._at.passed:
            log.info("deliver.again", way=name, upto=self._at.begun)
        self._say("ok")

    def document(self) -> dict[str, Any]:
        """Return how it goes, as `agentd status` shows it."""
        with self._lock:
            return dict(self._document)

    def round(self) -> float:
        """Deliver what is to be delivered now; return the seconds to wait before the next round.

        Raises:
            StorageError: the database cannot be used; nothing is lost, and nothing sent again.
            Stopped: this process is to stop.
        """
        if self._owed is not None:
            self._record(*self._owed)
        self._at = self._positions.read()
        found = news(self._bus, self._at, self._positions.last(), EVENTS_MAX)
        for test in (item for item in found.items if item.kind is Kind.TEST):
            if test.event > self._at.tested:
                self._test(test)
        items = [item for item in found.items if item.kind is not Kind.TEST]
        try:
            if isinstance(self._way, DayFile):
                more = self._fill(self._way, found, items)
            else:
                more = self._tell(self._way, found, items)
        except WayFailed as error:
            self._failed(error)
            return self._poll_s
        return 0.0 if more else self._poll_s

    # --- a file

    def _fill(self, way: DayFile, found: NewsPage, items: Sequence[Item]) -> bool:
        if items and self._clock.monotonic() >= self._not_before:
            way.append(items)
            self._delivered(found.passed, found.letters)
            return True
        if not items:
            self._pass(found)
        return found.rest and not items

    # --- messages

    def _tell(self, way: MessageWay, found: NewsPage, items: Sequence[Item]) -> bool:
        wanted = [i for i in items if listed(i, self._only) and still_wanted(self._bus, i)]
        if not wanted:
            self._waited, self._underway = False, None
            self._pass(found)
            return found.rest
        now = self._clock.now()
        sent = self._at.sent if self._at.day == self._silence.day(now) else 0
        if why := self._silence.holds(now, sent):
            self._waited, self._underway = True, None
            self._say("held", held=len(wanted) + found.behind, why=why)
            return False
        age = now - min(item.at for item in wanted)
        if timedelta() <= age < timedelta(seconds=GATHER_S):
            return False
        if self._clock.monotonic() < self._not_before:
            self._say("failed", held=len(wanted) + found.behind, why=self._again)
            return False
        if self._underway is None:
            self._underway = self._next(wanted, found)
        message, end = self._underway
        if self._at.begun != end.passed:
            self._at = replace(self._at, begun=end.passed)
            self._positions.write(self._at)
        more = way.send(message)
        self._underway, self._waited = None, False
        day = self._silence.day(now)
        self._delivered(end.passed, end.letters, more, day=day, sent=sent + 1)
        return True

    def _next(self, wanted: Sequence[Item], found: NewsPage) -> tuple[Message, Position]:
        """Return the next message, and how far it reaches.

        A question is one of its own, as it can be replied to. What was held back is one in all.
        """
        first = list(takewhile(lambda item: item.kind is not Kind.QUESTION, wanted)) or wanted[:1]
        if self._waited or len(first) == len(wanted):
            end = replace(self._at, passed=found.until, letters=found.letters)
            return one_or_many(wanted, found.more, replies=True), end
        return one_or_many(first, replies=True), replace(self._at, passed=first[-1].event)

    # --- what becomes of it

    def _test(self, item: Item) -> None:
        """Send a test at once, and note what became of it for who waits."""
        why = ""
        try:
            if isinstance(self._way, DayFile):
                self._way.append([item])
            else:
                self._way.send(one_or_many([item]))
        except WayFailed as error:
            why = "; ".join(
                error.document()[key] for key in ("what", "hint") if error.document()[key]
            )
        self._at = replace(self._at, tested=item.event)
        told = {"event": item.event, "problem": why}
        self._positions.write(self._at, {test_key(self.name): told})

    def _pass(self, found: NewsPage) -> None:
        """Move the cursor where it lags behind what is not to be delivered, or more is to come."""
        now, passed, letters = self._clock.monotonic(), found.passed, found.letters
        much = passed - self._at.passed >= LAG_EVENTS or letters != self._at.letters or found.rest
        if much or (passed > self._at.passed and now - self._moved >= LAG_S):
            self._record(replace(self._at, passed=passed, letters=letters), {})
        self._problem = None
        self._say("ok")

    def _delivered(
        self, passed: int, letters: int, more: Mapping[str, Any] | None = None, **counted: Any
    ) -> None:
        self._failures, self._not_before, self._problem = 0, float("-inf"), None
        last = iso(self._clock.now())
        position = replace(self._at, passed=passed, letters=letters, last=last, **counted)
        self._log.info("deliver.delivered", way=self.name, upto=passed)
        self._record(position, more or {})
        self._say("ok")

    def _record(self, position: Position, more: Mapping[str, Any]) -> None:
        self._owed = position, more
        self._positions.write(position, more)
        self._owed, self._at, self._moved = None, position, self._clock.monotonic()

    def _failed(self, error: WayFailed) -> None:
        self._failures += 1
        doubled = RETRY_FIRST_S * 2.0 ** min(self._failures - 1, 10)
        wait_s = RETRY_MAX_S if error.lasting else min(doubled, RETRY_MAX_S)
        wait_s = max(wait_s, min(error.wait_s, WAIT_MAX_S))
        self._not_before = self._clock.monotonic() + wait_s
        if self._problem is None or self._problem["what"] != error.document()["what"]:
            self._log.warning("deliver.failed", way=self.name, error=error.what)
        if error.refused and self._failures >= REFUSALS and self._underway is not None:
            # One that is never taken must not stand in the way of all that come after it.
            message, end = self._underway
            self._underway = replace(message, title=UNTAKEN, text="agentd results"), end
        self._problem = error.document()
        self._again = f"tried again at {iso(self._clock.now() + timedelta(seconds=wait_s))}"
        self._say("failed", why=self._again)

    def _say(self, state: str, *, held: int = 0, why: str = "") -> None:
        document = {"state": state, "held": held, "why": why, "last": self._at.last}
        document |= {"lost": self._at.lost, "problem": self._problem}
        with self._lock:
            self._document = document


def test_key(way: str) -> str:
    """Return under which key it is noted what became of a way's last test."""
    return f"test:{way}"
