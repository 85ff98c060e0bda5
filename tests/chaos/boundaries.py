"""A session killed once at each of its boundaries, and what each kill leaves.

Run as `python -m tests.chaos.boundaries PROGRAM FOLDER`, in a process of its own without threads:
it forks a worker for each kill. The worker is the real one; only its model is scripted, and some of
its methods are wrapped, so that it dies by SIGKILL right before or right after one of its calls.
"""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import structlog
from pydantic import BaseModel

from agentd.admission.version import Accepted, load_version, read_version
from agentd.agent import Kit
from agentd.approval.approval import Policy
from agentd.bus import Bus
from agentd.bus.lanes import Lanes
from agentd.config.daemon import DaemonConfig
from agentd.events import PERSON, Event, Lane, NewEvent
from agentd.loop import Ending, Loop
from agentd.process.heart import Heart
from agentd.sessions.closing import Closing
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.testing import ScriptedLLM
from agentd.tools.toolbox import Toolbox
from agentd.worker.runner import Facts
from agentd.worker.worker import Worker
from tests.bus_kill import forked
from tests.chaos.audit import Left, audit, read
from tests.chaos.home import PIPELINE, PLACED, Home
from tests.supervised import remove_sockets

NAME = "intake"
OUTPUTS = {NAME: PIPELINE[NAME][1]}
LANE = Lane(NAME, False, (PLACED,))
# Right before and right after each of these something is different on disk, or in the world.
BOUNDARIES = (
    *("begin", "record opening order.placed"),
    *("record decision Check", "dispatch Check", "record result check"),
    *("record decision Ship", "dispatch Ship", "record result ship"),
    *("record decision Done", "finish", "close"),
)
FAULTS = tuple(f"{when} {what}" for what in BOUNDARIES for when in ("before", "after"))
ALL_STEPS = [one.removeprefix("record ") for one in BOUNDARIES if one.startswith("record ")]


class Check(BaseModel):
    tool: Literal["check"] = "check"


class Ship(BaseModel):
    tool: Literal["ship"] = "ship"
    parcel: str = "small"


class Done(BaseModel):
    tool: Literal["done"] = "done"
    grade: str = "a"


TYPES: dict[str, type[BaseModel]] = {"Check": Check, "Ship": Ship, "Done": Done}


def script(log: str) -> BaseModel:
    """Check, ship, done: by what the log says of it."""
    if 'type="ship"' in log:
        return Done()
    return Ship() if 'type="check"' in log else Check()


class ScriptedRunner:
    """What `agentd.worker.runner.Runner` is to the worker, with a scripted model."""

    def __init__(self, accepted: Accepted, bus: Bus) -> None:
        self._bus = bus
        self._version = load_version(accepted.folder)
        self._tools = Toolbox(accepted.config.permissions)

    def run(
        self,
        session: Session,
        journal: Journal,
        log: Any,
        beat: Callable[[float], None],
        use: Callable[[Event], str | None],
    ) -> Ending:
        """Run one session."""
        memory = Facts(self._bus.facts.of(NAME))
        kit = Kit(NAME, "", self._tools, memory, SimpleNamespace(**TYPES))
        return Loop(
            session,
            self._version.agent(self._version.params, kit),
            ScriptedLLM(script, names=TYPES, typed=TYPES),
            journal,
            idempotent=self._version.agent.idempotent,
            policy=Policy(),
            call_deadline_s=5,
            log=log,
            beat=beat,
            use=use,
        ).run()


Name = Callable[[Any, tuple[Any, ...]], tuple[int, str]]  # the event's id, the boundary's name


def wrap(cls: type, method: str, name: Name, fault: str) -> None:
    """Let `cls.method` die before or after its call, if that is the fault."""
    real = getattr(cls, method)

    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        event, what = name(self, args)
        if fault == f"{event} before {what}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(self, *args, **kwargs)
        if fault == f"{event} after {what}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(cls, method, wrapped)


def work(home: Home, accepted: Accepted, fault: str) -> None:
    """Answer all that waits, or die of the fault."""
    wrap(Sessions, "begin", lambda _, args: (args[1].id, "begin"), fault)
    wrap(Journal, "record", lambda _, a: (a[0].event.id, f"record {a[1].kind} {a[1].type}"), fault)
    wrap(Closing, "close", lambda _, args: (args[0].event.id, "close"), fault)
    wrap(Loop, "dispatch", lambda o, a: (o.session.event.id, f"dispatch {a[0].name}"), fault)
    wrap(Loop, "finish", lambda loop, _: (loop.session.event.id, "finish"), fault)
    quiet: Any = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    worker = Worker(accepted, home.paths, DaemonConfig(), Heart(None), quiet)
    runner: Any = ScriptedRunner(accepted, worker.bus)
    worker._runner = runner
    while worker.bus.next(LANE) is not None:
        assert worker.work() == 0


