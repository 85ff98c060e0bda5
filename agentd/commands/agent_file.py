"""An agent's own file as commands change it, and the daemon that takes the change up."""

from collections.abc import Callable, Collection
from pathlib import Path

from agentd.commands.daemon_commands import (
    FOLLOWS_S,
    Agent,
    Document,
    agents_of,
    followed,
    too_late,
)
from agentd.commands.home import agent_files, no_such_agent
from agentd.errors import AgentdError, NotRunning, StorageError
from agentd.paths import Paths

EACH_S = 2.0  # more for each further agent: two are checked at a time


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
    paths: Paths, names: Collection[str], what: str, done: Callable[[Agent | None], bool]
) -> dict[str, Agent]:
    """Wait until the daemon has followed; return its word of each agent that it knows.

    `what` was changed already, in words. `done` is asked what the daemon says of each of these
    agents, None where it knows none of this name. Returns {} where no daemon runs.

    Raises:
        AgentdError: it does not follow; says what was changed all the same.
    """
    seconds = FOLLOWS_S + EACH_S * (len(names) - 1)
    look = f"`agentd status{f' {next(iter(names))}' if len(names) == 1 else ''}`"
    late = too_late(
        f"{what}, but the daemon has not followed", f"{look} and `agentd logs agentd`", seconds
    )

    def all_done(state: Document) -> bool:
        agents = agents_of(state)
        return all(done(agents.get(name)) for name in names)

    try:
        return agents_of(followed(paths, all_done, late, seconds))
    except NotRunning:
        return {}
    except StorageError as error:
        raise AgentdError(f"{what}, but {error.what}", hint=error.hint) from error
