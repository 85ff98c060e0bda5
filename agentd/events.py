"""Events as they are written to and read from the outbox, and lanes. No SQL here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agentd.clock import iso
from agentd.states import Priority

EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
SYSTEM_TYPES = ("agentd.", "agent.", "schedule.", "person.")  # refused from agents
ASKED = "person.asked"  # a session waits for a person: `agentd.sessions.asked`
ANSWER = "person.answer"  # {"session", "asked", "answer", "mac"}: resumes the session

DEPTH_MAX = 8  # a chain of causes longer than this is a loop among agents
PAYLOAD_BYTES_MAX = 1_000_000  # of one event, as JSON

PERSON = "person"  # producer of what a person sends by command
DAEMON = "agentd"  # producer and consumer name of the supervisor
DIRECT = "/direct"  # ends the name of a direct lane's cursor


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
class Lane:
    """One of an agent's two cursors: what is addressed to it, or what it subscribes to."""

    agent: str
    direct: bool
    subscribe: tuple[str, ...] = ()  # exact types or `prefix.*`; of no use on the direct lane

    @property
    def consumer(self) -> str:
        """Name of the cursor's row: `NAME/direct` or `NAME`."""
        return self.agent + DIRECT if self.direct else self.agent


def only_persons(event: Event) -> bool:
    """Whether it says what only a person, by a command, or the supervisor may say: it is signed."""
    return event.event_type.startswith(f"{PERSON}.") and event.event_type != ASKED


def matches(event_type: str, item: str) -> bool:
    """Whether a subscription, exact or a `prefix.*`, means this type."""
    return event_type == item or (item.endswith(".*") and event_type.startswith(item[:-1]))
