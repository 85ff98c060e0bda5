"""Memory of one worker, beside an interpreter that imports the same libraries and nothing else.

One process at a time, in turns: pages shared with a neighbour would flatter both.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agentd.events import NewEvent
from agentd.process.fork_orders import ForkOrders
from agentd.testing import FakeModelServer, Request, wait_for

from .home import AGENT, ANSWERED, ASKED, DEADLINE_S, ROOT, SCHEDULE, Home, memory_mb
from .table import Figure

ROUNDS, ROUNDS_QUICK = 3, 1
FORKED, FORKED_QUICK, SPAWNED, USED = 50, 5, 5, 5
PLAIN = "import apsw, pydantic, structlog"
SCHEDULED = f"{PLAIN}, apscheduler.schedulers.background"
BAML = f"{PLAIN}\nimport sys\nsys.path.insert(0, sys.argv[1])\nimport baml_client"
KIND = "PSS" if Path("/proc/self/smaps_rollup").exists() else "USS"


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield an idle worker, one with a schedule, and one that has answered an event."""
    home.admit(["plain"])
    home.admit(["scheduled"], AGENT.replace("[params]", f"{SCHEDULE}[params]", 1))
    client = str(home.paths.versions / "plain" / home.hashes["plain"])
    yield from _forked(home, FORKED_QUICK if quick else FORKED)
    rows: list[tuple[str, Callable[[], float], str, float | None, str]] = [
        ("idle worker", lambda: _idle(home, "plain"), PLAIN, 27.0, ""),
        ("idle worker with a schedule", lambda: _idle(home, "scheduled"), SCHEDULED, None, ""),
        ("worker after its first event", lambda: used_worker(home), BAML, None, " and a client"),
    ]
    for name, ours, code, aim, more in rows:
        pairs = [
            (ours(), _libraries(code, client)) for _ in range(ROUNDS_QUICK if quick else ROUNDS)
        ]
        yield Figure(
            f"memory: {name}",
            statistics.median(pair[0] for pair in pairs),
            "MB",
            statistics.median(pair[1] for pair in pairs),
            code.partition("\n")[0] + (", baml_py" + more if more else ""),
            at_most=aim,
            note=KIND,
        )


def _forked(home: Home, count: int) -> Iterator[Figure]:
    """Workers as the supervisor starts them where it can: what they have in common is shared."""
    names = [f"forked{number}" for number in range(count)]  # of events nobody else is to answer
    home.admit(names)
    with home.fork_server() as (server, orders):
        workers = home.start(names, orders)
        each = statistics.median(memory_mb(worker.pid) for worker in workers)
        share = memory_mb(server.pid)
        home.stop(workers)
        used = used_worker(home, names[:USED], orders)
    spawned = home.start(names[:SPAWNED])
    base = statistics.median(memory_mb(worker.pid) for worker in spawned)
    home.stop(spawned)
    yield Figure(
        f"memory: idle worker, one of {count} forked",
        each,
        "MB",
        base,
        f"one of {SPAWNED} spawned",
        at_most=10.0 if count == FORKED else None,
        note=f"{KIND}; the process that forks them: {share:.1f} MB",
    )
    yield Figure(f"memory: one of {USED} forked after their first event", used, "MB", note=KIND)


def _idle(home: Home, name: str) -> float:
    workers = home.start([name])
    memory = memory_mb(workers[0].pid)
    home.stop(workers)
    return memory


def used_worker(
    home: Home, names: Sequence[str] = ("plain",), server: ForkOrders | None = None
) -> float:
    """Return the memory of a worker that has answered an event; the middle one of several."""
    home.admit(names)
    bus = home.bus()

    def answer(request: Request) -> dict[str, object]:
        if "read_file" in str(request.body["messages"][-1]):
            return {"tool": "done", "result": "read"}
        return {"tool": "read_file", "path": "/tmp/none", "start": 1}

    with FakeModelServer(answer) as model:
        model.write_address(home.paths.run)
        workers = home.start(names, server, linked=False)
        before = bus.events.last_id()
        bus.publish("bench", NewEvent(ASKED, {"note": "none"}))

        def answered() -> bool:
            return len(bus.events.list(after=before, event_type=ANSWERED)) >= len(names)

        wait_for(answered, seconds=DEADLINE_S)
        memory = statistics.median(memory_mb(worker.pid) for worker in workers)
        home.stop(workers)
    bus.close()
    return memory


def _libraries(code: str, client: str) -> float:
    """Return what an interpreter takes that imports libraries and waits."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", f"{code}\nprint(flush=True)\ninput()", client],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    memory = memory_mb(process.pid)
    process.kill()
    process.communicate()
    return memory
