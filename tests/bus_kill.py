"""Programs for test_bus_kill.py: work on the bus that is killed, and a look at what is left.

Run as `python -m tests.bus_kill PROGRAM FOLDER`: in a process of its own without threads, so that
it may fork a victim for each of a few hundred instants.
"""

import os
import random
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from agentd.agent import Result
from agentd.bus import Bus
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.sessions.session import Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import SessionState

LANE = Lane("worker", False, ("repo.changed",))
LIMITS = Limits(sessions_per_hour=1_000_000)
INSTANTS_MAX = 1000
WRITERS, EACH = 8, 250
CREATIONS = 15
CHAIN_EVENTS, KILLS = 300, 30


class KillFile(apsw.VFSFile):
    """A file whose process is killed at its n-th write, with half of it written."""

    left = 0

    def __init__(self, filename: Any, flags: Any) -> None:
        super().__init__("unix", filename, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        KillFile.left -= 1
        if KillFile.left == 0:
            super().xWrite(bytes(data)[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        KillFile.left -= 1
        if KillFile.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super().xSync(flags)


class KillVFS(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("kill", base="unix", makedefault=True)

    def xOpen(self, name: Any, flags: Any) -> KillFile:
        return KillFile(name, flags)


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def one_session(path: Path) -> None:
    """Take one event through a whole session, or through what a killed one left of it."""
    bus = Bus(path)
    sessions = Sessions(bus)
    event = bus.next(LANE)
    if event is None:
        return
    session = sessions.begin(LANE, event, "v1", LIMITS)
    assert isinstance(session, Session), session
    if not session.steps:
        sessions.journal.record_opening(session, "repo.changed", dict(event.payload), trusted=False)
    if len(session.steps) < 2:
        sessions.journal.record(session, Step(StepKind.DECISION, "Tool", {}))
    if len(session.steps) < 3:
        sessions.journal.record_result(
            session,
            "tool",
            Result({}, publish=[NewEvent("tool.ran", dict(event.payload))]),
        )
    sessions.closing.close(
        session,
        publish=[NewEvent("repo.reviewed", {**event.payload, "text": "x" * 6000})],
        remember={"last": event.payload["n"]},
        outcome={"ok": True},
    )


def one_failure(path: Path) -> None:
    """Let one event's session fail for good: a dead letter, and the lane is stepped."""
    bus = Bus(path)
    sessions = Sessions(bus)
    event = bus.next(LANE)
    if event is None:
        return
    session = sessions.begin(LANE, event, "v1", LIMITS.model_copy(update={"attempts": 1}))
    assert isinstance(session, Session), session
    if not session.steps:
        sessions.journal.record_opening(session, "repo.changed", dict(event.payload), trusted=False)
    sessions.closing.fail(session, "x" * 6000)


def check_failure(path: Path) -> bool:
    """Assert that the letter is there with the step of its lane, or neither is; return which."""
    bus = Bus(path)
    assert bus.db.run("PRAGMA integrity_check") == [("ok",)]
    letters = bus.dead.list()
    done = bool(letters)
    assert len(letters) <= 1
    assert (bus.next(LANE) is None) is done
    states = [row.state for row in Sessions(bus).archive.list()]
    assert states in ([SessionState.FAILED],) if done else states in ([], [SessionState.RUNNING])
    bus.close()
    return done


def one_parking(path: Path) -> None:
    """Park one event's session on a question."""
    bus = Bus(path)
    sessions = Sessions(bus)
    event = bus.next(LANE)
    if event is None:
        return
    session = sessions.begin(LANE, event, "v1", LIMITS)
    assert isinstance(session, Session), session
    if not session.steps:
        step = Step(StepKind.DECISION, "AskPerson", {"question": "x" * 6000})
        sessions.journal.record(session, step)
    sessions.journal.record_result(session, "ask_person", Result({}, ask="May I?"))
    sessions.closing.park(session, "May I?")


def check_parking(path: Path) -> bool:
    """Assert that question, event, state and step are there, or none is; return which."""
    bus = Bus(path)
    assert bus.db.run("PRAGMA integrity_check") == [("ok",)]
    asked = bus.events.list(event_type="person.asked")
    done = bool(asked)
    assert len(asked) <= 1
    assert (bus.next(LANE) is None) is done
    rows = Sessions(bus).archive.list()
    assert [row.question for row in rows] == (["May I?"] if done else [None] * len(rows))
    states = [row.state for row in rows]
    assert states in ([SessionState.PARKED],) if done else states in ([], [SessionState.RUNNING])
    for row in rows:
        results = sum(step.kind == "result" for step in Sessions(bus).archive.show(row.id)[1])
        assert results == int(done), "a question without its parking would be lost"
    bus.close()
    return done


def check_whole(path: Path) -> bool:
    """Assert that either nothing or all of the session's end is there; return which."""
    bus = Bus(path)
    assert bus.db.run("PRAGMA integrity_check") == [("ok",)]
    published = [event.event_type for event in bus.events.list()][1:]
    done = bool(published)
    assert published == (["tool.ran", "repo.reviewed"] if done else [])
    assert bus.facts.of("worker") == ({"last": 1} if done else {})
    (cursor,) = bus.db.run("SELECT last_seen_id FROM cursors WHERE consumer = 'worker'")[0]
    assert cursor == (1 if done else 0)
    states = [row.state for row in Sessions(bus).archive.list()]
    assert states in ([SessionState.ENDED],) if done else states in ([], [SessionState.RUNNING])
    bus.close()
    return done


def every_write(folder: Path) -> None:
    """Kill a session at each of its writes to the file; then let a second process finish it."""
    at_every_write(folder, one_session, check_whole)


def every_write_of_a_failure(folder: Path) -> None:
    """The same where the event is given up."""
    at_every_write(folder, one_failure, check_failure)


def every_write_of_a_parking(folder: Path) -> None:
    """The same where a person is asked."""
    at_every_write(folder, one_parking, check_parking)


def at_every_write(
    folder: Path, work: Callable[[Path], None], check: Callable[[Path], bool]
) -> None:
    """Kill `work` at each of its writes to the file; `check` what is left, also at the end."""
    template = folder / "template.db"
    bus = Bus(template)
    bus.accept("worker", "v", subscribe=LANE.subscribe)
    bus.publish("person", NewEvent("repo.changed", {"n": 1}))
    bus.db.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    bus.close()
    seen = set()
    for instant in range(1, INSTANTS_MAX):
        path = folder / f"{instant}.db"
        shutil.copy(template, path)

        def victim(instant: int = instant, path: Path = path) -> None:
            vfs = KillVFS()  # unregistered when it is collected
            KillFile.left = instant
            work(path)
            del vfs

        status = os.waitpid(forked(victim), 0)[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed or status == 0, status
        seen.add(check(path))
        assert os.waitpid(forked(lambda path=path: work(path)), 0)[1] == 0  # type: ignore[misc]
        assert check(path)
        for leftover in folder.glob(f"{instant}.db*"):
            leftover.unlink()
        if not killed:
            print("instants", instant - 1)
            assert seen == {True, False}
            return
    raise AssertionError("never came to the end")


def chain(folder: Path) -> None:
    """Two agents in a pipeline, each killed at random instants: every event passes exactly once."""
    path = folder / "chain.db"
    bus = Bus(path)
    stages = (("first", "repo.changed", "repo.read"), ("second", "repo.read", "repo.reviewed"))
    for name, reads, _ in stages:
        bus.accept(name, "v", subscribe=[reads])
    bus.outbox.publish_many(
        "person", [NewEvent("repo.changed", {"n": n}) for n in range(CHAIN_EVENTS)]
    )

    def work(name: str, reads: str, writes: str) -> None:
        bus, lane = Bus(path), Lane(name, False, (reads,))
        sessions = Sessions(bus)
        while bus.facts.of(name).get("count") != CHAIN_EVENTS:
            event = bus.next(lane)
            if event is None:
                select.select([], [], [], 0.001)
                continue
            session = sessions.begin(lane, event, "v1", LIMITS)
            if isinstance(session, Wait):  # killed three times before it recorded anything
                select.select([], [], [], session.seconds)
                continue
            assert isinstance(session, Session), session
            if not session.steps:
                sessions.journal.record(session, Step(StepKind.DECISION, "Tool", {}))
            count = bus.facts.of(name).get("count", 0) + 1
            publish = [NewEvent(writes, dict(event.payload))]
            sessions.closing.close(session, publish=publish, remember={"count": count})

    bus.close()  # before any fork: a connection must not be taken along
    dice = random.Random(7)
    kills, pids = 0, {forked(lambda s=s: work(*s)): s for s in stages}  # type: ignore[misc]
    while pids:
        select.select([], [], [], dice.uniform(0.001, 0.03))
        if kills < KILLS:
            os.kill(dice.choice(list(pids)), signal.SIGKILL)
            kills += 1
        pid, status = os.waitpid(-1, 0 if kills == KILLS else os.WNOHANG)
        if pid:
            stage = pids.pop(pid)
            if os.WIFSIGNALED(status):
                pids[forked(lambda s=stage: work(*s))] = stage  # type: ignore[misc]
            else:
                assert status == 0, stage
    bus = Bus(path)
    assert not bus.dead.list()
    for _, _, writes in stages:
        passed = [e.payload["n"] for e in bus.events.list(event_type=writes, limit=10_000)]
        assert passed == list(range(CHAIN_EVENTS)), (writes, passed)
    print("kills", kills)


def writers(folder: Path) -> None:
    """Many processes publish at once, in transactions that read first: no error, nothing lost."""
    path = folder / "writers.db"
    Bus(path).close()

    def work(writer: int) -> None:
        bus = Bus(path)
        for n in range(EACH):
            if n % 2:
                bus.publish(f"writer{writer}", NewEvent("repo.changed", {"n": n}))
                continue
            with bus.transaction():
                before = bus.events.last_id()
                bus.publish(f"writer{writer}", NewEvent("repo.changed", {"n": n}))
                assert bus.events.last_id() == before + 1

    pids = [forked(lambda w=w: work(w)) for w in range(WRITERS)]  # type: ignore[misc]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * WRITERS
    bus = Bus(path)
    events = bus.events.list(limit=100_000)
    assert [event.id for event in events] == list(range(1, WRITERS * EACH + 1))
    for writer in range(WRITERS):
        mine = [event.payload["n"] for event in events if event.agent == f"writer{writer}"]
        assert mine == list(range(EACH))


def creators(folder: Path) -> None:
    """Supervisor, workers and a command start together in a fresh home: none meets a lock."""
    for number in range(CREATIONS):
        path = folder / f"fresh{number}.db"
        gate, opener = os.pipe()

        def work(path: Path = path, gate: int = gate, opener: int = opener) -> None:
            os.close(opener)
            os.read(gate, 1)  # ends when the last process closes the other end
            Bus(path).publish("person", NewEvent("repo.changed"))

        pids = [forked(work) for _ in range(WRITERS)]
        os.close(opener)
        os.close(gate)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * WRITERS
        assert len(Bus(path).events.list()) == WRITERS


PROGRAMS = {
    program.__name__: program
    for program in (
        every_write,
        every_write_of_a_failure,
        every_write_of_a_parking,
        chain,
        writers,
        creators,
    )
}

if __name__ == "__main__":
    program = PROGRAMS[sys.argv[1]]
    program(Path(sys.argv[2]))
