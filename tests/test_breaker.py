"""The breaker: events that all fail alike wait, instead of failing one after another."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agentd.bus import Bus
from agentd.config.agent import Limits
from agentd.events import PERSON, Lane, NewEvent
from agentd.process.crash import Crash
from agentd.process.failure import signature, summary
from agentd.sessions import breaker
from agentd.sessions.session import Dead, Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.sessions.trouble import trouble
from agentd.states import DeadReason, Priority, WorkerState
from agentd.testing import ManualClock

LANE, DIRECT = Lane("worker", False, ("repo.changed",)), Lane("worker", True)
LIMITS = Limits(attempts=2, sessions_per_hour=1_000_000)
ERROR = "ToolError: event {} cannot reach '/mnt/{}' (x.py:7 in run)"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(tmp_path: Path, clock: ManualClock) -> Iterator[Bus]:
    bus = Bus(tmp_path / "a.db", clock=clock)
    bus.accept("worker", "v1", subscribe=LANE.subscribe)
    for number in range(10):
        bus.publish("other", NewEvent("repo.changed", {"n": number}))
    yield bus
    bus.close()


@pytest.fixture
def sessions(bus: Bus) -> Sessions:
    return Sessions(bus, jitter=lambda: 0.999)


def begin(bus: Bus, sessions: Sessions, lane: Lane = LANE) -> Session | Wait | Dead:
    event = bus.next(lane)
    assert event is not None
    return sessions.begin(lane, event, "code", LIMITS)


def fail(bus: Bus, sessions: Sessions, clock: ManualClock, error: str = ERROR) -> Wait | Dead:
    """Fail the lane's next event, after its backoff if it has one."""
    outcome = begin(bus, sessions)
    if isinstance(outcome, Wait):
        clock.advance(outcome.seconds + 0.001)
        outcome = begin(bus, sessions)
    assert isinstance(outcome, Session), outcome
    return sessions.closing.fail(outcome, error.format(outcome.event.id, outcome.event.id))


def trip(bus: Bus, sessions: Sessions, clock: ManualClock) -> Wait:
    """Let events fail until the breaker trips."""
    while not (
        isinstance(outcome := fail(bus, sessions, clock), Wait) and outcome.why == "breaker"
    ):
        pass
    return outcome


