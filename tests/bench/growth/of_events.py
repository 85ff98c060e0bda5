"""What grows with the events in the outbox."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from agentd.cli import main as command
from agentd.events import Lane, NewEvent
from agentd.paths import HOME_VARIABLE, discover
from tests.sqlite_work import sqlite_work

from .filled import file_bytes, fill
from .scaling import FLAT, Growth, Measured, least

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
QUICK = SIZES[:3]
LANE = Lane("agent0", False, ("thing.seen1", "thing.found2"))
WANTED, UNWANTED = NewEvent("thing.seen1", {"n": 0}), NewEvent("thing.other", {"n": 0})
COMMANDS = {
    "status": ["status", "--json"],
    "events -n 20": ["events", "-n", "20"],
    "results": ["results"],
    "results of an agent without any": ["results", "agent3"],
    "sessions": ["sessions"],
    "search, a rare word": ["search", "needle"],
    "search, a word of every event": ["search", "common"],
}


def measure(quick: bool) -> Iterator[Growth]:
    """Yield each figure with its values."""
    found = Measured("events")
    for size in QUICK if quick else SIZES:
        with tempfile.TemporaryDirectory(prefix="agentd-growth-") as folder:
            _at(size, Path(folder), found)
    yield from found.rows()


def _at(size: int, folder: Path, found: Measured) -> None:
    paths = discover({HOME_VARIABLE: str(folder)})
    paths.create()
    paths.create_private()
    fill(paths, size, datetime.now(UTC))
    found.add(size, "database", "bytes an event", file_bytes(paths.database) / size, FLAT)
    with _home(folder):
        for name, words in COMMANDS.items():
            _both(found, size, name, partial(_said, words))
    shutil.rmtree(paths.sockets, ignore_errors=True)


def _both(found: Measured, size: int, name: str, work: Callable[[], object]) -> None:
    """Note the time of it, and the steps that SQLite takes for it."""
    aim = "at most linear" if "every" in name else FLAT
    found.add(size, name, "ms", least(work) * 1000, aim)
    with sqlite_work() as steps:
        work()
    found.add(size, name, "steps of SQLite", sum(steps.values()), aim)


def _said(words: list[str]) -> str:
    """Run one command here; return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        code = command(words)
    assert code in (0, 3), out.getvalue()
    return out.getvalue()


@contextlib.contextmanager
def _home(folder: Path) -> Iterator[None]:
    before = os.environ.get(HOME_VARIABLE)
    os.environ[HOME_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(HOME_VARIABLE)
        if before is not None:
            os.environ[HOME_VARIABLE] = before