def expected(fault: str) -> list[str]:
    """What must be on disk after a fault: all steps recorded before it, and not one more."""
    when, what = fault.split(" ", 1)
    done = list(BOUNDARIES[: BOUNDARIES.index(what) + (when == "after")])
    if fault.startswith(("after record opening", "after record decision")):
        done.pop()  # its transaction was still open
    return [one for one in ALL_STEPS if f"record {one}" in done]


def advance_first() -> None:
    """Break the promise: step the lane before the work instead of with its end."""
    begin, step = Sessions.begin, Lanes.step

    def begin_and_step(self: Sessions, lane: Lane, event: Event, *more: Any) -> Any:
        begun = begin(self, lane, event, *more)
        step(self._bus.lanes, lane, event)
        return begun

    setattr(Sessions, "begin", begin_and_step)  # noqa: B010 - mypy allows no assignment to a method
    setattr(Lanes, "step", lambda self, lane, event: None)  # noqa: B010


def prepared(folder: Path) -> tuple[Home, Accepted]:
    """Make the home and accept its first agent, without BAML in this process."""
    home = Home(folder)
    home.create()
    home.paths.create_private()
    admission = [sys.executable, "-m", "agentd.admission", NAME]
    environ = {**os.environ, **home.environment}
    version = json.loads(subprocess.check_output(admission, env=environ))["version"]
    bus = Bus(home.paths.database)
    bus.accept(NAME, version, subscribe=LANE.subscribe, start="beginning")
    bus.close()
    return home, read_version(home.paths.versions / NAME / version)


def place(home: Home, number: int) -> int:
    """Place an order; return its event's id."""
    bus = Bus(home.paths.database)
    event = bus.publish(PERSON, NewEvent(PLACED, {"n": number, "path": []}))
    bus.close()  # before the next fork
    assert event is not None
    return event


def kill(home: Home, accepted: Accepted, event: int, fault: str) -> None:
    """Let a worker die of the fault."""
    status = os.waitpid(forked(lambda: work(home, accepted, f"{event} {fault}")), 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (fault, status)


def steps_of(left: Left, event: int) -> list[str]:
    """What the event's session has recorded."""
    found = [session for session in left.sessions if session.event == event]
    assert len(found) <= 1
    return [f"{step.kind} {step.name}" for session in found for step in session.steps]


def every_boundary(folder: Path) -> None:
    """Kill one order's session at each boundary; then let the rest be answered, and look."""
    home, accepted = prepared(folder)
    placed = []
    for number, fault in enumerate(FAULTS, 1):
        event = place(home, number)
        placed.append(event)
        kill(home, accepted, event, fault)
        left = read(home.paths.database, home.journal)
        assert steps_of(left, event) == expected(fault), (fault, steps_of(left, event))
        answers = [row.kind for row in left.events.values() if row.cause == event]
        whole = ["parcel.shipped", "order.checked"] if fault == "after close" else []
        assert answers == whole, (fault, answers)
    assert os.waitpid(forked(lambda: work(home, accepted, "")), 0)[1] == 0

    report = audit(home.paths.database, home.journal, OUTPUTS)
    assert report.problems == [], report
    left = read(home.paths.database, home.journal)
    for fault, event in zip(FAULTS, placed, strict=True):
        assert steps_of(left, event) == ALL_STEPS, fault
        lines = [line for line in left.journal if line["event"] == event]
        done = Counter(f"{line['tool']} {line['what']}" for line in lines)
        # Check was carried out and not recorded: it may run again, and did.
        again = fault in ("after dispatch Check", "before record result check")
        assert done["check start"] == 1 + again, (fault, done)
        # Ship must not: what was cut off there may have happened or not, and the session says so.
        cut_off = fault in (
            "before dispatch Ship",
            "after dispatch Ship",
            "before record result ship",
        )
        assert done["ship effect"] == (fault != "before dispatch Ship"), (fault, done)
        (session,) = [session for session in left.sessions if session.event == event]
        (result,) = session.results("ship")
        assert ("interrupted" in result.payload.get("error", "")) is cut_off, (fault, result)
    print(len(FAULTS), "kills")


def broken_promise(folder: Path) -> None:
    """A worker that steps its lane before the work loses an event, and the audit finds it."""
    home, accepted = prepared(folder)
    first = place(home, 1)
    kill(home, accepted, first, "after record result check")
    assert os.waitpid(forked(lambda: work(home, accepted, "")), 0)[1] == 0
    assert audit(home.paths.database, home.journal, OUTPUTS).problems == []
    advance_first()  # in this process, and so in all that are forked from it
    second = place(home, 2)
    kill(home, accepted, second, "after record result check")
    third = place(home, 3)
    assert os.waitpid(forked(lambda: work(home, accepted, "")), 0)[1] == 0
    problems = audit(home.paths.database, home.journal, OUTPUTS).problems
    assert any(problem.startswith(f"lost: event {second} ") for problem in problems), problems
    assert not any(f"event {third} " in problem for problem in problems), problems
    print("found", len(problems))


if __name__ == "__main__":
    programs = (every_boundary, broken_promise)
    {one.__name__: one for one in programs}[sys.argv[1]](Path(sys.argv[2]))
    remove_sockets(Home(Path(sys.argv[2])).paths)
