"""`agentd dead`: events that were given up, with the reason; retry or drop them."""

import argparse
from collections.abc import Sequence
from typing import Any

from agentd.bus import Bus
from agentd.bus.dead import DeadLetter
from agentd.commands import row_filter
from agentd.commands.fitted_table import print_table
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import compact, local, print_done, print_json, say, whole
from agentd.commands.row_filter import RowFilter, paged
from agentd.events import DAEMON, PERSON
from agentd.paths import discover
from agentd.states import Exit
from agentd.storage.database_files import files_stay

ACTIONS = ("list", "show", "retry", "drop")

EXAMPLES = """example:
  agentd dead list --agent repo_review
  agentd dead show 3
  agentd dead retry 3      # the event goes to that agent again, through its direct lane
  agentd dead drop 3 4

A dead letter is an event that was given up. Reasons:
  loop             it answers a chain of events that is too long; nobody got it
  failed           every attempt failed
  crashed          the agent's process crashed over it, again and again
  partial effects  it failed after a tool that must not run twice
  invalid          it makes no sense to its reader: unreadable, a wrong payload, answers no question
  expired          it was removed for its age or the database's size before it was read
  unanswered       its session asked a person, and nobody answered in time
Exits 2 for an unknown ID, 1 for an unknown agent.

--json prints a list (list, and show of several) or one object (show of one): id, agent (who gave it
up), reason, error, session_id, dead_at (UTC), and the event: event_id (null: it was never written),
producer, event_type, payload, created_at, target, priority, cause_id, depth. After retry
{done: "retried", letters: [{id, event}]}, after drop {done: "dropped", letters: [{id}]}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="default: list")
    parser.add_argument("ids", nargs="*", type=whole, metavar="ID", help="dead letters' ids")
    parser.add_argument("--agent", metavar="NAME", help="list: only what this agent worked on")
    row_filter.arguments(parser, limit=50, of="list")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """List, show, retry or drop."""
    if bool(args.ids) == (args.action == "list"):
        args.fail("list takes no ID" if args.ids else f"{args.action} needs an ID")
    paths = discover()
    bus = open_bus(paths, writes=args.action in ("retry", "drop"))
    if args.action == "list":
        wanted = RowFilter.of(args)
        asked = {"agent": args.agent, **wanted.span, "limit": wanted.page}
        read = paged(lambda before: bus.dead.list(before=before, **asked), lambda letter: letter.id)
        letters = list(wanted.first(read, DeadLetter.document))
        if args.agent is not None and not letters:  # of a loop, it is who published it
            check_known(args.agent, paths, bus, PERSON, DAEMON)
        if args.json:
            print_json([letter.document() for letter in letters])
        elif letters:
            _list(letters)
        else:
            say("no such dead letters" if wanted.narrows else "no dead letters")
    elif args.action == "show":
        _show([bus.dead.get(letter_id) for letter_id in args.ids], as_json=args.json)
    else:
        _change(bus, args)
    return Exit.OK


def _list(letters: Sequence[DeadLetter]) -> None:
    print_table(
        ("ID", "DIED", "AGENT", "REASON", "EVENT", "ERROR"),
        (
            (
                letter.id,
                local(letter.dead_at),
                letter.agent,
                letter.reason.value,
                f"{letter.event_id or '-'} {letter.event_type}",
                letter.error.splitlines()[0] if letter.error else None,
            )
            for letter in letters
        ),
        leave={"DIED": 1, "REASON": 2},
        least={"AGENT": 12, "EVENT": 16, "ERROR": 24},
    )


def _show(letters: Sequence[DeadLetter], *, as_json: bool) -> None:
    if as_json:
        found = [letter.document() for letter in letters]
        print_json(found[0] if len(found) == 1 else found)
        return
    for letter in letters:
        for key, value in letter.document().items():
            if key == "dead_at" or key == "created_at":
                text = local(value)
            else:
                text = compact(value) if isinstance(value, dict) else str(value)
            first, *more = ("-" if value is None else text).split("\n")
            say(f"{key:10}  {first}")
            for line in more:
                say(f"{'':10}  {line}")


def _change(bus: Bus, args: argparse.Namespace) -> None:
    """Retry or drop some, and say which; also those before one that is not there."""
    letters: list[dict[str, Any]] = []
    try:
        for letter_id in args.ids:
            with files_stay(bus):
                if args.action == "drop":
                    bus.dead.drop(letter_id)
                    letters.append({"id": letter_id})
                else:
                    letters.append({"id": letter_id, "event": bus.dead.retry(letter_id)})
    finally:
        if letters and args.action == "drop":
            lines = [f"dropped {letter['id']}" for letter in letters]
            print_done(args, "dropped", *lines, letters=letters)
        elif letters:
            lines = [f"dead letter {each['id']} is event {each['event']} now" for each in letters]
            print_done(args, "retried", *lines, letters=letters)
