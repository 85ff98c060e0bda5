"""Retention: what goes, what stays, what becomes a dead letter, and how long the lock is held."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from agentd.bus import Bus
from agentd.clock import iso
from agentd.config.agent import Limits
from agentd.config.daemon import RetentionConfig
from agentd.events import Lane, NewEvent
from agentd.sessions.session import Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason, SessionState
from agentd.storage.retention import LEAVE, Retention
from agentd.storage.rows import QUIET
from agentd.testing import ManualClock

DAY = timedelta(days=1).total_seconds()
READER = Lane("reader", False, ("repo.*",))
DIRECT = Lane("reader", True)
LIMITS = Limits.model_validate({})
MANY = Limits.model_validate({"sessions_per_hour": 100_000})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def bus(tmp_path: Path, clock: ManualClock) -> Bus:
    bus = Bus(tmp_path / "a.db", clock=clock)
    bus.accept("reader", "v1", subscribe=READER.subscribe, start="beginning")
    return bus


def prune(bus: Bus, *, by_age: bool = True, **rules: object) -> Counter[str]:
    """Prune to the end; return how many of each kind went."""
    retention = Retention(bus, RetentionConfig.model_validate(rules))
    done: Counter[str] = Counter()
    while (step := retention.step(by_age=by_age)) is not None:
        done[step.what] += step.count
        assert done.total() < 1_000_000, "it never ends"
    return done


def publish(bus: Bus, count: int = 1, **keys: object) -> None:
    text = keys.pop("text", "")
    bus.outbox.publish_many(
        "fetch",
        [NewEvent("repo.changed", {"n": n, "text": text}, **keys) for n in range(count)],  # type: ignore[arg-type]
    )


def consume(bus: Bus, *lanes: Lane) -> list[int]:
    """Take everything that waits on the lanes; return the ids."""
    ids = []
    for lane in lanes or (READER, DIRECT):
        while (event := bus.next(lane)) is not None:
            bus.step(lane, event)
            ids.append(event.id)
    return ids


def catch_up(bus: Bus, lane: Lane) -> None:
    """Move an idle lane's cursor up, as a worker does within a minute."""
    bus.db.run(
        "UPDATE cursors SET last_seen_id = ? WHERE consumer = ?",
        (bus.events.last_id(), lane.consumer),
    )


def begin(bus: Bus, lane: Lane = READER, limits: Limits = LIMITS) -> tuple[Sessions, Session]:
    """Open the session of the lane's next event, as its worker does."""
    event = bus.next(lane)
    assert event is not None
    sessions = Sessions(bus)
    session = sessions.begin(lane, event, "v1", limits)
    assert isinstance(session, Session)
    sessions.journal.record_opening(session, event.event_type, {"text": "x"}, trusted=False)
    return sessions, session


def ids(bus: Bus) -> list[int]:
    return [event.id for event in bus.events.list(limit=100_000)]


# --- by age


def test_events_that_all_have_read_go_when_they_are_old(bus: Bus, clock: ManualClock) -> None:
    """The young stay, and so does everything while there is nothing old."""
    publish(bus, 5)
    consume(bus)
    assert prune(bus) == {}
    clock.advance(20 * DAY)
    publish(bus, 3)
    consume(bus)
    catch_up(bus, DIRECT)
    clock.advance(11 * DAY)
    assert prune(bus) == {"events": 5}
    assert ids(bus) == [6, 7, 8]


def test_ids_are_not_given_again(bus: Bus, clock: ManualClock) -> None:
    """A pruned-empty outbox must not restart at 1, below the cursors."""
    publish(bus, 5)
    consume(bus)
    catch_up(bus, DIRECT)
    clock.advance(31 * DAY)
    assert prune(bus) == {"events": 5}
    publish(bus)
    assert ids(bus) == [6]
    assert consume(bus) == [6]


