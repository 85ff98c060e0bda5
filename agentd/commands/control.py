"""`agentd pause`, `resume` and `reload`: commands to the running supervisor.

They are events, addressed to the supervisor's own cursor: the database shows who asked for what.
"""

import argparse
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import no_such_agent, open_bus
from agentd.commands.output import json_option, print_done
from agentd.errors import AgentdError
from agentd.events import DAEMON, PERSON, Lane, NewEvent
from agentd.paths import Paths, discover
from agentd.process.until import until
from agentd.states import Exit, Priority, WorkerState
from agentd.supervisor.client import query

DEADLINE_S = 15.0  # above a child's stop grace
STEP_S = 0.05

EXAMPLES = """example:
  agentd pause repo_review     # its events wait; `agentd status` shows PAUSED
  agentd resume repo_review    # also starts a PARKED agent again
  agentd reload                # reads the configuration again; parked agents get another try

Each waits until the daemon has done it. Exits 3 when the daemon is not running.

--json prints {done: "paused", "resumed" or "reloaded", agent, state}; agent and state are null
where all was read again."""

DONE = {"pause": "paused", "resume": "resumed", "reload": "reloaded"}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    several = command == "reload"
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?" if several else None,
        help="only this agent" if several else "the agent",
    )
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Send the command, wait until it is done, and print the agent's state."""
    paths = discover()
    agents = _agents(query(paths))
    if args.name is not None and args.name not in agents:
        raise no_such_agent(args.name, agents)
    payload = {} if args.name is None else {"agent": args.name}
    bus = open_bus(paths)
    event = NewEvent(f"agentd.{args.command}", payload, target=DAEMON)
    bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
    _wait(bus, paths, args.command, args.name)
    state = None
    if args.name is not None:
        state = _agents(query(paths)).get(args.name, {}).get("state")
    line = "reloaded" if args.name is None else f"{args.name} {state or 'is gone'}"
    print_done(args, DONE[args.command], line, agent=args.name, state=state)
    return Exit.OK


def _wait(bus: Bus, paths: Paths, command: str, name: str | None) -> None:
    lane = Lane(DAEMON, direct=True)
    for _ in until(DEADLINE_S, STEP_S):
        taken = bus.lanes.waiting(lane) == 0
        if taken and _done(command, _agents(query(paths)).get(name or "")):
            return
    raise AgentdError(
        f"the daemon has not carried out {command!r} within {DEADLINE_S:.0f} s",
        hint="see `agentd status` and `agentd logs agentd`",
    )


def _done(command: str, agent: dict[str, Any] | None) -> bool:
    state = agent and agent["state"]
    if command == "pause":
        return state == WorkerState.PAUSED
    return command == "reload" or state not in (WorkerState.PAUSED, WorkerState.PARKED)


def _agents(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {agent["name"]: agent for agent in document["agents"]}
