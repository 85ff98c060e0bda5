"""Hands: how soon they are there, what a call through them costs, and what they take."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.config.agent import Permissions
from agentd.hands.orders import READY
from agentd.hands.permitted import orders_for
from agentd.process.channel import Channel
from agentd.process.child import Child, python
from agentd.process.supervisor_link import SupervisorLink
from agentd.testing import wait_for
from agentd.tools.closed import Closed
from agentd.tools.remote import Remote
from agentd.tools.toolbox import Toolbox

from .home import DEADLINE_S, ROOT, Home, memory_mb
from .memory import KIND, used_worker
from .table import Figure

STARTS, STARTS_QUICK = 15, 3
READS, READS_QUICK = 2_000, 200
MORE_MS, SHARE = 0.3, 0.2  # the aims: of a call, and of an agent's memory
LIBRARIES = "import ctypes, dataclasses, json, pathlib, socket, threading"


@dataclass
class Hands:
    """One agent's, and the seconds until they were ready."""

    child: Child
    channel: Channel
    ready_s: float

    @classmethod
    def start(cls, home: Home, folder: Path) -> "Hands":
        """Start them as the supervisor does."""
        scratch = home.root / "hands"
        scratch.mkdir(exist_ok=True)
        began = time.perf_counter()
        permissions = Permissions(read=(str(folder),))
        closed = Closed.of(home.paths, "x", None)
        orders = orders_for(permissions, closed, scratch, require=False)
        child = Child.spawn("x.hands", python("agentd.hands"), home.paths.locks, control=True)
        assert child.control is not None
        channel = Channel(child.control)
        channel.send(orders.document())
        assert READY in channel.receive(DEADLINE_S)[0]
        return cls(child, channel, time.perf_counter() - began)

    def end(self) -> None:
        """Kill them, and return when they are gone."""
        self.child.kill()
        wait_for(lambda: self.child.poll() is not None)
        self.child.close()


class Link(SupervisorLink):
    """Hands over hands that are there."""

    def __init__(self, hands: Hands) -> None:
        super().__init__(None)
        self._hands = hands

    def ask(self, *_: Any, **__: Any) -> tuple[dict[str, Any], list[int]]:
        """Return their channel."""
        assert self._hands.child.control is not None
        return {}, [self._hands.child.control.dup().detach()]


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield their start, a read through them beside one in the worker, and their memory."""
    folder = home.root / "notes"
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text("buy milk\n" * 20)
    ready, bare = [], []
    for _ in range(STARTS_QUICK if quick else STARTS):
        hands = Hands.start(home, folder)
        ready.append(hands.ready_s * 1e3)
        hands.end()
        bare.append(_interpreter())
    # Of what comes at once the least is the machine's own pace.
    yield Figure(
        "hands: ready", min(ready), "ms", min(bare), f"an interpreter: {LIBRARIES}", at_most=40
    )
    hands = Hands.start(home, folder)
    memory = memory_mb(hands.child.pid)
    permissions, closed = Permissions(read=(str(folder),)), Closed.of(home.paths, "x", None)
    remotes = {"hands": Remote(Link(hands), "hands")}
    reads = READS_QUICK if quick else READS
    through = _read_ms(Toolbox(permissions, remotes=remotes), reads)
    here = _read_ms(Toolbox(permissions, closed=closed), reads)
    hands.end()
    yield Figure(
        "hands: a file is read",
        through,
        "ms",
        here,
        "in the worker itself",
        at_most=round(here + MORE_MS, 2),
    )
    worker = used_worker(home)
    yield Figure(
        "hands: memory",
        memory,
        "MB",
        worker,
        "a worker after its first event",
        at_most=round(worker * SHARE, 1),
        note=KIND,
    )


def _read_ms(tools: Toolbox, reads: int) -> float:
    times = []
    for _ in range(reads):
        began = time.perf_counter()
        tools.call("ReadFile", {"path": "a.txt"})
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def _interpreter() -> float:
    """Return the milliseconds until an interpreter has imported what hands cannot do without."""
    began = time.perf_counter()
    argv = [sys.executable, "-P", "-c", f"{LIBRARIES}\nprint(flush=True)"]
    subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return (time.perf_counter() - began) * 1e3
