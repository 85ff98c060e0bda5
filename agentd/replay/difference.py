"""What a replay compares, as text, and the first difference that it finds."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentd.sessions.steps import Step, effects_document

CONTEXT_LINES = 2


@dataclass(frozen=True)
class Difference:
    """What differs, at which turn (0: before the first decision), as text on both sides."""

    turn: int
    what: str  # such as "result of ReadFile"
    recorded: str
    now: str
    hint: str = ""

    def lines(self) -> list[str]:
        """Return a unified diff without its header: lines that begin with ` `, `-`, `+` or `@`."""
        diff = difflib.unified_diff(
            self.recorded.splitlines(), self.now.splitlines(), n=CONTEXT_LINES, lineterm=""
        )
        return list(diff)[2:]

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        return dict(vars(self))

    def __str__(self) -> str:
        head = f"turn {self.turn}: {self.what} differs (- recorded, + now)"
        hint = [f"hint: {self.hint}"] if self.hint else []
        return "\n".join([head, *(f"  {line}" for line in self.lines()), *hint])


class Diverged(Exception):
    """The replay left the recording."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


def comparable(value: Any) -> str:
    """Return JSON, or a text as it is, in lines that a diff can compare."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = dict(value)
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def comparable_step(step: Step) -> str:
    """Return what counts of a step: neither its time nor its cost."""
    value: dict[str, Any] = {"kind": step.kind.value, "type": step.type}
    value |= {"payload": dict(step.payload), "trusted": step.trusted}
    if step.planned:
        value["planned"] = True
    value |= {key: part for key in ("about", "whole") if (part := getattr(step, key)) is not None}
    if step.publish or step.remember:
        value |= effects_document(step.publish, step.remember)
    return comparable(value)
