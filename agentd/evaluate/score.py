"""What was right in a case, and the sums over many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from agentd.errors import ConfigError
from agentd.evaluate.cases import Case, Expected
from agentd.llm.union import Union
from agentd.replay.single_run import Performance
from agentd.sessions.steps import StepKind
from agentd.states import SessionState
from agentd.task_agent.label_values import NONE


@dataclass(frozen=True)
class Score:
    """Counts of one case or of many; each `x_of` is what x is a part of."""

    legal: int = 0  # answers that were a decision which the turn allowed
    legal_of: int = 0
    tool: int = 0  # expected decisions of which the tool was right
    tool_of: int = 0
    args: int = 0  # those, with arguments expected, of which these were right as well
    args_of: int = 0
    ended: int = 0  # sessions that came to Done before a guard left nothing else
    cases: int = 0
    turns: int = 0
    tokens: int = 0  # decided
    prompt_tokens: int = 0
    seconds: float = 0.0  # of all calls to the model

    def __add__(self, other: "Score") -> "Score":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Score(**sums)

    def share(self, name: str) -> float | None:
        """Return x of its whole, such as `share("tool")`; None of nothing."""
        whole = self.cases if name == "ended" else getattr(self, f"{name}_of")
        return getattr(self, name) / whole if whole else None


def score(case: Case, performance: Performance, *, asked: int, illegal: int) -> Score:
    """Compare what was decided with what was expected, position by position.

    `asked` counts the calls to the model, `illegal` those that gave no allowed decision.
    """
    decisions = performance.decisions
    tools = [_right_tool(e, decisions, at) for at, e in enumerate(case.expect)]
    args = [
        ok and fits(expected.args, decisions[at][1])
        for at, (expected, ok) in enumerate(zip(case.expect, tools, strict=True))
        if expected.args
    ]
    outcome = performance.outcome or {}
    row = next(iter(outcome.get("rows", ())), outcome)
    args += [
        _fits(label, NONE if row.get(k) is None else row[k]) for k, label in case.result.items()
    ]
    steps = [s for s in performance.steps if s.kind is StepKind.DECISION]
    return Score(
        legal=asked - illegal,
        legal_of=asked,
        tool=sum(tools),
        tool_of=len(tools),
        args=sum(args),
        args_of=len(args),
        ended=int(performance.state is SessionState.ENDED and not performance.forced),
        cases=1,
        turns=len(steps),
        tokens=sum(step.completion_tokens or 0 for step in steps),
        prompt_tokens=sum(step.prompt_tokens or 0 for step in steps),
    )


def _right_tool(
    expected: Expected, decisions: Sequence[tuple[str, Mapping[str, Any]]], at: int
) -> bool:
    return at < len(decisions) and decisions[at][0] == expected.tool


def fits(expected: Mapping[str, Any], args: Mapping[str, Any]) -> bool:
    """Whether the arguments are as labelled: equal, one of a list, or containing a text."""
    return all(_fits(label, args.get(key)) for key, label in expected.items())


def _fits(label: Any, value: Any) -> bool:
    if _contains(label):
        return str(label["contains"]).lower() in str(value).lower()
    return bool(value == label) or (isinstance(label, list | tuple) and value in label)


def _contains(label: Any) -> bool:
    return isinstance(label, Mapping) and label.keys() == {"contains"}


def check_labels(case: Case, union: Union, where: str) -> None:
    """Look for labels that no decision can fit: they would count as the model's mistakes.

    Raises:
        ConfigError: a tool or an argument is none of the agent's, or a label is of no known form.
    """
    where = f"{where}: {case.name}: expect"
    for expected in case.expect:
        if expected.tool not in union.members:
            raise ConfigError(
                f"the agent has no tool {expected.tool}",
                where=where,
                hint=f"its tools are {', '.join(union.members)}",
            )
        known = union.schema({expected.tool})["properties"]
        for key, label in expected.args.items():
            if key == "tool" or key not in known:
                raise ConfigError(
                    f"{expected.tool} has no argument {key}",
                    where=where,
                    hint=f"it has {', '.join(k for k in known if k != 'tool') or 'none'}",
                )
            if (
                isinstance(label, Mapping)
                and not _contains(label)
                and "object" not in _types(known[key])
            ):
                raise ConfigError(
                    f"{expected.tool}.{key} is no table",
                    where=where,
                    hint='write the text, a list of right ones, or { contains = "..." }',
                )


def _types(schema: Mapping[str, Any]) -> set[Any]:
    return {part.get("type") for part in (schema, *schema.get("anyOf", ()))}
