"""Batches: several events as one, each of them once, whatever is killed."""

import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.bus import Bus
from agentd.bus.batches import BYTES_MAX
from agentd.config.agent import Limits
from agentd.errors import EventRefused, LostLane
from agentd.events import BATCH, DAEMON, PERSON, Event, Lane, NewEvent, parts
from agentd.sessions.session import Dead, Session
from agentd.sessions.sessions import Sessions
from agentd.states import Priority
from agentd.testing import ManualClock, wait_for

LANE, DIRECT = Lane("reader", False, ("a.b",)), Lane("reader", True)
MINUTE = timedelta(minutes=1)
NUMBERS = itertools.count()  # of databases


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(tmp_path: Path, clock: ManualClock) -> Iterator[Bus]:
    bus = Bus(tmp_path / "agentd.db", clock=clock)
    bus.accept("reader", "v1", subscribe=("a.b",))
    yield bus
    bus.close()


def batches(bus: Bus) -> list[Event]:
    return list(bus.events.list(event_type=BATCH, limit=10_000))


def members(bus: Bus) -> list[int]:
    """The ids of the events that batches hold."""
    return [part.id for batch in batches(bus) for part in parts(batch)]


def publish(bus: Bus, number: int = 1) -> list[int]:
    found = [bus.publish("writer", NewEvent("a.b", {"n": n})) for n in range(number)]
    return [event for event in found if event is not None]


def test_the_first_waits_until_within_has_passed(bus: Bus, clock: ManualClock) -> None:
    """Its age counts, and no later event makes it wait anew."""
    first = publish(bus)
    assert bus.batches.gather(LANE, MINUTE, 3) == 60
    clock.advance(59)
    first += publish(bus)
    assert bus.batches.gather(LANE, MINUTE, 3) == 1
    assert batches(bus) == []
    clock.advance(1)
    assert bus.batches.gather(LANE, MINUTE, 3) == 0
    (batch,) = batches(bus)
    assert (batch.agent, batch.target, members(bus)) == (DAEMON, "reader", first)
    moments = [part["at"] for part in batch.payload["events"]]
    assert len(moments) == 2 and moments[0] < moments[1] and moments[1].endswith("+00:00")
    assert bus.batches.gather(LANE, MINUTE, 3) == math.inf


def test_most_wait_no_longer(bus: Bus) -> None:
    """As many as are allowed are enough; what is left waits for others."""
    published = publish(bus, 7)
    assert [bus.batches.gather(LANE, MINUTE, 3) for _ in range(3)] == [0, 0, 60]
    assert [[part.id for part in parts(batch)] for batch in batches(bus)] == [
        published[:3],
        published[3:6],
    ]


def test_a_clock_that_was_set_back_keeps_nothing_waiting(bus: Bus, clock: ManualClock) -> None:
    """An event of tomorrow is not waited for until then."""
    publish(bus)
    clock.set(clock.now() - timedelta(days=1))
    assert bus.batches.gather(LANE, MINUTE, 3) == 0


def test_a_batch_is_as_deep_and_urgent_as_its_members(bus: Bus) -> None:
    """Chains of causes end as without batches, and a person's event waits behind nobody's."""
    (first,) = publish(bus)
    cause = bus.events.get(first)
    deep = bus.publish("writer", NewEvent("a.b"), cause=cause)
    bus.publish("writer", NewEvent("a.b"), priority=Priority.PERSON)
    bus.batches.gather(LANE, MINUTE, 3)
    (batch,) = batches(bus)
    assert (batch.depth, batch.cause_id, batch.priority) == (1, deep, Priority.PERSON)


def test_what_can_be_no_member_goes_alone(bus: Bus) -> None:
    """Too large, too deep, or only a person may have written it: it is no reason to stop."""
    nested: Any = 1
    for _ in range(98):
        nested = [nested]
    large = {"text": "x" * BYTES_MAX}
    for payload in ({"n": 0}, large, {"n": 1}, {"nested": nested}, {"n": 2}):
        bus.publish("writer", NewEvent("a.b", payload))
    came = []
    while (found := bus.batches.gather(LANE, timedelta(milliseconds=1), 2)) != math.inf:
        if isinstance(found, Event):
            came.append(next(iter(found.payload)))
            bus.step(LANE, found)
        else:
            came.append("batch" if found == 0 else "waits")
            clock: Any = bus.clock
            clock.advance(found)
    assert came == ["batch", "text", "batch", "nested", "waits", "batch"]
    assert len(members(bus)) == 3


def test_a_session_that_had_begun_goes_on(bus: Bus) -> None:
    """An agent whose file gets a `batch` finishes what it had begun."""
    publish(bus, 2)
    event = bus.next(LANE)
    assert event is not None
    Sessions(bus).begin(LANE, event, "v1", Limits())
    assert bus.batches.gather(LANE, MINUTE, 2) == event


