"""`agentd answer`: what agents wait for, and a person's yes, no or words to it."""

import argparse
import shutil
import unicodedata
from collections.abc import Sequence
from typing import Any

from agentd.approval.kept import note_seen, seen
from agentd.approval.signature import person_key
from agentd.approval.unanswered import Unanswered, give, unanswered
from agentd.commands.home import open_bus
from agentd.commands.output import (
    BOLD,
    colour,
    local,
    note,
    plain,
    print_done,
    print_json,
    say,
    whole,
)
from agentd.commands.send import note_idle
from agentd.paths import discover
from agentd.states import Exit
from agentd.storage.database_files import files_stay
from agentd.views.open_questions import document, exact

EXAMPLES = """example:
  agentd answer                       # what waits, with the exact arguments
  agentd answer 7 yes
  agentd answer 7 no not that folder
  agentd answer 8 the one in Paris    # to a question

ID is the session's. An approval is for these arguments, and once; `no` may have a reason, which the
agent's model reads. Nobody's answer in time is a no, and each approval says when. Works without a
running daemon: the answer waits in the database. Exits 2 for an ID that there is not, or an answer
that is none; 1 where nothing waits any more, or somebody answered before, or where `agentd answer`
has not shown yet what is asked now; 3 without a database.

--json prints a list of {agent, session, asked (what an answer names), kind (approval, question),
question, tool, args, since, expires (null: a question), answer (null, or what its agent has yet to
read)}; after an answer, {done: "answered", session, event}. A program answers what it showed by its
digest: agentd answer 7 --asked DIGEST yes"""

INDENT = "  "


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("id", nargs="?", type=whole, metavar="ID", help="the session that asks")
    parser.add_argument("words", nargs="*", metavar="yes|no|TEXT", help="`no` may have a reason")
    parser.add_argument("--asked", metavar="DIGEST", help="`asked`, as --json showed it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """List what waits, or answer it."""
    if args.id is not None and not args.words:
        args.fail("what is the answer? write yes, no, or words")
    paths = discover()
    bus = open_bus(paths, writes=args.id is not None)
    key = person_key(paths)
    if args.id is None:
        odd: list[str] = []
        found = list(unanswered(bus, key, odd=lambda id, why: odd.append(f"session {id}: {why}")))
        if args.json:
            print_json([document(one) for one in found])
        else:
            _print(found)
            note_seen(paths, [one.asked.digest for one in found])
        for text in odd:
            note(text)
        return Exit.OK
    with files_stay(bus):
        shown = seen(paths) if args.asked is None else {args.asked}
        answered, event_id = give(bus, key, args.id, " ".join(args.words), shown, args.asked)
    print_done(args, "answered", f"event {event_id}", session=args.id, event=event_id)
    note_idle(bus, paths, answered.agent)
    return Exit.OK


def _print(found: Sequence[Unanswered]) -> None:
    if not found:
        say("nothing waits for you")
    for number, one in enumerate(found):
        asked = one.asked
        if number:
            say()
        until = f", a no after {local(asked.expires)}" if asked.expires is not None else ""
        head = colour(f"{asked.session}", BOLD)
        say(f"{head}  {plain(one.agent)}, since {local(asked.since)}{until}")
        if asked.expires is None:
            _print_long(f"{INDENT}asks: ", plain(asked.question))
        else:
            say(f"{INDENT}wants to do {colour(plain(asked.tool), BOLD)}")
            for name, value in asked.args.items():
                _print_argument(name, value)
        if one.answer is not None:
            said = plain(str(one.answer.payload["answer"]))
            say(f"{INDENT}answered: {said}; {plain(one.agent)} has yet to read that")
        elif asked.expires is None:
            say(f"{INDENT}agentd answer {asked.session} TEXT")
        else:
            say(f"{INDENT}agentd answer {asked.session} yes   or   no REASON")


def _print_argument(name: str, value: Any) -> None:
    """Print one argument exactly, with a bar before each line where it has several."""
    lines = exact(value)
    if len(lines) == 1:
        _print_long(f"{INDENT * 2}{plain(name)}: ", plain(lines[0]))
        return
    say(f"{INDENT * 2}{plain(name)}: {len(lines)} lines")
    for line in lines:
        _print_long(f"{INDENT * 3}| ", plain(line))


def _print_long(head: str, text: str) -> None:
    """Print text in lines of the terminal's width: what goes on has a mark before it.

    The terminal would break it itself, and blanks in the right number make a line of their own.
    """
    width, line = shutil.get_terminal_size().columns, ""
    for character in text:
        if _cells(head) + _cells(line + character) > width and line:
            say(head + line)
            head, line = f"{INDENT * 3}> ", ""
        line += character
    say(head + line)


def _cells(text: str) -> int:
    """Return at most how many places of a terminal's line a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WFA" else 1 for c in text)
