"""What several commands need: the bus of this home, and whether a supervisor runs in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentd.bus import AgentRow, Bus, Opening
from agentd.errors import AgentdError, ConfigError, NotRunning, StorageError
from agentd.events import Event
from agentd.lockfile import LockFile
from agentd.paths import Paths
from agentd.status import query

BUSY_MS = 10_000  # for a lock that another program holds on the database


def open_bus(paths: Paths, *, writes: bool = False) -> Bus:
    """Open the home's bus; a command that reads or sends never creates one.

    `writes`: what it acknowledges is to be as safe as agentd.toml wants it.

    Raises:
        NotRunning: there is no database yet.
        DamagedDatabase, NewerDatabase, StorageError: it cannot be used.
    """
    if not paths.database.exists():
        raise NotRunning(
            "there is no database yet",
            where=str(paths.database),
            hint="start the daemon once with `agentd run`, or set AGENTD_HOME to its home",
        )
    opening = Opening(create=False, busy_ms=BUSY_MS, full_sync=writes and _full_sync(paths))
    return Bus(paths.database, wake=paths.wake, opening=opening)


def _full_sync(paths: Paths) -> bool:
    from agentd.in_force import in_force

    try:
        return in_force(paths).bus.fullfsync
    except ConfigError:
        return False


def supervisor(paths: Paths) -> dict[str, Any] | None:
    """Return the running supervisor's own state, or None where none runs.

    Raises:
        StorageError: one runs and does not answer.
    """
    try:
        return query(paths)
    except NotRunning:
        return None


def with_external(model: dict[str, Any], paths: Paths) -> dict[str, Any]:
    """Return the supervisor's entry of the model; an external server is asked how it is."""
    if not model.get("external"):
        return model
    from agentd.in_force import in_force
    from agentd.llm.listing import describe

    try:
        config = in_force(paths).model
    except ConfigError:
        return model  # what is wrong with agentd.toml is shown beside it
    return model if config.url is None else describe(model, config)


@contextmanager
def home_alone(paths: Paths) -> Iterator[None]:
    """Hold the home, so that no daemon starts in it meanwhile.

    Raises:
        AgentdError: a daemon runs here.
    """
    lock = LockFile(paths.lock)
    try:
        paths.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = lock.acquire()
    except OSError as error:
        raise StorageError(f"cannot be opened: {error.strerror}", where=str(paths.lock)) from error
    if not free:
        raise AgentdError(
            f"agentd is running (pid {lock.holder().get('pid', 'unknown')})",
            where=str(paths.user),
            hint="stop it first: `agentd stop`, or Ctrl-C where it was started",
        )
    try:
        yield
    finally:
        lock.close()


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
