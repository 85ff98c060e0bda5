"""Examples of an agent of configuration: one row, and what would have been right of it.

An example calls no tool: its event brings what the first steps found, and so does its agent's file
for as long as examples are tried.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.agent import Kit
from agentd.config.agent import AgentConfig, Approve, Permissions
from agentd.config.columns import Column
from agentd.events import Event
from agentd.task_agent.configured import ConfiguredAgent
from agentd.task_agent.found import EVENT
from agentd.task_agent.task_params import TaskParams
from agentd.tools.toolbox import Toolbox

DROPPED = frozenset({"first", "skip_if", "publish", "title", "tools", "look_at"})
Fields = Mapping[str, Any]


def params_of(config: AgentConfig) -> TaskParams:
    """Return what an agent's file says; it was checked before.

    Raises:
        ValidationError: it is none of an agent of configuration.
    """
    return TaskParams.model_validate({**config.params, "result": config.result})


def example_agent(config: AgentConfig) -> AgentConfig:
    """Return an agent's file as its examples are tried with it."""
    bare = {"permissions": Permissions(), "approve": Approve(), "accounts": {}}
    changed: dict[str, Any] = {"subscribe": (), "schedule": None, "batch": None, **bare}
    chosen = any(column.kind != "from" for column in config.result.values())
    if not (chosen or config.params.get("interests") or config.params.get("first")):
        return config.model_copy(update=changed)  # its event brings all that there is
    params = {key: value for key, value in config.params.items() if key not in DROPPED}
    columns: dict[str, Column] = {
        name: column.model_copy(update={"pick": f"{EVENT}.{name}"}) if column.pick else column
        for name, column in config.result.items()
        if column.kind != "from"
    }
    if "each" in params:
        params |= {"each": f"{EVENT}.rows", "look_at": ["text"]}
    return config.model_copy(update={**changed, "params": params, "result": columns})


def example_of(
    name: str, params: TaskParams, event: Event, results: Sequence[Fields], row: Fields, at: int
) -> dict[str, Any]:
    """Return the payload of an example: what was read of a result's row number `at`.

    Raises:
        ValueError: nobody can tell which that was.
    """
    kit = Kit(name, "", Toolbox(Permissions()), {}, None)
    agent = ConfiguredAgent(params, kit)
    agent.begin(event, [])
    text = agent.read_of(results, row, at)
    picks = {key.partition(".")[2]: list(of) for key, of in agent.candidates().items()}
    return {"rows": [{"text": text}], **picks} if params.each else {"text": text, **picks}
