"""Finds events by their words, in an index that follows the outbox.

Nothing is written to it when an event is published: a commit with one event would take twice as
long. Instead the housekeeping, and each search before it looks, takes up what the index lacks, in
short transactions: so whatever is committed is found, also rows by a person's SQL and events from
before there was an index. What is pruned leaves it in the same transaction. It holds no text, only
which word stands in which event, and it is no part of a copy that is repaired: it is made anew.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.event_rows import EventRows
from agentd.bus.json_text import UNREADABLE, compact, read_json
from agentd.bus.question_words import QuestionWords, share
from agentd.clock import EPOCH, iso
from agentd.events import SYSTEM_TYPES, Event

ROWS = 250  # taken up in one transaction, in 5 ms
TEXT_CHARACTERS = 20_000  # of one event that are looked for
WORDS_MAX = 16  # of one search
MATCHES_MAX = 10_000  # the newest that are looked through for what may be shown
LOOKED_THROUGH = 200  # events of which the best passage is looked for
EXCERPT_CHARACTERS = 300
BEFORE = 80  # of these, before the first word


@dataclass(frozen=True)
class Readable:
    """Which events an agent may find: its own, those addressed to it, and of types it reads."""

    agent: str
    subscribe: Sequence[str] = ()


@dataclass(frozen=True)
class FoundEvent:
    """An event, and what of its text stands around the words."""

    event: Event
    excerpt: str


@dataclass(frozen=True)
class Passage:
    """The part of an event that goes best with a question, and how much of it stands there."""

    event: Event
    text: str
    share: float  # 0 to 1


# What finds for one reader: the words, how many at most, and `check` (see `EventSearch.find`).
Finder = Callable[[str, int, Callable[[], None]], Sequence[FoundEvent]]
# What finds passages: the question, types, how many at most, `check` (see `EventSearch.passages`).
PassageFinder = Callable[[str, Sequence[str], int, Callable[[], None]], Sequence[Passage]]


class EventSearch:
    """The index of one database."""

    def __init__(self, db: Database, events: EventRows) -> None:
        self.db = db
        self._events = events

    def index(self) -> int:
        """Take up the next events that the index lacks; return how many these were.

        Raises:
            StorageError: the database cannot be written.
        """
        if not self.db.run(sql.LACKS_WORDS)[0][0]:
            return 0
        return self._index()

    @atomic
    def _index(self) -> int:
        columns = "id, agent, event_type, payload"
        rows = self.db.read(sql.WITHOUT_WORDS, (ROWS,), columns)
        for event_id, agent, kind, payload in rows:
            try:
                texts = " ".join(_texts(read_json(payload)))
            except UNREADABLE:
                texts = ""
            words = f"{agent} {kind} {texts}"[:TEXT_CHARACTERS]
            self.db.run(sql.ADD_WORDS, (event_id, _plain(words)))
        return len(rows)

    def finder(self, reader: Readable) -> Finder:
        """Return what finds the events that one agent may read."""
        return lambda words, limit, check: self.find(words, limit=limit, reader=reader, check=check)

    def find(
        self,
        words: str,
        *,
        limit: int,
        agent: str | None = None,
        since: datetime = EPOCH,
        until: datetime | None = None,
        before: int | None = None,
        results: bool = False,
        reader: Readable | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> list[FoundEvent]:
        """Return the newest events that hold all the words, each as a whole or as a beginning.

        `agent`: only what it published. `before`: only ids below this one. `results`: only what has
        a title. `reader`: only what it may see. `check` is called now and then, and may raise: an
        index that lacks much takes a while. Without a word nothing is found.
        """
        tokens = self.db.tokens(_plain(words))[:WORDS_MAX]
        if not tokens:
            return []
        while not self.db.read_only and self.index():
            check()
        given = {
            "words": " ".join(f'"{token}"*' for token in tokens),
            "most": MATCHES_MAX,
            "agent": agent,
            "since": iso(since),
            "until": until and iso(until),
            "before": before or sql.ID_END,
            "titled": results,
            "reader": None if reader is None else reader.agent,
            "types": compact([] if reader is None else list(reader.subscribe)),
            "limit": limit,
        }
        found = []
        for row in self.db.read(sql.SEARCH, given, sql.EVENT_COLUMNS):
            try:
                event = self._events.read(row)
            except UNREADABLE:  # a row by hand: `agentd events` names it
                continue
            found.append(FoundEvent(event, _excerpt(event, tokens)))
        return found

    def passages(
        self,
        reader: str,
        question: str,
        types: Sequence[str],
        limit: int,
        check: Callable[[], None] = lambda: None,
    ) -> list[Passage]:
        """Return what goes best with a question in what others published, of these types.

        Any of its words is enough; the more and the rarer, the better, then the newer. What is
        addressed to somebody else than `reader` is left out. `check` as for `find`.
        """
        words = QuestionWords.of(question)
        while self.index():
            check()
        holding: dict[str, list[int]] = {}
        for stem in words.stems:
            check()
            rows = self.db.read(sql.WITH_WORD, (f'"{stem}"*', MATCHES_MAX), "found")
            holding[stem] = [event_id for (event_id,) in rows]
        counts = {stem: len(ids) for stem, ids in holding.items()}
        weights = words.weights(counts, self._events.last_id())
        sums: dict[int, float] = {}
        for stem, ids in holding.items():
            for event_id in ids:
                sums[event_id] = sums.get(event_id, 0.0) + weights[stem]
        best = sorted(sums, key=lambda event_id: (sums[event_id], event_id), reverse=True)
        given = {"ids": compact(best[:LOOKED_THROUGH]), "reader": reader}
        given |= {"types": compact(list(types))}
        found = []
        for row in self.db.read(sql.OTHERS_AMONG, given, sql.EVENT_COLUMNS):
            check()
            try:
                event = self._events.read(row)
            except UNREADABLE:
                continue
            if not event.event_type.startswith(SYSTEM_TYPES):
                found.append(_passage(event, words, weights))
        found.sort(key=lambda one: (one.share, one.event.id), reverse=True)
        return found[:limit]


def _passage(event: Event, words: QuestionWords, weights: Mapping[str, float]) -> Passage:
    """Return the row or line that goes best with a question, its title where none does better."""
    title = event.payload.get("title")
    head = title if isinstance(title, str) else ""
    about = words.within(f"{event.agent} {event.event_type} {head}")
    parts = [head, *_parts(event.payload)]
    shares = [share(about | words.within(part), weights) for part in parts]
    best = max(range(len(parts)), key=shares.__getitem__)
    return Passage(event, parts[best][:EXCERPT_CHARACTERS], shares[best])


def _parts(payload: Mapping[str, Any]) -> Iterator[str]:
    """Give an event's rows, where it has some; else the lines of its texts."""
    rows = next((v for v in payload.values() if isinstance(v, list) and v and _is_row(v[0])), None)
    if rows is not None:
        yield from (", ".join(_texts(row)) for row in rows)
        return
    text = "\n".join(_texts({key: v for key, v in payload.items() if key != "title"}))
    yield from (line.strip() for line in text[:TEXT_CHARACTERS].split("\n") if line.strip())


def _is_row(value: Any) -> bool:
    return isinstance(value, dict)


def _texts(value: Any) -> Iterator[str]:
    """Give all texts of a payload, but no names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _plain(text: str) -> str:
    """Return the text as it is indexed: one form for each character, nothing that is none."""
    return unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode()


def _excerpt(event: Event, tokens: Sequence[str]) -> str:
    text = " ".join(" ".join(_texts(dict(event.payload))).split())[:TEXT_CHARACTERS]
    places = [text.casefold().find(token) for token in tokens]
    start = max(0, min((place for place in places if place >= 0), default=0) - BEFORE)
    cut = text[start : start + EXCERPT_CHARACTERS]
    return f"{'...' if start else ''}{cut}{'...' if start + len(cut) < len(text) else ''}"
