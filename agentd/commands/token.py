"""`agentd token`: what other programs show to the model server at its port."""

import argparse
from contextlib import suppress

from agentd.commands.daemon_commands import obeyed
from agentd.commands.output import json_option, print_done
from agentd.errors import NotRunning
from agentd.paths import discover
from agentd.states import Exit

EXAMPLES = """example:
  agentd token
  agentd token --renew
  curl -H "Authorization: Bearer $(agentd token --show)" http://127.0.0.1:24363/v1/models

Prints where the token of the model server lies. Only programs that come by its port need it: agents
and agentd's own commands have other ways in. A renewed one holds at once, and the one before is
refused: let programs read the file again.

--json prints {done ("renewed"; null without --renew), file}; with --show also token."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("--renew", action="store_true", help="make another one first")
    parser.add_argument("--show", action="store_true", help="print the token itself")
    json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print where it lies, or the token; with `--renew` of another one."""
    paths = discover()
    if args.renew:
        from agentd.supervisor.model import renew_token

        paths.create()
        renew_token(paths.token)
        with suppress(NotRunning):
            obeyed(paths, "token", {})  # if its file goes, it is this one that is written again
    try:
        token = paths.token.read_text().strip()
    except FileNotFoundError as error:
        raise NotRunning(
            "there is no token yet",
            where=str(paths.token),
            hint="`agentd run` writes one, and so does `agentd token --renew`",
        ) from error
    about = {"file": str(paths.token)} | ({"token": token} if args.show else {})
    done = "renewed" if args.renew else None
    print_done(args, done, token if args.show else str(paths.token), **about)
    return Exit.OK
