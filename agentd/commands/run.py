"""`agentd run`: the daemon in the foreground. What launchd, a terminal and the demo start."""

import argparse
from pathlib import Path

from agentd import process
from agentd.commands.output import note
from agentd.errors import StorageError
from agentd.paths import Paths, discover, shipped
from agentd.states import Exit
from agentd.whole import write_whole

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
    process.child_side()  # the demo holds our lifeline: what it started ends with it
    paths = discover()
    paths.create()
    if copied := seed(paths):
        note(f"first run: wrote {len(copied)} configuration files to {paths.config}")
    from agentd.supervisor import run as supervise

    supervise(paths)
    return Exit.OK


def seed(paths: Paths) -> list[Path]:
    """Copy the shipped configuration into a home that has none; return the files written.

    Raises:
        StorageError: a file cannot be written.
    """
    if paths.daemon_file.exists() or any(paths.agents_d.glob("*.toml")):
        return []
    source = shipped() / "config"
    copied = []
    for file in sorted(p for p in source.rglob("*") if p.suffix in (".toml", ".json")):
        target = paths.config / file.relative_to(source)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, file.read_bytes(), mode=None)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}", where=str(target), hint="make it writable"
            ) from error
        copied.append(target)
    return copied
