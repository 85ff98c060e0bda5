"""`agentd paths`: where everything lives."""

import argparse
from dataclasses import fields

from agentd.commands.output import print_facts, print_json, say
from agentd.config.suggest import did_you_mean
from agentd.paths import Paths, discover
from agentd.states import Exit

EXAMPLES = """example:
  agentd paths
  open "$(agentd paths config)"

--json prints one object: the names below with their absolute paths."""

NAMES = (
    "config",
    "agents_d",
    "agents",
    "baml_src",
    "database",
    "models",
    "versions",
    "prompt_caches",
    "own_folders",
)


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="WHICH", help="print this path alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """Print all paths, or one."""
    found = _paths(discover())
    if args.name:
        if args.name not in found:
            there = f"{', '.join(found)}{did_you_mean(args.name, found)}"
            args.fail(f"no path is called {args.name!r}; there are: {there}")
        say(found[args.name])
    elif args.json:
        print_json(found)
    else:
        print_facts(found)
    return Exit.OK


def _paths(paths: Paths) -> dict[str, str]:
    roots = {field.name: str(getattr(paths, field.name)) for field in fields(paths)}
    return roots | {name: str(getattr(paths, name)) for name in NAMES}
