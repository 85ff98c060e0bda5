"""The loop: what it decides, dispatches, records, and how it goes on after a cut."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import structlog
from pydantic import BaseModel

from agentd import context
from agentd.agent import Agent, Kit, Result
from agentd.approval.approval import Policy
from agentd.bus import Bus
from agentd.config.agent import Limits
from agentd.errors import (
    AgentdError,
    CallDeadline,
    EventRefused,
    ModelUnavailable,
    PermissionRefused,
    SessionFailed,
    Stopped,
    ToolError,
)
from agentd.events import Event, Lane, NewEvent
from agentd.llm.decision import Ask, Choice, Decision
from agentd.loop import Ending, Loop
from agentd.sessions.session import Dead, Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason
from agentd.testing import ManualClock, ScriptedLLM
from agentd.testing.scripted import count
from agentd.transcript import snake_case

LANE = Lane("reader", False, ("file.changed",))
NAMES = ("ReadFile", "WriteFile", "Ask", "Done")
LOG: Any = structlog.get_logger()


class FileChanged(BaseModel):
    path: str


class Note(BaseModel):
    text: str


class Reader(Agent[Any]):
    """An agent whose handlers count their calls."""

    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {"note.written": Note}
    accepts: ClassVar[Mapping[str, type[BaseModel]]] = {"file.changed": FileChanged}

    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(nothing, Kit("reader", "notes are written", nothing, nothing, nothing))
        self.calls: list[str] = []

    def dispatch(self, decision: Choice) -> Result:
        path = str(decision.args.get("path", ""))
        self.calls.append(f"{decision.name} {path}")
        match decision.name, path:
            case _, "missing":
                raise ToolError("there is no such file")
            case _, "secret":
                raise PermissionRefused("not listed")
            case _, "broken":
                raise ZeroDivisionError("a bug in the agent")
            case "Ask", _:
                return Result({"question": "sure?"}, ask="sure?")
            case "WriteFile", _:
                return Result({"path": path}, publish=[NewEvent("note.written", {"text": path})])
            case _, "forgotten":
                return None  # type: ignore[return-value] # as an agent's own code may
            case _, "undeclared":
                return Result({}, publish=[NewEvent("other.type", {})])
        return Result({"path": path, "text": "<b>" + "words " * 20}, trusted=False)

    def finish(self, done: Choice, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        return Result(
            {"results": len(results), **done.args},
            publish=[NewEvent("note.written", {"text": "end"})],
            remember={"last": event.id},
        )


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    bus = Bus(tmp_path / "agentd.db", clock=ManualClock())
    bus.accept("reader", "v1", subscribe=("file.changed",))
    bus.publish("watcher", NewEvent("file.changed", {"path": "a"}))
    yield bus
    bus.close()


def begin(bus: Bus, **limits: Any) -> Session:
    event = bus.next(LANE)
    assert event is not None
    session = Sessions(bus).begin(LANE, event, "v1", Limits(**limits))
    assert isinstance(session, Session)
    return session


def loop(
    bus: Bus,
    session: Session,
    agent: Reader,
    llm: ScriptedLLM,
    idempotent: Sequence[str] = ("ReadFile",),
) -> Loop:
    return Loop(
        session,
        agent,
        llm,
        Sessions(bus).journal,
        idempotent=frozenset(idempotent),
        policy=Policy(),
        call_deadline_s=5,
        log=LOG,
        beat=lambda _promise: None,
    )


def run(
    bus: Bus,
    script: Sequence[Any],
    *,
    agent: Reader | None = None,
    window: int = 8192,
    **limits: Any,
) -> tuple[Ending, ScriptedLLM, Session, Reader]:
    agent = agent or Reader()
    session = begin(bus, **limits)
    llm = ScriptedLLM(script, names=NAMES, window=window)
    return loop(bus, session, agent, llm).run(), llm, session, agent


def read(path: str) -> tuple[str, dict[str, str]]:
    return "ReadFile", {"path": path}


DONE: tuple[str, dict[str, str]] = ("Done", {})


def test_decide_dispatch_append_done(bus: Bus) -> None:
    """The whole pattern: each result is in the log of the next decision, and Done ends it."""
    ending, llm, _, agent = run(bus, [read("a"), ("WriteFile", {"path": "b"}), DONE])
    assert agent.calls == ["ReadFile a", "WriteFile b"]
    assert ending.result.value == {"results": 2}
    last_log = llm.asked[-1][0]
    assert [event.type for event in context.parse(last_log)] == [
        "file.changed",
        "read_file",
        "write_file",
    ]
    assert [event.trusted for event in context.parse(last_log)] == [False, False, True]
    for earlier, later in zip(llm.asked, llm.asked[1:], strict=False):
        assert later[0].startswith(earlier[0]), "the log is append-only"


def test_results_are_staged_and_published_once(bus: Bus) -> None:
    """What tools publish waits for the session's closing, and comes before what Done publishes."""
    ending, _, session, _ = run(bus, [("WriteFile", {"path": "b"}), DONE])
    assert bus.events.list(event_type="note.written") == []
    Sessions(bus).closing.close(
        session, publish=ending.result.publish, remember=ending.result.remember
    )
    notes = bus.events.list(event_type="note.written")
    assert [note.payload["text"] for note in notes] == ["b", "end"]
    assert bus.facts.of("reader") == {"last": 1}
    assert bus.next(LANE) is None


