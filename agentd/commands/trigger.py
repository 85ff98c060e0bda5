"""`agentd trigger NAME`: ask one agent to run now."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import accepted_config, find_agent, open_bus
from agentd.commands.output import json_option, note
from agentd.commands.send import publish
from agentd.config.agent import AgentConfig
from agentd.errors import UsageError
from agentd.events import NewEvent
from agentd.paths import discover
from agentd.secret_rules import hide
from agentd.states import Exit
from agentd.task_agent.first_steps import FirstStep, fields_of

TRIGGER = "agent.trigger"
# Tools that give nothing the first time: the field that says of what, and how its fact begins.
FROM_NOW_ON = {
    "ReadLog": ("path", "log:"),
    "ReadFeed": ("url", "feed:"),
    "ReadMail": ("source", "mail:"),
}

EXAMPLES = """example:
  agentd trigger repo_fetch

Writes agent.trigger to the agent's direct lane, before what it subscribes to, and prints the
event's id. Follow what comes of it with `agentd events -f` or `agentd sessions --agent NAME`.
Works without a running daemon: the event waits. Exits 2 for an agent that needs a file or a field
of an event to work on, 1 for one that is unknown or whose file is wrong or disabled, 3 without a
database.

--json prints {done: "sent", event}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="the agent")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Publish the trigger."""
    paths = discover()
    bus = open_bus(paths, writes=True)
    config = accepted_config(paths, find_agent(bus, paths, args.name))
    if config is not None:
        check_given(args.name, config, {})
    publish(args, bus, paths, NewEvent(TRIGGER, {}, target=args.name), system=True)
    for what in _first_reads(bus, args.name, config):
        note(f"{hide(what)} is read for the first time: what is there already is not new")
    return Exit.OK


def check_given(name: str, config: AgentConfig, payload: Mapping[str, Any]) -> None:
    """Make sure that a trigger with this payload holds what an agent works on.

    Raises:
        UsageError: it would become a dead letter.
    """
    needed = fields_of(_first(config)) - payload.keys()
    if config.watch and (needed or _only_watches(config)):
        raise UsageError(
            f"{name} works on a file",
            where=f"its `watch`: {', '.join(config.watch)}",
            hint=f"hand it one: agentd send-file PATH --to {name}",
        )
    if needed:
        fields = ", ".join(f'"{field}": "..."' for field in sorted(needed))
        kind = config.subscribe[0].replace("*", "new") if config.subscribe else "TYPE"
        raise UsageError(
            f"{name} works on an event with {', '.join(sorted(needed))}",
            where="its `first`",
            hint=f"send it one: agentd send {kind} '{{{fields}}}' --to {name}",
        )


def _first(config: AgentConfig) -> list[FirstStep]:
    return [FirstStep.of(step) for step in config.params.get("first", ())] if _task(config) else []


def _only_watches(config: AgentConfig) -> bool:
    """Whether an agent in code is woken by files alone; one of configuration names its needs."""
    return not (_task(config) or config.subscribe or config.schedules)


def _task(config: AgentConfig) -> bool:
    return config.agent == "task"


def _first_reads(bus: Bus, name: str, config: AgentConfig | None) -> Iterator[str]:
    """Yield what an agent never read and begins with as it is: nothing there is new then."""
    found = []
    for step in _first(config) if config is not None else []:
        if (known := FROM_NOW_ON.get(step.tool)) is not None:
            key, begins = known
            found.append((str(step.args[key]), begins))
    facts = bus.facts.of(name) if found else {}
    yield from (what for what, begins in found if f"{begins}{what}" not in facts)
