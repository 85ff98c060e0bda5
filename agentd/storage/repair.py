"""Repairs a damaged database: what can be read goes into a new file, which takes its place.

The old one is kept under another name, beside a list of what is missing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.bus import Bus, schema, sql
from agentd.clock import Clock, iso
from agentd.errors import DamagedDatabase, storage_errors
from agentd.events import DAEMON, DIRECT, Lane
from agentd.sessions.steps import event_from_json
from agentd.states import DeadReason, SessionState
from agentd.storage import copies
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
            bus.db.connection.pragma("journal_mode", "delete")  # one file again, to be renamed
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
    there = {lane.consumer for lane, _ in bus.slowest()}
    wanted = [f"{row.name}{end}" for row in bus.agents() for end in (DIRECT, "")]
    for consumer in wanted:
        if consumer in there:
            continue
        name = consumer.removesuffix(DIRECT)
        ((settled,),) = bus.db.run(sql.LAST_SETTLED, (consumer, name))
        for session in bus.db.run(sql.UNSETTLED_SESSION, (consumer, settled)):
            _bury(bus, session, DeadReason.FAILED, LOST_FATE)
            settled = session[4]
            saved.notes.append(f"event {settled} of {name} became a dead letter: {LOST_FATE}")
        bus.db.run(sql.CREATE_CURSOR, (consumer, settled))
        saved.notes.append(f"the lane {consumer} goes on after event {settled}")
    if f"{DAEMON}{DIRECT}" not in there:
        bus.open_lane(Lane(DAEMON, True))  # commands of then are nobody's wish any more


def _mend_sessions(bus: Bus, saved: Saved) -> None:
    """Give up unfinished sessions that lost steps: what they did must not be done again."""
    for session_id in saved.doubtful:
        for row in bus.db.run(sql.SESSION, (session_id,)):
            agent, consumer, delivered_id, state = row[1], row[2], row[4], row[7]
            if state not in (SessionState.RUNNING, SessionState.PARKED):
                continue
            now = iso(bus.clock.now())
            bus.db.run(sql.GIVE_UP_SESSION, (now, LOST_STEPS, session_id, row[8]))
            _bury(bus, row, DeadReason.PARTIAL_EFFECTS, LOST_STEPS)
            if state == SessionState.RUNNING:
                bus.pass_over(Lane(agent, consumer.endswith(DIRECT)), delivered_id)
            saved.notes.append(f"session {session_id} was given up: {LOST_STEPS}")


def _bury(bus: Bus, session: Any, reason: DeadReason, error: str) -> None:
    """Write the letter of a session's event, given the session's row."""
    session_id, agent, delivered_id, event = session[0], session[1], session[4], session[16]
    if event is not None:
        bus.dead.add(agent, reason, error, event_from_json(event), session_id=session_id)
    else:
        bus.dead.add_row(agent, reason, error, delivered_id, session_id=session_id)
