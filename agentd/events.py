"""Events as they are written to and read from the outbox, results, and lanes. No SQL here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from agentd.clock import iso
from agentd.errors import EventRefused
from agentd.states import Priority
from agentd.terminal import cut, shorten

EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
FILE = "file.changed"  # {"path", "name", "size", "fingerprint", "folder"}: `agentd.watcher`
BATCH = "events.batch"  # {"events": [...]}, several as one: `agentd.bus.batches`
LATER = "later.due"  # {"what", "due"}: published to come back then: `agentd.bus.later`
FIRED_FIELDS = ("schedule", "due", "late_s")  # of `schedule.fired`: `agentd.worker.schedule`
# Refused from agents, but for LATER, which comes back to who publishes it.
SYSTEM_TYPES = ("agentd.", "agent.", "schedule.", "person.", BATCH, LATER)
ASKED = "person.asked"  # a session waits for a person: `agentd.sessions.asked`
ANSWER = "person.answer"  # {"session", "asked", "answer", "mac"}: resumes the session

QUESTION = "question.asked"  # {"question", "before"}: a person's, by `agentd ask`
QUESTION_CHARACTERS_MAX = 1_000

DEPTH_MAX = 8  # a chain of causes longer than this is a loop among agents
PAYLOAD_BYTES_MAX = 1_000_000  # of one event, as JSON
# Of a result, which is an event that a person reads: its payload has a `title`, one line, and where
# useful a `text` in Markdown. Further fields are its agent's own.
TITLE_CHARACTERS_MAX, RESULT_CHARACTERS_MAX = 200, 20_000

PERSON = "person"  # producer of what a person sends by command
DAEMON = "agentd"  # producer and consumer name of the supervisor
DELIVER = "agentd.deliver"  # the process that sends results: of its cursors, and what it notes
TEST = "agentd.deliver"  # a person tries where results go: this one is sent at once
DIRECT = "/direct"  # ends the name of a direct lane's cursor

# The result of a tool that may not run again, where it was cut off.
UNKNOWN = "it may have happened or not"
INTERRUPTED = f"interrupted in the middle: {UNKNOWN}"


@dataclass(frozen=True)
class NewEvent:
    """An event to publish. `payload` is a JSON object.

    The outbox adds cause, depth and priority.
    """

    event_type: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None  # None: every subscriber
    dedup_key: str | None = None  # a second event with the same key is silently not written


@dataclass(frozen=True)
class Event:
    """A row of the outbox."""

    id: int
    agent: str  # producer
    event_type: str
    payload: Mapping[str, Any]
    created_at: datetime
    target: str | None
    priority: Priority
    cause_id: int | None
    depth: int
    dedup_key: str | None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it: the outbox's columns by their names, times in UTC."""
        plain = {"payload": dict(self.payload), "created_at": iso(self.created_at)}
        return {**vars(self), **plain, "priority": self.priority.value}


@dataclass(frozen=True)
class Result:
    """What a dispatched decision came to.

    `value` is a JSON object; the model sees it. `trusted` is False for anything from outside: file
    contents, commit messages, web pages. `publish` and `remember` take effect in the session's one
    closing transaction, or not at all. `ask` parks the session until a person answers. `effect` is
    False for what was refused and did nothing: it does not stand in the way of another try.
    """

    value: Mapping[str, Any] = field(default_factory=dict)
    trusted: bool = True
    publish: Sequence[NewEvent] = ()
    remember: Mapping[str, Any] = field(default_factory=dict)
    ask: str | None = None
    effect: bool = True


@dataclass(frozen=True)
class Lane:
    """One of an agent's two cursors: what is addressed to it, or what it subscribes to."""

    agent: str
    direct: bool
    subscribe: tuple[str, ...] = ()  # exact types or `prefix.*`; of no use on the direct lane
    # What the payloads must hold: a JSON object of fields, each with its values; "": anything.
    where: str = ""

    @property
    def consumer(self) -> str:
        """Name of the cursor's row: `NAME/direct` or `NAME`."""
        return self.agent + DIRECT if self.direct else self.agent


def parts(event: Event) -> Sequence[Event]:
    """Return the events that a batch holds, or the event itself.

    Raises:
        EventRefused: somebody wrote a batch by hand that is none.
    """
    if event.event_type != BATCH:
        return (event,)
    try:
        heads = [(e["id"], e["agent"], e["type"], e["payload"]) for e in event.payload["events"]]
    except (KeyError, TypeError) as error:
        raise EventRefused("is no batch of events", where=f"event {event.id}") from error
    return [
        replace(event, id=number, agent=agent, event_type=kind, payload=payload)
        for number, agent, kind, payload in heads
    ]


def only_persons(event: Event) -> bool:
    """Whether it says what only a person, by a command, or the supervisor may say: it is signed."""
    return event.event_type.startswith(f"{PERSON}.") and event.event_type != ASKED


def is_result(event: Event) -> bool:
    """Whether a person is to read it: it has a title that says something, and is no system's own.

    Titles and texts beyond their bounds are cut where they are shown; nothing is hidden for that.
    """
    title = event.payload.get("title")
    return (
        isinstance(title, str)
        and not (title.isspace() or title == "")
        and not event.event_type.startswith(SYSTEM_TYPES)
    )


def result_of(event: Event) -> tuple[str, str]:
    """Return a result's title, in one line, and its text ("" for none), both within their bounds.

    They may hold anything that can be printed or not: `agentd.terminal` cleans them.
    """
    title, text = event.payload["title"], event.payload.get("text")
    title = shorten(" ".join(title[: 10 * TITLE_CHARACTERS_MAX].split()), TITLE_CHARACTERS_MAX)
    return title, cut(text, RESULT_CHARACTERS_MAX) if isinstance(text, str) else ""


def matches(event_type: str, item: str) -> bool:
    """Whether a subscription, exact or a `prefix.*`, means this type."""
    return event_type == item or (item.endswith(".*") and event_type.startswith(item[:-1]))
