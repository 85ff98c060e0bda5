"""`agentd events`: what happened, from the outbox."""

import argparse
import shutil
import sys
import threading
from collections.abc import Iterable

from agentd.bus import Bus
from agentd.commands.home import check_known, known_types, open_bus
from agentd.commands.output import (
    DIM,
    colour,
    compact,
    count,
    local,
    note,
    plain,
    print_json,
    say,
    shorten,
    whole,
)
from agentd.config.suggest import did_you_mean
from agentd.events import DAEMON, PERSON, Event
from agentd.paths import discover
from agentd.states import Exit

FOLLOW_S = 0.2  # between two looks at the outbox; a look costs microseconds

EXAMPLES = """example:
  agentd events -f
  agentd events --type 'repo.*' --limit 5 --json
  agentd events --since-id 120 --agent repo_fetch

Always oldest first: the newest N, or with --since-id the first N after it. What cannot be read (a
row by hand) is named on stderr. --agent is here who published; in `agentd dead` and `agentd
sessions` it is who worked. Exits 1 for a NAME that never existed here.

--json prints one object a line: id, agent (the producer), event_type, payload, created_at (UTC),
target (null: every subscriber), priority, cause_id (the event it answers), depth, dedup_key."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new ones")
    parser.add_argument("--agent", metavar="NAME", help="only what this producer published")
    parser.add_argument("--type", metavar="TYPE", help='only this type, or a prefix: "repo.*"')
    parser.add_argument("--since-id", type=whole, metavar="ID", help="only events after this one")
    parser.add_argument(
        "--limit",
        type=count,
        default=20,
        metavar="N",
        help="at most N (20; with -f: before the new ones)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the events asked for, and go on with new ones if asked to."""
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
    found = bus.events.list(
        after=args.since_id or 0,
        agent=args.agent,
        event_type=args.type,
        limit=args.limit,
        newest=args.since_id is None,
        odd=odd,
    )
    _print(found, args.json)
    while args.follow:
        after = max([after, *(event.id for event in found), *told])
        found = bus.events.list(after=after, agent=args.agent, event_type=args.type, odd=odd)
        _print(found, args.json)
        if not found:
            pause()
    if not found and not args.json:
        say(_nothing(bus, args))
    return Exit.OK


def line(event: Event, width: int | None = None, text: str | None = None) -> str:
    """Return an event as one readable line of at most `width` characters (None: the whole).

    `text`: what to show in its payload's place.
    """
    to = f" -> {event.target}" if event.target else ""
    head = f"{event.id:>5}  {local(event.created_at)}  "
    what = f"{event.agent}{to}  {plain(event.event_type)}  "
    payload = compact(event.payload) if text is None else plain(text)
    if width is not None:
        payload = shorten(payload, max(16, width - len(head) - len(what)))
    return colour(head, DIM) + what + payload


def _print(found: Iterable[Event], as_json: bool) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for event in found:
        if as_json:
            print_json(event.document(), indent=None)
        else:
            say(line(event, width), flush=True)


def pause() -> None:
    """Wait until the next look at the outbox."""
    threading.Event().wait(FOLLOW_S)


def _nothing(bus: Bus, args: argparse.Namespace) -> str:
    hint = did_you_mean(args.type, known_types(bus)) if args.type else ""
    if bus.events.last_id() == 0:
        return f"no events yet{hint}"
    if args.type:
        return f"no such events{hint}"
    return "no such events" if args.agent or args.since_id else "no events"
