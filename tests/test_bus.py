"""The bus: publishing, lanes, the one transaction, dead letters, agents, facts and schedules."""

import json
import math
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentd.bus import Bus, lanes, sql
from agentd.errors import EventRefused, LostLane, StorageError, UsageError
from agentd.events import DEPTH_MAX, PAYLOAD_BYTES_MAX, Event, Lane, NewEvent
from agentd.states import DeadReason, Priority
from agentd.testing import ManualClock

READER = Lane("reader", False, ("repo.*", "mail.came"))
DIRECT = Lane("reader", True)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(tmp_path: Path, clock: ManualClock) -> Bus:
    bus = Bus(tmp_path / "a.db", clock=clock)
    bus.accept("reader", "v1", subscribe=READER.subscribe)
    return bus


def consume(bus: Bus, lane: Lane) -> list[Event]:
    """Take everything that waits on the lane."""
    events = []
    while (event := bus.next(lane)) is not None:
        events.append(event)
        bus.step(lane, event)
    return events


def types(events: Sequence[Event]) -> list[str]:
    return [event.event_type for event in events]


# --- publishing


def test_an_event_is_read_as_it_was_published(bus: Bus, clock: ManualClock) -> None:
    """Every column survives."""
    new = NewEvent("repo.changed", {"files": 3, "name": "ä"}, target="reader", dedup_key="k")
    event_id = bus.publish("person", new, priority=Priority.PERSON)
    assert event_id is not None
    assert bus.events.get(event_id) == Event(
        id=event_id,
        agent="person",
        event_type="repo.changed",
        payload={"files": 3, "name": "ä"},
        created_at=clock.now(),
        target="reader",
        priority=Priority.PERSON,
        cause_id=None,
        depth=0,
        dedup_key="k",
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_any_json_object_round_trips(bus: Bus, payload: dict[str, Any]) -> None:
    """NULs, emoji, huge integers, negative zero: what goes in comes out."""
    event_id = bus.publish("person", NewEvent("repo.changed", payload))
    assert event_id is not None
    event = bus.events.get(event_id)
    assert event is not None and event.payload == payload


@pytest.mark.parametrize(
    "payload",
    [
        [1, 2],
        "text",
        None,
        {"n": math.nan},
        {"n": math.inf},
        {"half": "\ud800"},
        {"\ud800": 1},
        {"bytes": b"x"},
        {"set": {1}},
        {("a", "b"): 1},
        pytest.param(json.loads('{"a":' * 101 + "1" + "}" * 101), id="deep"),
        pytest.param({"text": "x" * PAYLOAD_BYTES_MAX}, id="long"),
        pytest.param({"text": "ä" * (PAYLOAD_BYTES_MAX // 2)}, id="long in bytes"),
        pytest.param({"n": 10**5000}, id="huge"),
    ],
)
def test_a_payload_that_is_no_json_object_is_refused(bus: Bus, payload: Any) -> None:
    """One clear error that names the event; nothing is written."""
    with pytest.raises(EventRefused) as caught:
        bus.publish("person", NewEvent("repo.changed", payload))
    assert "repo.changed" in str(caught.value)
    assert bus.events.last_id() == 0


@pytest.mark.parametrize("depth", [900, 1001, 5000, 100_000])
def test_a_payload_nested_too_deeply_is_refused_or_readable(bus: Bus, depth: int) -> None:
    """SQLite and Python have different limits: between them an event could be written, not read."""
    payload: dict[str, Any] = {}
    for _ in range(depth):
        payload = {"a": payload}
    try:
        bus.publish("person", NewEvent("repo.changed", payload))
    except EventRefused:
        assert bus.events.last_id() == 0
    consume(bus, READER)  # read, or buried; never stuck
    assert bus.next(READER) is None


@pytest.mark.parametrize(
    "kind", ["", "repo", "Repo.changed", "repo..x", "repo.*", "repo.é", "a.b\n"]
)
def test_a_type_that_is_not_dotted_lower_case_is_refused(bus: Bus, kind: str) -> None:
    """Subscriptions rely on the form."""
    with pytest.raises(EventRefused, match="event type"):
        bus.publish("person", NewEvent(kind))


@pytest.mark.parametrize("kind", ["agentd.pause", "agent.started", "schedule.fired"])
def test_system_types_are_refused_from_agents(bus: Bus, kind: str) -> None:
    """An agent must not pause others or forge a schedule."""
    with pytest.raises(EventRefused, match=kind):
        bus.publish("fetcher", NewEvent(kind))
    assert bus.publish("agentd", NewEvent(kind), system=True) == 1


@pytest.mark.parametrize("name", ["", "x" * 1000, "half\ud800"])
def test_a_name_that_cannot_be_stored_is_refused(bus: Bus, name: str) -> None:
    """Not the driver's UnicodeEncodeError."""
    with pytest.raises(EventRefused):
        bus.publish("person", NewEvent("repo.changed", dedup_key=name))
    with pytest.raises(EventRefused):
        bus.publish("person", NewEvent("repo.changed", target=name))


def test_a_known_dedup_key_writes_nothing(bus: Bus) -> None:
    """A schedule that fires twice for one due time is one event."""
    assert bus.publish("agentd", NewEvent("repo.changed", {"n": 1}, dedup_key="9:00")) == 1
    assert bus.publish("agentd", NewEvent("repo.changed", {"n": 2}, dedup_key="9:00")) is None
    assert bus.publish("agentd", NewEvent("repo.changed", {"n": 3}, dedup_key="9:15"))
    assert [event.payload["n"] for event in bus.events.list()] == [1, 3]


def test_an_answer_carries_its_cause_one_deeper_and_its_priority(bus: Bus) -> None:
    """A person's request stays a person's along the chain."""
    first = bus.publish("person", NewEvent("repo.changed"), priority=Priority.PERSON)
    cause = bus.events.get(first or 0)
    second = bus.events.get(bus.publish("fetcher", NewEvent("repo.changed"), cause=cause) or 0)
    assert second is not None
    assert (second.cause_id, second.depth, second.priority) == (first, 1, Priority.PERSON)


def test_a_chain_of_causes_that_is_too_long_ends_in_a_dead_letter(bus: Bus) -> None:
    """Agents that answer each other for ever are stopped, and it shows."""
    event_id, depths = bus.publish("ping", NewEvent("repo.changed")), []
    while event_id is not None:
        event = bus.events.get(event_id)
        assert event is not None
        depths.append(event.depth)
        event_id = bus.publish("ping", NewEvent("repo.changed", {"n": 1}), cause=event)
    assert depths == list(range(DEPTH_MAX + 1))
    (letter,) = bus.dead.list()
    assert (letter.agent, letter.reason, letter.event_id) == ("ping", DeadReason.LOOP, None)
    assert letter.payload == {"n": 1} and letter.depth == DEPTH_MAX + 1


# --- lanes


def test_a_lane_delivers_in_order_what_it_subscribes_to(bus: Bus) -> None:
    """Exact types and prefixes; others, its own and addressed events are stepped over."""
    for agent, new in (
        ("person", NewEvent("repo.changed")),
        ("person", NewEvent("repository.changed")),
        ("person", NewEvent("mail.came")),
        ("person", NewEvent("mail.came.twice")),
        ("reader", NewEvent("repo.changed")),
        ("person", NewEvent("repo.changed", target="reader")),
        ("person", NewEvent("repo.a.b")),
        ("person", NewEvent("repo.changed", target="other")),
        ("person", NewEvent("repo_x.changed")),
    ):
        bus.publish(agent, new)
    assert types(consume(bus, READER)) == ["repo.changed", "mail.came", "repo.a.b"]
    assert [event.id for event in consume(bus, DIRECT)] == [6]


def test_the_direct_lane_also_carries_what_an_agent_sends_itself(bus: Bus) -> None:
    """Addressed on purpose; only subscriptions leave own events out."""
    bus.publish("reader", NewEvent("note.taken", target="reader"))
    assert types(consume(bus, DIRECT)) == ["note.taken"]


def test_next_does_not_step(bus: Bus) -> None:
    """A worker killed in the middle finds its event again."""
    bus.publish("person", NewEvent("repo.changed"))
    assert bus.next(READER) == bus.next(READER) != None  # noqa: E711 - a chained comparison
    assert bus.lanes.waiting(READER) == 1


def test_a_second_worker_cannot_step_the_same_event(tmp_path: Path, bus: Bus) -> None:
    """The step is fenced by the cursor's old value."""
    bus.publish("person", NewEvent("repo.changed"))
    other = Bus(tmp_path / "a.db")
    mine, theirs = bus.next(READER), other.next(READER)
    assert mine is not None and theirs is not None
    other.step(READER, theirs)
    with pytest.raises(LostLane):
        bus.lanes.hold(READER)
    with pytest.raises(LostLane), bus.transaction():
        bus.publish("reader", NewEvent("repo.reviewed"))
        bus.step(READER, mine)
    assert types(bus.events.list()) == ["repo.changed"]


def test_a_lane_without_a_cursor_is_an_error(bus: Bus) -> None:
    """Not an agent that silently reads from the beginning."""
    with pytest.raises(StorageError, match="nobody"):
        bus.next(Lane("nobody", True))


def test_ids_are_not_reused_after_pruning(bus: Bus) -> None:
    """A plain INTEGER PRIMARY KEY restarts at 1 in an emptied table: below the cursors."""
    bus.publish("person", NewEvent("repo.changed"))
    consume(bus, READER)
    bus.db.run("DELETE FROM outbox")
    bus.publish("person", NewEvent("repo.changed"))
    assert [event.id for event in consume(bus, READER)] == [2]


def test_start_now_in_an_outbox_pruned_empty_is_after_the_last_id(bus: Bus) -> None:
    """max(id) would be 0 there, and later events would be taken for new ones twice."""
    for _ in range(3):
        bus.publish("person", NewEvent("repo.changed"))
    bus.db.run("DELETE FROM outbox")
    bus.accept("late", "v1", subscribe=["repo.changed"], start="now")
    assert bus.db.run("SELECT last_seen_id FROM cursors WHERE consumer = 'late'") == [(3,)]


def test_start_decides_whether_a_new_agent_reads_the_past(bus: Bus) -> None:
    """`start = "now"` or `"beginning"`; accepting again moves nothing."""
    bus.publish("person", NewEvent("repo.changed"))
    for name, start in (("late", "now"), ("historian", "beginning")):
        bus.accept(name, "v1", subscribe=["repo.changed"], start=start)  # type: ignore[arg-type]
        bus.accept(name, "v2", subscribe=["repo.changed"], start="beginning")
    assert consume(bus, Lane("late", False, ("repo.changed",))) == []
    assert len(consume(bus, Lane("historian", False, ("repo.changed",)))) == 1


def test_a_changed_subscription_holds_from_the_cursor_onward(bus: Bus) -> None:
    """What was stepped over before stays behind."""
    bus.publish("person", NewEvent("disk.full"))
    bus.publish("person", NewEvent("repo.changed"))
    consume(bus, READER)
    bus.publish("person", NewEvent("disk.full"))
    changed = Lane("reader", False, ("disk.full",))
    assert [event.id for event in consume(bus, changed)] == [3]


def test_a_new_type_under_a_prefix_is_found(bus: Bus) -> None:
    """The expansion of a prefix is never stale."""
    assert bus.next(READER) is None
    bus.publish("person", NewEvent("repo.first_of_its_kind"))
    assert types(consume(bus, READER)) == ["repo.first_of_its_kind"]


def test_a_caught_up_cursor_is_moved_past_unwanted_events_in_bulk(
    bus: Bus, clock: ManualClock
) -> None:
    """Else an agent of a rare type would hold back pruning, and re-scan after each start."""
    noise = [NewEvent("disk.full")] * lanes.STEP_OVER_EVENTS
    bus.outbox.publish_many("person", noise[:10])
    assert bus.next(READER) is None and bus.next(DIRECT) is None
    cursors = "SELECT DISTINCT last_seen_id FROM cursors"
    assert bus.db.run(cursors) == [(0,)]
    bus.outbox.publish_many("person", noise)
    assert bus.next(READER) is None and bus.next(DIRECT) is None
    assert bus.db.run(cursors) == [(1010,)]
    bus.outbox.publish_many("person", noise[:10])
    bus.next(READER)
    clock.advance(lanes.STEP_OVER_S + 1)
    bus.publish("person", noise[0])
    bus.next(READER)
    assert bus.db.run("SELECT last_seen_id FROM cursors WHERE consumer = 'reader'") == [(1021,)]
    bus.publish("person", NewEvent("repo.changed"))
    assert len(consume(bus, READER)) == 1


def test_a_cursor_that_a_person_moved_back_reads_again(tmp_path: Path, bus: Bus) -> None:
    """What a worker keeps in memory yields to the table."""
    bus.publish("person", NewEvent("repo.changed"))
    assert len(consume(bus, READER)) == 1 and bus.next(READER) is None
    Bus(tmp_path / "a.db").db.run("UPDATE cursors SET last_seen_id = 0")
    assert len(consume(bus, READER)) == 1


def test_what_was_read_in_a_rolled_back_transaction_is_forgotten(bus: Bus) -> None:
    """Its ids are given again, to events that must not be stepped over."""
    with pytest.raises(EventRefused), bus.transaction():
        bus.publish("person", NewEvent("disk.full"))
        assert bus.next(READER) is None
        bus.publish("person", NewEvent("bad"))
    bus.publish("person", NewEvent("repo.changed"))
    assert [event.id for event in consume(bus, READER)] == [1]


def test_an_event_written_by_hand_in_json5_is_read(bus: Bus) -> None:
    """SQLite's CHECK lets `{a: 1}` pass, Python's parser does not."""
    bus.db.run("INSERT INTO outbox (agent, event_type, payload) VALUES ('me', 'repo.x', '{a: 1,}')")
    (event,) = consume(bus, READER)
    assert event.payload == {"a": 1}


def test_an_event_that_cannot_be_read_is_buried_and_does_not_block(bus: Bus) -> None:
    """One row written by hand with a broken time must not stop an agent for ever."""
    bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload, created_at) "
        "VALUES ('me', 'repo.x', '{}', 'yesterday')"
    )
    bus.publish("person", NewEvent("repo.changed"))
    assert [event.id for event in bus.events.list()] == [2] and bus.events.get(1) is None
    assert types(consume(bus, READER)) == ["repo.changed"]
    (letter,) = bus.dead.list()
    assert (letter.agent, letter.reason, letter.event_id) == ("reader", DeadReason.INVALID, 1)


LATIN_1 = '{"city": "Köln"}'.encode("latin-1").hex()


@pytest.mark.parametrize(
    "values",
    [
        f"'me', 'repo.x', CAST(X'{LATIN_1}' AS TEXT)",
        "CAST(X'4BF6' AS TEXT), 'repo.x', '{}'",
        """'me', 'repo.x', '{"n": Infinity}'""",
        """'me', 'repo.x', '{"n": NaN}'""",
        """'me', 'repo.x', '{"n": 1e999}'""",
        "'me', 'repo.x', '{n: -Infinity}'",
        """'me', 'repo.x', '{"n": %s}'""" % ("[" * 900 + "]" * 900),
    ],
)
def test_what_was_never_json_or_text_is_buried_and_stops_nobody(bus: Bus, values: str) -> None:
    """SQLite stores any bytes, and its CHECK lets numbers pass that no event can hold.

    Neither is a damaged page: the daemon goes on, and every list can still be read.
    """
    bus.db.run(f"INSERT INTO outbox (agent, event_type, payload) VALUES ({values})")
    bus.publish("person", NewEvent("repo.changed"))
    assert [event.id for event in bus.events.list()] == [2] and bus.events.get(1) is None
    assert types(consume(bus, READER)) == ["repo.changed"]
    (letter,) = bus.dead.list()
    assert (letter.agent, letter.reason, letter.event_id) == ("reader", DeadReason.INVALID, 1)
    json.dumps(letter.payload, allow_nan=False)
    bus.dead.retry(letter.id)
    assert consume(bus, Lane("reader", True)) == []
    assert [letter.event_id for letter in bus.dead.list()] == [3]


def test_a_type_that_is_no_text_hides_no_other_from_a_prefix(bus: Bus) -> None:
    """Nobody can be meant by it."""
    bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload)"
        " VALUES ('me', CAST(X'7265706F2EF6' AS TEXT), '{}')"
    )
    bus.publish("person", NewEvent("repo.changed"))
    assert types(consume(bus, Lane("reader", False, ("repo.*",)))) == ["repo.changed"]
    assert bus.dead.list() == []


