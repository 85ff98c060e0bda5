"""Repairs a damaged database: what can be read goes into a new file, which takes its place.

The old one is kept under another name, beside a list of what is missing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.bus import Bus, schema, sql
from agentd.clock import Clock
from agentd.errors import DamagedDatabase, storage_errors
from agentd.events import DAEMON, DIRECT, Lane
from agentd.states import DeadReason, SessionState
from agentd.storage import copies
from agentd.storage.rows import Unfinished, give_up
from agentd.storage.salvage import Saved, salvage
from agentd.whole import write_whole

LOST_STEPS = "its steps were lost with a damaged page: what it did already is not known"
LOST_FATE = "it had failed: whether it was to be tried again was lost with a damaged page"


@dataclass(frozen=True)
class Repaired:
    """A repair: where the old file is now, rows saved by table, what is missing, what was done."""

    kept: Path
    rows: Mapping[str, int]
    missing: Mapping[str, Sequence[str]]
    notes: Sequence[str]

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "kept": str(self.kept)}


def repair(database: Path, clock: Clock) -> Repaired:
    """Save what can be read of a database that nobody has open.

    The home's lock must be held: a daemon that starts meanwhile would write into the old file.

    Raises:
        DamagedDatabase: not even its list of tables can be read; nothing was changed.
        StorageError: somebody has it open, or the disk is full.
    """
    kept = copies.stamped(database, "damaged", clock.now())
    new = copies.stamped(database, "repaired", clock.now())
    try:
        with copies.alone(database) as old:
            try:
                saved = salvage(old, new)
            except schema.DAMAGED as error:
                raise DamagedDatabase(
                    f"nothing can be read of it: {error}",
                    where=str(database),
                    hint="`agentd backup --restore FILE`, or move the file away to start anew",
                ) from error
            bus = Bus(new, clock=clock)
            _mend(bus, saved)
            bus.db.one_file()
            bus.close()
            copies.check(new)
            done = Repaired(kept, saved.rows, saved.missing, saved.notes)
            beside = kept.with_name(f"{kept.name}.json")
            with storage_errors(beside, "make room"):
                write_whole(beside, json.dumps(done.document(), indent=2))
            copies.replace(database, new, kept)
            return done
    finally:
        for path in (new, new.with_name(f"{new.name}-journal")):
            path.unlink(missing_ok=True)


def _mend(bus: Bus, saved: Saved) -> None:
    """Put right what a lost row would make the agents do twice, or never."""
    with bus.transaction():
        _mend_cursors(bus, saved)
        _mend_sessions(bus, saved)
    if "sessions" in saved.missing:
        saved.notes.append("a session that was lost while it ran is begun anew: see its event")


def _mend_cursors(bus: Bus, saved: Saved) -> None:
    """Give lanes that lost their cursor one behind the last event that they are known to have had.

    A new one would stand at the end, and what waits would never be read.
    """
    there = {lane.consumer for lane, _ in bus.lanes.slowest()}
    lanes = [Lane(row.name, direct) for row in bus.agents.list() for direct in (True, False)]
    for lane in lanes:
        if lane.consumer in there:
            continue
        ((settled,),) = bus.db.run(sql.LAST_SETTLED, (lane.consumer, lane.agent))
        for row in bus.db.run(sql.UNSETTLED_SESSION, (lane.consumer, settled)):
            give_up(bus, _unfinished(row), DeadReason.FAILED, LOST_FATE)
            settled = row[4]
            saved.notes.append(f"event {settled} of {lane.agent} became a dead letter: {LOST_FATE}")
        bus.lanes.open(lane, after=settled)
        saved.notes.append(f"the lane {lane.consumer} goes on after event {settled}")
    commands = Lane(DAEMON, direct=True)
    if commands.consumer not in there:
        bus.lanes.open(commands)  # commands of then are nobody's wish any more


def _mend_sessions(bus: Bus, saved: Saved) -> None:
    """Give up unfinished sessions that lost steps: what they did must not be done again."""
    for session_id in saved.doubtful:
        for row in bus.db.run(sql.SESSION, (session_id,)):
            session, consumer, state = _unfinished(row), row[2], row[7]
            if state not in (SessionState.RUNNING, SessionState.PARKED):
                continue
            give_up(bus, session, DeadReason.PARTIAL_EFFECTS, LOST_STEPS)
            if state == SessionState.RUNNING:
                lane = Lane(session.agent, direct=consumer.endswith(DIRECT))
                bus.lanes.pass_over(lane, session.delivered_id)
            saved.notes.append(f"session {session_id} was given up: {LOST_STEPS}")


def _unfinished(row: Sequence[Any]) -> Unfinished:
    return Unfinished(row[0], row[1], row[8], row[16], row[4])
