"""`agentd enable` and `disable`: turn one agent on or off, in its own file."""

import argparse
import stat
from pathlib import Path

from agentd.commands.agent_file import Agent, agent_file, taken_up
from agentd.commands.agent_text import print_problem, state_colour
from agentd.commands.output import BOLD, colour, json_option, print_done
from agentd.config.key_lines import with_enabled
from agentd.config.toml import as_text, parse_toml, read_small
from agentd.errors import UsageError, storage_errors
from agentd.paths import discover
from agentd.states import Exit, WorkerState
from agentd.whole import write_whole

BOM = "\ufeff"

EXAMPLES = """example:
  agentd enable repo_review     # sets `enabled = true` in its file, and waits until it runs
  agentd disable repo_review    # stops it; events for it are not kept

All else in the file stays as it is, comments too. `agentd pause` stops an agent for a while, and
its events wait. Exits 1 where the agent is on and cannot run: says why.

--json prints {done: "enabled" or "disabled", agent, file, state (null: no daemon runs), problem
(null or {what, where, hint})}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="the agent")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, wait for the daemon, and say what became of the agent."""
    paths, on = discover(), args.command == "enable"
    file = agent_file(paths, args.name)
    _write(file, on)
    what = f"`enabled = {str(on).lower()}` is written in {file}"
    agent = taken_up(paths, args.name, what, lambda agent: _followed(agent, on)) or {}
    state, problem = agent.get("state"), agent.get("problem") if on else None
    told = colour(state, state_colour(state) or BOLD) if state else "no daemon runs"
    line = f"{args.name} is {'on' if on else 'off'}: {told}"
    about = {"agent": args.name, "file": str(file), "state": state, "problem": problem}
    print_done(args, f"{args.command}d", line, **about)
    if not args.json:
        print_problem(problem)
    return Exit.FAILED if problem else Exit.OK


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
