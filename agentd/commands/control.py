"""`agentd pause`, `resume` and `reload`: commands to the running supervisor.

They are events, addressed to the supervisor's own cursor: the database shows who asked for what.
"""

import argparse
from collections.abc import Sequence
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
WORKING = (WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF)

EXAMPLES = """example:
  agentd pause repo_review     # its events wait; `agentd status` shows PAUSED
  agentd resume repo_review    # also starts a PARKED agent again
  agentd pause --all           # all that are on; `resume --all` starts all that rest again
  agentd reload                # reads the configuration again; parked agents get another try

Each waits until the daemon has done it. Exits 3 when the daemon is not running.

--json prints {done: "paused", "resumed" or "reloaded", agent, state}; agent and state are null
where all was read again. With --all {done, agents: [{agent, state}]}."""

DONE = {"pause": "paused", "resume": "resumed", "reload": "reloaded"}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    which = parser.add_mutually_exclusive_group(required=command != "reload")
    named = "only this agent" if command == "reload" else "the agent"
    which.add_argument("name", metavar="NAME", nargs="?", help=named)
    if command != "reload":
        which.add_argument("--all", action="store_true", help="all agents that are on")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Send the command, wait until it is done, and print the agents' states."""
    paths = discover()
    agents = _agents(query(paths))
    if args.name is not None and args.name not in agents:
        raise no_such_agent(args.name, agents)
    every = args.command != "reload" and args.all
    names = _concerned(args.command, agents) if every else [args.name] if args.name else []
    bus = open_bus(paths)
    for payload in [{"agent": name} for name in names] or ([] if every else [{}]):
        event = NewEvent(f"agentd.{args.command}", payload, target=DAEMON)
        bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
    _wait(bus, paths, args.command, names)
    bus.close()
    now = _agents(query(paths))
    states = {name: now.get(name, {}).get("state") for name in names}
    lines = [f"{name} {state or 'is gone'}" for name, state in states.items()]
    if every:
        done = DONE[args.command] if names else None
        told = [{"agent": name, "state": state} for name, state in states.items()]
        print_done(args, done, *(lines or [f"no agent to {args.command}"]), agents=told)
    else:
        state = states.get(args.name)
        print_done(args, DONE[args.command], *(lines or ["reloaded"]), agent=args.name, state=state)
    return Exit.OK


def _concerned(command: str, agents: dict[str, dict[str, Any]]) -> list[str]:
    """Return the agents that `--all` means: those of which something would change."""
    if command == "pause":
        return [name for name, agent in agents.items() if agent["enabled"] and not agent["paused"]]
    parked = WorkerState.PARKED
    return [name for name, a in agents.items() if a["paused"] or a["state"] == parked]


def _wait(bus: Bus, paths: Paths, command: str, names: Sequence[str]) -> None:
    lane = Lane(DAEMON, direct=True)
    for _ in until(DEADLINE_S, STEP_S):
        if bus.lanes.waiting(lane) == 0:
            agents = _agents(query(paths))
            if all(_done(command, agents.get(name)) for name in names):
                return
    raise AgentdError(
        f"the daemon has not carried out {command!r} within {DEADLINE_S:.0f} s",
        hint="see `agentd status` and `agentd logs agentd`",
    )


def _done(command: str, agent: dict[str, Any] | None) -> bool:
    if command == "reload" or agent is None:  # one that is gone needs nothing
        return True
    if command == "pause":
        return agent["paused"] and agent["state"] not in WORKING
    return not agent["paused"] and agent["state"] not in (WorkerState.PAUSED, WorkerState.PARKED)


def _agents(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {agent["name"]: agent for agent in document["agents"]}