# --- the one transaction


def test_finish_publishes_remembers_and_steps_together(bus: Bus) -> None:
    """All of it, with the cause filled in."""
    bus.publish("person", NewEvent("repo.changed"))
    event = bus.next(READER)
    assert event is not None
    ids = bus.finish(
        READER, event, publish=[NewEvent("repo.reviewed", {"n": 1})], remember={"last": "abc"}
    )
    published = bus.events.get(ids[0] or 0)
    assert published is not None
    assert (published.agent, published.cause_id, published.depth) == ("reader", event.id, 1)
    assert bus.facts.of("reader") == {"last": "abc"}
    assert bus.next(READER) is None


@pytest.mark.parametrize(
    ("publish", "remember"),
    [
        ([NewEvent("repo.reviewed"), NewEvent("agent.started")], {}),
        ([NewEvent("repo.reviewed")], {"bad": math.nan}),
        ([NewEvent("repo.reviewed")], {"good": 1, "half\ud800": 1}),
    ],
)
def test_a_refused_part_of_finish_leaves_nothing(
    bus: Bus, publish: list[NewEvent], remember: Mapping[str, Any]
) -> None:
    """Not an event without its step, nor half of the facts; the lane can still be stepped."""
    bus.publish("person", NewEvent("repo.changed"))
    event = bus.next(READER)
    assert event is not None
    with pytest.raises(EventRefused):
        bus.finish(READER, event, publish=publish, remember=remember)
    assert types(bus.events.list()) == ["repo.changed"] and bus.facts.of("reader") == {}
    bus.step(READER, event)


