"""`Later` and `at`: what comes in the future, once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import structlog

from agentd.bus import Bus
from agentd.bus.later import OPEN_MAX
from agentd.clock import iso
from agentd.config.agent import AgentConfig
from agentd.config.timetable import Timetable
from agentd.config.wakes import At
from agentd.errors import EventRefused, ToolError
from agentd.events import DAEMON, DEPTH_MAX, LATER, Event, Lane, NewEvent
from agentd.states import DeadReason
from agentd.testing import ManualClock, run_agent
from agentd.tools.base import ToolCall
from agentd.tools.later_tool import later
from agentd.worker.own_later import OwnLater
from agentd.worker.schedule import reconcile
from tests.time_zone import local_time

LOG: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(tmp_path: Path, clock: ManualClock) -> Iterator[Bus]:
    bus = Bus(tmp_path / "agentd.db", clock=clock)
    bus.accept("notes", "v1")
    yield bus
    bus.close()


def set_later(bus: Bus, what: str = "look again", after: timedelta = HOUR) -> None:
    due = iso(bus.clock.now() + after)
    assert bus.publish("notes", NewEvent(LATER, {"what": what, "due": due})) is None


def look(bus: Bus, missed: str | timedelta = "once") -> float | None:
    return OwnLater("notes", missed, bus.clock, LOG).look(bus)


def came(bus: Bus) -> list[Event]:
    return list(bus.events.list(event_type=LATER))


# --- Later


def test_it_comes_back_once_when_it_is_due(bus: Bus, clock: ManualClock) -> None:
    """To the agent itself, through its direct lane, and never earlier."""
    set_later(bus)
    assert look(bus) == 3600
    assert came(bus) == []
    clock.advance(3600)
    assert look(bus) is None
    (event,) = came(bus)
    assert (event.agent, event.target, event.payload["what"]) == ("notes", "notes", "look again")
    assert bus.next(Lane("notes", direct=True)) == event
    assert look(bus) is None and len(came(bus)) == 1


def test_it_is_set_with_the_sessions_end_or_not_at_all(bus: Bus) -> None:
    """What takes the transaction back takes it back, too."""
    with pytest.raises(ZeroDivisionError), bus.transaction():
        set_later(bus)
        raise ZeroDivisionError
    assert bus.later.list() == []


@pytest.mark.parametrize(
    ("missed", "late", "comes"),
    [
        ("once", timedelta(days=3), True),
        ("skip", timedelta(minutes=2), False),
        ("skip", timedelta(seconds=30), True),
        (timedelta(minutes=30), timedelta(minutes=31), False),
        (timedelta(minutes=30), timedelta(minutes=29), True),
    ],
)
def test_missed_decides(
    bus: Bus, clock: ManualClock, missed: str | timedelta, late: timedelta, comes: bool
) -> None:
    """As of a schedule: the agent was paused, or the machine slept."""
    set_later(bus)
    clock.advance((HOUR + late).total_seconds())
    look(bus, missed)
    assert len(came(bus)) == comes
    assert bus.later.list() == []


def test_an_agent_has_a_bounded_number(bus: Bus) -> None:
    """A model that sets one after the other ends."""
    for _ in range(OPEN_MAX):
        set_later(bus)
    with pytest.raises(EventRefused, match="20 to come already"):
        set_later(bus)
    assert bus.later.drop(bus.later.list()[0].id)
    set_later(bus)
    assert not bus.later.drop(10_000)


@pytest.mark.parametrize(
    "payload",
    [
        {"what": "", "due": "2026-01-16T00:00:00Z"},
        {"what": "x" * 201, "due": "2026-01-16T00:00:00Z"},
        {"what": "x", "due": "tomorrow"},
        {"what": "x", "due": "2026-12-24T09:00:00Z"},  # in more than 90 days
        {"what": "x"},
    ],
)
def test_what_makes_no_sense_is_refused(bus: Bus, payload: dict[str, Any]) -> None:
    """Before anything is written."""
    with pytest.raises(EventRefused):
        bus.publish("notes", NewEvent(LATER, payload))
    assert bus.later.list() == []


def test_a_chain_of_them_is_a_loop_in_the_end(bus: Bus, clock: ManualClock) -> None:
    """What is to recur is a schedule; an agent that wakes itself for ever is given up."""
    set_later(bus)
    for _ in range(DEPTH_MAX + 3):
        clock.advance(3600)
        look(bus)
        if not (event := bus.next(Lane("notes", direct=True))):
            break
        bus.step(Lane("notes", direct=True), event)
        due = iso(clock.now() + HOUR)
        bus.publish("notes", NewEvent(LATER, {"what": "again", "due": due}), cause=event)
    assert [letter.reason for letter in bus.dead.list()] == [DeadReason.LOOP]
    assert len(came(bus)) < DEPTH_MAX + 3


def test_a_removed_agents_go_with_it(bus: Bus) -> None:
    """Nothing of it is left to come."""
    from agentd.config.daemon import RetentionConfig
    from agentd.storage.retention import Retention

    set_later(bus)
    bus.agents.remove("notes")
    clock: Any = bus.clock
    clock.advance(timedelta(days=400).total_seconds())
    retention = Retention(bus, RetentionConfig())
    while retention.step() is not None:
        pass
    assert bus.agents.list() == [] and bus.later.list() == []


def test_the_tool_says_when_and_stages_it() -> None:
    """By minutes or by a moment; a wrong one is told to the model, and nothing is set."""
    tools = {"params": {"instructions": "Set it.", "tools": ["Later"]}}
    later: list[tuple[str, dict[str, Any]]] = [
        ("Later", {"what": "a", "in_minutes": 5, "at": None}),
        ("Later", {"what": "b", "in_minutes": None, "at": "2026-01-16T10:00+00:00"}),
        ("Later", {"what": "c", "in_minutes": None, "at": None}),
        ("Later", {"what": "d", "in_minutes": None, "at": "noon"}),
        ("Later", {"what": "e", "in_minutes": None, "at": "2020-01-16T10:00"}),
        ("Done", {"result": "set"}),
    ]
    run = run_agent("task", NewEvent("note.added"), later, config=tools)
    assert run.error is None, run.error
    staged = [event for step in run.steps for event in step.publish]
    assert [(e.event_type, e.payload["what"], e.payload["due"]) for e in staged] == [
        (LATER, "a", "2026-01-15T10:35:00.000Z"),
        (LATER, "b", "2026-01-16T10:00:00.000Z"),
    ]
    errors = [result["error"] for result in run.results if "error" in result]
    wanted = ("say when", "'noon' is no moment", "is not within the next 90 days")
    assert all(part in error for part, error in zip(wanted, errors, strict=True)), errors


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_the_first_and_last_moments_are_told_like_others(zone: str) -> None:
    """Also where this machine's clock has no such moment."""
    with local_time(zone):
        for moment in ("9999-12-31T23:59Z", "0001-01-01T00:00Z"):
            with pytest.raises(ToolError, match="not within the next 90 days"):
                later(ToolCall(), "x", None, moment)


