"""A step of a session as a line of a recording's file."""

import json
from datetime import datetime
from typing import Any

from pydantic import Field

from agentd.clock import iso
from agentd.context import LogEvent
from agentd.recordings.recording import HeadPart, Publication, Whole
from agentd.sessions.steps import LOGGED, Step, StepKind


class StepLine(HeadPart):
    """A line of the steps.

    `args`: of what is no event of the log; of a decision, where its raw answer says something else.
    """

    seq: int
    kind: StepKind
    ts: datetime
    type: str = ""
    raw: str | None = None
    args: dict[str, Any] | None = None
    allowed: tuple[str, ...] | None = None
    finish_reason: str = "stop"
    idempotent: bool = True
    prompt_tokens: Whole | None = None
    cached_tokens: Whole | None = None
    completion_tokens: Whole | None = None
    context_tokens: Whole | None = None
    duration_ms: float | None = None
    active_s: float
    attempt: int = 1
    counts: tuple[int, ...] = ()
    labels: dict[str, dict[str, Any]] = Field(default_factory=dict)
    asks: bool = False
    scored: tuple[dict[str, Any], ...] = ()
    planned: bool = False
    about: dict[str, Any] | None = None
    candidates: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    whole: dict[str, Any] | None = None
    publish: list[Publication] = Field(default_factory=list)
    remember: dict[str, Any] = Field(default_factory=dict)
    given: bool = False


def line_of(step: Step, *, given: bool) -> dict[str, Any]:
    """Return what belongs to a step besides its event in the log."""
    line = {key: value for key, value in vars(step).items() if key in StepLine.model_fields}
    if step.kind in LOGGED:
        del line["type"]
    else:
        line["args"] = None if step.payload == (_args(step.raw) or {}) else dict(step.payload)
    line["publish"] = [Publication.of(event) for event in step.publish]
    line["active_s"] = round(step.active_s, 3)
    plain = StepLine(**{**line, "given": given}).model_dump(mode="json", exclude_defaults=True)
    return {**plain, "ts": iso(step.ts)}


def _args(raw: str | None) -> dict[str, Any] | None:
    """Return the fields of a raw answer, if it is a JSON object."""
    try:
        value = json.loads(raw or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    return {key: item for key, item in value.items() if key != "tool"}


def step_of(line: StepLine, event: LogEvent | None) -> Step:
    """Return the step of a line and its event in the log; a decision has none."""
    fields = {key: getattr(line, key) for key in StepLine.model_fields}
    for key in ("args", "given"):
        del fields[key]
    fields["publish"] = tuple(event.new() for event in line.publish)
    if event is None:
        args = line.args if line.args is not None else _args(line.raw)
        return Step(**{**fields, "payload": args or {}})
    about = {"type": event.type, "payload": event.payload, "trusted": event.trusted}
    return Step(**{**fields, **about})