def test_finish_publishes_last_before_its_commit(bus: Bus) -> None:
    """On a database with several writers, ids would else become visible out of order for longer."""
    bus.publish("fetch", NewEvent("repo.changed"))
    event = bus.next(READER)
    assert event is not None
    statements: list[str] = []

    def traced(cursor: Any, statement: str, bindings: Any) -> bool:
        statements.append(statement)
        return True

    bus.db.connection.exec_trace = traced
    bus.finish(READER, event, publish=[NewEvent("review.done")], remember={"a": 1})
    assert statements[-2:] == [sql.PUBLISH, sql.COMMIT]


def test_a_transaction_that_failed_can_run_again(bus: Bus, clock: ManualClock) -> None:
    """What it keeps in memory goes back to where the database is."""
    bus.publish("fetch", NewEvent("repo.changed"))
    event = bus.next(READER)
    assert event is not None
    with pytest.raises(EventRefused):
        bus.finish(READER, event, publish=[NewEvent("review.done"), NewEvent("No Type")])
    assert bus.finish(READER, event, publish=[NewEvent("review.done")]) == [2]
    assert bus.next(READER) is None


def test_a_failure_inside_a_joined_transaction_fails_the_outer_one(bus: Bus) -> None:
    """Swallowing the inner error must not commit half of what was meant to be one."""
    with pytest.raises(RuntimeError, match="nothing was written"), bus.transaction():
        bus.publish("person", NewEvent("repo.changed"))
        with pytest.raises(EventRefused):
            bus.outbox.publish_many("person", [NewEvent("repo.changed"), NewEvent("bad")])
    assert bus.events.list() == []
    assert bus.publish("person", NewEvent("repo.changed")) == 1


