"""Why an agent that runs does not get on: a tripped breaker, attempts cut off, failed sessions."""

from dataclasses import dataclass
from datetime import datetime

from agentd.bus import sql
from agentd.bus.database import Database
from agentd.clock import EPOCH, moment_or
from agentd.events import Lane
from agentd.sessions import breaker
from agentd.sessions.attempts import CUT_FREE
from agentd.states import WorkerState
from agentd.terminal import counted


@dataclass(frozen=True)
class Trouble:
    """What holds an agent up. `state` is PARKED where all of its events wait."""

    state: WorkerState
    reason: str
    until: datetime | None
    hint: str


def trouble(db: Database, agent: str) -> Trouble | None:
    """Return what holds the agent up, or None."""
    if (tripped := breaker.read(db, agent)) is not None:
        return Trouble(
            WorkerState.PARKED,
            tripped.reason,
            tripped.until,
            f"its events wait, and one of them is tried then; `agentd resume {agent}` tries now",
        )
    lanes = (Lane(agent, direct=True).consumer, Lane(agent, direct=False).consumer)
    for event_id, attempts, next_at in db.run(sql.CUT_OFF, (*lanes, CUT_FREE)):
        return Trouble(
            WorkerState.RUNNING,
            f"event {event_id} was begun {attempts} times in a row, and each time the worker was "
            "killed before it recorded anything",
            moment_or(next_at, EPOCH) if next_at else None,
            "something outside kills it: a person, a script, or the system for want of memory",
        )
    for event_id, failures, next_at, error in db.run(sql.FAILING, (*lanes, agent)):
        return Trouble(
            WorkerState.RUNNING,
            f"event {event_id} failed {counted(failures, 'time')}, the last: {error}",
            moment_or(next_at, EPOCH) if next_at else None,
            "it is tried again; at last it is a dead letter",
        )
    return None
