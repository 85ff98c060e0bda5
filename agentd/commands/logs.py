"""`agentd logs [-f] [NAME]`: the structured logs of all processes, merged by time."""

import argparse
import itertools
from pathlib import Path

from agentd.commands import row_filter
from agentd.commands.home import check_known, open_bus
from agentd.commands.output import INTEGER_MAX, note, print_json, say, say_lines
from agentd.commands.row_filter import RowFilter
from agentd.config.suggest import listed
from agentd.errors import NotRunning, StorageError
from agentd.events import DAEMON
from agentd.logs.newest import ReadBudget, all_back
from agentd.logs.view import LEVELS, POLL_S, Place, log_names, parse, rank, read, render
from agentd.paths import Paths, discover
from agentd.states import Exit
from agentd.terminal import pause

MODEL = "model"  # what the model server is called in the logs

EXAMPLES = """example:
  agentd logs -f
  agentd logs repo_review -n 500
  agentd logs --since 1h --level warning
  agentd logs --json | jq 'select(.level == "error")'

NAME is an agent, or agentd (the daemon itself), or model. An agent's view includes what the daemon
says of it. Exits 1 for a NAME that nobody is or was.

--json prints the lines as they are in the files, one object each: ts (UTC), level, event (a stable
name), agent, and where they apply session_id, event_id, turn, duration_ms and more."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    parser.add_argument("--level", choices=LEVELS, help="only of this level and above")
    row_filter.arguments(parser, "--lines", limit=100)
    parser.add_argument("--json", action="store_true", help="print the JSON lines")


def run(args: argparse.Namespace) -> int:
    """Print the last lines, and go on with new ones if asked to."""
    paths = discover()
    if not paths.logs.is_dir():
        raise NotRunning(
            "there are no logs yet", where=str(paths.logs), hint="start the daemon: `agentd run`"
        )
    for name in args.names:
        if name not in log_names(paths.logs):
            _check_name(name, paths)
    rows = RowFilter.of(args)

    def wanted(line: str) -> bool:
        return _fits(line, rows, args.level)

    last: list[str] = []
    any_at_all, ends = False, dict[Path, Place]()
    for ts, line, _ in all_back(paths, ReadBudget(INTEGER_MAX), args.names, ends):
        any_at_all, in_time = True, ts >= (rows.since or "")
        if rows.limit and in_time and wanted(line):
            last.append(line)
        if len(last) == rows.limit or not in_time:
            break
    if not last and rows.limit and not args.follow:
        where = f" of {listed(args.names)}" if args.names else ""
        note(f"no{' such' if any_at_all else ''} lines{where} in {paths.logs}")
    more = read(paths, args.names, wait=_wait, begin=ends) if args.follow else ()
    for line in itertools.chain(reversed(last), filter(wanted, more)):
        if not args.json:
            say_lines(render(line), flush=args.follow)
        elif entry := parse(line):  # a line torn by a crash is no JSON
            if line.isprintable():
                say(line, flush=args.follow)
            else:  # the same object, without what a terminal would obey
                print_json(entry, indent=None)
    return Exit.OK


def _wait() -> bool:
    pause(POLL_S)
    return True


def _fits(line: str, rows: RowFilter, level: str | None) -> bool:
    """Whether a line is wanted. One that is none of ours, torn by a crash, has no time or level."""
    if not (rows.narrows or level):
        return True
    entry = parse(line)
    if not entry:
        return not (rows.since or rows.until or level) and rows.fits({"": line})
    if level and rank(level) > rank(entry.get("level")):
        return False
    return rows.at(str(entry.get("ts", ""))) and rows.fits(entry)


def _check_name(name: str, paths: Paths) -> None:
    """Make sure that somebody of this name might log, who has not yet.

    Raises:
        AgentdError: nobody does.
    """
    try:
        bus = open_bus(paths)
    except (NotRunning, StorageError):  # logs are read where all else is broken
        bus = None
    check_known(name, paths, bus, DAEMON, MODEL)