def test_refused_tool_is_told_and_the_session_goes_on(bus: Bus) -> None:
    """A tool's expected failure is a result like any other; the model can decide otherwise."""
    _, llm, session, _ = run(bus, [read("missing"), read("secret"), DONE])
    told = context.parse(llm.asked[-1][0])[1:]
    assert [event.payload["error"] for event in told] == ["there is no such file", "not listed"]
    assert [event.payload["path"] for event in told] == ["missing", "secret"]
    assert not session.partial


def test_identical_decisions_are_not_carried_out(bus: Bus) -> None:
    """The ladder: told, forbidden by the mask for a turn, then only Done is left."""
    script = [read("a"), read("a"), read("a"), ("WriteFile", {"path": "x"}), DONE]
    _, llm, _, agent = run(bus, script, turns=20)
    assert agent.calls == ["ReadFile a", "WriteFile x"]
    assert llm.asked[3][1] == frozenset(NAMES) - {"ReadFile"}
    script = [read("a")] * 4 + [DONE]
    bus.finish(LANE, bus.next(LANE) or pytest.fail("no event"))
    bus.publish("watcher", NewEvent("file.changed", {"path": "a"}))
    with pytest.raises(AssertionError, match="only"):
        run(bus, script, turns=20)  # the fourth is not allowed by the mask any more


def test_last_turn_can_only_be_done(bus: Bus) -> None:
    """At the turn limit the mask leaves Done alone, the model is told, nothing is lost."""
    ending, llm, _, _ = run(bus, [read("a"), read("b"), DONE], turns=3)
    assert [allowed for _, allowed in llm.asked] == [None, None, frozenset({"Done"})]
    assert "Done" in context.parse(llm.asked[-1][0])[-1].payload["text"]
    assert ending.result.value == {"results": 2}


def test_full_context_leaves_done(bus: Bus) -> None:
    """A result that would pass the 40 % is dropped visibly, and the next turn is the last."""
    ending, llm, _, _ = run(bus, [read("a"), read("b"), read("c"), DONE], window=800, turns=20)
    log, allowed = llm.asked[-1]
    assert allowed == frozenset({"Done"})
    assert llm.count(log) + llm.fixed_tokens() <= 0.4 * 800
    assert any("no room" in str(event.payload) for event in context.parse(log))
    assert ending.result.value["results"] == len(llm.asked) - 1


def test_long_result_is_cut_to_its_cap(bus: Bus) -> None:
    """One result has its own limit, and the model sees that it was cut."""
    _, llm, _, _ = run(bus, [read("a"), DONE], result_tokens=40)
    (_, result) = context.parse(llm.asked[-1][0])
    assert "[cut " in result.payload["text"]
    assert llm.count(context.render(result)) <= 40