def test_pruning_never_passes_the_slowest_cursor(bus: Bus, clock: ManualClock) -> None:
    """What one lane has yet to read is nobody's to delete, however old, while its worker is at it.

    All others have read it.
    """
    slow = Lane("slow", False, ("repo.changed",))
    bus.accept("slow", "v1", subscribe=slow.subscribe, start="beginning")
    publish(bus, 4)
    consume(bus)
    catch_up(bus, DIRECT)
    catch_up(bus, Lane("slow", True))
    event = bus.next(slow)
    assert event is not None
    bus.step(slow, event)
    clock.advance(31 * DAY)
    begin(bus, slow)
    assert prune(bus)["events"] == 1
    assert ids(bus) == [2, 3, 4]


def test_old_unread_events_become_dead_letters(bus: Bus, clock: ManualClock) -> None:
    """A paused agent does not pin the database for ever, and loses nothing in silence."""
    bus.accept("slow", "v1", subscribe=["repo.changed"], start="beginning")
    bus.agents.set_paused("slow", True)
    publish(bus, 3)
    publish(bus, 1, target="slow")
    bus.publish("fetch", NewEvent("other.thing"))
    consume(bus)
    clock.advance(31 * DAY)
    publish(bus, 2)
    done = prune(bus)
    assert done["expired"] == 4 and done["events"] == 5
    letters = bus.dead.list("slow")
    assert {letter.event_id for letter in letters} == {1, 2, 3, 4}
    assert {letter.reason for letter in letters} == {DeadReason.EXPIRED}
    assert "30d" in letters[0].error and letters[0].payload == {"n": 0, "text": ""}
    assert ids(bus) == [6, 7]
    assert consume(bus, Lane("slow", False, ("repo.changed",))) == [6, 7]
    assert consume(bus) == [6, 7], "the others lose nothing"
    bus.dead.retry(letters[0].id)
    assert consume(bus, Lane("slow", True)) == [8]


@pytest.mark.parametrize("removed", ["30d", "1d"])
def test_a_removed_agent_holds_back_for_seven_days(
    bus: Bus, clock: ManualClock, removed: str
) -> None:
    """Then its cursors go; what it had not read by then is a dead letter, later events are not.

    However short it is remembered otherwise.
    """
    bus.accept("gone", "v1", subscribe=["repo.changed"], start="beginning")
    bus.facts.remember("gone", {"seen": 1})
    publish(bus, 2)
    clock.advance(60)
    bus.agents.remove("gone")
    clock.advance(60)
    publish(bus, 2)
    clock.advance(LEAVE.total_seconds() - 120)
    assert prune(bus, removed=removed) == ({"facts": 1} if removed == "1d" else {})
    clock.advance(120)
    done = prune(bus, removed=removed)
    assert done["expired"] == 2
    assert {letter.event_id for letter in bus.dead.list("gone")} == {1, 2}
    assert [lane.agent for lane, _ in bus.lanes.slowest()] == ["reader", "reader"]
    if removed == "30d":
        assert bus.facts.of("gone") == {"seen": 1}, "it may come back with what it remembers"
    clock.advance(31 * DAY)
    prune(bus, removed=removed)
    assert bus.facts.of("gone") == {}
    assert [row.name for row in bus.agents.list()] == ["reader"]


def test_an_agent_that_comes_back_in_time_keeps_its_place(bus: Bus, clock: ManualClock) -> None:
    """An editor that deletes and writes anew, or a weekend without the agent, loses nothing."""
    publish(bus, 2)
    bus.agents.remove("reader")
    clock.advance(6 * DAY)
    assert prune(bus) == {}
    bus.accept("reader", "v2", subscribe=READER.subscribe)
    assert consume(bus) == [1, 2]


def test_old_sessions_go_with_their_steps(bus: Bus, clock: ManualClock) -> None:
    """Whatever their number of steps; a running one stays."""
    publish(bus, 2)
    sessions, session = begin(bus)
    for number in range(120):
        sessions.journal.record_note(session, "note", {"n": number})
        sessions.journal.record(session, Step(StepKind.DECISION, "Tool", {}))
    sessions.closing.close(session)
    clock.advance(31 * DAY)
    _, running = begin(bus)
    done = prune(bus)
    assert done["sessions"] == 1 and done["steps"] > 0
    assert [row.id for row in sessions.archive.list()] == [running.id]
    assert bus.db.run("SELECT DISTINCT session_id FROM steps") == [(running.id,)]


