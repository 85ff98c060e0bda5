"""`agentd send TYPE JSON`: write an event to the bus, as a person."""

import argparse
import json
import sys
from typing import Any

from agentd.bus import Bus
from agentd.commands.home import find_agent, open_bus, supervisor
from agentd.commands.output import note, say
from agentd.errors import UsageError
from agentd.events import PERSON, NewEvent
from agentd.paths import Paths, discover
from agentd.states import Exit, Priority

EXAMPLES = """example:
  agentd send note.added '{"text": "water the plants"}'
  agentd send person.answer '{"session": 7, "answer": "yes"}' --to repo_review
  generate-json | agentd send build.failed -

Prints the event's id. Works without a running daemon: the event waits in the database.
Exits 2 when JSON is not an object, 1 when the bus refuses the event, 3 without a database."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("type", metavar="TYPE", help="dotted lower case, such as note.added")
    parser.add_argument("json", metavar="JSON", help="the payload, a JSON object; - reads stdin")
    parser.add_argument("--to", metavar="NAME", help="for this agent alone (default: subscribers)")


def run(args: argparse.Namespace) -> int:
    """Publish the event with a person's priority."""
    payload = _payload(sys.stdin.read() if args.json == "-" else args.json)
    paths = discover()
    bus = open_bus(paths, writes=True)
    if args.to is not None:
        find_agent(bus, args.to)
    publish(bus, paths, NewEvent(args.type, payload, target=args.to))
    return Exit.OK


def publish(bus: Bus, paths: Paths, event: NewEvent, *, system: bool = False) -> int:
    """Write a person's event, print its id, say on stderr if nobody will act on it now."""
    event_id = bus.publish(PERSON, event, priority=Priority.PERSON, system=system)
    assert event_id is not None, "without a dedup_key and a cause an event is always written"
    say(f"event {event_id}")
    rows = {row.name: row for row in bus.agents() if row.removed_at is None}
    if supervisor(paths) is None:
        note("the daemon is not running: the event waits; start it with `agentd run`")
    elif event.target is not None and rows[event.target].paused:
        note(f"{event.target} is paused: the event waits for `agentd resume {event.target}`")
    return event_id


def _payload(text: str) -> dict[str, Any]:
    example = """write an object in single quotes: '{"path": "notes.md"}'"""
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"the payload is not JSON: {why}", hint=example) from error
    if not isinstance(payload, dict):
        kind = type(payload).__name__
        raise UsageError(f"the payload must be a JSON object, not a {kind}", hint=example)
    return payload