def test_a_bus_belongs_to_its_thread(bus: Bus) -> None:
    """Two threads in one connection would join each other's transactions."""
    errors: list[BaseException] = []

    def use() -> None:
        try:
            bus.events.last_id()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 1


def test_no_read_leaves_a_statement_open(tmp_path: Path, bus: Bus) -> None:
    """An unfinished SELECT pins the WAL, which then only grows (523 MB were seen)."""
    bus.outbox.publish_many("person", [NewEvent("repo.changed")] * 50)
    (
        bus.events.list(limit=1),
        bus.next(READER),
        bus.agents.list(),
        bus.lanes.waiting(READER),
        bus.events.get(1),
    )
    writer = Bus(tmp_path / "a.db")
    for _ in range(20):
        writer.publish("person", NewEvent("repo.changed"))
    _, frames, moved = 0, *writer.db.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    assert (frames, moved) == (0, 0)  # a reader in the way would have kept frames, or been busy
    assert (tmp_path / "a.db-wal").stat().st_size == 0


# --- reading


def test_events_filters_for_people(bus: Bus) -> None:
    """By producer, by type or prefix, after an id, the newest."""
    for number, (agent, kind) in enumerate(
        [("a", "repo.x"), ("b", "repo.y"), ("a", "mail.came"), ("a", "repo.y")], start=1
    ):
        assert bus.publish(agent, NewEvent(kind)) == number
    assert [e.id for e in bus.events.list(agent="a")] == [1, 3, 4]
    assert [e.id for e in bus.events.list(event_type="repo.y")] == [2, 4]
    assert [e.id for e in bus.events.list(event_type="repo.*", agent="a")] == [1, 4]
    assert [e.id for e in bus.events.list(after=2)] == [3, 4]
    assert [e.id for e in bus.events.list(limit=2)] == [1, 2]
    assert [e.id for e in bus.events.list(limit=2, newest=True)] == [3, 4]


