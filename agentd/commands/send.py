"""`agentd send TYPE JSON`: write an event to the bus, as a person."""

import argparse
import json
import sys
from typing import Any

from agentd.approval.kept import seen
from agentd.approval.signature import person_key, signed
from agentd.approval.unanswered import give
from agentd.bus import Bus
from agentd.commands.home import find_agent, known_types, open_bus, subscribed_types
from agentd.commands.output import INTEGER_MAX, json_option, note, print_done
from agentd.config.suggest import did_you_mean, listed
from agentd.errors import StorageError, UsageError
from agentd.events import ANSWER, PERSON, NewEvent, matches
from agentd.paths import Paths, discover
from agentd.sessions.archive import Archive
from agentd.states import Exit, Priority, SessionState
from agentd.storage.database_files import files_stay
from agentd.views.daemon_state import daemon_state

EXAMPLES = """example:
  agentd send note.added '{"text": "water the plants"}'
  agentd send person.answer '{"session": 7, "answer": "yes"}' --to repo_review
  generate-json | agentd send build.failed -

Prints the event's id. Warns on stderr if no agent reads the type, or if an answer fits no question;
`agentd answer` lists what waits for one, and is the shorter way.
Follow it with `agentd events -f`; with `--json`, `cause_id` names the event that was answered.
Works without a running daemon: the event waits in the database. Exits 2 when JSON is not an object,
1 when the bus refuses the event or no agent is called NAME, 3 without a database.

--json prints {done: "sent", event}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("type", metavar="TYPE", help="dotted lower case, such as note.added")
    parser.add_argument("payload", metavar="JSON", help="a JSON object; - reads stdin")
    parser.add_argument(
        "--to",
        metavar="NAME",
        help="for this agent alone (default: all that subscribe to TYPE; `person.answer` needs it)",
    )
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Publish the event with a person's priority."""
    payload = _payload(sys.stdin.read() if args.payload == "-" else args.payload)
    paths = discover()
    bus = open_bus(paths, writes=True)
    if args.to is not None:
        find_agent(bus, paths, args.to)
    event = NewEvent(args.type, payload, target=args.to)
    doubt = _answers_nothing(bus, event) if args.type == ANSWER else _unread(bus, event)
    if args.type == ANSWER and doubt is None:
        with files_stay(bus):
            saw = {payload["asked"]} if isinstance(payload.get("asked"), str) else seen(paths)
            _, event_id = give(bus, person_key(paths), payload["session"], payload["answer"], saw)
        print_done(args, "sent", f"event {event_id}", event=event_id)
        note_idle(bus, paths, args.to)
    elif args.type.startswith(f"{PERSON}."):
        publish(args, bus, paths, signed(event, person_key(paths)), system=True)
    else:
        publish(args, bus, paths, event)
    if doubt is not None:
        note(doubt)
    return Exit.OK


def _unread(bus: Bus, event: NewEvent) -> str | None:
    """Say that no agent reads this type, where none does."""
    read = sorted(subscribed_types(bus))
    if event.target is not None or any(matches(event.event_type, item) for item in read):
        return None
    known = listed(read, none="nothing")
    return (
        f"no agent reads {event.event_type}: they read {known}"
        f"{did_you_mean(event.event_type, known_types(bus))}"
    )


def _answers_nothing(bus: Bus, event: NewEvent) -> str | None:
    """Say why a person's answer fits no question, where it fits none."""
    session_id = event.payload.get("session")
    found = None
    if type(session_id) is int and abs(session_id) <= INTEGER_MAX:
        found = Archive(bus).find(session_id)
    if found is None:
        why = "`session` is the id of the session that asked"
    elif event.target != found.agent:
        why = f"session {session_id} is one of {found.agent}: send it --to {found.agent}"
    elif found.state is not SessionState.PARKED:
        why = f"session {session_id} asks nothing: it is {found.state.value}"
    elif "answer" not in event.payload:
        why = "it has no `answer`"
    else:
        return None
    return f"this answers no question: {why}; `agentd answer` lists what is asked"


def publish(
    args: argparse.Namespace, bus: Bus, paths: Paths, event: NewEvent, *, system: bool = False
) -> None:
    """Write a person's event, print its id, say on stderr if nobody will act on it now."""
    with files_stay(bus):
        event_id = bus.publish(PERSON, event, priority=Priority.PERSON, system=system)
    assert event_id is not None, "without a dedup_key and a cause an event is always written"
    print_done(args, "sent", f"event {event_id}", event=event_id)
    note_idle(bus, paths, event.target)


def note_idle(bus: Bus, paths: Paths, target: str | None) -> None:
    """Say on stderr if nobody acts now on what was sent, to one agent or to all."""
    try:
        daemon = daemon_state(paths)
    except StorageError as error:  # what was sent is safe: who sends it again sends it twice
        note(f"the event waits: {error.what}", f"  hint: {error.hint}")
        return
    if daemon is None:
        note("the daemon is not running: the event waits; start it with `agentd run`")
    elif target is not None and (row := bus.agents.present().get(target)) and row.paused:
        note(f"{target} is paused: the event waits for `agentd resume {target}`")


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