def test_what_cannot_be_read_is_buried_and_the_rest_goes_on(bus: Bus) -> None:
    """A row by a person's hand ends no batch for good."""
    publish(bus)
    bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload) VALUES ('writer', 'a.b', ?)",
        ('{"a": 1e999}',),
    )
    publish(bus)
    assert [bus.batches.gather(LANE, MINUTE, 3) for _ in range(2)] == [0, 60]
    assert [letter.event_id for letter in bus.dead.list()] == [2]
    assert members(bus) == [1]


def test_a_second_worker_makes_no_second_batch(bus: Bus, tmp_path: Path) -> None:
    """Two that saw the same events: one steps the lane, the other is told so."""
    publish(bus, 2)
    other = Bus(tmp_path / "agentd.db", clock=bus.clock)
    other.next(LANE)
    assert bus.batches.gather(LANE, MINUTE, 2) == 0
    with pytest.raises(LostLane):
        other.batches._write(LANE, [e for e in other.events.list() if e.event_type == "a.b"])
    other.close()
    assert len(batches(bus)) == 1


def test_a_batch_that_is_given_up_holds_all_its_events(bus: Bus) -> None:
    """Its dead letter names them, and a retry brings all of them back."""
    published = publish(bus, 2)
    bus.batches.gather(LANE, MINUTE, 2)
    event = bus.next(DIRECT)
    assert event is not None
    sessions = Sessions(bus, jitter=lambda: 0.0)
    session = sessions.begin(DIRECT, event, "v1", Limits(attempts=1))
    assert isinstance(session, Session)
    assert isinstance(sessions.closing.fail(session, "no"), Dead)
    (letter,) = bus.dead.list()
    assert isinstance(letter.payload, dict)
    assert [one["id"] for one in letter.payload["events"]] == published
    bus.dead.retry(letter.id)
    again = bus.next(DIRECT)
    assert again is not None and [part.id for part in parts(again)] == published


def test_nobody_else_makes_a_batch(bus: Bus) -> None:
    """An agent cannot put words into others' mouths."""
    with pytest.raises(EventRefused, match="system's own"):
        bus.publish("writer", NewEvent(BATCH, {"events": []}, target="reader"))
    by_hand = bus.publish(PERSON, NewEvent(BATCH, {"events": [1]}), system=True)
    event = bus.events.get(by_hand or 0)
    assert event is not None
    with pytest.raises(EventRefused, match="no batch"):
        parts(event)


STEPS = st.one_of(
    st.sampled_from(["wanted", "unwanted", "own", "gather", "restart"]),
    st.floats(min_value=0, max_value=90),
)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEPS, max_size=20), st.integers(2, 5))
def test_each_event_is_in_one_batch(tmp_path: Path, steps: list[Any], most: int) -> None:
    """In order, none twice, none too early, none left: whatever comes when."""
    path = tmp_path / f"{next(NUMBERS)}.db"
    clock = ManualClock()
    bus = Bus(path, clock=clock)
    bus.accept("reader", "v1", subscribe=("a.b",))
    came: dict[int, Any] = {}
    for step in [*steps, 60.0, *["gather"] * len(steps)]:
        if isinstance(step, float):
            clock.advance(step)
        elif step == "gather":
            before = len(batches(bus))
            bus.batches.gather(LANE, MINUTE, most)
            for batch in batches(bus)[before:]:
                ids = [part.id for part in parts(batch)]
                waited = (clock.now() - came[ids[0]]).total_seconds()
                assert len(ids) == most or (len(ids) < most and waited >= 59.999)
        elif step == "restart":
            bus.close()
            bus = Bus(path, clock=clock)
        else:
            kind = "a.c" if step == "unwanted" else "a.b"
            event = bus.publish("reader" if step == "own" else "writer", NewEvent(kind))
            assert event is not None
            if step == "wanted":
                came[event] = clock.now()
    assert members(bus) == list(came)
    bus.close()


def more_than(bus: Bus, number: int) -> bool:
    return len(batches(bus)) > number


def gather_for_ever(path: Path) -> None:
    bus = Bus(path)
    while True:
        bus.batches.gather(LANE, timedelta(milliseconds=1), 3)


def test_kills_lose_nothing_and_batch_nothing_twice(tmp_path: Path) -> None:
    """A process that makes batches is killed again and again while events come."""
    path = tmp_path / "agentd.db"
    bus = Bus(path)
    bus.accept("reader", "v1", subscribe=("a.b",))
    published: list[int] = []
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        worker = context.Process(target=gather_for_ever, args=(path,))
        worker.start()
        before = len(batches(bus))
        for _ in range(20):
            published += publish(bus, 5)
        wait_for(partial(more_than, bus, before + 3), seconds=30)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    bus.close()
    bus = Bus(path)
    while bus.batches.gather(LANE, timedelta(microseconds=1), 3) != math.inf:
        pass
    assert members(bus) == published
    bus.close()