def test_closed_off_answer_is_never_dispatched(bus: Bus) -> None:
    """Half a path is a legal and wrong path: the answer that ran out of tokens is refused."""
    half = Decision(
        "ReadFile", {"path": "a/b"}, Choice("ReadFile", {"path": "a/b"}), "{}", "length"
    )
    _, llm, _, agent = run(bus, [half, read("a"), DONE])
    assert agent.calls == ["ReadFile a"]
    assert "cut off" in context.parse(llm.asked[1][0])[-1].payload["error"]


def test_the_next_answer_corrects_what_was_only_bounded(bus: Bus) -> None:
    """A short result is counted by its bytes until the model has read it; steps say what it was."""

    class Telling(ScriptedLLM):
        def count(self, text: str, within: int = 0) -> int:
            exact, size = super().count(text), len(text.encode())
            asked.append(not size <= within)
            return exact if asked[-1] else size

        def decide(self, ask: Ask) -> Decision:
            tokens = self.fixed_tokens() + super().count(ask.log)
            return replace(super().decide(ask), context_tokens=tokens)

    asked: list[bool] = []
    llm = Telling([read("a"), read("b"), DONE], names=NAMES)
    session = begin(bus)
    running = loop(bus, session, Reader(), llm)
    running.run()
    assert asked == [True, False, False], "the opening may be followed by what the agent plans"
    told = [step.context_tokens for step in session.steps if step.kind is StepKind.DECISION]
    exact = [llm.fixed_tokens() + count(log) for log, _ in llm.asked]
    assert told == exact and running.transcript.context.tokens == exact[-1]
    sizes = [step.counts for step in session.steps if step.kind is StepKind.RESULT]
    assert all(size[0] > exact[1] - exact[0] - 1 for size in sizes)


def test_bytes_are_not_piled_up_where_no_answer_corrects_them(bus: Bus) -> None:
    """A decision that nobody was asked for tells no tokens: the next result is counted exactly."""

    class Bounding(ScriptedLLM):
        def count(self, text: str, within: int = 0) -> int:
            asked.append(within)
            return len(text.encode()) if len(text.encode()) <= within else super().count(text)

    asked: list[int] = []
    loop(bus, begin(bus), Reader(), Bounding([read("a"), read("b"), DONE], names=NAMES)).run()
    assert [within > 0 for within in asked] == [False, True, False]


def test_no_transaction_is_held_while_the_model_server_counts(bus: Bus) -> None:
    """A slow tokenizer must not keep every other process from writing, refusals included."""

    class Counting(ScriptedLLM):
        def count(self, text: str, within: int = 0) -> int:
            assert not bus.db.in_transaction
            return super().count(text)

    llm = Counting([read("a"), read("a"), ("WriteFile", {"path": "b"}), DONE], names=NAMES)
    loop(bus, begin(bus), Reader(), llm).run()
    assert len(llm.asked) == 4


def test_closed_off_done_ends_the_session(bus: Bus) -> None:
    """A Done that ran out of tokens still ends the session: its partial result is not lost."""
    done = Decision("Done", {"text": "hal"}, Choice("Done", {"text": "hal"}), "{}", "length")
    ending, _, _, _ = run(bus, [done])
    assert ending.result.value["text"] == "hal"


def test_question_parks(bus: Bus) -> None:
    """A decision that asks a person ends the run, with the question."""
    ending, _, session, _ = run(bus, [("Ask", {})])
    assert ending.question == "sure?"
    assert session.steps[-1].kind is StepKind.RESULT
    cut, agent = begin(bus), Reader()
    llm = ScriptedLLM([], names=NAMES)
    asked = loop(bus, cut, agent, llm, idempotent=("Ask",)).run().question
    assert asked == "sure?", "a kill before the parking lost the question"
    Sessions(bus).closing.park(cut, asked)
    assert [step.kind for step in Sessions(bus).archive.show(cut.id)[1]][-1] is StepKind.RESULT


def test_a_note_is_told_once_however_often_the_call_is_cut(bus: Bus) -> None:
    """An outage of the model server in the last turn must not fill the context with notes."""
    away = ModelUnavailable("away")
    for _ in range(30):
        session = begin(bus, turns=1)
        with pytest.raises(ModelUnavailable):
            loop(bus, session, Reader(), ScriptedLLM([away], names=NAMES, window=600)).run()
        Sessions(bus).closing.refund(session)
    llm = ScriptedLLM([DONE], names=NAMES, window=600)
    loop(bus, begin(bus, turns=1), Reader(), llm).run()
    assert llm.asked[0][0].count("last turn") == 1


