"""A consumer in a process of its own: `python -m tests.bench.consumer wake|poll|bare`.

Prints one line per event: its id, and the monotonic nanosecond at which it had it. `bare` has no
bus and prints the moment of each datagram.
"""

import sys
import threading
import time

from agentd.bus import Bus
from agentd.bus.wake import Ear
from agentd.events import Lane
from agentd.paths import Paths, discover

LANE = Lane("reader", False, ("bench.asked",))
POLL_S = 0.1
SAFETY_S = 5.0  # the poll behind the wake-up


def main(mode: str) -> None:
    """Consume until killed."""
    paths = discover()
    if mode == "bare":
        _bare(paths)
    bus = Bus(paths.database, wake=paths.wake)
    ear = bus.doorbell.ear("reader") if mode == "wake" else None
    never = threading.Event()
    print("ready", flush=True)
    while True:
        while (event := bus.next(LANE)) is not None:
            now = time.monotonic_ns()
            bus.step(LANE, event)
            print(event.id, now, flush=True)
        if ear is None:
            never.wait(POLL_S)
        else:
            ear.wait(SAFETY_S)


def _bare(paths: Paths) -> None:
    ear = Ear(paths.wake, "bare")
    print("ready", flush=True)
    while True:
        ear.wait(SAFETY_S)
        print(time.monotonic_ns(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