def test_a_question_that_nobody_answers_becomes_a_dead_letter(bus: Bus, clock: ManualClock) -> None:
    """With the event that it answers, whose row may be gone; a late answer finds nobody waiting."""
    publish(bus)
    sessions, session = begin(bus)
    sessions.closing.park(session, "Delete it?")
    clock.advance(29 * DAY)
    assert prune(bus)["unanswered"] == 0
    clock.advance(2 * DAY)
    assert prune(bus)["unanswered"] == 1
    (letter,) = bus.dead.list()
    assert (letter.reason, letter.session_id) == (DeadReason.UNANSWERED, session.id)
    assert "Delete it?" in letter.error and letter.event_type == "repo.changed"
    (row,) = sessions.archive.list()
    assert row.state is SessionState.FAILED
    answer = NewEvent("person.answer", {"session": session.id, "answer": "yes"}, target="reader")
    bus.publish("person", answer, system=True)
    late = bus.next(DIRECT)
    assert late is not None
    sessions.begin(DIRECT, late, "v1", LIMITS)
    assert bus.dead.list()[0].reason is DeadReason.INVALID


def test_old_letters_go(bus: Bus, clock: ManualClock) -> None:
    """After three times as long as events."""
    publish(bus)
    (event,) = [bus.next(READER)]
    assert event is not None
    bus.dead.add("reader", DeadReason.FAILED, "boom", event)
    clock.advance(89 * DAY)
    assert prune(bus)["dead_letters"] == 0
    clock.advance(2 * DAY)
    assert prune(bus)["dead_letters"] == 1


def test_a_session_in_progress_is_left_to_its_worker(bus: Bus, clock: ManualClock) -> None:
    """Its event is old, but somebody is at it: the lane is not touched, and the work counts."""
    publish(bus, 2)
    clock.advance(31 * DAY)
    sessions, session = begin(bus)
    assert prune(bus).keys() <= {"lanes"} and ids(bus) == [1, 2]
    sessions.closing.close(session, publish=[NewEvent("repo.read")])
    assert bus.dead.list() == []


def test_a_session_that_nobody_resumes_is_given_up(bus: Bus, clock: ManualClock) -> None:
    """A paused agent's cut session would hold its lane for ever; its worker may not go on."""
    publish(bus, 2)
    sessions, session = begin(bus)
    clock.advance(31 * DAY)
    assert prune(bus)["expired"] == 2
    letters = bus.dead.list()
    assert [letter.session_id for letter in letters] == [None, session.id]
    assert sessions.archive.list()[0].state is SessionState.FAILED
    with pytest.raises(Exception, match="took this session up"):
        sessions.closing.close(session)


def test_a_clock_that_was_ahead_keeps_nothing_for_ever(bus: Bus, clock: ManualClock) -> None:
    """An event from the year 2099 is as old as what stands around it."""
    publish(bus)
    now = clock.now()
    clock.set(now.replace(year=2099))
    publish(bus)
    clock.set(now)
    publish(bus)
    consume(bus)
    catch_up(bus, DIRECT)
    clock.advance(31 * DAY)
    assert prune(bus) == {"events": 3}


def in_2099(bus: Bus, clock: ManualClock, count: int) -> Sessions:
    """Answer events and bury some while the wall clock is far ahead."""
    now = clock.now()
    clock.set(now.replace(year=2099))
    work(bus, count)
    bury(bus, count)
    clock.set(now)
    return Sessions(bus)


def work(bus: Bus, count: int, text: str = "") -> None:
    for _ in range(count):
        publish(bus)
        sessions, session = begin(bus, limits=MANY)
        sessions.journal.record_note(session, "note", {"text": text})
        sessions.closing.close(session)


def bury(bus: Bus, count: int) -> None:
    for _ in range(count):
        bus.dead.add_row("reader", DeadReason.FAILED, "boom", bus.events.last_id())


def test_sessions_and_letters_from_the_future_hold_nothing_up(bus: Bus, clock: ManualClock) -> None:
    """However many stand at the bottom: they are as old as what came after them."""
    sessions = in_2099(bus, clock, 60)
    work(bus, 20)
    bury(bus, 20)
    clock.advance(29 * DAY)
    assert prune(bus)["sessions"] == 0
    work(bus, 1)
    clock.advance(2 * DAY)
    assert prune(bus)["sessions"] == 80
    assert len(sessions.archive.list(limit=1000)) == 1
    clock.advance(60 * DAY)
    assert prune(bus)["dead_letters"] == 80