def test_a_repeat_is_forbidden_for_one_turn_over_a_resume(bus: Bus) -> None:
    """What the ladder forbade once is allowed again after it, as without the cut."""
    script = [read("a"), read("a"), read("a"), ("WriteFile", {"path": "x"}), Stopped("now")]
    with pytest.raises(Stopped):
        run(bus, script, turns=20)
    llm = ScriptedLLM([read("b"), DONE], names=NAMES)
    loop(bus, begin(bus, turns=20), Reader(), llm).run()
    assert llm.asked[0][1] is None


@pytest.mark.parametrize("window", range(550, 900, 7))
def test_done_is_always_left(bus: Bus, window: int) -> None:
    """However full the context gets by results, refusals and notes, the last turn comes."""

    def repeats(log: str) -> tuple[str, dict[str, str]]:
        if "decide Done now" in log:
            return DONE
        number = len(llm.asked)
        return read("b") if number <= 3 else ("WriteFile", {"path": str(number)})

    session = begin(bus, turns=50)
    llm = ScriptedLLM(repeats, names=NAMES, window=window)
    loop(bus, session, Reader(), llm).run()
    assert llm.count(llm.asked[-1][0]) + llm.fixed_tokens() <= int(0.4 * window)


def test_payload_that_does_not_fit_is_refused_before_the_model(bus: Bus) -> None:
    """An event that its agent cannot read costs no model call."""
    bus.finish(LANE, bus.next(LANE) or pytest.fail("no event"))
    bus.publish("watcher", NewEvent("file.changed", {"file": "a"}))
    with pytest.raises(EventRefused, match="path: is missing"):
        run(bus, [])


def test_undeclared_event_fails_the_session(bus: Bus) -> None:
    """An agent cannot publish what its class does not declare."""
    with pytest.raises(SessionFailed, match="does not declare"):
        run(bus, [read("undeclared"), DONE])


def test_what_is_no_result_fails_the_session(bus: Bus) -> None:
    """A forgotten `return`, told in words."""
    with pytest.raises(SessionFailed, match="`dispatch` returned None, which is no Result"):
        run(bus, [read("forgotten")])


def test_resume_asks_and_runs_nothing_again(bus: Bus) -> None:
    """After a cut, recorded decisions and finished tools are taken from the steps."""
    agent = Reader()
    with pytest.raises(Stopped):
        run(bus, [read("a"), ("WriteFile", {"path": "b"}), Stopped("now")], agent=agent)
    first = begin(bus)
    assert first.resumed and len(first.steps) == 5
    llm = ScriptedLLM([DONE], names=NAMES)
    ending = loop(bus, first, agent, llm).run()
    assert agent.calls == ["ReadFile a", "WriteFile b"]
    assert ending.result.value == {"results": 2}
    Sessions(bus).closing.close(first, publish=ending.result.publish)
    assert len(bus.events.list(event_type="note.written")) == 2, (
        "what was staged before the cut counts"
    )


@pytest.mark.parametrize("error", [ModelUnavailable, CallDeadline, Stopped])
def test_what_was_done_is_recorded_without_a_tokenizer(bus: Bus, error: type[AgentdError]) -> None:
    """A model server that goes away while a tool works costs no result, and no second run."""

    class Away(ScriptedLLM):
        def count(self, text: str, within: int = 0) -> int:
            if agent.calls:
                raise error("gone")
            return super().count(text)

    agent = Reader()
    away = Away([("WriteFile", {"path": "b"}), ModelUnavailable("gone")], names=NAMES)
    with pytest.raises(ModelUnavailable):
        loop(bus, begin(bus), agent, away).run()
    resumed = begin(bus)
    assert resumed.steps[-1].payload == {"path": "b"}
    llm = ScriptedLLM([DONE], names=NAMES)
    loop(bus, resumed, agent, llm).run()
    assert agent.calls == ["WriteFile b"]
    assert "interrupted" not in llm.asked[0][0]


