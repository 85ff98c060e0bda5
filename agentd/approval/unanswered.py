"""What waits for a person in one database, and answers to it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentd.approval.signature import digest, forged, signed
from agentd.bus import Bus, sql
from agentd.bus.json_text import UNREADABLE
from agentd.clock import iso
from agentd.errors import AgentdError, SessionFailed, StorageError, UsageError
from agentd.events import ANSWER, DAEMON, DELIVER, PERSON, Event, Lane
from agentd.sessions.archive import Archive
from agentd.sessions.asked import EXPIRED, NO, YES, Asked, asked_by
from agentd.sessions.steps import from_row
from agentd.states import Priority, SessionState

LIST = "`agentd answer` lists what waits"


@dataclass(frozen=True)
class Unanswered:
    """What an agent's session waits for. `answer`: what was answered, and is still to be read."""

    agent: str
    asked: Asked
    answer: Event | None


def unanswered(
    bus: Bus,
    key: bytes | None,
    only: int | None = None,
    odd: Callable[[int, str], object] = lambda _id, _why: None,
) -> Iterator[Unanswered]:
    """Yield what waits, the oldest first, or `only` what a session waits for.

    Without the `key` of a person's answers an answer is believed that may be forged: for who only
    shows it. `odd` is told of a session that cannot be read, and why.
    """
    for session_id, agent, question in bus.db.run(sql.PARKED, (only,)):
        try:
            steps = [from_row(row) for row in bus.db.run(sql.LAST_STEPS, (session_id,))]
        except SessionFailed as error:
            odd(session_id, str(error))
            continue
        asked = asked_by(session_id, steps, question)
        if asked is None:
            odd(session_id, "it asks nothing, and nobody can answer it")
        else:
            yield Unanswered(agent, asked, _answer_to(bus, key, agent, asked))


def _answer_to(bus: Bus, key: bytes | None, agent: str, asked: Asked) -> Event | None:
    """Return a person's own answer that the agent has yet to read."""
    lane = Lane(agent, direct=True).consumer
    for row in bus.db.read(sql.ANSWERS, (ANSWER, agent, lane), sql.EVENT_COLUMNS):
        try:
            event = bus.events.read(row)
        except UNREADABLE:
            continue  # its agent buries it
        if asked.mistake(event.payload) is not None:
            continue
        if key is None or not forged(event.event_type, event.target, event.payload, key):
            return event
    return None


def looked_up(
    bus: Bus,
    key: bytes,
    name: str,
    event_id: int,
    use: Callable[[str], bool] = lambda _asked: True,
) -> dict[str, Any]:
    """Return what the agent `name` is told of an event: `forged`, why no person wrote it to it.

    `digest` is that of the row as it was read here, and None where there is none. `use` notes that
    what it answers is done now, and says whether that was not done before.
    """
    event = bus.events.get(event_id)
    if event is None:
        return {"forged": "is not on the bus any more", "digest": None}
    if event.target not in (None, name):
        return {"forged": f"is not addressed to {name}", "digest": None}
    read = (event.event_type, event.target, event.payload)
    why = forged(*read, key)
    if why is None and not use(str(event.payload.get("asked"))):
        why = "was used already"
    return {"forged": why, "digest": digest(*read)}


def give(
    bus: Bus,
    key: bytes,
    session_id: int,
    answer: Any,
    seen: Collection[str] | None = None,
    only: str | None = None,
) -> tuple[Unanswered, int]:
    """Answer what a session asks; return that, and the event's id.

    `seen`: the digests of what the person saw. A yes to anything else is none: the session may ask
    something new by now. None: whoever answers read it here. `only`: the digest of the one thing
    that this answers, also where it is no yes.

    Raises:
        UsageError: there is no such session, or this is no answer to what it asks.
        AgentdError: it waits for nothing, was answered already, or it is too late or too early.
    """
    with bus.transaction():  # of two who answer at once the second sees the first
        found = _find(bus, key, session_id)
        asked, where = found.asked, f"session {session_id}"
        if only not in (None, asked.digest):
            raise AgentdError("this was another question", where=where, hint=LIST)
        if found.answer is not None:
            said = found.answer.payload["answer"]
            raise AgentdError(
                f"was answered already: {said}", where=where, hint="its agent has yet to read that"
            )
        if asked.expires is not None and asked.overdue(bus.clock.now()):
            raise AgentdError(
                f"it is too late: what nobody allowed by {iso(asked.expires)} is denied",
                where=where,
                hint=LIST,
            )
        event = asked.answered(asked.said(answer), found.agent)
        if (mistake := asked.mistake(event.payload)) is not None:
            raise UsageError(mistake, where=where)
        allows = asked.expires is not None and event.payload["answer"] == YES
        if allows and seen is not None and asked.digest not in seen:
            raise AgentdError(
                "you have not seen what it asks now",
                where=where,
                hint="`agentd answer` shows it; then answer again",
            )
        event_id = bus.publish(PERSON, signed(event, key), priority=Priority.PERSON, system=True)
    assert event_id is not None, "without a dedup_key and a cause an event is always written"
    return found, event_id


def take_reply(
    bus: Bus, key: bytes, session_id: int, asked: str, answer: Any, done: Mapping[str, Any]
) -> str:
    """Answer a question by what a person wrote elsewhere; return what to tell them.

    An approval is never given so. In the same transaction it is noted that this message was read
    (`done`, of what sends results), also where it is no answer: it is taken once.

    Raises:
        StorageError: nothing was written.
    """
    try:
        with bus.transaction():
            found = _find(bus, key, session_id)
            if found.asked.expires is not None:
                raise AgentdError(f"only on the machine: `agentd answer {session_id}` shows it all")
            give(bus, key, session_id, answer, only=asked)
            bus.facts.remember(DELIVER, done)
    except StorageError:
        raise
    except AgentdError as error:
        bus.facts.remember(DELIVER, done)
        return f"Not taken: {error.what}"
    return f"{found.agent} has your answer."


def _find(bus: Bus, key: bytes, session_id: int) -> Unanswered:
    for found in unanswered(bus, key, session_id):
        return found
    where = f"session {session_id}"
    row = Archive(bus).find(session_id)
    if row is None:
        raise UsageError("there is no such session", where=where, hint=LIST)
    if row.state is SessionState.PARKED:
        raise AgentdError("what it asks cannot be read", where=where, hint="see `agentd sessions`")
    raise AgentdError(f"waits for no answer: it is {row.state.value}", where=where, hint=LIST)


def expire(bus: Bus, key: bytes, now: datetime) -> list[Unanswered]:
    """Deny what nobody allowed in time, and return that: its agents read it on their direct lanes.

    Raises:
        StorageError: the database cannot be read or written.
    """
    denied = []
    late = [
        w.asked.session for w in unanswered(bus, key) if w.answer is None and w.asked.overdue(now)
    ]
    for session_id in late:
        with bus.transaction():  # somebody may have answered meanwhile
            for one in unanswered(bus, key, session_id):
                if one.answer is None and one.asked.overdue(now):
                    no = one.asked.answered({"answer": NO, EXPIRED: True}, one.agent)
                    bus.publish(DAEMON, signed(no, key), system=True)
                    denied.append(one)
    return denied
