"""`agentd run`: the daemon in the foreground. What launchd, a terminal and the demo start."""

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING

from agentd import __version__
from agentd.commands.home import agent_files
from agentd.commands.output import note
from agentd.commands.seed import seed
from agentd.config.toml import read_toml
from agentd.errors import ConfigError
from agentd.paths import Paths, discover
from agentd.process import child
from agentd.states import Exit

if TYPE_CHECKING:
    from agentd.config.daemon import DaemonConfig

NAMED = 8  # agents that are on; more are counted

EXAMPLES = """example:
  agentd run
  AGENTD_HOME=/tmp/second agentd run

The first run in an empty home writes the shipped configuration there, its agents disabled:
`agentd enable NAME` turns one on, once its file says what it needs. It says at its start what runs
and where to look, and "stopped" at its end. SIGTERM, Ctrl-C and the end of its terminal
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

    supervise(paths, starts=partial(_introduce, paths))
    note("stopped")
    return Exit.OK


def _introduce(paths: Paths, config: "DaemonConfig") -> None:
    """Say what starts, with what, and where to look."""
    note(
        f"{__version__} starts, pid {os.getpid()}",
        f"  home    {paths.user}",
        f"  model   {_model(config, paths)}",
        f"  agents  {_agents(paths)}",
        "  look    `agentd status`, `agentd ui`, `agentd logs -f`; Ctrl-C stops it",
    )


def _model(config: "DaemonConfig", paths: Paths) -> str:
    from agentd.models import store

    if config.model.url is not None:
        return f"{config.model.name} at {config.model.url}"
    try:
        store.resolve(config.model.name, paths.models)
    except ConfigError as error:
        return f"{error.what}: {error.hint}"
    return config.model.name


def _agents(paths: Paths) -> str:
    """Return which agents are on by their files; whether these are right is checked later."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(agent_files(paths)):
        try:
            table = read_toml(paths.agents_d / f"{name}.toml")
        except ConfigError:
            table = {}  # what is wrong with it `status` and the log say
        found[table.get("enabled") is not False].append(name)
    on, off = found[True], found[False]
    if not on:
        turn_on = "; `agentd enable NAME` turns one on" if off else "; `agentd new` makes one"
        return f"none is on, {len(off)} off{turn_on}"
    named = ", ".join(on[:NAMED]) + (" ..." if len(on) > NAMED else "")
    return f"{len(on)} on ({named}), {len(off)} off"