def test_consumer_queries_use_the_indexes(bus: Bus) -> None:
    """Without them a new consumer of a rare type takes 800 ms at ten million rows."""
    for statement, arguments in (
        (sql.NEXT_DIRECT, ("reader", 0)),
        (sql.NEXT_OF_TYPE, ("repo.x", 0, "reader")),
        (sql.NEXT_OF_TYPES, ('["repo.x", "repo.y"]', 0, "reader")),
        (sql.TYPES_BETWEEN, ("repo.", "repo/")),
    ):
        plan = [row[3] for row in bus.db.run("EXPLAIN QUERY PLAN " + statement, arguments)]
        steps = [step for step in plan if "outbox" in step]
        assert steps and all("SEARCH outbox USING" in step for step in steps), plan
        assert not any("TEMP B-TREE" in step for step in plan), plan


# --- agents, facts, schedules


def test_an_agent_is_accepted_paused_removed_and_taken_back(bus: Bus, clock: ManualClock) -> None:
    """Its row stays, a pause outlives a new version, and the cursors keep their place."""
    bus.publish("person", NewEvent("repo.changed"))
    assert bus.agents.set_paused("reader", True) and not bus.agents.set_paused("nobody", True)
    bus.accept("reader", "v2", subscribe=["mail.came"])
    (row,) = bus.agents.list()
    assert (row.version, row.subscribe, row.paused) == ("v2", ("mail.came",), True)
    bus.agents.remove("reader")
    assert bus.agents.list()[0].removed_at == clock.now()
    bus.accept("reader", "v3", subscribe=READER.subscribe)
    assert bus.agents.list()[0].removed_at is None
    assert types(consume(bus, READER)) == ["repo.changed"]