def test_what_is_young_and_stands_before_the_old_does_not_hold_it_up(
    bus: Bus, clock: ManualClock
) -> None:
    """Sessions that waited long for a person have low ids, and have ended just now."""
    publish(bus, 60)
    for _ in range(60):
        sessions, session = begin(bus, limits=MANY)
        sessions.closing.park(session, "Go on?")
    work(bus, 20)
    bus.db.run("UPDATE sessions SET ended_at = ? WHERE state = 'parked'", (iso_in(clock, 31),))
    bus.db.run("UPDATE sessions SET state = 'ended' WHERE state = 'parked'")
    clock.advance(31 * DAY)
    assert prune(bus)["sessions"] == 20
    assert len(sessions.archive.list(limit=1000)) == 60


def iso_in(clock: ManualClock, days: int) -> str:
    return iso(clock.now() + timedelta(days=days))


def test_a_cut_session_from_the_future_is_given_up(bus: Bus, clock: ManualClock) -> None:
    """Of a paused agent: nobody works on it, and it must not pin its lane until 2099."""
    now = clock.now()
    clock.set(now.replace(year=2099))
    publish(bus)
    begin(bus)
    clock.set(now)
    publish(bus, 5)
    catch_up(bus, DIRECT)
    clock.advance(31 * DAY)
    done = prune(bus)
    assert (done["expired"], done["events"]) == (6, 6)


def test_a_session_that_goes_on_after_its_clock_was_set_right_is_left_alone(
    bus: Bus, clock: ManualClock
) -> None:
    """Its last step tells: it began in the future, and somebody works on it."""
    now = clock.now()
    publish(bus)
    clock.set(now.replace(year=2099))
    sessions, session = begin(bus)
    clock.set(now)
    clock.advance(31 * DAY)
    sessions.journal.record_note(session, "note", {})
    sessions.journal.record(session, Step(StepKind.DECISION, "Tool", {}))
    assert prune(bus)["expired"] == 0
    sessions.closing.close(session)


def test_a_clock_that_was_behind_makes_nothing_old(bus: Bus, clock: ManualClock) -> None:
    """One event from 1970 must not expire the unread ones before it."""
    publish(bus, 2)
    now = clock.now()
    clock.set(now.replace(year=1970))
    publish(bus)
    clock.set(now)
    assert prune(bus) == {}
    assert consume(bus) == [1, 2, 3]


def test_age_can_be_left_out(bus: Bus, clock: ManualClock) -> None:
    """While the wall clock cannot be trusted only the size limit counts."""
    publish(bus, 3)
    consume(bus)
    catch_up(bus, DIRECT)
    clock.advance(40 * DAY)
    assert prune(bus, by_age=False) == {}
    assert prune(bus) == {"events": 3}


# --- by size

LIMIT = 2_000_000
BIG = "x" * 10_000


def test_the_oldest_go_beyond_the_size_limit(bus: Bus, clock: ManualClock) -> None:
    """Down to a low water, and the file itself shrinks; the newest stay."""
    publish(bus, 600, text=BIG)
    consume(bus)
    catch_up(bus, DIRECT)
    done = prune(bus, database_bytes=LIMIT)
    assert done["events"] > 400 and done["expired"] == 0
    assert Retention(bus, RetentionConfig()).live_bytes() <= LIMIT
    assert ids(bus)[-1] == 600


def test_at_the_size_limit_unread_events_expire(bus: Bus, clock: ManualClock) -> None:
    """The slowest lane's oldest become dead letters; those keep their share, the oldest go."""
    bus.accept("slow", "v1", subscribe=["repo.changed"], start="beginning")
    publish(bus, 600, text=BIG)
    consume(bus)
    done = prune(bus, database_bytes=LIMIT)
    assert done["expired"] > 300
    assert Retention(bus, RetentionConfig()).live_bytes() <= LIMIT
    letters = bus.dead.list("slow", limit=1000)
    assert 0 < len(letters) < done["expired"], "bounded"
    read = consume(bus, Lane("slow", False, ("repo.changed",)))
    assert read and read[-1] == 600
    assert letters[0].event_id == read[0] - 1, "nothing between what expired and what is left"


