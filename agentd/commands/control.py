"""`agentd pause`, `resume`, `restart NAME` and `reload`: commands to the running supervisor."""

import argparse

from agentd.commands.daemon_commands import Agent, Document, agents_of, obeyed
from agentd.commands.home import no_such_agent
from agentd.commands.output import json_option, print_done
from agentd.errors import AgentdError
from agentd.paths import discover
from agentd.states import Exit, WorkerState
from agentd.supervisor.client import query

WORKING = (WorkerState.STARTING, WorkerState.RUNNING, WorkerState.BACKOFF)

EXAMPLES = """example:
  agentd pause repo_review     # its events wait; `agentd status` shows PAUSED
  agentd resume repo_review    # also starts a PARKED agent again
  agentd pause --all           # all that are on; `resume --all` starts all that rest again
  agentd reload                # reads the configuration again; parked agents get another try

Each waits until the daemon has done it. Exits 3 when the daemon is not running.

--json prints {done: "paused", "resumed" or "reloaded", agent, state}; agent and state are null
where all was read again. With --all {done, agents: [{agent, state}]}."""

DONE = {
    **{"pause": "paused", "resume": "resumed", "reload": "reloaded"},
    "restart": "restarted",  # of one agent; see `service.py`
}


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
    before = agents_of(query(paths))
    if args.name is not None and args.name not in before:
        raise no_such_agent(args.name, before)
    if args.command == "restart":
        _check_runs(before[args.name])
    every = getattr(args, "all", False)
    names = _concerned(args.command, before) if every else [args.name] if args.name else []
    payloads = [{"agent": name} for name in names] or ([] if every else [{}])

    def done(state: Document) -> bool:
        agents = agents_of(state)
        return all(_done(args.command, before[name], agents.get(name)) for name in names)

    now = agents_of(obeyed(paths, args.command, *payloads, done=done))
    states = {name: now.get(name, {}).get("state") for name in names}
    lines = [f"{name} {state or 'is gone'}" for name, state in states.items()]
    if every:
        word = DONE[args.command] if names else None
        told = [{"agent": name, "state": state} for name, state in states.items()]
        print_done(args, word, *(lines or [f"no agent to {args.command}"]), agents=told)
    else:
        state = states.get(args.name)
        print_done(args, DONE[args.command], *(lines or ["reloaded"]), agent=args.name, state=state)
    return Exit.OK


def _concerned(command: str, agents: dict[str, Agent]) -> list[str]:
    """Return the agents that `--all` means: those of which something would change."""
    if command == "pause":
        return [name for name, agent in agents.items() if agent["enabled"] and not agent["paused"]]
    parked = WorkerState.PARKED
    return [name for name, a in agents.items() if a["paused"] or a["state"] == parked]


def _check_runs(agent: Agent) -> None:
    """Make sure that an agent can be started anew.

    Raises:
        AgentdError: it rests, and says what starts it.
    """
    name = agent["name"]
    if not agent["enabled"]:
        raise AgentdError(f"{name} is off", hint=f"turn it on: `agentd enable {name}`")
    if agent["paused"]:
        raise AgentdError(f"{name} is paused", hint=f"let it go on: `agentd resume {name}`")
    if not agent["version"]:
        what = agent["problem"] or {"what": "it was not accepted yet", "where": "", "hint": ""}
        raise AgentdError(f"{name} cannot run: {what['what']}", where=what["where"])


def _done(command: str, before: Agent, agent: Agent | None) -> bool:
    if command == "reload" or agent is None:  # one that is gone needs nothing
        return True
    if command == "pause":
        return agent["paused"] and agent["state"] not in WORKING
    if command == "restart":
        same = (agent["pid"], agent["since"]) == (before["pid"], before["since"])
        return not same and not agent["stopping"] and agent["state"] != WorkerState.STARTING
    return not agent["paused"] and agent["state"] not in (WorkerState.PAUSED, WorkerState.PARKED)
