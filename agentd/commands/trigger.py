"""`agentd trigger NAME`: ask one agent to run now."""

import argparse

from agentd.commands.home import find_agent, open_bus
from agentd.commands.output import json_option
from agentd.commands.send import publish
from agentd.events import NewEvent
from agentd.paths import discover
from agentd.states import Exit

EXAMPLES = """example:
  agentd trigger repo_fetch

Writes agent.trigger to the agent's direct lane, before what it subscribes to, and prints the
event's id. Follow what comes of it with `agentd events -f` or `agentd sessions --agent NAME`.
Works without a running daemon: the event waits. Exits 1 for an agent that is unknown or
whose file is wrong or disabled, 3 without a database.

--json prints {done: "sent", event}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="the agent")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Publish the trigger."""
    paths = discover()
    bus = open_bus(paths, writes=True)
    find_agent(bus, paths, args.name)
    event = NewEvent("agent.trigger", {}, target=args.name)
    publish(args, bus, paths, event, system=True)
    return Exit.OK
