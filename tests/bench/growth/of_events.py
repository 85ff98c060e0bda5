"""What grows with the events in the outbox."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from agentd.bus import Bus, Opening
from agentd.config.daemon import RetentionConfig
from agentd.events import Lane, NewEvent
from agentd.storage import copies, health
from agentd.storage.retention import Retention
from agentd.views.causes import event_document
from agentd.views.open_questions import open_questions
from agentd.views.result_list import results
from tests.bench.home import Home
from tests.bench.turn import Bench, scripted
from tests.sqlite_work import sqlite_work

from .filled import SPACING_S, file_bytes, fill
from .in_process import at_home, said
from .scaling import FLAT, LINEAR, Growth, Measured, least

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
QUICK = SIZES[:3]
LONG = 1_000_000  # from so many events on, what is linear is done once
BLOCK, BLOCKS = 100, 20  # of publishing and reading; the quickest block counts
SESSIONS = 30
PRUNED = 20  # steps
KEPT = timedelta(days=3600)
LANE = Lane("agent0", False, ("thing.seen1", "thing.found2"))
WANTED, UNWANTED = NewEvent("thing.seen1", {"n": 0}), NewEvent("thing.other", {"n": 0})
COMMANDS = {
    "status": (["status", "--json"], FLAT),
    "events -n 20": (["events", "-n", "20"], FLAT),
    "events of an agent without any": (["events", "--agent", "nobody"], LINEAR),
    "results": (["results"], FLAT),
    "results of an agent without any": (["results", "agent3"], FLAT),
    "sessions": (["sessions"], FLAT),
    "sessions of an agent without any": (["sessions", "--agent", "nobody"], FLAT),
    "sessions that wait": (["sessions", "--state", "parked"], FLAT),
    "search, a rare word": (["search", "needle"], FLAT),
    "search, a word of every event": (["search", "common"], LINEAR),
}


def measure(quick: bool) -> Iterator[Growth]:
    """Yield each figure with its values."""
    found = Measured("events")
    for size in QUICK if quick else SIZES:
        with closing(Home()) as home:
            _at(size, home, found)
    yield from found.rows()


def _at(size: int, home: Home, found: Measured) -> None:
    path = home.paths.database
    fill(home.paths, size, datetime.now(UTC))
    home.paths.agents_d.joinpath("nobody.toml").write_text("")  # known, and never at work
    found.add(size, "database", "bytes an event", file_bytes(path) / size, FLAT)
    with at_home(home.root):
        for name, (words, aim) in COMMANDS.items():
            _both(found, size, name, partial(said, words), aim)
    _both(found, size, "opening and closing the database", partial(_open, path))
    _both(found, size, "an event's tree", partial(_with, path, partial(event_document, event_id=9)))
    _both(found, size, "what the page's Today reads", partial(_with, path, _today))
    runs, copy = (1, path.with_name("copy.db")) if size >= LONG else (3, path.with_name("copy.db"))
    took = least(lambda: copies.backup(path, copy, force=True), runs=runs, seconds=0)
    found.add(size, "backup", "s", took)
    copy.unlink()
    found.add(
        size, "doctor, the database's part", "s", least(lambda: health.wrongs(path), runs=runs)
    )
    _read_and_written(found, size, home)
    _pruned(found, size, path)


def _read_and_written(found: Measured, size: int, home: Home) -> None:
    bus = home.bus()
    publish, poll, stale, consume = list[float](), list[float](), list[float](), list[float]()
    for _ in range(BLOCKS):
        publish.append(_block(lambda: bus.publish("writer", UNWANTED)))
        poll.append(_block(lambda: bus.next(LANE)))
        for _ in range(BLOCK):
            bus.publish("writer", UNWANTED)
            stale.append(least(lambda: bus.next(LANE), runs=1, seconds=0))
        for _ in range(BLOCK):
            bus.publish("writer", WANTED)
        consume.append(_block(lambda: _consume(bus)))
    named = {"publish": publish, "caught-up poll": poll, "consume (next, step)": consume}
    named["poll after an event of another type"] = stale
    for name, times in named.items():
        found.add(size, name, "us", min(times) * 1e6, FLAT)
    bus.close()
    bench = Bench(home.paths)
    model = scripted()
    turn = min(bench.session(model) for _ in range(SESSIONS))
    bench.bus.close()
    found.add(size, "a turn, its durable writes included", "ms", turn, FLAT)


def _consume(bus: Bus) -> None:
    event = bus.next(LANE)
    assert event is not None
    bus.step(LANE, event)


def _block(work: Callable[[], object]) -> float:
    """Return the seconds of one of BLOCK runs."""

    def block() -> None:
        for _ in range(BLOCK):
            work()

    return least(block, runs=1, seconds=0) / BLOCK


def _pruned(found: Measured, size: int, path: Path) -> None:
    """Prune the older half by age, a few steps of it; and look where there is nothing to do."""
    bus = Bus(path)
    rules = RetentionConfig(
        events=max(timedelta(hours=1), timedelta(seconds=SPACING_S * size / 2)),
        database_bytes=10**12,
        sessions=KEPT,
    )
    bus.db.run("UPDATE cursors SET last_seen_id = (SELECT max(id) FROM outbox)")
    retention, each = Retention(bus, rules), list[float]()
    for _ in range(PRUNED):
        began = time.process_time()
        step = retention.step()
        if step is None:
            break
        each.append((time.process_time() - began) / step.count)
    found.add(size, "prune, of an event that goes", "us", min(each) * 1e6, FLAT)
    idle = Retention(bus, RetentionConfig(events=KEPT, database_bytes=10**12, sessions=KEPT))
    took = least(lambda: idle.step())
    found.add(size, "prune, where nothing is to go", "us", took * 1e6, FLAT)
    bus.close()


def _open(path: Path) -> None:
    Bus(path, opening=Opening(create=False)).close()


def _with(path: Path, read: Callable[[Bus], object]) -> None:
    bus = Bus(path, opening=Opening(create=False, read_only=True))
    read(bus)
    bus.close()


def _today(bus: Bus) -> object:
    return results(bus, limit=21), open_questions(bus), bus.agents.list()


def _both(
    found: Measured, size: int, name: str, work: Callable[[], object], aim: str = FLAT
) -> None:
    """Note the time of it, and the steps that SQLite takes for it."""
    found.add(size, name, "ms", least(work) * 1000, aim)
    with sqlite_work() as steps:
        work()
    found.add(size, name, "steps of SQLite", sum(steps.values()), aim)
