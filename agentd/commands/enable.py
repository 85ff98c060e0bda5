"""`agentd enable` and `disable`: turn one agent on or off, in its own file."""

import argparse
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentd.commands.agent_file import agent_file, taken_up
from agentd.commands.agent_text import print_problem, state_colour
from agentd.commands.daemon_commands import Agent
from agentd.commands.home import agent_files
from agentd.commands.output import BOLD, colour, json_option, print_json, say
from agentd.config.key_lines import with_enabled
from agentd.config.toml import as_text, parse_toml, read_small
from agentd.errors import AgentdError, Problem, UsageError, storage_errors
from agentd.paths import discover
from agentd.states import Exit, WorkerState
from agentd.whole import write_whole

BOM = "\ufeff"

EXAMPLES = """example:
  agentd enable repo_review     # sets `enabled = true` in its file, and waits until it runs
  agentd disable repo_review    # stops it; events for it are not kept
  agentd enable --all           # each that has a file

All else in the file stays as it is, comments too. `agentd pause` stops an agent for a while, and
its events wait. Exits 1 where an agent is on and cannot run, or its file cannot be changed: says
why.

--json prints {done: "enabled" or "disabled", agent, file, state (null: no daemon runs), problem
(null or {what, where, hint})}; with --all {done, agents: [{agent, file, state, problem}]}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", help="the agent")
    which.add_argument("--all", action="store_true", help="all agents that have a file")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files, wait for the daemon, and say what became of the agents."""
    paths, on = discover(), args.command == "enable"
    names = sorted(agent_files(paths)) if args.all else [args.name]
    files = {name: agent_file(paths, name) for name in names}
    wrong: dict[str, Problem] = {}
    for name, file in files.items():
        try:
            _write(file, on)
        except AgentdError as error:
            if not args.all:
                raise
            wrong[name] = error.document()
    written = files.keys() - wrong.keys()
    where = next(iter(files.values())) if len(files) == 1 else paths.agents_d
    what = f"`enabled = {str(on).lower()}` is written in {where}"
    agents = taken_up(paths, written, what, lambda one: _followed(one, on)) if written else {}
    told = [
        {"agent": name, "file": str(file), "state": agents.get(name, {}).get("state")}
        | {"problem": wrong.get(name) or (agents.get(name, {}).get("problem") if on else None)}
        for name, file in files.items()
    ]
    _tell(args, told, on)
    return Exit.FAILED if any(one["problem"] for one in told) else Exit.OK


def _tell(args: argparse.Namespace, told: Sequence[dict[str, Any]], on: bool) -> None:
    done = f"{args.command}d"
    if args.json and args.all:
        print_json({"done": done if told else None, "agents": told})
    elif args.json:
        print_json({"done": done, **told[0]})
    else:
        for one in told:
            state = one["state"]
            word = colour(state, state_colour(state) or BOLD) if state else "no daemon runs"
            say(f"{one['agent']} is {'on' if on else 'off'}: {word}")
            print_problem(one["problem"])
        if not told:
            say(f"no agent to {args.command}")


def _write(file: Path, on: bool) -> None:
    """Set `enabled` in an agent's file, through a link too.

    Raises:
        ConfigError: it is no TOML.
        UsageError: it cannot be told where to write it.
        StorageError: it cannot be written.
    """
    data = read_small(file)
    parse_toml(data, file)
    before = as_text(data, file)
    after = with_enabled(before, on)
    if after is None:
        hint = f"write `enabled = {str(on).lower()}` at its top, above every [table]"
        raise UsageError("it cannot be told where `enabled` stands", where=str(file), hint=hint)
    if after != before:
        mark = BOM if data.startswith(BOM.encode()) else ""
        with storage_errors(file, "make it and its folder writable"):
            place = file.resolve()
            write_whole(place, mark + after, mode=stat.S_IMODE(place.stat().st_mode))


def _followed(agent: Agent | None, on: bool) -> bool:
    if agent is None or agent["checking"] or agent["enabled"] is not on:
        return False
    if on:
        return agent["state"] not in (WorkerState.STARTING, WorkerState.STOPPED)
    return agent["state"] == WorkerState.STOPPED and not agent["stopping"]