@pytest.mark.parametrize("path", ["broken", "undeclared", "nan"])
def test_what_breaks_after_an_effect_is_not_tried_again(bus: Bus, path: str) -> None:
    """A tool that raised, or whose result is refused, may have done its work: a person decides."""

    class Sender(Reader):
        def dispatch(self, decision: Choice) -> Result:
            if path == "nan":
                return Result({"ms": float("nan")})
            return super().dispatch(Choice("Send", decision.args))

    session, sessions = begin(bus), Sessions(bus)
    llm = ScriptedLLM([("Send", {"path": path}), DONE], names={"Send", "Done"})
    with pytest.raises((SessionFailed, ArithmeticError, ValueError)) as raised:
        loop(bus, session, Sender(), llm).run()
    dead = sessions.closing.fail(session, str(raised.value))
    assert isinstance(dead, Dead) and dead.reason is DeadReason.PARTIAL_EFFECTS


@pytest.mark.parametrize("name", ["ReadFile", "WriteFile"])
def test_tool_cut_in_the_middle(bus: Bus, name: str) -> None:
    """An unfinished tool runs again only if that is harmless; else the model is told."""
    session = begin(bus)
    sessions = Sessions(bus)
    sessions.journal.record_opening(session, "file.changed", {"path": "a"}, trusted=False)
    raw = f'{{"tool":"{name}","path":"a"}}'
    idempotent = name == "ReadFile"
    sessions.journal.record(
        session, Step(StepKind.DECISION, name, {"path": "a"}, idempotent=idempotent, raw=raw)
    )
    resumed, agent = begin(bus), Reader()
    llm = ScriptedLLM([DONE], names=NAMES)
    loop(bus, resumed, agent, llm).run()
    assert agent.calls == (["ReadFile a"] if idempotent else [])
    assert ("interrupted" in llm.asked[0][0]) is not idempotent


def test_the_agent_knows_what_was_cut_off(bus: Bus) -> None:
    """An agent that lets a tool be decided once must not let it be decided again after a kill."""
    seen: list[Mapping[str, Any]] = []

    class Once(Reader):
        def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
            seen.extend(results)

    session, sessions = begin(bus), Sessions(bus)
    sessions.journal.record_opening(session, "file.changed", {"path": "a"}, trusted=False)
    raw = '{"tool":"WriteFile","path":"a"}'
    sessions.journal.record(
        session, Step(StepKind.DECISION, "WriteFile", {"path": "a"}, idempotent=False, raw=raw)
    )
    loop(bus, begin(bus), Once(), ScriptedLLM([DONE], names=NAMES)).run()
    (result,) = seen
    assert result["path"] == "a" and "interrupted" in result["error"]


def test_recorded_done_is_not_asked_again(bus: Bus) -> None:
    """A kill between Done and the closing transaction costs no second model call."""
    session = begin(bus)
    sessions = Sessions(bus)
    sessions.journal.record_opening(session, "file.changed", {"path": "a"}, trusted=False)
    sessions.journal.record(
        session, Step(StepKind.DECISION, "Done", {}, idempotent=False, raw='{"tool":"Done"}')
    )
    llm = ScriptedLLM([], names=NAMES)
    assert loop(bus, begin(bus), Reader(), llm).run().result.value == {"results": 0}
    assert llm.asked == []


def test_turns_count_over_a_resume(bus: Bus) -> None:
    """A session that is cut again and again does not get its turns anew."""
    with pytest.raises(Stopped):
        run(bus, [read("a"), read("b"), Stopped("now")], turns=3)
    llm = ScriptedLLM([DONE], names=NAMES)
    loop(bus, begin(bus, turns=3), Reader(), llm).run()
    assert llm.asked[0][1] == frozenset({"Done"})


@pytest.mark.parametrize(
    ("name", "log_type"), [("ReadFile", "read_file"), ("Done", "done"), ("HTTPGet", "httpget")]
)
def test_log_types(name: str, log_type: str) -> None:
    """Result events carry the decision's name the way tags are written."""
    assert snake_case(name) == log_type
