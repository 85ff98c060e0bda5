"""What several commands need: the bus of this home, and whether a supervisor runs in it."""

from typing import Any

from agentd.bus import AgentRow, Bus
from agentd.errors import AgentdError, NotRunning
from agentd.events import Event
from agentd.paths import Paths
from agentd.status import query

STATUS_S = 2.0  # for a living supervisor to answer


def open_bus(paths: Paths) -> Bus:
    """Open the home's bus; a command that reads or sends never creates one.

    Raises:
        NotRunning: there is no database yet.
        StorageError: it cannot be used.
    """
    if not paths.database.exists():
        raise NotRunning(
            "there is no database yet",
            where=str(paths.database),
            hint="start the daemon once with `agentd run`, or set AGENTD_HOME to its home",
        )
    return Bus(paths.database, wake=paths.wake)


def supervisor(paths: Paths) -> dict[str, Any] | None:
    """Return the running supervisor's own state, or None where none runs.

    Raises:
        StorageError: one runs and does not answer.
    """
    try:
        return query(paths, STATUS_S)
    except NotRunning:
        return None


def find_agent(bus: Bus, name: str) -> AgentRow:
    """Return an agent that can receive events.

    Raises:
        AgentdError: there is none of this name; says which there are.
    """
    present = {row.name: row for row in bus.agents() if row.removed_at is None}
    if name not in present:
        known = ", ".join(present) or "none"
        raise AgentdError(
            f"no agent is called {name!r}; there are: {known}",
            hint="`agentd check` says what is wrong with an agent that is missing here",
        )
    return present[name]


def event_document(event: Event) -> dict[str, Any]:
    """Return an event as --json shows it: the outbox's columns by their names, times in UTC."""
    from agentd.clock import iso

    return {
        "id": event.id,
        "agent": event.agent,
        "event_type": event.event_type,
        "payload": dict(event.payload),
        "created_at": iso(event.created_at),
        "target": event.target,
        "priority": event.priority.value,
        "cause_id": event.cause_id,
        "depth": event.depth,
        "dedup_key": event.dedup_key,
    }
