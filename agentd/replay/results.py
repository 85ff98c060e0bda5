"""Recorded results, as the agent's loop takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentd.agent import Result
from agentd.events import NewEvent
from agentd.recordings.recording import Recording
from agentd.sessions.steps import Step


def recorded_result(recording: Recording, step: Step) -> Result:
    """Return the result that a step records."""
    return Result(
        dict(step.payload),
        step.trusted,
        step.publish,
        step.remember,
        recording.question_after(step.seq),
        effect=not step.idempotent,
    )


def with_recorded_fields(
    name: str,
    result: Result,
    recorded: Mapping[str, Any],
    publish: Sequence[NewEvent],
    fields: set[str],
) -> Result:
    """Return what a decision `name` came to, with the recorded values of its volatile fields."""
    payloads = {event.event_type: event.payload for event in publish}

    def of(kind: str, value: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        names = {field.removeprefix(f"{kind}.") for field in fields if field.startswith(f"{kind}.")}
        return {**value, **{n: v for n, v in known.items() if n in names and n in value}}

    return replace(
        result,
        value=of(name, result.value, recorded),
        publish=[
            replace(e, payload=of(e.event_type, e.payload, payloads.get(e.event_type, {})))
            for e in result.publish
        ],
    )
