"""What a person may want to hear of: results, questions, what rests or was given up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from agentd.bus import Bus, sql
from agentd.bus.json_text import UNREADABLE
from agentd.clock import EPOCH, iso, moment_or, with_local_times
from agentd.deliver.position import Position
from agentd.events import ASKED, TEST, Event, is_result, result_of
from agentd.secret_rules import hide
from agentd.terminal import cut, plain, plain_lines

CALM = timedelta(days=1)  # that an agent has to be, before it is told again that it rests
REASON_CHARACTERS = 300  # of an error, a question, a reason


class Kind(StrEnum):
    """What an item is about, as a message counts it."""

    RESULT = "result"
    QUESTION = "question"
    APPROVAL = "approval"
    TROUBLE = "problem"
    TEST = "test"


@dataclass(frozen=True)
class Item:
    """One thing to tell. All texts are cleaned: they can be printed as they are."""

    key: str  # an event's id; of dead letters "dead-" and the last one's
    event: int  # the event's id; 0: it is about dead letters
    kind: Kind
    at: datetime
    agent: str
    title: str  # one line
    text: str  # Markdown; ""
    todo: str  # a command to type
    event_type: str = ""
    session: int = 0  # that asks
    asked: str = ""  # what an answer has to name
    question: str = ""  # as it stands in its session


@dataclass(frozen=True)
class NewsPage:
    """What happened between two positions. `more` events stand behind `passed`, and are not read.

    These are results, as far as `until`: what asks or went wrong is told, and never only counted.
    `behind` is all that stands behind `passed`.

    Items are in the order of their events, those of dead letters last.
    """

    items: Sequence[Item]
    passed: int  # an event's id
    letters: int  # a dead letter's id
    more: int
    until: int  # an event's id
    behind: int
    rest: bool  # there is more to be read


def news(bus: Bus, since: Position, upto: tuple[int, int], limit: int) -> NewsPage:
    """Return what happened after a position and up to these ids; at most `limit` events are read.

    Where more of them wait, dead letters wait as well.
    """
    last_event, last_letter = upto
    rows = bus.db.read(sql.NEWS, (since.passed, last_event, limit), sql.EVENT_COLUMNS)
    found = []
    for row in rows:
        try:
            event = bus.events.read(row)
        except UNREADABLE:
            continue  # who reads it buries it
        if (item := _item(bus, event)) is not None:
            found.append(item)
    if len(rows) == limit:
        passed = rows[-1][0]
        until = bus.db.run(sql.NEWS_UNTIL, (passed, last_event))[0][0]
        counted = partial(bus.db.run, sql.NEWS_COUNT)
        more, behind = (counted((passed, to))[0][0] for to in (until, last_event))
        return NewsPage(found, passed, since.letters, more, until, behind, rest=True)
    found += _letters(bus, since.letters, last_letter)
    return NewsPage(found, last_event, last_letter, 0, last_event, 0, rest=False)


def still_wanted(bus: Bus, item: Item) -> bool:
    """Whether it is news at this moment: what was answered meanwhile is none."""
    return not item.session or bool(bus.db.run(sql.STILL_ASKED, (item.session, item.question)))


def listed(item: Item, only: Sequence[str]) -> bool:
    """Whether it is sent where results of these agents and types alone are; all else always is."""
    return not only or item.kind is not Kind.RESULT or bool({item.agent, item.event_type} & {*only})


def _item(bus: Bus, event: Event) -> Item | None:
    told, payload = event.event_type, event.payload
    key, at, agent = str(event.id), event.created_at, plain(event.agent)
    if told == ASKED:
        return _asked(event)
    if told == TEST:
        return Item(
            key, event.id, Kind.TEST, at, agent, "agentd can reach you here", "This is a test.", ""
        )
    if told in ("agent.parked", "agent.refused"):
        named, since = payload.get("agent"), iso(at - CALM)
        if bus.db.run(sql.SAID_BEFORE, (told, event.id, since, str(named))):
            return None
        who = _line(named)
        title = f"{who} {'rests' if told == 'agent.parked' else 'cannot be used'}"
        reason = _line(payload.get("reason", ""))
        told, todo = f"{title}: {reason}", f"agentd status {who}"
        return Item(key, event.id, Kind.TROUBLE, at, who, told, "", todo)
    if not is_result(event):
        return None
    title, text = result_of(event)
    todo = f"agentd results {event.id}"
    head = (key, event.id, Kind.RESULT, at, agent)
    return Item(*head, plain(title), plain_lines(with_local_times(text)), todo, told)


def _asked(event: Event) -> Item | None:
    payload, who = event.payload, plain(event.agent)
    session, asked, question = (payload.get(key) for key in ("session", "asked", "question"))
    if type(session) is not int or not isinstance(asked, str) or not isinstance(question, str):
        return None
    if payload.get("kind") == "question":
        kind, title, answer = Kind.QUESTION, f"{who} asks: {_line(question)}", "TEXT"
    else:
        kind, answer = Kind.APPROVAL, "yes"
        args = payload.get("args")
        given = args.items() if isinstance(args, dict) else ()  # a yes is to these
        what = ", ".join(f"{key} {value}" for key, value in given) or question
        title = f"{who} wants to do {_line(payload.get('tool'))}: {_line(what)}"
    todo = f"agentd answer {session} {answer}"
    head = (str(event.id), event.id, kind, event.created_at, who, title, "", todo)
    return Item(*head, event.event_type, session, asked, question)


def _letters(bus: Bus, after: int, upto: int) -> Iterator[Item]:
    columns = "id, agent, letters, error, dead_at"
    for last, agent, count, error, at in bus.db.read(sql.NEWS_OF_LETTERS, (after, upto), columns):
        who = _line(agent)
        what = "gave up an event" if count == 1 else f"gave up {count} events, the last"
        title, todo = f"{who} {what}: {_line(error)}", f"agentd dead list --agent {who}"
        key, moment = f"dead-{last}", moment_or(at, EPOCH)
        yield Item(key, 0, Kind.TROUBLE, moment, who, title, "", todo)


def _line(value: object) -> str:
    """Return what others wrote as a bounded line without secrets."""
    text = value if isinstance(value, str) else repr(value)
    return cut(plain(hide(" ".join(text[: 10 * REASON_CHARACTERS].split()))), REASON_CHARACTERS)
