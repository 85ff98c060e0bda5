"""The guards: every session comes to an end, and says why."""

from datetime import UTC, datetime, timedelta

from agentd.config.agent import Limits
from agentd.guards import Guards
from agentd.llm.decision import DONE

NAMES = frozenset({"ReadFile", "ListFiles", DONE})


class Clock:
    """A clock that moves when told."""

    seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def guards(clock: Clock | None = None, **limits: object) -> Guards:
    return Guards(Limits.model_validate(limits), NAMES, clock or Clock())


def test_last_turn_is_done_only() -> None:
    """The turn that reaches the limit can only decide Done, and the model is told."""
    guard = guards(turns=3)
    assert [guard.next_turn().allowed for _ in range(2)] == [None, None]
    last = guard.next_turn()
    assert last.last
    assert last.note is not None and "Done" in last.note


def test_deadline_counts_active_time_of_earlier_attempts() -> None:
    """A resumed session does not get its deadline anew, nor is the time it lay cut counted."""
    clock = Clock()
    guard = Guards(Limits(deadline=timedelta(seconds=10)), NAMES, clock, spent_s=7)
    assert guard.next_turn().allowed is None
    clock.seconds = 3.5
    assert guard.next_turn().last
    assert guard.active_s == 10.5


def test_ladder_for_identical_decisions() -> None:
    """Told, then that class forbidden for one turn, then only Done."""
    guard = guards(turns=50)
    args = {"path": "a.py"}
    assert guard.decided("ReadFile", args) is None
    assert guard.decided("ReadFile", {"path": "b.py"}) is None, "other arguments are no repeat"
    assert guard.decided("ReadFile", args)
    assert guard.next_turn().allowed is None
    assert guard.decided("ReadFile", args)
    assert guard.next_turn().allowed == NAMES - {"ReadFile"}
    assert guard.next_turn().allowed is None
    assert guard.decided("ReadFile", args)
    assert guard.next_turn().last


def test_two_decisions_in_turn_are_caught() -> None:
    """A, B, A, B is a loop as well: repeats need not follow each other."""
    guard = guards(turns=50)
    guard.decided("ReadFile", {})
    guard.decided("ListFiles", {})
    assert guard.decided("ReadFile", {})
    assert guard.decided("ListFiles", {})


def test_effect_makes_a_repeat_sensible() -> None:
    """Reading a file again after writing it is no loop."""
    guard = guards()
    guard.decided("ReadFile", {"path": "a"})
    guard.changed()
    assert guard.decided("ReadFile", {"path": "a"}) is None


def test_answers_cut_by_tokens_end_the_session() -> None:
    """A model that rambles past its tokens twice is left with Done."""
    guard = guards()
    guard.cut_answer()
    assert not guard.next_turn().last
    guard.cut_answer()
    assert guard.next_turn().last
