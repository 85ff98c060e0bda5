"""Recorded results, as the agent's loop takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentd.agent import Result
from agentd.errors import RecordingError
from agentd.events import NewEvent
from agentd.recordings.recording import Recording
from agentd.sessions.asked import NO, YES, asked_by
from agentd.sessions.session import Session
from agentd.sessions.steps import Step, StepKind


def recorded_result(recording: Recording, step: Step) -> Result:
    """Return the result that a step records."""
    return Result(
        dict(step.value),
        step.trusted,
        step.publish,
        step.remember,
        recording.question_after(step.seq),
        effect=not step.idempotent,
    )


def recorded_answer(session: Session, step: Step) -> NewEvent:
    """Return the answer of a person that made this step of a parked session."""
    asked = asked_by(session.id, session.steps, "")
    if asked is None:
        raise RecordingError("has an answer, and nothing that it answers", where=f"step {step.seq}")
    said = {StepKind.GRANTED: YES, StepKind.DENIED: NO}
    answer = {"answer": said[step.kind]} if step.kind in said else {}
    return asked.answered({**step.payload, **answer}, session.agent)


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