def test_the_same_failure_of_several_events_trips_it_once(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """The first events are tried and given up, the third waits, and so do all that follow."""
    wait = trip(bus, sessions, clock)
    assert [letter.reason for letter in bus.dead.list()] == [DeadReason.FAILED] * 2
    assert wait.seconds == pytest.approx(breaker.PAUSE_FIRST_S, rel=0.01)
    again = begin(bus, sessions)
    assert isinstance(again, Wait) and again.why == "breaker"
    (told,) = bus.events.list(event_type="agent.parked")
    assert told.payload["agent"] == "worker"
    assert "3 events in a row failed alike" in told.payload["reason"]
    assert "cannot reach" in told.payload["reason"]


def test_one_event_is_tried_after_a_growing_pause_and_none_is_lost(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """Hours of the same failure cost a handful of sessions, and no further event."""
    trip(bus, sessions, clock)
    letters, pauses = len(bus.dead.list()), []
    for _ in range(12):
        outcome = fail(bus, sessions, clock)
        assert isinstance(outcome, Wait) and outcome.why == "breaker"
        pauses.append(outcome.seconds)
    assert pauses[0] == pytest.approx(2 * breaker.PAUSE_FIRST_S, rel=0.01)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(breaker.PAUSE_MAX_S, rel=0.01)
    assert len(bus.dead.list()) == letters
    assert len(bus.events.list(event_type="agent.parked")) == 1, "announced once"
    assert bus.lanes.waiting(LANE) == 8


def test_an_event_that_ends_well_closes_it(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """And all the others follow at once, each with all of its attempts."""
    clock.advance(trip(bus, sessions, clock).seconds + 0.001)
    session = begin(bus, sessions)
    assert isinstance(session, Session)
    sessions.closing.close(session)
    assert session.recovered and trouble(bus.db, "worker") is None
    for _ in range(2):
        session = begin(bus, sessions)
        assert isinstance(session, Session)
        sessions.closing.close(session)
        assert not session.recovered
    outcome = fail(bus, sessions, clock)
    assert isinstance(outcome, Wait) and outcome.why == "backoff"


def test_different_failures_do_not_trip_it(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """Five broken events are five dead letters."""
    for number in range(5):
        for _ in range(LIMITS.attempts):
            outcome = fail(bus, sessions, clock, f"{'abcde'[number]} broke")
        assert isinstance(outcome, Dead)
    assert len(bus.dead.list()) == 5


def test_workers_that_die_of_every_event_trip_it(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """Hang after hang, for hours: after the third event that is given up the others wait."""
    died = Crash(os.getpid(), "hung: broke its promise to beat within 180 s")
    for _ in range(100):
        outcome = begin(bus, sessions)
        if isinstance(outcome, Session):
            assert sessions.crashed("worker", died)
        elif isinstance(outcome, Wait) and outcome.why == "breaker":
            break
        elif isinstance(outcome, Wait):
            clock.advance(outcome.seconds + 0.001)
    assert [letter.reason for letter in bus.dead.list()] == [DeadReason.CRASHED] * 3
    held = trouble(bus.db, "worker")
    assert held is not None and held.state is WorkerState.PARKED and "hung" in held.reason
    assert len(bus.events.list(event_type="agent.parked")) == 1
    assert bus.lanes.waiting(LANE) == 7


def test_an_invalid_event_is_its_senders_fault(bus: Bus, sessions: Sessions) -> None:
    """It costs no call of the model, and says nothing about the agent."""
    for _ in range(6):
        session = begin(bus, sessions)
        assert isinstance(session, Session)
        dead = sessions.closing.fail(session, "no `path`", reason=DeadReason.INVALID)
        assert isinstance(dead, Dead)
    assert trouble(bus.db, "worker") is None


def test_a_person_gets_through(bus: Bus, sessions: Sessions, clock: ManualClock) -> None:
    """What a person asks for is tried while others wait: it fails by its own attempts, or heals."""
    trip(bus, sessions, clock)
    for _ in range(2):
        asked = NewEvent("agent.trigger", {}, target="worker")
        bus.publish(PERSON, asked, priority=Priority.PERSON, system=True)
    for attempt in range(LIMITS.attempts):
        outcome = begin(bus, sessions, DIRECT)
        if isinstance(outcome, Wait):
            assert outcome.why == "backoff"
            clock.advance(outcome.seconds + 0.001)
            outcome = begin(bus, sessions, DIRECT)
        assert isinstance(outcome, Session), attempt
        ended = sessions.closing.fail(outcome, ERROR.format(1, 1))
    assert isinstance(ended, Dead)
    assert isinstance(begin(bus, sessions), Wait)
    healed = begin(bus, sessions, DIRECT)
    assert isinstance(healed, Session)
    sessions.closing.close(healed)
    assert isinstance(begin(bus, sessions), Session)


@pytest.mark.parametrize("how", ["resume", "another version"])
def test_a_person_or_a_change_closes_it(
    bus: Bus, sessions: Sessions, clock: ManualClock, how: str
) -> None:
    """`agentd resume`, or a new file; the same version accepted again changes nothing."""
    trip(bus, sessions, clock)
    bus.accept("worker", "v1", subscribe=LANE.subscribe)
    assert isinstance(begin(bus, sessions), Wait)
    if how == "resume":
        bus.forgive("worker")
    else:
        bus.accept("worker", "v2", subscribe=LANE.subscribe)
    assert isinstance(begin(bus, sessions), Session)


def test_a_clock_set_back_does_not_park_it_for_ever(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """The end of a pause is wall time, because it has to survive a restart."""
    trip(bus, sessions, clock)
    clock.set(clock.now() - timedelta(days=2))
    assert isinstance(begin(bus, sessions), Session)


def test_trouble_says_what_holds_an_agent_up(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """PARKED with reason, time and remedy; and attempts that were all cut off."""
    assert trouble(bus.db, "worker") is None
    wait = 0.0
    for _ in range(4):
        clock.advance(wait)
        outcome = begin(bus, sessions)
        wait = outcome.seconds + 0.001 if isinstance(outcome, Wait) else 0.0
    found = trouble(bus.db, "worker")
    assert found is not None and found.state is WorkerState.RUNNING
    assert "event 1 was begun 3 times in a row" in found.reason and found.until is not None
    clock.advance(60)
    trip(bus, sessions, clock)
    found = trouble(bus.db, "worker")
    assert found is not None and found.state is WorkerState.PARKED
    assert "resume worker" in found.hint and found.until is not None and found.until > clock.now()


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("KeyError: 'abc' (x.py:7 in run)", "KeyError: 'd' (x.py:7 in run)", True),
        ("no file /home/a/b.txt", "no file /srv/c", True),
        ("HTTP 503 after 1.5 s", "HTTP 500 after 22 s", True),
        ("commit 0f3a9bc12 is gone", "commit 77de1fa0c is gone", True),
        ("KeyError: 'abc'", "ValueError: 'abc'", False),
        ("the model said no\nand more", "the model said no\nand less", True),
    ],
)
def test_what_counts_as_the_same_failure(one: str, other: str, alike: bool) -> None:
    """Numbers, names and paths differ from event to event; the words do not."""
    assert (signature(one) == signature(other)) is alike


def test_a_failure_names_its_places() -> None:
    """A dead letter says where it was raised, innermost first, without a whole traceback."""

    def inner() -> None:
        raise ValueError("no such box")

    try:
        inner()
    except ValueError as error:
        text = summary(error)
    assert text.startswith("ValueError: no such box (test_breaker.py:")
    assert " in inner, test_breaker.py:" in text and "\n" not in text