# --- at


def at(text: str, zone: str = "Europe/Berlin") -> Timetable:
    return Timetable("notes", At(at=text), ZoneInfo(zone))


def fired(bus: Bus) -> list[Event]:
    return list(bus.events.list(event_type="schedule.fired"))


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("2026-12-24T09:00", "2026-12-24T08:00:00.000Z"),
        ("2026-07-24 09:00", "2026-07-24T07:00:00.000Z"),
        ("2026-12-24T09:00-05:00", "2026-12-24T14:00:00.000Z"),
        ("2026-12-24T09:00Z", "2026-12-24T09:00:00.000Z"),
        ("2026-03-29T02:30", "2026-03-29T01:30:00.000Z"),  # the clock goes from 2 to 3
        ("2026-10-25T02:30", "2026-10-25T00:30:00.000Z"),  # twice: the first
    ],
)
def test_a_moment_is_local_time_unless_it_says_otherwise(text: str, due: str) -> None:
    """Also in the hours in which clocks change."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    run = at(text).following(start, start)
    assert run is not None and iso(run) == due
    assert at(text).following(start, run) is None


def test_a_moment_fires_once_whatever_the_clock_does(bus: Bus, clock: ManualClock) -> None:
    """Set back by a day, or in another zone, it does not come again."""
    table = at("2026-01-15T12:00")  # 11:00 UTC; it is 10:30
    bus.accept("notes", "v1", at=[table.name])
    reconcile(bus, table, "once", clock.now(), LOG)
    assert fired(bus) == []
    clock.advance(1800)
    for _ in range(2):
        reconcile(bus, table, "once", clock.now(), LOG)
    clock.set(clock.now() - timedelta(days=1))
    reconcile(bus, table, "once", clock.now(), LOG)
    clock.set(clock.now() + timedelta(days=2))
    for zone in ("Europe/Berlin", "America/New_York"):
        reconcile(bus, at("2026-01-15T12:00", zone), "once", clock.now(), LOG)
    (event,) = fired(bus)
    assert event.payload["schedule"] == "at 2026-01-15T12:00"
    assert (event.agent, event.target) == (DAEMON, "notes")


def test_a_moment_that_passed_before_it_was_accepted_is_over(bus: Bus, clock: ManualClock) -> None:
    """And one that came while the agent was paused is not: `missed` decides."""
    over, to_come = at("2026-01-15T11:29"), at("2026-01-15T11:31")
    bus.accept("notes", "v1", at=[over.name, to_come.name])
    clock.advance(3600)
    for table in (over, to_come):
        reconcile(bus, table, "once", clock.now(), LOG)
    assert [event.payload["schedule"] for event in fired(bus)] == [to_come.name]


@pytest.mark.parametrize("text", ["2026-12-24", "noon", "2026-13-24T09:00", "2026-12-24T9:00", ""])
def test_wrong_moments_say_what_to_write(text: str) -> None:
    """One clear error, before anything runs."""
    with pytest.raises(ValueError, match='write "2026-12-24T09:00"'):
        AgentConfig.model_validate({"agent": "task", "done": "it is done", "at": text})


def test_a_moment_may_be_a_list_or_tomls_own() -> None:
    """All three ways of writing it."""
    for given in (
        "2026-12-24T09:00:00",
        ["2026-12-24T09:00:00"],
        datetime(2026, 12, 24, 9),
    ):
        config = AgentConfig.model_validate({"agent": "task", "done": "it is done", "at": given})
        assert config.at == ("2026-12-24T09:00:00",)
