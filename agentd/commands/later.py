"""`agentd later`: events that agents have set for themselves; take one back."""

import argparse

from agentd.bus import Bus
from agentd.bus.later import LaterEvent
from agentd.clock import iso
from agentd.commands import row_filter
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import local, print_done, print_json, print_table, say, whole
from agentd.commands.row_filter import RowFilter
from agentd.errors import UsageError
from agentd.paths import discover
from agentd.states import Exit
from agentd.storage.database_files import files_stay

ACTIONS = ("list", "drop")

EXAMPLES = """example:
  agentd later
  agentd later list --agent notes
  agentd later --until +2h     # what comes within two hours
  agentd later drop 3

What an agent sets by its tool `Later` comes back to it as an event `later.due`, once it is due.
While the agent is paused, or agentd does not run, it waits; `missed` in the agent's file decides
then whether it still comes.
Exits 2 for an unknown ID, 1 for an unknown agent.

--json prints a list: id, agent, due (UTC), what; after drop {done: "dropped", ids}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="default: list")
    parser.add_argument("ids", nargs="*", type=whole, metavar="ID", help="their ids")
    parser.add_argument("--agent", metavar="NAME", help="list: only those of this agent")
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
        wanted = RowFilter.of(args)
        listed = (one for one in bus.later.list(args.agent) if wanted.at(iso(one.due)))
        found = list(wanted.first(listed, LaterEvent.document))
        if args.agent is not None and not found:
            check_known(args.agent, paths, bus)
        if args.json:
            print_json([later.document() for later in found])
        elif not found:
            say("nothing such is to come" if wanted.narrows else "nothing is to come")
        else:
            rows = ((one.id, local(one.document()["due"]), one.agent, one.what) for one in found)
            print_table(("ID", "DUE", "AGENT", "WHAT"), rows)
    return Exit.OK


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
