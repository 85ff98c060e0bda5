"""`agentd run`: the daemon in the foreground. What launchd, a terminal and the demo start."""

import argparse

from agentd.commands.output import note
from agentd.commands.seed import seed
from agentd.paths import discover
from agentd.process import child
from agentd.states import Exit

EXAMPLES = """example:
  agentd run
  AGENTD_HOME=/tmp/second agentd run

The first run in an empty home writes the shipped configuration there, its agents disabled: edit
agents.d/NAME.toml, and the agent starts when you save. SIGTERM, Ctrl-C and the end of its terminal
stop everything in order; without a terminal, or under nohup, SIGHUP reloads. Exits 0 after a stop,
1 when another daemon holds the home, 75 when trying again later may help, 78 when only a change of
the configuration does."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options: none."""


def run(args: argparse.Namespace) -> int:
    """Create the folders, seed an empty home, and supervise until told to stop."""
    child.child_side()  # the demo holds our lifeline: what it started ends with it
    paths = discover()
    paths.create()
    if written := seed(paths):
        note(f"wrote {len(written)} files of the shipped configuration to {paths.config}")
    from agentd.supervisor.main import run as supervise

    supervise(paths)
    return Exit.OK
