"""Publishing and consuming, in turns with raw sqlite3.

There are two baselines. The same job in the bus's own tables shows what our code and driver cost;
an encoded row in the least tables that hold an event shows what indexes and checks cost as well.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agentd.bus import Bus
from agentd.events import Lane, NewEvent

from . import raw
from .home import Home
from .table import Figure, Turns

PAYLOAD = {"repo": "/home/me/example", "commit": "4f2a9c1", "files": ["a.py", "b.py"], "size": 1234}
EVENT = NewEvent("bench.asked", PAYLOAD)
TEXT = json.dumps(PAYLOAD)
LANE = Lane("reader", False, ("bench.asked",))
BLOCK = 1000  # operations of one side in one turn: several checkpoints of the WAL each
ROUNDS, ROUNDS_QUICK = 15, 2
SAME = "raw sqlite3, the same job and tables"
LEAST = "raw sqlite3, the least table, no JSON"


def measure(quick: bool, _home: Home) -> Iterator[Figure]:
    """Yield publish and consume against both baselines, and publish with a consumer to wake."""
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder:
        path = Path(folder)
        (path / "w").mkdir()
        for name in ("bus.db", "same.db"):
            made = Bus(path / name)
            made.lanes.open(LANE)
            made.close()
        bus, waking = Bus(path / "bus.db"), Bus(path / "waking.db", wake=path / "w")
        waking.accept("reader", "v", subscribe=LANE.subscribe)
        ear = waking.doorbell.ear("reader")
        same = raw.Same(raw.connect(path / "same.db"))
        least = raw.Least(raw.connect(path / "least.db"))

        def consume() -> None:
            event = bus.next(LANE)
            assert event is not None
            bus.step(LANE, event)

        def wake() -> None:
            waking.publish("writer", EVENT)
            ear.drain()

        publishes: dict[str, Callable[[], object]] = {
            "ours": lambda: bus.publish("writer", EVENT),
            SAME: lambda: same.publish(PAYLOAD),
            LEAST: lambda: least.publish(TEXT),
            "woken": wake,
        }
        consumes = {"ours": consume, SAME: same.consume, LEAST: least.consume}
        published, consumed = Turns(), Turns()
        for _ in range(ROUNDS_QUICK if quick else ROUNDS):
            for name, operation in publishes.items():
                published.add(name, _rate(operation))
            for name, operation in consumes.items():
                consumed.add(name, _rate(operation))
        for one in (bus, waking, ear, same.db, least.db):
            one.close()
    note = "with the datagram to one subscriber, and its receipt"
    yield published.figure("bus: publish", "/s", "ours", SAME, ratio_at_least=0.85)
    yield published.figure("bus: publish", "/s", "ours", LEAST)
    yield published.figure("bus: publish and wake", "/s", "woken", SAME, note=note)
    yield consumed.figure("bus: consume (next, step)", "/s", "ours", SAME, ratio_at_least=0.55)
    yield consumed.figure("bus: consume (next, step)", "/s", "ours", LEAST)


def _rate(operation: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(BLOCK):
        operation()
    return BLOCK / (time.perf_counter() - started)
