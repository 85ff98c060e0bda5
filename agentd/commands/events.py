"""`agentd events`: what happened, from the outbox."""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from textwrap import indent

from agentd.bus import Bus
from agentd.commands import row_filter
from agentd.commands.home import check_known, known_types, open_bus
from agentd.commands.output import (
    DIM,
    colour,
    local,
    note,
    plain,
    print_json,
    say,
    say_lines,
    shorten,
    whole,
)
from agentd.commands.row_filter import RowFilter
from agentd.config.suggest import did_you_mean
from agentd.events import DAEMON, PERSON, Event
from agentd.paths import discover
from agentd.states import Exit
from agentd.terminal import pause
from agentd.views.event_line import event_line

FOLLOW_S = 0.2  # between two looks at the outbox; a look costs microseconds

INDENT = " " * 7

EXAMPLES = """example:
  agentd events -f
  agentd events --since 1h --grep 'risk=high' --full
  agentd events --type 'repo.*' -n 5 --json
  agentd events --since-id 120 --agent repo_fetch

Each event is a line in words; --full shows what it holds. Always oldest first: the newest N, or
with --since-id the first N after it. What cannot be read (a row by hand) is named on stderr.
--agent is here who published; in `agentd dead` and `agentd sessions` it is who worked. Exits 1 for
a NAME that never existed here.

--json prints one object a line: id, agent (the producer), event_type, payload, created_at (UTC),
target (null: every subscriber), priority, cause_id (the event it answers), depth, dedup_key."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new ones")
    parser.add_argument("--agent", metavar="NAME", help="only what this producer published")
    parser.add_argument("--type", metavar="TYPE", help='only this type, or a prefix: "repo.*"')
    parser.add_argument("--since-id", type=whole, metavar="ID", help="only events after this one")
    row_filter.arguments(parser, limit=20)
    parser.add_argument("--full", action="store_true", help="also what each event holds, as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the events asked for, and go on with new ones if asked to."""
    rows = RowFilter.of(args)
    paths = discover()
    bus = open_bus(paths)
    told: dict[int, str] = {}

    def odd(event_id: int, why: str) -> None:
        if event_id not in told:
            told[event_id] = why
            note(f"event {event_id} cannot be read: {why}")

    after = bus.events.last_id() if args.since_id is None else args.since_id
    if args.agent is not None and not bus.events.list(agent=args.agent, limit=1):
        check_known(args.agent, paths, bus, PERSON, DAEMON)
    # All of them, or the first after one, are printed as they are read.
    newest = args.since_id is None and not rows.everything
    read = bus.events.each(
        after=args.since_id or 0,
        agent=args.agent,
        event_type=args.type,
        **rows.span,
        page=rows.page,
        newest=newest,
        odd=odd,
    )
    found: Iterable[Event] = rows.first(read, Event.document)
    last = _print([*found][::-1] if newest else found, args)
    if not (last or args.follow or args.json):
        say(_nothing(bus, args, rows))
    after = max([after, last, *told])
    while args.follow:
        new = bus.events.list(after=after, agent=args.agent, event_type=args.type, odd=odd)
        _print((event for event in new if rows.fits(event.document())), args)
        after = max([after, *(event.id for event in new), *told])
        if not new:
            pause(FOLLOW_S)
    return Exit.OK


def line(event: Event, width: int | None = None, text: str | None = None) -> str:
    """Return an event as one readable line of at most `width` characters (None: the whole).

    `text`: what to show in the place of the event in words.
    """
    to = f" -> {event.target}" if event.target else ""
    head = f"{event.id:>5}  {local(event.created_at)}  "
    what = plain(f"{event.agent}{to}  {event.event_type}  ")
    text = event_line(event) if text is None else plain(text)
    if width is not None:
        text = shorten(text, max(16, width - len(head) - len(what)))
    return f"{colour(head, DIM)}{what}{text}".rstrip()


def _print(found: Iterable[Event], args: argparse.Namespace) -> int:
    """Print events, and return the last one's id, 0 for none."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    last = 0
    for event in found:
        last = event.id
        if args.json:
            print_json(event.document(), indent=None)
            continue
        say(line(event, width), flush=True)
        if args.full:
            payload = json.dumps(dict(event.payload), indent=2, ensure_ascii=False)
            say_lines(indent(payload, INDENT), flush=True)
    return last


def _nothing(bus: Bus, args: argparse.Namespace, rows: RowFilter) -> str:
    hint = did_you_mean(args.type, known_types(bus)) if args.type else ""
    if bus.events.last_id() == 0:
        return f"no events yet{hint}"
    if args.type:
        return f"no such events{hint}"
    return "no such events" if args.agent or args.since_id or rows.narrows else "no events"
