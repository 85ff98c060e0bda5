"""The loop with an agent that plans: calls and questions that no model decides on."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agentd.agent import PlannedCall, Question, Result
from agentd.bus import Bus
from agentd.errors import SessionFailed
from agentd.llm.decision import Choice
from agentd.loop import CALLS_MAX
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.testing import ScriptedLLM
from tests.test_loop import NAMES, Reader, begin, loop
from tests.test_loop import bus as bus

DONE: tuple[str, dict[str, Any]] = ("Done", {})


class Planner(Reader):
    """Reads and writes by its plan, asks one question, and leaves the rest to the model."""

    plan: Sequence[PlannedCall | Question] = (
        PlannedCall("ReadFile", {"path": "a"}),
        Question("Ask", {"text": "what is it?"}),
    )

    def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall | Question | None:
        return self.plan[len(results)] if len(results) < len(self.plan) else None


def test_a_plan_costs_no_turn(bus: Bus) -> None:
    """One turn is left for the model after it; what it asks about is all that the model sees."""
    session, agent = begin(bus, turns=1), Planner()
    llm = ScriptedLLM([("Ask", {"question": "a note"}), DONE], names=NAMES)
    ending = loop(bus, session, agent, llm).run()
    assert agent.calls == ["ReadFile a"] and ending.forced == "last turn"
    (question, allowed), (last, _) = llm.asked
    assert allowed == frozenset({"Ask"}) and "what is it?" in question and "words" not in question
    assert "words" in last and "what is it?" not in last
    assert [dict(result) for result in session.results][1] == {"question": "a note", "unsure": []}


def test_a_plan_without_end_is_ended(bus: Bus) -> None:
    """An agent's own mistake is no endless session."""

    class Endless(Planner):
        def planned(self, results: Sequence[Mapping[str, Any]]) -> PlannedCall:
            return PlannedCall("ReadFile", {"path": str(len(results))})

    llm = ScriptedLLM([], names=NAMES, window=100_000)
    with pytest.raises(SessionFailed, match=f"plans more than {CALLS_MAX} calls"):
        loop(bus, begin(bus), Endless(), llm).run()


def test_results_of_a_plan_leave_the_model_room(bus: Bus) -> None:
    """However much is read, it is cut for the model and kept whole for code."""

    class Reading(Planner):
        plan = tuple(PlannedCall("ReadFile", {"path": str(n)}) for n in range(12))

        def dispatch(self, decision: Choice) -> Result:
            return Result({"text": "word " * 2_000}, trusted=False)

    session = begin(bus)
    llm = ScriptedLLM([DONE], names=NAMES, window=4096)
    ending = loop(bus, session, Reading(), llm).run()
    assert ending.forced is None and llm.asked[0][1] is None
    assert all(len(result["text"]) == 10_000 for result in session.results)


@pytest.mark.parametrize("path", ["missing", "secret"])
def test_a_planned_call_that_is_refused_fails(bus: Bus, path: str) -> None:
    """There is nobody who could decide otherwise."""

    class Failing(Planner):
        plan = (PlannedCall("ReadFile", {"path": path}),)

    with pytest.raises(SessionFailed, match="ReadFile failed: "):
        loop(bus, begin(bus), Failing(), ScriptedLLM([DONE], names=NAMES)).run()


def test_a_planned_call_that_was_cut_is_not_done_twice(bus: Bus) -> None:
    """It may have happened or not: a person has to look, by the dead letter."""
    session, sessions, agent = begin(bus), Sessions(bus), Planner()
    sessions.journal.record_opening(session, "file.changed", {"path": "a"}, trusted=False)
    step = Step(StepKind.DECISION, "WriteFile", {"path": "a"}, idempotent=False, planned=True)
    sessions.journal.record(session, step)
    resumed = begin(bus)
    with pytest.raises(SessionFailed, match="may have happened or not"):
        loop(bus, resumed, agent, ScriptedLLM([DONE], names=NAMES)).run()
    assert agent.calls == [] and resumed.partial
