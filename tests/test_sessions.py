"""Sessions: cut and resumed, failed and tried again, parked and answered, counted and bounded."""

import math
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentd.agent import Result
from agentd.bus import Bus
from agentd.config.agent import Limits
from agentd.errors import EventRefused, LostLane, SessionFailed, UsageError
from agentd.events import Event, Lane, NewEvent
from agentd.process.crash import Crash
from agentd.sessions import attempts
from agentd.sessions.asked import asked_by
from agentd.sessions.session import Dead, Session, Wait
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason, Priority, SessionState
from agentd.testing import ManualClock
from tests.person import believe

LANE = Lane("worker", False, ("repo.changed",))
DIRECT = Lane("worker", True)
LIMITS = Limits(attempts=3, sessions_per_hour=1000)
V1, V2 = "code 1", "code 2"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_bus(tmp_path: Path, clock: ManualClock) -> Callable[[], Bus]:
    """Each call is a new process's connection."""
    return lambda: Bus(tmp_path / "a.db", clock=clock)


@pytest.fixture
def bus(open_bus: Callable[[], Bus]) -> Bus:
    bus = open_bus()
    bus.accept("worker", "v", subscribe=LANE.subscribe)
    bus.publish("person", NewEvent("repo.changed", {"n": 1}))
    return bus


@pytest.fixture
def sessions(bus: Bus) -> Sessions:
    return Sessions(bus, jitter=lambda: 0.999, verify=believe)


def head(bus: Bus, lane: Lane = LANE) -> Event:
    event = bus.next(lane)
    assert event is not None
    return event


def begin(
    bus: Bus,
    sessions: Sessions | None = None,
    version: str = V1,
    *,
    lane: Lane = LANE,
    **limits: Any,
) -> Session:
    begun = (sessions or Sessions(bus, verify=believe)).begin(
        lane, head(bus, lane), version, LIMITS.model_copy(update=limits)
    )
    assert isinstance(begun, Session)
    return begun


def decide(sessions: Sessions, session: Session, *, idempotent: bool = True) -> None:
    sessions.journal.record(
        session, Step(StepKind.DECISION, "Tool", {"path": "x"}, idempotent=idempotent, raw="{}")
    )


def run_tool(sessions: Sessions, session: Session, *, idempotent: bool = True, **more: Any) -> None:
    decide(sessions, session, idempotent=idempotent)
    sessions.journal.record_result(session, "tool", Result({"ok": True}, **more))


def states(sessions: Sessions) -> list[SessionState]:
    return [row.state for row in reversed(sessions.archive.list())]


def kinds(bus: Bus) -> list[str]:
    return [event.event_type for event in bus.events.list()]


# --- a session that ends


def test_an_ended_session_publishes_remembers_and_steps(bus: Bus, sessions: Sessions) -> None:
    """What its tools staged comes first, in order; the last remembered value wins."""
    session = begin(bus, sessions)
    sessions.journal.record_opening(session, "repo.changed", {"n": 1}, trusted=False)
    run_tool(sessions, session, publish=[NewEvent("tool.first")], remember={"a": 1, "b": 1})
    run_tool(sessions, session, publish=[NewEvent("tool.second", {"n": 2}, "other", "key")])
    ids = sessions.closing.close(
        session, publish=[NewEvent("done.last")], remember={"b": 2}, outcome={"text": "well"}
    )
    assert kinds(bus)[1:] == ["tool.first", "tool.second", "done.last"]
    second = bus.events.get(ids[1] or 0)
    assert second is not None
    assert (second.target, second.dedup_key, second.cause_id) == ("other", "key", session.event.id)
    assert bus.facts.of("worker") == {"a": 1, "b": 2}
    assert bus.next(LANE) is None
    row, steps = sessions.archive.show(session.id)
    assert (row.state, row.outcome, row.turns) == (SessionState.ENDED, {"text": "well"}, 2)
    assert [step.kind for step in steps] == ["opening"] + ["decision", "result"] * 2


