"""`agentd results`: what agents came to, in words."""

import argparse
from collections.abc import Iterable

from agentd.bus import Bus
from agentd.clock import with_local_times
from agentd.commands import row_filter
from agentd.commands.events import FOLLOW_S
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import (
    BOLD,
    DIM,
    INTEGER_MAX,
    colour,
    local,
    plain,
    print_json,
    say,
    say_lines,
    unescaped,
)
from agentd.commands.row_filter import RowFilter, paged
from agentd.errors import UsageError
from agentd.events import Event, is_result, result_of
from agentd.paths import discover
from agentd.states import Exit
from agentd.terminal import pause, plain_lines
from agentd.views.result_list import document

EXAMPLES = """example:
  agentd results
  agentd results -f mail_triage
  agentd results --since 1d --grep invoice --json
  agentd results 120              # the whole of one, with its text

A result is an event whose payload has a `title` and, where useful, a `text` in Markdown. Always
oldest first. NAME is an agent's, ID a result's. Where else they go, `agentd deliver` shows.
Exits 2 for an ID that is no result's, 1 for a name that never existed here.

--json prints one object a line: id, agent, event_type, created_at (UTC), title, text, payload."""

INDENT = " " * 7
LINES_SHOWN = 3  # of a result's text, in a list


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("what", nargs="?", metavar="NAME|ID", help="an agent, or a result's id")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new ones")
    row_filter.arguments(parser, limit=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the results asked for, and go on with new ones if asked to."""
    paths = discover()
    bus = open_bus(paths)
    if args.what is not None and args.what.isascii() and args.what.isdigit():
        _print([_find(bus, int(args.what))], args.json, whole=True)
        return Exit.OK
    after = bus.events.last_id()
    rows = RowFilter.of(args)
    asked = {"agent": args.what, **rows.span, "limit": rows.page}
    read = paged(lambda before: bus.events.results(before=before, **asked)[::-1], lambda e: e.id)
    found = [*rows.first(filter(is_result, read), document)][::-1]
    if args.what is not None and not found:
        check_known(args.what, paths, bus)
    after = max([after, *(event.id for event in found)])  # some came while they were read
    _print(found, args.json)
    if not (found or args.follow or args.json):
        _say_nothing(bus, narrowed=args.what is not None or rows.narrows)
    while args.follow:
        pause(FOLLOW_S)
        new = bus.events.results(after=after, agent=args.what)
        after = max([after, *(event.id for event in new)])
        _print((one for one in new if is_result(one) and rows.fits(document(one))), args.json)
    return Exit.OK


def _find(bus: Bus, event_id: int) -> Event:
    event = bus.events.get(event_id) if event_id <= INTEGER_MAX else None
    if event is None or not is_result(event):
        what = "there is no such event, or not any more" if event is None else "this is no result"
        raise UsageError(what, where=str(event_id), hint="`agentd results` lists them")
    return event


def _print(found: Iterable[Event], as_json: bool, *, whole: bool = False) -> None:
    for event in found:
        title, text = result_of(event)
        if as_json:
            print_json(document(event), indent=None)
            continue
        head_line = f"{event.id:>5}  {local(event.created_at)}  "
        say(
            f"{colour(head_line, DIM)}{plain(event.agent)}: {colour(plain(title), BOLD)}",
            flush=True,
        )
        told = plain_lines(unescaped(with_local_times(text))).rstrip("\n")
        lines = told.split("\n") if text.strip() else []
        shown = lines if whole else lines[:LINES_SHOWN]
        for line in shown:
            say(f"{INDENT}{line}".rstrip(), flush=True)
        if len(shown) < len(lines):
            say(colour(f"{INDENT}... `agentd results {event.id}` shows all", DIM), flush=True)


def _say_nothing(bus: Bus, *, narrowed: bool) -> None:
    """Say that there is none, and what to do next."""
    if narrowed:
        say_lines("no such results\n`agentd results` lists the last ones of all agents")
    elif not bus.agents.present():
        say_lines("no results yet, and no agent that could have any\n`agentd new` makes one")
    else:
        say_lines(
            "no results yet\n`agentd trigger NAME` lets an agent run now; `agentd status` lists all"
        )
