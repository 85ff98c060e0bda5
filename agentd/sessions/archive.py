"""The archive: sessions as people list and read them, and as recordings take them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from agentd.bus import Bus, sql
from agentd.clock import EPOCH, iso, moment_or
from agentd.errors import SessionFailed, UsageError
from agentd.events import Event
from agentd.sessions.steps import Step, event_from_json, from_row
from agentd.states import SessionState

SESSION_MAX = timedelta(hours=2)  # a session's length, beyond which its model time is not counted


class StoredSession(NamedTuple):
    """A row of `sql.SESSION`, as it is stored."""

    id: int
    agent: str
    consumer: str
    event_id: int
    delivered_id: int
    event_type: str
    version: str
    state: str
    attempt: int
    started_at: str
    ended_at: str | None
    settled_seq: int
    settled_effect: int
    question: str | None
    outcome: str | None
    error: str | None
    event: str | None
    basis: str | None


@dataclass(frozen=True)
class SessionRow:
    """A session as people list it."""

    id: int
    agent: str
    event_id: int
    event_type: str
    version: str
    state: SessionState
    attempt: int
    started_at: datetime
    ended_at: datetime | None
    question: str | None
    outcome: Any
    error: str | None
    turns: int
    prompt_tokens: int
    completion_tokens: int
    forced: str | None  # why Done was the only decision left, None where the model chose it

    @property
    def shown_state(self) -> str:
        """The state as people read it."""
        return f"{self.state.value}, forced ({self.forced})" if self.forced else self.state.value


@dataclass(frozen=True)
class History:
    """All that is kept of a session. `event` is None where it was pruned."""

    row: SessionRow
    event: Event | None
    steps: Sequence[Step]
    basis: Mapping[str, Any]


class Archive:
    """The sessions that are kept in one database."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._db = bus.db

    def list(
        self,
        *,
        agent: str | None = None,
        state: SessionState | None = None,
        before: int = sql.ID_END,
        since: str | None = None,
        until: str | None = None,
        limit: int = 50,
    ) -> Sequence[SessionRow]:
        """Return sessions with ids below `before`, newest first.

        `since` and `until`: those that began then, and before.
        """
        given = {"agent": agent, "before": before, "since": since, "until": until, "limit": limit}
        return self._rows(state, given)

    def _rows(self, state: SessionState | None, given: Mapping[str, Any]) -> Sequence[SessionRow]:
        named = state and state.value
        one, of = given.get("id") is not None, given.get("agent") is not None
        statement = sql.sessions(agent=of, state=named, one=one)
        anything = {**dict.fromkeys(("since", "until")), "limit": 1}
        return [_session_row(row) for row in self._db.run(statement, {**anything, **given})]

    def parked(self) -> dict[str, int]:
        """Return how many sessions of each agent wait for a person."""
        return dict(self._db.run(sql.PARKED_COUNTS))

    def model_seconds(self, since: datetime) -> dict[str, float]:
        """Return for how long a model worked for each agent since a moment, in seconds."""
        rows = self._db.run(sql.MODEL_MS, (iso(since - SESSION_MAX), iso(since)))
        return {agent: round(total / 1000, 3) for agent, total in rows}

    def find(self, session_id: int) -> SessionRow | None:
        """Return one session, or None."""
        rows = self._rows(None, {"id": session_id})
        return rows[0] if rows else None

    def get(self, session_id: int) -> SessionRow:
        """Return one session.

        Raises:
            UsageError: there is none with this id.
        """
        row = self.find(session_id)
        if row is None:
            raise UsageError("no such session", where=str(session_id), hint="see `agentd sessions`")
        return row

    def of_event(self, agent: str, event_id: int) -> SessionRow | None:
        """Return an agent's last session over an event, None where there is none."""
        rows = self._db.run(sql.SESSION_OF_EVENT, (agent, event_id))
        return self.find(rows[0][0]) if rows else None

    def steps(self, session_id: int) -> Sequence[Step]:
        """Return the steps that are recorded of a session.

        Raises:
            SessionFailed: one cannot be read.
        """
        return [from_row(row) for row in self._db.run(sql.STEPS, (session_id,))]

    def labels(
        self, field: str, *, agent: str, version: str, model: str, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        """Return what its last decisions record about a label field "Class.field", newest first."""
        name, _, key = field.partition(".")
        rows = self._db.run(sql.LABELS, (key, agent, version, name, model, limit))
        return [json.loads(labels) for (labels,) in rows]

    def labels_by(self, agent: str | None = None) -> str | None:
        """Return how labels were taken last, by one agent or by any; None: no agent took one."""
        if agent is None:
            rows = self._db.run(sql.NEWEST_LABELS)
        else:
            rows = self._db.run(sql.NEWEST_LABELS_OF, (agent,))
        return rows[0][0] if rows else None

    def show(self, session_id: int) -> tuple[SessionRow, Sequence[Step]]:
        """Return one session with its steps.

        Raises:
            UsageError: there is none with this id.
            SessionFailed: a step cannot be read.
        """
        return self.get(session_id), self.steps(session_id)

    def history(self, session_id: int) -> History:
        """Return all that is kept of a session.

        Raises:
            UsageError: there is none with this id.
            SessionFailed: it cannot be read.
        """
        row, recorded = self.show(session_id)
        stored = StoredSession._make(self._db.run(sql.SESSION, (session_id,))[0])
        try:
            answered = stored.event_id
            kept = event_from_json(stored.event) if stored.event else self._bus.events.get(answered)
            return History(row, kept, recorded, json.loads(stored.basis) if stored.basis else {})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SessionFailed(
                f"what is kept of it cannot be read: {error}",
                where=f"session {session_id}",
                hint="somebody changed its row",
            ) from error


def _session_row(row: Any) -> SessionRow:
    """Read a row of `sql.SESSIONS`."""
    fields = (
        *row[:5],
        SessionState(row[5]),
        row[6],
        moment_or(row[7], EPOCH),
        moment_or(row[8], EPOCH) if row[8] else None,
        row[9],
        _outcome(row[10]) if row[10] else None,
        *row[11:15],
        None if row[15] is None else str(row[15]),
    )
    return SessionRow(*fields)


def _outcome(text: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return str(text)  # by a person's SQL
