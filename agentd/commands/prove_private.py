"""`agentd prove-private`: tries each known way out of an agent's sandbox."""

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from agentd.commands.home import no_such_agent
from agentd.commands.output import GREEN, RED, YELLOW, colour, plain, print_json, say, say_lines
from agentd.config.agent import Permissions, load_agent
from agentd.config.agent_files import agent_names
from agentd.config.last_good import effective_config
from agentd.errors import PermissionRefused, ToolError
from agentd.paths import Paths, discover, expanded, private_folder
from agentd.proof.proof import PLACES, Proof, Tried, prove
from agentd.sandbox.level import reached
from agentd.sandbox.policy import SandboxPolicy, base_read, executables
from agentd.states import Exit
from agentd.tools.shell import PROGRAM_PATH, find_program

EXAMPLES = """examples:
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
    require = effective_config(paths).sandbox.level == "require"
    private_folder(paths.run)
    proof = prove(_policy(args.name, paths), paths.run, _places(paths), require=require)
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


def _named(tried: Tried) -> str:
    return f"{tried.attempt.group}: {tried.attempt.what}"


def _policy(name: str | None, paths: Paths) -> SandboxPolicy:
    if name is None:
        return hands_policy(Permissions(), paths)
    names = agent_names(paths.agents_d)
    if name not in names:
        raise no_such_agent(name, names)
    return hands_policy(load_agent(paths.agents_d / f"{name}.toml").permissions, paths)


def _places(paths: Paths) -> dict[str, str]:
    """Return what there is of agentd's own, as `proof.Outside` names it."""
    files = sorted(paths.agents_d.glob("*.toml"))
    places: dict[str, Any] = {
        "database": paths.database,
        "token": paths.token,
        "model address": paths.model_address,
        "agents": paths.agents_d,
        "versions": paths.versions,
        "logs": paths.logs,
        "socket": paths.status_socket,
        **({"agent": files[0]} if files else {}),
    }
    found = {what: str(path) for what, path in places.items() if path.exists()}
    with suppress(OSError, ValueError, KeyError):
        found["model server"] = urlsplit(json.loads(paths.model_address.read_text())["url"]).netloc
    return found


def hands_policy(permissions: Permissions, paths: Paths) -> SandboxPolicy:
    """Return what the hands of an agent with these permissions may touch."""
    programs: list[str] = []
    for program in permissions.run:
        with suppress(PermissionRefused, ToolError):  # not installed: nothing to be run
            programs += executables(find_program(program, permissions.run), PROGRAM_PATH)
    ours = (paths.config, paths.agents, paths.baml_src, paths.data, paths.logs, paths.run)
    return SandboxPolicy(
        read=(*base_read(), *map(_absolute, permissions.read)),
        write=tuple(map(_absolute, permissions.write)),
        run=tuple(programs),
        closed=tuple(map(str, (*ours, paths.sockets))),
    )


def _absolute(path: str) -> str:
    return str(expanded(path))
