"""`agentd prune`: apply [retention] now, as the running daemon does by itself."""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Event

from agentd.bus import Bus, Opening
from agentd.commands.home import open_bus
from agentd.commands.output import print_json, say
from agentd.config.daemon import RetentionConfig, load_daemon
from agentd.paths import Paths, discover
from agentd.states import Exit
from agentd.storage import copies
from agentd.storage.retention import Retention
from agentd.supervisor.housekeeping import PRUNE_PREFIX

PAUSE_S = 0.01  # between two steps, at least: others want to write as well

EXAMPLES = """example:
  agentd prune --dry-run
  agentd prune

What [retention] says goes: by age, and the oldest beyond the size limit. Events that an agent has
yet to read become dead letters ("expired") first. The daemon does the same all the time, in small
steps; by hand it is for a changed agentd.toml, or while no daemon runs. --dry-run prunes a copy.

--json prints one object: done ("pruned"; null with --dry-run), dry_run, removed {events, sessions,
dead_letters, ...: how many}, expired (dead letters that it made), bytes_before, bytes_after (of
what the database holds)."""

WORDS = {
    "events": "events that all have read",
    "expired": "unread events, now dead letters",
    "unanswered": "questions, now dead letters",
    "sessions": "sessions",
    "dead_letters": "dead letters",
    "facts": "facts of removed agents",
    "agents": "removed agents",
}


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("--dry-run", action="store_true", help="say what would go; change nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prune, or say what would be pruned."""
    paths = discover()
    rules = load_daemon(paths.daemon_file).retention
    bus = open_bus(paths)
    if args.dry_run:
        done, before, after = _dry(bus, rules, paths)
    else:
        done, before, after = prune(bus, rules)
    bus.close()
    expired = done["expired"] + done["unanswered"]
    if args.json:
        removed = {what: done[what] for what in WORDS if what not in ("expired", "unanswered")}
        sizes = {"bytes_before": before, "bytes_after": after}
        told = {"done": None if args.dry_run else "pruned", "dry_run": args.dry_run}
        print_json({**told, "removed": removed, "expired": expired, **sizes})
        return Exit.OK
    verb = "would go" if args.dry_run else "went"
    for what, words in WORDS.items():
        if done[what]:
            say(f"{done[what]:>8} {words} {verb}")
    if not any(done[what] for what in WORDS):
        say("nothing is too old or too much")
    say(f"the database holds {after / 1e6:.1f} MB of at most {rules.database_bytes / 1e6:.0f} MB")
    return Exit.OK


def prune(bus: Bus, rules: RetentionConfig) -> tuple[Counter[str], int, int]:
    """Prune to the end; return what went by kind, and the bytes held before and after."""
    retention, pause = Retention(bus, rules), Event()
    before = retention.live_bytes()
    done: Counter[str] = Counter()
    while True:
        began = time.monotonic()
        step = retention.step()
        if step is None:
            return done, before, retention.live_bytes()
        done[step.what] += step.count
        pause.wait(max(PAUSE_S, time.monotonic() - began))


def _dry(bus: Bus, rules: RetentionConfig, paths: Paths) -> tuple[Counter[str], int, int]:
    with tempfile.TemporaryDirectory(prefix=PRUNE_PREFIX, dir=paths.data) as folder:
        copy = Path(folder) / "copy.db"
        copies.copy(bus.db.connection, copy)
        trial = Bus(copy, opening=Opening(create=False))
        try:
            return prune(trial, rules)
        finally:
            trial.close()
