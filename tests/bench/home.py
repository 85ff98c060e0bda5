"""A throw-away home with admitted agents, and their real worker processes."""

import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from agentd.bus import Bus
from agentd.bus.wake import listening
from agentd.paths import Paths, discover
from agentd.process import environment
from agentd.process.channel import Channel
from agentd.process.child import Child, python
from agentd.process.fork_orders import ForkOrders
from agentd.process.process_title import ROOM
from agentd.testing import wait_for

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
ASKED, ANSWERED = "bench.asked", "bench.answered"
AGENT = f"""\
agent = "task"
done = "The note that was asked for is read."
subscribe = ["{ASKED}"]
[params]
instructions = "Read the note."
tools = ["ReadFile"]
publish = "{ANSWERED}"
[permissions]
read = ["/tmp"]
"""
SCHEDULE = 'schedule = { every = "24h" }\nmissed = "skip"\n'
# In a process of its own: admission imports BAML, and a process that did must not fork.
ADMIT = """
import sys
from agentd.admission.admit import admit
from agentd.bus import Bus
from agentd.bus.wake import listening
from agentd.paths import discover
paths = discover()
bus = Bus(paths.database)
for name in sys.argv[1:]:
    accepted = admit(name, paths)
    bus.accept(name, accepted.hash, subscribe=accepted.config.subscribe)
    print(accepted.hash)
"""


class Home:
    """A temporary AGENTD_HOME. Close it: it kills the workers and removes the folder."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
        self.paths: Paths = discover({"AGENTD_HOME": str(self.root)})
        self.paths.create()
        self.paths.create_private()
        self.environment = {**environment.for_model_server(), "AGENTD_HOME": str(self.root)}
        self.hashes: dict[str, str] = {}
        self.workers: list[Child] = []

    def drop(self, names: Sequence[str], text: str = AGENT) -> None:
        """Write the agents' files."""
        for name in names:
            (self.paths.agents_d / f"{name}.toml").write_text(text)

    def admit(self, names: Sequence[str], text: str = AGENT) -> None:
        """Write the agents' files and accept them, as the supervisor would; once per name."""
        new = [name for name in names if name not in self.hashes]
        if not new:
            return
        self.drop(new, text)
        hashes = subprocess.run(
            [sys.executable, "-c", ADMIT, *new],
            env=self.environment,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        ).stdout.split()
        self.hashes.update(zip(new, hashes, strict=True))

    def bus(self) -> Bus:
        """Return a connection of this process."""
        return Bus(self.paths.database, wake=self.paths.wake)

    def start(
        self, names: Sequence[str], server: ForkOrders | None = None, *, linked: bool = True
    ) -> list[Child]:
        """Start workers all at once, as the supervisor does; return when each waits on its lanes.

        `linked`: each has a supervisor to ask, and so its sandbox.
        """
        started = [self._start_one(name, server, linked) for name in names]
        for worker in started:
            self._wait_idle(worker)
        return started

    def _start_one(self, name: str, server: ForkOrders | None, linked: bool) -> Child:
        argv = python("agentd.worker", name, "--version", self.hashes[name])
        locks, env = self.paths.locks, self.environment
        if server is None:
            worker = Child.spawn(name, argv, locks, env=env, cwd=ROOT, control=linked)
        else:
            fork = partial(server.fork, argv, env, ROOT)
            worker = Child.begin(name, locks, fork, control=linked)
        self.workers.append(worker)
        return worker

    @contextmanager
    def fork_server(self) -> Iterator[tuple[Child, ForkOrders]]:
        """Have workers forked, by one that is gone afterwards."""
        argv = python("agentd.worker.forks", ROOM)
        server = Child.spawn(
            "agentd.workers", argv, self.paths.locks, env=self.environment, cwd=ROOT, control=True
        )
        self.workers.append(server)
        assert server.control is not None
        wait_for(partial(_said, server, "idle"), seconds=DEADLINE_S)
        yield server, ForkOrders(Channel(server.control))
        self.stop([server])

    def _wait_idle(self, worker: Child) -> None:
        """Wait for the beat that a worker sends right before it looks at its lanes.

        It asks for the socket on which it is woken, and is given it.
        """
        link = None if worker.control is None else Channel(worker.control)
        deadline = time.monotonic() + DEADLINE_S
        while not _said(worker, "idle"):
            told = [worker.heart_fd] if link is None else [worker.heart_fd, link.fileno()]
            select.select(told, [], [], 0.1)
            if link and (asked := link.receive_now()):
                with listening(self.paths.wake, worker.name) as sock:
                    link.send({"ok": True, "id": asked[0]["id"]}, [sock.fileno()])
            if time.monotonic() > deadline:
                raise RuntimeError(f"{worker.name} did not start")

    def stop(self, workers: Sequence[Child]) -> None:
        """Kill workers, and return when they are gone."""
        for worker in workers:
            worker.kill()
        for worker in workers:
            wait_for(partial(_dead, worker), seconds=DEADLINE_S)
            worker.close()
            self.workers.remove(worker)

    def close(self) -> None:
        """Leave nothing behind."""
        self.stop(list(self.workers))
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.paths.sockets, ignore_errors=True)


def _dead(worker: Child) -> bool:
    return worker.poll() is not None


def _said(worker: Child, state: str) -> bool:
    """Whether it has beaten in this state since the last look.

    Raises:
        RuntimeError: it is dead.
    """
    beats = worker.beats()
    if beats is None:
        said = Child.read(worker.output_fd) or b""
        raise RuntimeError(f"{worker.name} did not start: {said.decode(errors='replace')}")
    return any(beat.get("state") == state for beat in beats)


def memory_mb(pid: int) -> float:
    """Return a process's memory in MB: PSS on Linux, where shared pages are divided, else USS."""
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if rollup.exists():
        line = next(x for x in rollup.read_text().splitlines() if x.startswith("Pss:"))
        return int(line.split()[1]) / 1024
    return float(psutil.Process(pid).memory_full_info().uss) / 2**20


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has taken, all its threads together."""
    tasks = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
    if tasks:  # nanoseconds; utime and stime come in steps of 10 ms
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