def test_facts_are_an_agents_own(bus: Bus) -> None:
    """Any JSON value, by key, replaced when remembered again."""
    bus.facts.remember("reader", {"n": 1, "list": [1.5, None], "text": "5", "none": None})
    bus.facts.remember("reader", {"n": 2})
    bus.facts.remember("other", {"n": 3})
    assert bus.facts.of("reader") == {"n": 2, "list": [1.5, None], "text": "5", "none": None}


def test_a_schedule_notes_its_due_time_with_its_event(bus: Bus) -> None:
    """In one transaction, so that the policy for missed runs holds across restarts."""
    due = datetime(2026, 1, 15, 9, tzinfo=UTC)
    fired = NewEvent("schedule.fired", {"schedule": "daily"}, target="reader", dedup_key="d1")
    assert bus.schedules.last_run("reader", "daily") is None
    event_id = bus.schedules.fire("reader", "daily", due, fired)
    run = bus.schedules.last_run("reader", "daily")
    assert run is not None and (run.due, run.unanswered) == (due, True)
    event = bus.next(DIRECT)
    assert event is not None and (event.id, event.agent) == (event_id, "agentd")
    assert event.priority is Priority.SCHEDULE
    later = due + timedelta(days=1)
    assert bus.schedules.fire("reader", "daily", later, fired) is None
    run = bus.schedules.last_run("reader", "daily")
    assert run is not None and (run.due, run.unanswered) == (later, True)
    bus.step(DIRECT, event)
    bus.schedules.note("reader", "daily", due)
    run = bus.schedules.last_run("reader", "daily")
    assert run is not None and (run.due, run.unanswered) == (due, False)


