"""`agentd search`: events and results by their words."""

import argparse
import shutil
import sys
from typing import Any

from agentd.bus.search import MATCHES_MAX, FoundEvent
from agentd.clock import EPOCH
from agentd.commands import row_filter
from agentd.commands.events import line
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import print_json, say
from agentd.commands.row_filter import RowFilter
from agentd.events import DAEMON, PERSON
from agentd.paths import discover
from agentd.states import Exit

EXAMPLES = """example:
  agentd search invoice
  agentd search broken build --agent repo_review --since 7d

Always oldest first: the newest N events that hold all the words, in any order, each as a whole or
as the beginning of one ("invoi"). Capitals and accents make no difference. Looked for are the texts
in an event, its type and who published it; --agent is that one, too. What retention dropped is
gone.
Exits 1 for a NAME that never existed here.

--json prints one object a line, as `agentd events --json` does, and excerpt: the text around the
words."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("words", nargs="+", metavar="WORDS", help="what all of them hold")
    parser.add_argument("--agent", metavar="NAME", help="only what this producer published")
    row_filter.arguments(parser, limit=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the events that hold the words."""
    paths = discover()
    bus = open_bus(paths, writes=True)
    if args.agent is not None and not bus.events.list(agent=args.agent, limit=1):
        check_known(args.agent, paths, bus, PERSON, DAEMON)
    rows = RowFilter.of(args)
    matching = bus.search.find(
        " ".join(args.words),
        limit=MATCHES_MAX if rows.pattern else rows.limit,
        agent=args.agent,
        since=args.since or EPOCH,
        until=args.until,
    )
    found = [*rows.first(matching, document)][::-1]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for one in found:
        if args.json:
            print_json(document(one), indent=None)
        else:
            say(line(one.event, width, one.excerpt))
    if not found and not args.json:
        say("no such events")
    return Exit.OK


def document(found: FoundEvent) -> dict[str, Any]:
    """Return what was found as --json shows it."""
    return {**found.event.document(), "excerpt": found.excerpt}
