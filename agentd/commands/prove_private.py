"""`agentd prove-private`: tries each known way out of an agent's sandbox."""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

from agentd.commands.home import no_such_agent
from agentd.commands.output import GREEN, RED, YELLOW, colour, plain, print_json, say, say_lines
from agentd.config.agent import Permissions, load_agent
from agentd.config.agent_files import agent_names
from agentd.config.last_good import effective_config
from agentd.escape.escape import PLACES, Comparison, Proof, prove
from agentd.escape.outside import OURS
from agentd.hands.orders import Orders
from agentd.hands.permitted import orders_for, written_in
from agentd.paths import Paths, discover, private_folder
from agentd.sandbox.level import reached
from agentd.states import Exit
from agentd.tools.closed import Closed

EXAMPLES = """example:
  agentd prove-private
  agentd prove-private repo_review
  agentd prove-private --json | jq '.attempts[] | select(.hands.verdict == "open")'

Starts a process in the sandbox that the hands of agent NAME have (without NAME: of an agent that
lists nothing), and a program from in there. Both try to reach files, processes and sockets that are
put up for them outside, and agentd's own files, of which none is changed. The same is tried without
a sandbox, so that an attempt that always fails is no proof.

HANDS, and PROGRAM that they start:
  refused  it fails in the sandbox, and succeeds without
  visible  it succeeds, and may: it only tells that something is there
  -        it fails without a sandbox, too: it proves nothing here
  OPEN     it got out

Exits 1 when something got out, or when there is no whole sandbox here and agentd.toml requires it.

--json prints one object: agent, level {name, why}, holds, changed (what was changed or reached
outside, in words), counts, attempts: group, what, hands and program {verdict, why}, free
{outcome, why}: how it ended without a sandbox."""

FILES_MAX = 100  # looked at for one to try
WIDTH = 60  # of what is tried
SHOWN = {
    "refused": ("refused", GREEN),
    "visible": ("visible", YELLOW),
    "open": ("OPEN", RED),
    "untried": ("-", YELLOW),
}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="with this agent's permissions")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Try everything, and say how it went."""
    paths = discover()
    private_folder(paths.run)
    proof = prove(orders_of(args.name, paths), paths.run, places_of(paths))
    level = reached()
    if args.json:
        print_json(
            {
                "agent": args.name,
                "level": {"name": level.name, "why": level.why},
                "holds": proof.holds,
                "changed": proof.changed,
                "counts": proof.counts(),
                "attempts": [tried.document() for tried in proof.tried],
            }
        )
    else:
        say_lines("\n".join(table(proof)))
        say()
        for line in ends(proof):
            say(plain(line))
        if level.why:
            say(colour(plain(f"the sandbox is {level.name}: {level.why}"), YELLOW))
    return Exit.OK if proof.holds else Exit.FAILED


def table(proof: Proof) -> Iterator[str]:
    """Yield the lines of the table, the attempts of each group below its name."""
    yield f"{'':{WIDTH}}  {'HANDS':9}PROGRAM"
    group = ""
    for tried in proof.tried:
        if tried.attempt.group != group:
            group = tried.attempt.group
            yield group
        words = [SHOWN[tried.verdict(place)] for place in PLACES]
        hands, program = (colour(f"{word:9}", code) for word, code in words)
        yield f"  {tried.attempt.what:{WIDTH - 2}}  {hands}{program}".rstrip()


def ends(proof: Proof) -> Iterator[str]:
    """Yield what came of it: what got out, what could not be tried, and the counts."""
    for tried in proof.tried:
        for place in PLACES:
            if tried.verdict(place) == "open":
                yield f"OPEN from {place}: {_named(tried)} ({tried.made[place].why})"
    for what in proof.changed:
        yield f"OPEN from {what}"
    for tried in proof.tried:
        if tried.free.outcome != "done":
            yield f"proves nothing here: {_named(tried)} ({tried.free.why})"
    counts = proof.counts()
    yield (
        f"{len(proof.tried)} attempts from {len(PLACES)} places: {counts['refused']} refused, "
        f"{counts['visible']} only see, {counts['untried']} prove nothing here, "
        f"{counts['open']} got out"
    )


def _named(tried: Comparison) -> str:
    return f"{tried.attempt.group}: {tried.attempt.what}"


def orders_of(name: str | None, paths: Paths) -> Orders:
    """Return the orders of this agent's hands; without a name of one that lists nothing.

    Raises:
        AgentdError: there is no such agent, or its file is wrong.
    """
    permissions = Permissions()
    if name is not None:
        names = agent_names(paths.agents_d)
        if name not in names:
            raise no_such_agent(name, names)
        permissions = load_agent(paths.agents_d / f"{name}.toml").permissions
    config = effective_config(paths)
    key = config.model.api_key_file
    closed = Closed.of(paths, name or "", key)
    scratch, require = paths.hands_scratch(name or ""), config.sandbox.required
    own, written = None if name is None else paths.own_folders / name, partial(written_in, paths)
    return orders_for(permissions, closed, scratch, written, require=require, own=own)


def places_of(paths: Paths) -> dict[str, str]:
    """Return what there is of agentd's own, as `escape.Outside` names it."""
    ours = (
        *(paths.database, paths.backups, paths.token, paths.secrets),
        *(paths.keys, paths.agents_d, paths.versions, paths.logs),
    )
    places = {
        what: str(file)
        for what, place in zip(OURS, ours, strict=True)
        for file in (place, *sorted(place.rglob("*")))[:FILES_MAX]
        if file.is_file()
    }
    if paths.status_socket.is_socket():
        places["socket"] = str(paths.status_socket)
    with suppress(OSError, ValueError, KeyError):
        url = json.loads(paths.model_address.read_text())["url"]
        places["model"] = urlsplit(url).netloc
    return places
