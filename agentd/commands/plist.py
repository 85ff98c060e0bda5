"""`agentd plist`: the LaunchAgent of this user, as text."""

import argparse

from agentd.commands.output import say_lines
from agentd.macos.launchctl import LABEL
from agentd.macos.launchd import program, render
from agentd.paths import discover
from agentd.states import Exit

EXAMPLES = f"""example:
  agentd plist > ~/Library/LaunchAgents/{LABEL}.plist
  launchctl bootstrap gui/$UID ~/Library/LaunchAgents/{LABEL}.plist

Prints the plist with this user's paths; AGENTD_HOME is carried over where it is set."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options: none."""


def run(args: argparse.Namespace) -> int:
    """Print the plist."""
    # As references, which mean the same: a terminal obeys none of them, a parser reads all.
    text = render(discover(), program()).encode("ascii", "xmlcharrefreplace").decode()
    say_lines(text.removesuffix("\n"))
    return Exit.OK