# --- dead letters


def test_a_retried_letter_comes_through_the_direct_lane_of_its_agent(bus: Bus) -> None:
    """To the agent that failed it alone, with its cause; the letter is gone."""
    first = bus.events.get(bus.publish("person", NewEvent("repo.changed")) or 0)
    bus.publish("fetcher", NewEvent("repo.changed", {"n": 1}, dedup_key="k"), cause=first)
    event = consume(bus, READER)[1]
    letter_id = bus.dead.add("reader", DeadReason.FAILED, "boom \ud800", event, session_id=7)
    letter = bus.dead.get(letter_id)
    assert (letter.error, letter.session_id, letter.event_id) == ("boom ?", 7, event.id)
    bus.dead.retry(letter_id)
    (copy,) = consume(bus, DIRECT)
    assert (copy.agent, copy.event_type, copy.payload) == ("fetcher", "repo.changed", {"n": 1})
    assert (copy.cause_id, copy.depth, copy.target) == (event.cause_id, 1, "reader")
    assert bus.dead.list() == []
    assert consume(bus, READER) == []


def test_a_retried_loop_goes_to_whom_it_was_meant_for(bus: Bus) -> None:
    """As the start of a new chain: a person decided so."""
    event = bus.events.get(bus.publish("person", NewEvent("repo.changed")) or 0)
    consume(bus, READER)
    while event is not None:
        event = bus.events.get(bus.publish("fetcher", NewEvent("repo.changed"), cause=event) or 0)
    consume(bus, READER)
    bus.dead.retry(bus.dead.list()[0].id)
    (again,) = consume(bus, READER)
    assert (again.depth, again.target) == (0, None)


def test_retry_wakes_the_agent(tmp_path: Path) -> None:
    """A person waits for it."""
    bus = Bus(tmp_path / "a.db", wake=tmp_path)
    bus.accept("reader", "v1", subscribe=["repo.changed"], start="beginning")
    bus.publish("person", NewEvent("repo.changed"))
    (event,) = consume(bus, READER)
    ear = bus.doorbell.ear("reader")
    bus.dead.retry(bus.dead.add("reader", DeadReason.FAILED, "boom", event))
    assert ear.wait(1)


