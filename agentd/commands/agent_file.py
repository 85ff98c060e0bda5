"""An agent's own file as commands change it, and the daemon that takes the change up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentd.commands.home import agent_files, no_such_agent
from agentd.errors import AgentdError, NotRunning, StorageError
from agentd.paths import Paths
from agentd.process.until import until
from agentd.supervisor.client import query

DEADLINE_S = 20.0  # for the daemon to notice a file, check it, and start or stop a worker
STEP_S = 0.1

Agent = dict[str, Any]


def agent_file(paths: Paths, name: str) -> Path:
    """Return an agent's file.

    Raises:
        AgentdError: there is none of this name, and says which there are.
    """
    names = agent_files(paths)
    if name not in names:
        raise no_such_agent(name, sorted(names))
    return paths.agents_d / f"{name}.toml"


def taken_up(
    paths: Paths, name: str, what: str, done: Callable[[Agent | None], bool]
) -> Agent | None:
    """Wait until the daemon has followed; return its word of the agent. None: gone, or no daemon.

    `what` was changed already, in words. `done` is asked what the daemon says of the agent, None
    where it knows none of this name.

    Raises:
        AgentdError: it does not follow; says what was changed all the same.
    """
    for _ in until(DEADLINE_S, STEP_S):
        try:
            agents = {agent["name"]: agent for agent in query(paths)["agents"]}
        except NotRunning:
            return None
        except StorageError as error:
            raise AgentdError(f"{what}, but {error.what}", hint=error.hint) from error
        if done(agent := agents.get(name)):
            return agent
    raise AgentdError(
        f"{what}, but the daemon has not followed within {DEADLINE_S:.0f} s",
        hint=f"see `agentd status {name}` and `agentd logs agentd`",
    )
