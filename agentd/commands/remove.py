"""`agentd remove`: take an agent out of service for good, and say what it leaves behind."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from agentd.commands.agent_file import agent_file, taken_up
from agentd.commands.home import open_bus
from agentd.commands.output import json_option, print_done, say
from agentd.config.duration import written
from agentd.config.last_good import effective_config
from agentd.errors import NotRunning, StorageError, UsageError, storage_errors
from agentd.paths import Paths, discover
from agentd.states import Exit
from agentd.terminal import counted, plain, rewrite

OLD = ".old"

EXAMPLES = """example:
  agentd remove repo_review
  agentd remove repo_review --yes    # without a question, as in a script

Its file is not deleted: it is put aside as NAME.toml.old, and putting it back undoes the removal.
What else stays, and for how long, is said. `agentd disable` turns an agent off and keeps its file.
Exits 2 where nobody can be asked and --yes is missing.

--json prints {done: "removed", agent, leaves: [{what, where}]}."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", metavar="NAME", help="the agent")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, put its file aside, wait until it is gone, and say what is left."""
    paths, name = discover(), args.name
    file = agent_file(paths, name)
    aside = _free(file)
    if not args.yes and not _agreed(name, aside):
        say(f"{name} stays")
        return Exit.FAILED
    with storage_errors(file, "make its folder writable", "cannot be put aside"):
        file.rename(aside)
    taken_up(paths, [name], f"{file} is put aside as {aside.name}", lambda agent: agent is None)
    left = [{"what": what, "where": where} for what, where in _leaves(name, aside, paths)]
    lines = (f"  {plain(one['what'])}: {plain(one['where'])}" for one in left)
    print_done(args, "removed", f"{name} is removed. It leaves:", *lines, agent=name, leaves=left)
    return Exit.OK


def _agreed(name: str, aside: Path) -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("nobody is there to ask", where=name, hint="add --yes")
    rewrite(f"remove {plain(name)}? Its file is kept as {plain(aside.name)}. [y/N] ", sys.stdout)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _free(file: Path) -> Path:
    """Return where the file is put aside: nothing that lies there is overwritten."""
    number, aside = 0, file.with_name(file.name + OLD)
    while aside.exists() or aside.is_symlink():
        number += 1
        aside = file.with_name(f"{file.name}.{number}{OLD}")
    return aside


def _leaves(name: str, aside: Path, paths: Paths) -> Iterator[tuple[str, str]]:
    """Yield what there still is of an agent, and where, or until when."""
    yield "its file, to put back", str(aside)
    for path in (paths.agents / f"{name}.py", paths.baml_src / f"{name}.baml"):
        if path.exists():
            yield "a file of yours", str(path)
    removed = written(effective_config(paths).retention.removed)
    if any((folder := paths.own_folders / name).glob("*")):
        yield f"its own folder, for {removed}", str(folder)
    if paths.versions.joinpath(name).exists():
        yield f"its accepted versions, for {removed}", str(paths.versions / name)
    if paths.log(name).parent.exists():
        yield "its log", str(paths.log(name).parent)
    try:
        bus = open_bus(paths)
    except (NotRunning, StorageError):  # there was none yet, or it is looked at by other commands
        return
    facts, letters = len(bus.facts.of(name)), bus.dead.counts().get(name, 0)
    bus.close()
    yield "events, results and sessions, as those of others", "`agentd events`, `agentd sessions`"
    if facts:
        yield f"{counted(facts, 'fact')} that it remembered", f"for {removed}"
    if letters:
        yield counted(letters, "dead letter"), f"`agentd dead list {name}`"
