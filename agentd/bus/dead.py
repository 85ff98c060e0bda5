"""Dead letters: events that were given up, with the reason. Listed, retried, dropped by command."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentd.bus import sql
from agentd.bus.database import Database, atomic
from agentd.bus.doorbell import Doorbell
from agentd.bus.json_text import UNREADABLE, read_json
from agentd.clock import EPOCH, Clock, iso, moment_or
from agentd.errors import AgentdError, RowRefused, UsageError
from agentd.events import Event
from agentd.secret_rules import hide
from agentd.states import DeadReason

ERROR_CHARACTERS_MAX = 2000  # of a letter's error; the log has the rest


@dataclass(frozen=True)
class DeadLetter:
    """An event that was given up. `agent` gave it up; of a loop it is the producer."""

    id: int
    agent: str
    reason: DeadReason
    error: str
    session_id: int | None
    dead_at: datetime
    event_id: int | None  # None: it was never written (a loop)
    producer: str
    event_type: str
    payload: Mapping[str, Any] | str  # text where it is not readable as JSON
    created_at: str
    target: str | None
    priority: str
    cause_id: int | None
    depth: int

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        return {**vars(self), "reason": self.reason.value, "dead_at": iso(self.dead_at)}


class DeadLetters:
    """The dead letters of one database."""

    def __init__(self, db: Database, clock: Clock, doorbell: Doorbell) -> None:
        self.db = db
        self._clock = clock
        self._doorbell = doorbell

    def add(
        self,
        agent: str,
        reason: DeadReason,
        error: str,
        event: Event,
        *,
        payload: str | None = None,
        session_id: int | None = None,
    ) -> int:
        """Bury an event; return the letter's id. `payload`: its JSON, where already rendered.

        An `event.id` of 0 says that it was never written.
        """
        return self.db.insert(
            sql.BURY,
            (
                *self._head(agent, reason, error, session_id),
                *(event.id or None, event.agent, event.event_type),
                json.dumps(event.payload) if payload is None else payload,
                *(iso(event.created_at), event.target, event.priority.value),
                *(event.cause_id, event.depth),
            ),
        )

    def add_row(
        self,
        agent: str,
        reason: DeadReason,
        error: str,
        event_id: int,
        *,
        session_id: int | None = None,
    ) -> int:
        """Bury an event as it lies in the outbox, unread; return the letter's id."""
        head = self._head(agent, reason, error, session_id)
        return self.db.insert(sql.BURY_ROW, (*head, event_id))

    def _head(
        self, agent: str, reason: DeadReason, error: str, session_id: int | None
    ) -> tuple[Any, ...]:
        return agent, reason.value, short_error(error), session_id, iso(self._clock.now())

    def list(
        self,
        agent: str | None = None,
        *,
        before: int = sql.ID_END,
        since: str | None = None,
        until: str | None = None,
        limit: int = 100,
    ) -> Sequence[DeadLetter]:
        """Return dead letters with ids below `before`, newest first, of one agent or of all.

        `since` and `until`: those that were given up then, and before.
        """
        given = {"agent": agent, "before": before, "since": since, "until": until, "limit": limit}
        rows = self.db.read(sql.LETTERS, given, sql.LETTER_COLUMNS)
        return [_letter(row) for row in rows]

    def get(self, letter_id: int) -> DeadLetter:
        """Return one dead letter.

        Raises:
            UsageError: there is none with this id.
        """
        rows = self.db.read(sql.LETTER, (letter_id,), sql.LETTER_COLUMNS)
        if not rows:
            raise UsageError(
                "no such dead letter", where=str(letter_id), hint="see `agentd dead list`"
            )
        return _letter(rows[0])

    def of_event(self, agent: str, event_id: int) -> DeadLetter | None:
        """Return the letter of an event that an agent gave up, None where it did not."""
        rows = self.db.read(sql.LETTER_OF_EVENT, (agent, event_id), sql.LETTER_COLUMNS)
        return _letter(rows[0]) if rows else None

    def counts(self) -> dict[str, int]:
        """Return how many dead letters each agent has, by its name."""
        return dict(self.db.read(sql.LETTER_COUNTS, (), "agent, letters"))

    @atomic
    def retry(self, letter_id: int) -> int:
        """Publish its event again, remove the letter, and return the new event's id.

        The copy goes through the direct lane of the agent that gave it up; of a loop, to those it
        was meant for, at depth 0.

        Raises:
            UsageError: there is none with this id.
            AgentdError: its event cannot be written.
        """
        letter = self.get(letter_id)
        try:
            event_id = self.db.insert(sql.RETRY_LETTER, (letter_id, iso(self._clock.now())))
            if not event_id:
                raise RowRefused("the database refused the row: a trigger left it out")
        except RowRefused as error:  # it was never an event
            raise AgentdError(
                f"cannot be an event again: {error.what}",
                where=f"dead letter {letter_id}",
                hint="send one that is right with `agentd send`, and drop the letter",
            ) from error
        self.db.run(sql.DROP_LETTER, (letter_id,))
        target = letter.target if letter.reason is DeadReason.LOOP else letter.agent
        self._doorbell.written(letter.producer, letter.event_type, target)
        return event_id

    @atomic
    def drop(self, letter_id: int) -> None:
        """Forget a dead letter.

        Raises:
            UsageError: there is none with this id.
        """
        self.get(letter_id)
        self.db.run(sql.DROP_LETTER, (letter_id,))


def short_error(error: str) -> str:
    """Return the error as it may be stored: bounded, without secrets and lone surrogates."""
    text = hide(error[: 10 * ERROR_CHARACTERS_MAX])[:ERROR_CHARACTERS_MAX]  # no half secrets
    return text.encode("utf-8", "replace").decode()


def _letter(row: Any) -> DeadLetter:
    row = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in row]
    payload: Any = row[9]
    try:
        payload = read_json(payload)
    except UNREADABLE:
        payload = str(payload)
    reason = DeadReason(row[2]) if row[2] in set(DeadReason) else DeadReason.INVALID
    head: tuple[Any, ...] = (*row[:2], reason, *row[3:5], moment_or(row[5], EPOCH))
    head += (*row[6:9], payload, *row[10:])
    return DeadLetter(*head)