def test_nothing_is_visible_before_the_session_ends(bus: Bus, sessions: Sessions) -> None:
    """Staged is not published."""
    session = begin(bus, sessions)
    run_tool(sessions, session, publish=[NewEvent("tool.first")], remember={"a": 1})
    assert kinds(bus) == ["repo.changed"] and bus.facts.of("worker") == {}


def test_a_closing_that_is_refused_leaves_the_session_running(bus: Bus, sessions: Sessions) -> None:
    """All or nothing; the caller may still fail it."""
    session = begin(bus, sessions)
    run_tool(sessions, session, publish=[NewEvent("tool.first")])
    for bad in (
        {"publish": [NewEvent("agentd.pause")]},
        {"remember": {"n": math.nan}},
        {"outcome": {"n": math.nan}},
    ):
        with pytest.raises((EventRefused, SessionFailed)):
            sessions.closing.close(session, **bad)
    assert kinds(bus) == ["repo.changed"] and states(sessions) == [SessionState.RUNNING]
    assert isinstance(sessions.closing.fail(session, "refused"), Wait)


def test_a_staged_event_is_checked_when_it_is_staged(bus: Bus, sessions: Sessions) -> None:
    """The tool that published it is at fault, not the session's end."""
    session = begin(bus, sessions)
    decide(sessions, session)
    with pytest.raises(EventRefused):
        sessions.journal.record_result(
            session, "tool", Result({}, publish=[NewEvent("agent.started")])
        )
    assert len(session.steps) == 1


def test_a_step_that_is_no_json_fails_the_session(bus: Bus, sessions: Sessions) -> None:
    """With the tool's name, and without half a step."""
    session = begin(bus, sessions)
    with pytest.raises(SessionFailed, match="tool"):
        sessions.journal.record_result(session, "tool", Result({"n": {1}}))
    assert session.steps == []


def test_half_a_character_in_a_result_is_kept(bus: Bus, sessions: Sessions) -> None:
    """File names may hold bytes that are no UTF-8; Python shows them as lone surrogates."""
    session = begin(bus, sessions)
    sessions.journal.record_result(
        session, "tool", Result({"name": "a\udcff", "ä": "ö"}, trusted=False)
    )
    sessions.journal.record(session, Step(StepKind.DECISION, "Tool", {}, raw="raw \udcff"))
    _, steps = sessions.archive.show(session.id)
    assert steps[0].payload == {"name": "a\udcff", "ä": "ö"}
    assert steps[1].raw == "raw ?"


# --- cut


def test_a_cut_session_resumes_with_its_steps(
    bus: Bus, sessions: Sessions, open_bus: Callable[[], Bus], clock: ManualClock
) -> None:
    """Recorded decisions are not asked again; what they staged still takes effect."""
    session = begin(bus, sessions)
    clock.advance(2)
    sessions.journal.record_opening(session, "repo.changed", {"n": 1}, trusted=False)
    sessions.journal.record_note(session, "note", {"text": "mind"})
    sessions.journal.record(
        session,
        Step(
            StepKind.DECISION,
            "Tool",
            {"path": "x"},
            idempotent=False,
            prompt_tokens=10,
            cached_tokens=4,
            completion_tokens=3,
            duration_ms=1.5,
            raw='{"tool":"Tool"}',
        ),
    )
    clock.advance(3)
    sessions.journal.record_result(
        session,
        "tool",
        Result(
            {"ok": True},
            trusted=False,
            publish=[NewEvent("tool.first", {"n": 1}, "other", "key")],
            remember={"a": 1},
        ),
    )
    clock.advance(100)  # the worker is dead

    bus = open_bus()
    resumed = begin(bus)
    assert (resumed.id, resumed.resumed, resumed.attempt) == (session.id, True, 2)
    assert resumed.steps == session.steps
    assert resumed.spent_s == 5
    assert resumed.event == session.event
    Sessions(bus).closing.close(resumed)
    assert kinds(bus) == ["repo.changed", "tool.first"] and bus.facts.of("worker") == {"a": 1}


