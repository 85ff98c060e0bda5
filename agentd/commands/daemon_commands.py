"""Commands to the running daemon, and the wait until it has followed.

They are events, addressed to the supervisor's own cursor: the database shows who asked for what.
"""

from collections.abc import Callable
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import open_bus
from agentd.errors import AgentdError
from agentd.events import DAEMON, PERSON, Lane, NewEvent
from agentd.paths import Paths
from agentd.process.until import until
from agentd.states import Priority
from agentd.supervisor.client import query

FOLLOWS_S = 20.0  # to check a file, or to stop a child: above its grace
STEP_S = 0.05

Document = dict[str, Any]  # what the supervisor says of itself
Agent = dict[str, Any]  # what that says of one agent


def agents_of(document: Document) -> dict[str, Agent]:
    """Return what the supervisor says of each agent, by name."""
    return {agent["name"]: agent for agent in document["agents"]}


def send_commands(paths: Paths, word: str, *payloads: dict[str, Any]) -> Bus:
    """Send `agentd.WORD` to the daemon, once for each payload; return the bus, to be closed.

    Raises:
        NotRunning: there is no database yet.
        StorageError: it cannot be used.
    """
    bus = open_bus(paths)
    for payload in payloads:
        event = NewEvent(f"agentd.{word}", payload, target=DAEMON)
        bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
    return bus


def obeyed(
    paths: Paths,
    word: str,
    *payloads: dict[str, Any],
    done: Callable[[Document], bool] = lambda _: True,
    late: AgentdError | None = None,
) -> Document:
    """Send commands, and wait until the daemon has taken them and `done` holds.

    Returns what it says of itself then.

    Raises:
        NotRunning, StorageError: there is none, or it does not answer.
        AgentdError: it does not follow: `late`, or what says so of the command.
    """
    what = f"the daemon has not carried out {word!r}"
    late = late or too_late(what, "`agentd status` and `agentd logs agentd`")
    bus = send_commands(paths, word, *payloads)
    try:
        lane = Lane(DAEMON, direct=True)
        return followed(paths, lambda state: bus.lanes.waiting(lane) == 0 and done(state), late)
    finally:
        bus.close()


def followed(
    paths: Paths, done: Callable[[Document], bool], late: AgentdError, seconds: float = FOLLOWS_S
) -> Document:
    """Wait until `done` holds of what the supervisor says of itself; return that.

    Raises:
        NotRunning, StorageError: it says nothing.
        AgentdError: `late`, after so many seconds.
    """
    for _ in until(seconds, STEP_S):
        if done(state := query(paths)):
            return state
    raise late


def too_late(what: str, look: str, seconds: float = FOLLOWS_S) -> AgentdError:
    """Return the error of a wait: `what` was not done, and where to `look`."""
    return AgentdError(f"{what} within {seconds:.0f} s", hint=f"see {look}")
