"""What an agent's methods return, held to what they promise."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from agentd.agent import Agent, Result
from agentd.config.wording import first
from agentd.errors import AgentdError, SessionFailed
from agentd.events import LATER, NewEvent
from agentd.secret_rules import any_known, without_known


def checked_result(returned: object, method: str) -> Result:
    """Hold an agent's method to its promise, and keep secrets to itself that it was given."""
    if not isinstance(returned, Result):
        raise SessionFailed(f"`{method}` returned {reprlib.repr(returned)}, which is no Result")
    if not any_known():
        return returned
    publish = [replace(event, payload=without_known(event.payload)) for event in returned.publish]
    return replace(
        returned,
        value=without_known(returned.value),
        publish=publish,
        remember=without_known(returned.remember),
        ask=without_known(returned.ask),
    )


def check_published(agent: Agent[Any], events: Sequence[NewEvent]) -> None:
    """Hold what an agent publishes to the payload models that it declares."""
    declared = agent.published(agent.params)
    for event in events:
        kind = event.event_type
        if kind == LATER:
            continue  # to itself: the bus checks it
        if kind not in declared:
            raise SessionFailed(
                f"publishes {kind}, which `publishes` does not declare",
                where=f"agents/{type(agent).__module__.rpartition('.')[2]}.py",
            )
        check_payload(event.payload, declared[kind], SessionFailed, f"payload of {kind}")


def check_payload(
    payload: Mapping[str, Any], model: type[BaseModel], refusal: type[AgentdError], where: str
) -> None:
    """Raise `refusal` where a payload does not fit its model."""
    try:
        model.model_validate(dict(payload))
    except ValidationError as error:
        what = first(error.errors(include_url=False, include_input=False), "payload")
        raise refusal(what, where=where) from error