def test_the_worker_that_lost_its_session_cannot_write(
    bus: Bus, sessions: Sessions, open_bus: Callable[[], Bus]
) -> None:
    """A second worker of the same name fences the first out, whatever it tries."""
    session = begin(bus, sessions)
    decide(sessions, session)
    begin(open_bus())
    for write in (
        lambda: decide(sessions, session),
        lambda: sessions.closing.close(session, publish=[NewEvent("tool.first")]),
        lambda: sessions.closing.fail(session, "boom"),
        lambda: sessions.closing.park(session, "?"),
    ):
        with pytest.raises(LostLane):
            write()
    assert kinds(bus) == ["repo.changed"]
    assert sessions.archive.list()[0].state is SessionState.RUNNING


def test_a_cut_session_of_changed_code_begins_anew(bus: Bus, sessions: Sessions) -> None:
    """Half a log made by another prompt means nothing to this one."""
    session = begin(bus, sessions)
    run_tool(sessions, session, publish=[NewEvent("tool.first")])
    second = begin(bus, sessions, V2)
    assert second.id != session.id and second.steps == [] and not second.resumed
    sessions.closing.close(second)
    assert kinds(bus) == ["repo.changed"]
    assert states(sessions) == [SessionState.FAILED, SessionState.ENDED]


def test_a_cut_session_of_changed_code_is_not_repeated_after_an_effect(
    bus: Bus, sessions: Sessions
) -> None:
    """A tool that must not run twice has run."""
    session = begin(bus, sessions)
    run_tool(sessions, session, idempotent=False)
    dead = sessions.begin(LANE, head(bus), V2, LIMITS)
    assert isinstance(dead, Dead) and dead.reason is DeadReason.PARTIAL_EFFECTS
    assert bus.next(LANE) is None
    (letter,) = bus.dead.list()
    assert (letter.session_id, letter.reason) == (session.id, DeadReason.PARTIAL_EFFECTS)


def test_a_tool_cut_in_the_middle_of_changed_code_is_not_repeated(
    bus: Bus, sessions: Sessions
) -> None:
    """It may have happened: a new session would do it again without a word about that."""
    decide(sessions, begin(bus, sessions), idempotent=False)
    dead = sessions.begin(LANE, head(bus), V2, LIMITS)
    assert isinstance(dead, Dead) and dead.reason is DeadReason.PARTIAL_EFFECTS
    assert "in the middle of Tool" in dead.error


def crash(sessions: Sessions, why: str = "killed by SIGSEGV") -> bool:
    """What the next worker is told of this process."""
    return sessions.crashed("worker", Crash(os.getpid(), why))


