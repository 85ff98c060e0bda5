"""`agentd later`: what is to come, as agents have set it or by schedules; take one back."""

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from agentd.bus import Bus
from agentd.clock import iso, moment_or
from agentd.commands import row_filter
from agentd.commands.fitted_table import print_table
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import duration, local, print_done, print_json, say, whole
from agentd.commands.row_filter import RowFilter
from agentd.errors import UsageError
from agentd.paths import Paths, discover
from agentd.states import Exit
from agentd.storage.database_files import files_stay

ACTIONS = ("list", "drop")

EXAMPLES = """example:
  agentd later
  agentd later list --agent notes
  agentd later --until +2h     # what comes within two hours
  agentd later --runs          # with the next runs of schedules, and when each ran last
  agentd later drop 3

What an agent sets by its tool `Later` comes back to it as an event `later.due`, once it is due.
While the agent is paused, or agentd does not run, it waits; `missed` in the agent's file decides
then whether it still comes.
Exits 2 for an unknown ID, 1 for an unknown agent.

--json prints a list: id, agent, due (UTC), what; with --runs also last (when a schedule was due
last, UTC, or null), and id is null for what cannot be dropped. After drop
{done: "dropped", ids}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="default: list")
    parser.add_argument("ids", nargs="*", type=whole, metavar="ID", help="their ids")
    parser.add_argument("--agent", metavar="NAME", help="list: only those of this agent")
    parser.add_argument("--runs", action="store_true", help="list: also what schedules will run")
    row_filter.arguments(parser, of="list")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """List them, or drop some."""
    if bool(args.ids) == (args.action == "list"):
        args.fail("list takes no ID" if args.ids else f"{args.action} needs an ID")
    paths = discover()
    bus = open_bus(paths, writes=args.action == "drop")
    if args.action == "drop":
        _drop(bus, args)
    else:
        rows = [one.document() for one in bus.later.list(args.agent)]
        if args.runs:
            later = [{**row, "last": None} for row in rows]
            rows = sorted([*later, *_runs(bus, paths, args.agent)], key=itemgetter("due"))
        wanted = RowFilter.of(args)
        found = list(wanted.first((row for row in rows if wanted.at(row["due"])), dict))
        if args.agent is not None and not found:
            check_known(args.agent, paths, bus)
        if args.json:
            print_json(found)
        elif not found:
            say("nothing such is to come" if wanted.narrows else "nothing is to come")
        else:
            _print(found, bus.clock.now(), runs=args.runs)
    return Exit.OK


def _runs(bus: Bus, paths: Paths, agent: str | None) -> Iterator[dict[str, Any]]:
    """Yield the next run of each agent that the running daemon has one of."""
    from agentd.views.overview import overview  # what nothing else here takes

    for found in overview(paths)["agents"]:
        name, wakes = found["name"], found["triggers"]
        if wakes["next"] and agent in (None, name):
            moments = (one["at"] for one in wakes["at"] if not one["over"])
            schedule = wakes["schedule"]
            last = bus.schedules.last_run(name, schedule) if schedule else None
            what = schedule or f"at {min(moments, default='')}"
            head = {"id": None, "agent": name, "due": wakes["next"], "what": what}
            yield {**head, "last": last and iso(last.due)}


def _print(found: Sequence[dict[str, Any]], now: datetime, *, runs: bool) -> None:
    """Print what is to come, with the time until then, and when a schedule was due last."""
    head = ("ID", "DUE", "IN", "AGENT", *(["LAST"] if runs else []), "WHAT")
    print_table(
        head,
        (
            (
                row["id"],
                local(row["due"]),
                duration(max(0.0, (moment_or(row["due"], now) - now).total_seconds())),
                row["agent"],
                *([local(row["last"])] if runs else []),
                row["what"],
            )
            for row in found
        ),
        leave={"IN": 1, "LAST": 2},
        least={"AGENT": 12, "WHAT": 16},
    )


def _drop(bus: Bus, args: argparse.Namespace) -> None:
    """Drop some, and say which; also those before one that is not there."""
    dropped: list[int] = []
    try:
        for later_id in args.ids:
            with files_stay(bus):
                if not bus.later.drop(later_id):
                    hint = "see `agentd later`; perhaps it has come"
                    raise UsageError("no such event to come", where=str(later_id), hint=hint)
            dropped.append(later_id)
    finally:
        if dropped:
            lines = (f"dropped {later_id}" for later_id in dropped)
            print_done(args, "dropped", *lines, ids=dropped)