def test_the_size_limit_spares_young_sessions(bus: Bus, clock: ManualClock) -> None:
    """`sessions_per_hour` counts them: without them a storm would be unbounded."""
    publish(bus, 300, text=BIG)
    sessions, session = begin(bus)
    sessions.closing.close(session)
    consume(bus)
    catch_up(bus, DIRECT)
    prune(bus, database_bytes=LIMIT)
    assert len(sessions.archive.list()) == 1
    publish(bus, 300, text=BIG)
    consume(bus)
    catch_up(bus, DIRECT)
    clock.advance(2 * QUIET.total_seconds())
    prune(bus, database_bytes=LIMIT)
    assert sessions.archive.list() == []


@pytest.mark.parametrize("ahead", [1, 300])
def test_sessions_from_the_future_do_not_make_the_size_limit_expire_events(
    bus: Bus, clock: ManualClock, ahead: int
) -> None:
    """What rests goes before what is unread, also where all that rests claims to be of 2099."""
    now = clock.now()
    clock.set(now.replace(year=2099))
    work(bus, ahead, text=BIG)
    clock.set(now)
    work(bus, 301 - ahead, text=BIG)
    catch_up(bus, DIRECT)
    publish(bus, 20)
    clock.advance(2 * QUIET.total_seconds())
    retention = Retention(bus, RetentionConfig.model_validate({"database_bytes": LIMIT}))
    while retention.step(by_age=False) is not None:
        pass
    assert not retention.over and bus.dead.list() == []
    assert 0 < len(Sessions(bus).archive.list(limit=1000)) < 301


def test_free_pages_go_back_to_the_disk(tmp_path: Path, bus: Bus, clock: ManualClock) -> None:
    """After a storm the file does not stay as large as it ever was."""
    publish(bus, 3000, text=BIG)
    consume(bus)
    catch_up(bus, DIRECT)
    clock.advance(31 * DAY)
    done = prune(bus)
    assert done["events"] == 3000 and done["pages"] > 5000
    bus.db.connection.wal_checkpoint(mode=3)
    assert (tmp_path / "a.db").stat().st_size < 3_000_000


# --- in small steps


class SlowDisk(ManualClock):
    """A clock by which every transaction takes long."""

    def monotonic(self) -> float:
        self.advance(0.04)
        return super().monotonic()


def test_steps_become_smaller_where_the_disk_is_slow(tmp_path: Path) -> None:
    """Nobody waits for the write lock longer than for one row."""
    bus = Bus(tmp_path / "slow.db", clock=SlowDisk())
    publish(bus, 200)
    bus.clock.advance(31 * DAY)  # type: ignore[attr-defined]
    retention = Retention(bus, RetentionConfig())
    counts = []
    while (step := retention.step()) is not None:
        counts.append(step.count)
    assert sum(counts) == 200
    assert counts[:3] == [50, 25, 12] and counts[-1] == 1


# --- together


def test_a_lane_that_waits_goes_on_after_pruning(bus: Bus, clock: ManualClock) -> None:
    """A worker's own idea of its cursor survives that retention moved it."""
    publish(bus, 1)
    event = bus.next(READER)
    assert event is not None
    clock.advance(31 * DAY)
    other = Bus(bus.db.path, clock=clock)
    assert prune(other)["expired"] == 1
    assert bus.next(READER) is None
    publish(other)
    assert consume(bus) == [2]


def test_a_failed_session_may_be_pruned_while_its_event_waits(bus: Bus, clock: ManualClock) -> None:
    """It is tried again as a new session, which needs nothing of the old one."""
    publish(bus)
    sessions, session = begin(bus)
    assert isinstance(sessions.closing.fail(session, "boom"), Wait)
    bus.db.run("UPDATE sessions SET ended_at = '2020-01-01T00:00:00.000Z'")
    assert prune(bus)["sessions"] == 1
    clock.advance(61)
    _, again = begin(bus)
    assert again.event.id == session.event.id