def test_crashes_that_record_nothing_are_limited(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """An event that crashes its worker each time is given up, and the letter says how it died."""
    for number in range(attempts.CRASHES_IN_A_ROW_MAX):
        begin(bus, sessions)
        assert crash(sessions, f"crash {number}")
        clock.advance(attempts.CUT_MAX_S)
    dead = sessions.begin(LANE, head(bus), V1, LIMITS)
    assert isinstance(dead, Dead) and dead.reason is DeadReason.CRASHED
    assert "5 times in a row" in dead.error and "the last: crash 4" in dead.error
    assert bus.next(LANE) is None
    assert states(sessions) == [SessionState.FAILED]
    assert bus.dead.list()[0].session_id == dead.session_id


def test_a_kill_alone_never_makes_a_dead_letter(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """Nobody saw a crash: it was killed, alone or with its supervisor, however often."""
    waits = []
    for _ in range(100):
        outcome = sessions.begin(LANE, head(bus), V1, LIMITS)
        if isinstance(outcome, Wait):
            assert outcome.why == "cut_off"
            waits.append(outcome.seconds)
            clock.advance(outcome.seconds + 0.001)
            outcome = sessions.begin(LANE, head(bus), V1, LIMITS)
        assert isinstance(outcome, Session)
    assert len(waits) == 100 - attempts.CUT_FREE, "the first few begin again at once"
    assert waits[0] <= attempts.CUT_FIRST_S and waits == sorted(waits)
    assert waits[-1] <= attempts.CUT_MAX_S, "the rate of what may be poison all the same is bounded"
    assert bus.dead.list() == []


def test_a_crash_is_counted_once_and_only_against_its_own_work(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """The next worker may be told twice; a worker that was idle crashed of no event."""
    assert not crash(sessions), "it had begun nothing"
    begin(bus, sessions)
    assert not sessions.crashed("worker", Crash(os.getpid() + 1, "another process"))
    assert not sessions.crashed("other", Crash(os.getpid(), "another agent"))
    assert crash(sessions) and not crash(sessions)
    assert bus.db.run("SELECT crashes, total_crashes FROM deliveries") == [(1, 1)]
    sessions.closing.refund(begin(bus, sessions))
    assert not crash(sessions), "it had given its attempt back"


def test_a_recorded_step_starts_the_count_anew(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """As long as the work goes on; there is a hard cap."""
    for _ in range(attempts.CRASHES_MAX):
        run_tool(sessions, begin(bus, sessions))
        crash(sessions)
    dead = sessions.begin(LANE, head(bus), V1, LIMITS)
    assert isinstance(dead, Dead) and dead.reason is DeadReason.CRASHED
    assert str(attempts.CRASHES_MAX) in dead.error


def test_an_orderly_stop_costs_no_attempt(bus: Bus, sessions: Sessions) -> None:
    """Neither does a model server that is away, for however long."""
    for _ in range(50):
        sessions.closing.refund(begin(bus, sessions))
    assert begin(bus, sessions).resumed


def test_a_note_before_an_orderly_stop_is_kept(bus: Bus, sessions: Sessions) -> None:
    """The resumed log must equal the one that the model server has cached."""
    session = begin(bus, sessions)
    sessions.journal.record_note(session, "note", {"text": "mind"})
    sessions.closing.refund(session)
    assert [step.payload for step in begin(bus, sessions).steps] == [{"text": "mind"}]


def test_the_next_event_starts_with_fresh_counts(bus: Bus, sessions: Sessions) -> None:
    """Attempts are an event's, not an agent's."""
    for _ in range(attempts.CUT_FREE):
        session = begin(bus, sessions)
        crash(sessions)
    sessions.closing.close(session)
    bus.publish("person", NewEvent("repo.changed"))
    assert begin(bus, sessions).attempt == 1
    assert bus.db.run("SELECT attempts, crashes FROM deliveries") == [(1, 0)]


# --- failed


def test_a_failed_session_is_tried_again_after_a_wait(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """As a new session, then given up with the last error."""
    waits = []
    for _ in range(2):
        session = begin(bus, sessions)
        run_tool(sessions, session, publish=[NewEvent("tool.first")])
        outcome = sessions.closing.fail(session, "boom")
        assert isinstance(outcome, Wait)
        blocked = sessions.begin(LANE, head(bus), V1, LIMITS)
        assert isinstance(blocked, Wait) and blocked.why == "backoff"
        assert blocked.seconds == pytest.approx(outcome.seconds, abs=0.002)
        waits.append(outcome.seconds)
        clock.advance(outcome.seconds + 0.001)
    assert waits == pytest.approx([1, 2], rel=0.01)
    session = begin(bus, sessions)
    dead = sessions.closing.fail(session, "the last boom")
    assert isinstance(dead, Dead) and dead.reason is DeadReason.FAILED
    assert bus.next(LANE) is None and kinds(bus) == ["repo.changed"]
    assert states(sessions) == [SessionState.FAILED] * 3
    (letter,) = bus.dead.list()
    assert (letter.error, letter.session_id) == ("the last boom", session.id)


@pytest.mark.parametrize("tries", [2, 5, 20])
def test_backoff_blocks_a_lane_for_a_minute_at_most(
    bus: Bus, clock: ManualClock, tries: int
) -> None:
    """All waits of one event together, with any jitter."""
    sessions = Sessions(bus, jitter=random.Random(tries).random)
    waited = 0.0
    for number in range(1, tries + 1):
        outcome = sessions.closing.fail(begin(bus, sessions, attempts=tries), "boom")
        if number < tries:
            assert isinstance(outcome, Wait) and outcome.seconds > 0
            waited += outcome.seconds
            clock.advance(outcome.seconds + 0.001)
    assert isinstance(outcome, Dead)
    assert waited <= attempts.BLOCK_MAX_S


def test_a_wall_clock_set_back_does_not_block_the_lane(
    bus: Bus, sessions: Sessions, clock: ManualClock
) -> None:
    """The end of a wait is wall time, because it has to survive a restart."""
    sessions.closing.fail(begin(bus, sessions), "boom")
    clock.set(clock.now() - timedelta(days=400))
    begin(bus, sessions, sessions_per_hour=1)


def test_a_failed_session_is_not_repeated_after_an_effect(bus: Bus, sessions: Sessions) -> None:
    """Dead letter "partial effects": a person decides."""
    session = begin(bus, sessions)
    run_tool(sessions, session, idempotent=False)
    dead = sessions.closing.fail(session, "boom")
    assert isinstance(dead, Dead) and dead.reason is DeadReason.PARTIAL_EFFECTS
    assert bus.next(LANE) is None


def test_a_tool_that_did_nothing_is_no_effect(bus: Bus, sessions: Sessions) -> None:
    """Refused: the session is tried again."""
    session = begin(bus, sessions)
    run_tool(sessions, session, idempotent=False, effect=False)
    assert isinstance(sessions.closing.fail(session, "boom"), Wait)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_tool_that_broke_off_may_have_done_something(
    bus: Bus, sessions: Sessions, idempotent: bool
) -> None:
    """It raised, or its result could not be recorded: it is tried again only if it may be."""
    session = begin(bus, sessions)
    decide(sessions, session, idempotent=idempotent)
    found = sessions.closing.fail(session, "boom")
    if idempotent:
        assert isinstance(found, Wait)
    else:
        assert isinstance(found, Dead) and found.reason is DeadReason.PARTIAL_EFFECTS


def test_an_event_that_makes_no_sense_is_given_up_at_once(bus: Bus, sessions: Sessions) -> None:
    """Trying again would change nothing."""
    dead = sessions.closing.fail(begin(bus, sessions), "no `path`", reason=DeadReason.INVALID)
    assert isinstance(dead, Dead) and dead.reason is DeadReason.INVALID
    assert bus.next(LANE) is None


def test_a_direct_event_passes_a_blocked_lane(bus: Bus, sessions: Sessions) -> None:
    """A person's request does not wait behind a backoff, nor behind a cut session."""
    sessions.closing.fail(begin(bus, sessions), "boom")
    bus.publish("person", NewEvent("agent.trigger", target="worker"), system=True)
    sessions.closing.close(begin(bus, sessions, lane=DIRECT))
    assert bus.next(DIRECT) is None
    assert isinstance(sessions.begin(LANE, head(bus), V1, LIMITS), Wait)


# --- parked


def park(bus: Bus, sessions: Sessions) -> Session:
    session = begin(bus, sessions)
    run_tool(sessions, session, publish=[NewEvent("tool.first")])
    ask(sessions, session)
    return session


def ask(sessions: Sessions, session: Session) -> None:
    sessions.journal.record(session, Step(StepKind.DECISION, "AskPerson", {"question": "May I?"}))
    sessions.closing.park(session, "May I?")


def answer(bus: Bus, payload: Any, target: str = "worker", producer: str = "person") -> None:
    """Write a person's answer; `asked` as the session asks, unless it is given."""
    session = payload.get("session")
    if isinstance(session, int) and abs(session) < 2**63 and "asked" not in payload:
        archive = Sessions(bus).archive
        row = archive.find(session)
        question = None if row is None else row.question
        asked = asked_by(session, archive.steps(session), question)
        payload = {"asked": asked.digest if asked else "", **payload}
    event = NewEvent("person.answer", payload, target=target)
    bus.publish(producer, event, priority=Priority.PERSON, system=True)


def test_a_parked_session_steps_its_lane_and_resumes_with_the_answer(
    bus: Bus, sessions: Sessions, open_bus: Callable[[], Bus]
) -> None:
    """Waiting for a person blocks nobody; what was published while parking comes once."""
    parked = park(bus, sessions)
    assert bus.next(LANE) is None
    assert kinds(bus) == ["repo.changed", "tool.first", "person.asked"]
    (row,) = sessions.archive.list(state=SessionState.PARKED)
    assert (row.id, row.question) == (parked.id, "May I?")

    bus.db.run("DELETE FROM outbox")  # pruned meanwhile: the lane was stepped
    bus = open_bus()
    answer(bus, {"session": parked.id, "answer": "yes"})
    for expected_attempt in (2, 3):  # cut off right after it was resumed: the answer is not lost
        sessions = Sessions(bus, verify=believe)
        session = begin(bus, sessions, lane=DIRECT)
        assert (session.id, session.attempt, session.resumed) == (parked.id, expected_attempt, True)
        assert (session.event, session.priority) == (parked.event, Priority.PERSON)
        results = [(step.type, step.payload) for step in session.steps[-2:]]
        assert results[0][0] == "AskPerson"
        assert results[1] == ("person.answer", {"answer": "yes"})
        assert [step.kind for step in session.steps].count(StepKind.RESULT) == 2
    sessions.closing.close(session, publish=[NewEvent("done.last")])
    assert kinds(bus) == ["person.answer", "done.last"]
    assert bus.events.list()[-1].cause_id == parked.event.id
    assert bus.next(DIRECT) is None


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"session": 1},
        {"session": 99, "answer": "yes"},
        {"session": "1", "answer": "yes"},
        {"session": True, "answer": "yes"},
        {"session": 2**70, "answer": "yes"},
        {"session": -1, "answer": "yes"},
    ],
)
def test_an_answer_to_nothing_is_a_dead_letter(bus: Bus, sessions: Sessions, payload: Any) -> None:
    """Listed as invalid, never silence; the parked session waits on."""
    park(bus, sessions)
    answer(bus, payload)
    dead = sessions.begin(DIRECT, head(bus, DIRECT), V1, LIMITS)
    assert isinstance(dead, Dead) and dead.reason is DeadReason.INVALID
    assert bus.next(DIRECT) is None
    assert states(sessions) == [SessionState.PARKED]


def test_only_a_person_answers(bus: Bus, sessions: Sessions) -> None:
    """What nobody proves to be a person's is not believed; an agent cannot even publish it."""
    parked = park(bus, sessions)
    given = {"session": parked.id, "answer": "yes"}
    with pytest.raises(EventRefused, match="the system's own"):
        bus.publish("other", NewEvent("person.answer", given, target="worker"))
    answer(bus, given, producer="other")
    dead = Sessions(bus).begin(DIRECT, head(bus, DIRECT), V1, LIMITS)
    assert isinstance(dead, Dead) and "only a person" in dead.error
    assert states(sessions) == [SessionState.PARKED]


def test_a_second_answer_is_a_dead_letter(bus: Bus, sessions: Sessions) -> None:
    """The first one counts."""
    parked = park(bus, sessions)
    answer(bus, {"session": parked.id, "answer": "yes"})
    answer(bus, {"session": parked.id, "answer": "no"})
    sessions.closing.close(begin(bus, sessions, lane=DIRECT))
    dead = sessions.begin(DIRECT, head(bus, DIRECT), V1, LIMITS)
    assert isinstance(dead, Dead) and "ended" in dead.error
    assert states(sessions) == [SessionState.ENDED]


def test_another_agents_session_cannot_be_answered(bus: Bus, sessions: Sessions) -> None:
    """An answer is addressed to the agent that asked."""
    parked = park(bus, sessions)
    bus.accept("other", "v")
    answer(bus, {"session": parked.id, "answer": 1}, target="other")
    lane = Lane("other", True)
    assert isinstance(sessions.begin(lane, head(bus, lane), V1, LIMITS), Dead)
    assert states(sessions) == [SessionState.PARKED]


def test_a_session_that_published_while_parking_is_not_repeated(
    bus: Bus, sessions: Sessions
) -> None:
    """A new session would publish the same again."""
    parked = park(bus, sessions)
    answer(bus, {"session": parked.id, "answer": "yes"})
    dead = sessions.closing.fail(begin(bus, sessions, lane=DIRECT), "boom")
    assert isinstance(dead, Dead) and dead.reason is DeadReason.PARTIAL_EFFECTS
    (letter,) = bus.dead.list()
    assert letter.event_id == parked.event.id


@pytest.mark.parametrize("how", ["failed", "changed code"])
def test_an_answered_session_without_effects_is_repeated_for_its_own_event(
    bus: Bus, sessions: Sessions, clock: ManualClock, how: str
) -> None:
    """The event that it answers is the one that asked for work, not the person's answer."""
    parked = begin(bus, sessions)
    ask(sessions, parked)
    answer(bus, {"session": parked.id, "answer": "yes"})
    if how == "failed":
        assert isinstance(sessions.closing.fail(begin(bus, sessions, lane=DIRECT), "boom"), Wait)
        clock.advance(2)
    for _ in range(2):  # cut off once
        again = begin(bus, sessions, V2, lane=DIRECT)
        assert again.id != parked.id and again.event == parked.event
    sessions.closing.close(again, publish=[NewEvent("done.last")])
    assert bus.next(DIRECT) is None
    assert states(sessions) == [SessionState.FAILED, SessionState.ENDED]


# --- bounds and lists


def test_sessions_per_hour_are_bounded(bus: Bus, sessions: Sessions, clock: ManualClock) -> None:
    """A storm waits; a person's own request does not; resuming is not beginning."""
    for _ in range(3):
        bus.publish("person", NewEvent("repo.changed"))
    for _ in range(2):
        sessions.closing.close(begin(bus, sessions, sessions_per_hour=2))
        clock.advance(60)
    limits = LIMITS.model_copy(update={"sessions_per_hour": 2})
    wait = sessions.begin(LANE, head(bus), V1, limits)
    assert isinstance(wait, Wait)
    assert (wait.why, wait.seconds) == ("sessions_per_hour", 3600 - 120)
    bus.publish("person", NewEvent("note.asked", target="worker"))
    assert isinstance(sessions.begin(DIRECT, head(bus, DIRECT), V1, limits), Session)
    clock.advance(3600)
    begin(bus, sessions, sessions_per_hour=2)
    assert begin(bus, sessions, sessions_per_hour=1).resumed


def test_sessions_are_listed_by_agent_and_state(bus: Bus, sessions: Sessions) -> None:
    """Newest first; an unknown id is a person's mistake."""
    session = begin(bus, sessions)
    sessions.journal.record(
        session,
        Step(StepKind.DECISION, "Tool", {}, prompt_tokens=10, completion_tokens=2),
    )
    sessions.journal.record(
        session,
        Step(StepKind.DECISION, "Done", {}, prompt_tokens=12, completion_tokens=3),
    )
    sessions.closing.close(session)
    bus.publish("person", NewEvent("repo.changed"))
    begin(bus, sessions)
    assert [row.state for row in sessions.archive.list()] == [
        SessionState.RUNNING,
        SessionState.ENDED,
    ]
    (row,) = sessions.archive.list(agent="worker", state=SessionState.ENDED)
    assert (row.turns, row.prompt_tokens, row.completion_tokens) == (2, 22, 5)
    assert sessions.archive.list(agent="other") == [] and len(sessions.archive.list(limit=1)) == 1
    with pytest.raises(UsageError):
        sessions.archive.show(99)


def test_a_running_session_whose_event_was_settled_by_hand_is_closed(
    bus: Bus, sessions: Sessions
) -> None:
    """It must not be resumed for another event."""
    stale = begin(bus, sessions)
    bus.publish("person", NewEvent("repo.changed", {"n": 2}))
    bus.db.run("UPDATE cursors SET last_seen_id = 1 WHERE consumer = 'worker'")
    session = begin(bus, sessions)
    assert session.id != stale.id and session.event.payload == {"n": 2}
    assert states(sessions) == [SessionState.FAILED, SessionState.RUNNING]