def test_retry_of_a_loop_wakes_whom_it_was_meant_for(tmp_path: Path) -> None:
    """Its letter is its producer's, who does not read it."""
    bus = Bus(tmp_path / "a.db", wake=tmp_path)
    bus.accept("reader", "v1", subscribe=["repo.changed"])
    bus.publish("fetch", NewEvent("repo.changed"))
    cause = replace(consume(bus, READER)[0], depth=DEPTH_MAX)
    assert bus.publish("fetch", NewEvent("repo.changed"), cause=cause) is None
    fetch, reader = bus.doorbell.ear("fetch"), bus.doorbell.ear("reader")
    bus.dead.retry(bus.dead.list()[0].id)
    assert reader.wait(1) and not fetch.drain()


def test_letters_are_listed_by_agent_and_dropped(bus: Bus) -> None:
    """And an unknown number is a person's mistake, not a traceback."""
    bus.publish("person", NewEvent("repo.changed"))
    (event,) = consume(bus, READER)
    kept = bus.dead.add("reader", DeadReason.FAILED, "boom", event)
    dropped = bus.dead.add("other", DeadReason.FAILED, "boom", event)
    assert [letter.id for letter in bus.dead.list()] == [dropped, kept]
    assert [letter.id for letter in bus.dead.list("reader")] == [kept]
    bus.dead.drop(dropped)
    assert [letter.id for letter in bus.dead.list()] == [kept]
    for missing in (bus.dead.drop, bus.dead.retry, bus.dead.get):
        with pytest.raises(UsageError, match="dead list"):
            missing(dropped)


def test_the_file_can_be_read_by_any_tool_while_it_is_written(tmp_path: Path, bus: Bus) -> None:
    """`sqlite3 agentd.db "SELECT ..."` must work for anyone at any time."""
    bus.publish("repo_fetch", NewEvent("repo.changed", {"n": 1}))
    reader = apsw.Connection(str(tmp_path / "a.db"), flags=apsw.SQLITE_OPEN_READONLY)
    with bus.transaction():
        bus.publish("repo_fetch", NewEvent("repo.changed", {"n": 2}))
        rows = reader.execute("SELECT payload FROM outbox WHERE agent = 'repo_fetch'").fetchall()
    assert [json.loads(str(row[0])) for row in rows] == [{"n": 1}]


def test_a_transaction_takes_the_write_lock_before_it_reads(tmp_path: Path, bus: Bus) -> None:
    """A deferred one that reads first cannot upgrade once somebody else wrote: 399,953 errors."""
    other = Bus(tmp_path / "a.db")
    other.db.connection.set_busy_timeout(0)
    with bus.transaction():
        last = bus.events.last_id()
        with pytest.raises(StorageError, match="locked"):
            other.publish("person", NewEvent("repo.changed"))
        assert bus.publish("person", NewEvent("repo.changed")) == last + 1
    assert other.publish("person", NewEvent("repo.changed")) == last + 2


def test_the_bus_opens_no_file_of_the_database_itself(tmp_path: Path) -> None:
    """Closing any descriptor of it drops this process's POSIX locks: a committed row was lost."""
    opened: list[str] = []
    watching = True

    def hook(name: str, arguments: tuple[Any, ...]) -> None:  # cannot be removed, only put to sleep
        if watching and name in ("open", "os.open") and str(tmp_path) in str(arguments[0]):
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    bus = Bus(tmp_path / "a.db")
    bus.accept("reader", "v1", subscribe=["repo.changed"], start="beginning")
    bus.publish("person", NewEvent("repo.changed"))
    consume(bus, READER)
    bus.close()
    (tmp_path / "seen").open("w").close()
    watching = False
    assert opened == [str(tmp_path / "seen")]
