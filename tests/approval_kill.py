"""An approval killed at each of its writes to the database, and around its effect.

Run as `python -m tests.approval_kill PROGRAM FOLDER`, in a process of its own without threads; see
bus_kill.py, whose file system it uses. The loop, the sessions and the signatures are the real ones;
only the model is scripted.
"""

import os
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from agentd.agent import Agent, Kit, NoParams, Result
from agentd.approval.approval import Policy
from agentd.approval.kept import use
from agentd.approval.signature import forged
from agentd.approval.unanswered import give, looked_up, unanswered
from agentd.bus import Bus
from agentd.events import Event, Lane, NewEvent
from agentd.llm.decision import Choice
from agentd.loop import Loop
from agentd.paths import discover, private_folder
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import StepKind
from agentd.states import SessionState
from agentd.testing import ScriptedLLM
from agentd.worker.runner import settle
from tests.bus_kill import LANE, LIMITS, at_every_write, forked

KEY = b"k" * 32
DIRECT = Lane("worker", direct=True)
POLICY = Policy(asks=frozenset({"Ship"}))
NAMES = ("Ship", "Done")
INTERRUPTED = "interrupted in the middle: it may have happened or not"


class Shipper(Agent[NoParams]):
    """Ships once: its effect is a line in a file beside the database."""

    def __init__(self, file: Path) -> None:
        nothing: Any = None
        super().__init__(NoParams(), Kit("worker", "", nothing, {}, None))
        self._file = file

    def dispatch(self, decision: Choice) -> Result:
        fd = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{decision.args['parcel']}\n".encode())
        os.close(fd)
        return Result({"shipped": decision.args["parcel"]})

    def finish(self, done: Choice, event: Event, results: Any) -> Result:
        return Result({"results": len(results)})


def effects(path: Path) -> list[str]:
    file = path.with_suffix(".effects")
    return file.read_text().splitlines() if file.exists() else []


def script(log: str) -> Any:
    return ("Done", {}) if 'type="ship"' in log else ("Ship", {"parcel": "small"})


def verify(event: Event) -> str | None:
    return forged(event.event_type, event.target, event.payload, KEY)


def used(bus: Bus, path: Path, answer: Event) -> str | None:
    """Note that an answer is used, as a supervisor does: nothing of that is in the database."""
    paths = discover({"AGENTD_HOME": str(path.with_suffix(".home"))})
    private_folder(paths.keys)
    why: str | None = looked_up(bus, KEY, "worker", answer.id, partial(use, paths))["forged"]
    return why


def one_approval(path: Path, says: str = "yes") -> None:
    """Take an event through decision, question, answer and effect; or through what is left."""
    bus = Bus(path)
    sessions = Sessions(bus, verify=verify)
    while True:
        for lane in (DIRECT, LANE):
            if (event := bus.next(lane)) is not None:
                break
        else:
            waits = [one for one in unanswered(bus, KEY) if one.answer is None]
            if not waits:
                return
            give(bus, KEY, waits[0].asked.session, says)
            continue
        session = sessions.begin(lane, event, "v1", LIMITS)
        assert isinstance(session, Session), session
        loop = Loop(
            session,
            Shipper(path.with_suffix(".effects")),
            ScriptedLLM(script, names=NAMES),
            sessions.journal,
            idempotent=frozenset({"Ship"}),  # a yes is for once all the same
            policy=POLICY,
            call_deadline_s=5,
            log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""]),
            beat=lambda _promise: None,
            use=partial(used, bus, path),
        )
        settle(sessions.closing, session, loop.run())


def check(path: Path) -> bool:
    """Assert that nothing was approved or done twice; return whether it is all over."""
    bus = Bus(path)
    assert bus.db.run("PRAGMA integrity_check") == [("ok",)]
    assert bus.dead.list() == []
    rows = Sessions(bus).archive.list()
    assert len(rows) <= 1
    kinds = Counter(event.event_type for event in bus.events.list())
    assert kinds["person.asked"] <= 1 and kinds["person.answer"] <= kinds["person.asked"]
    done = effects(path)
    steps = Sessions(bus).archive.steps(rows[0].id) if rows else ()
    stages = Counter(step.kind for step in steps)
    assert max(stages[kind] for kind in StepKind if kind not in ("decision", "result")) <= 1
    assert stages[StepKind.STARTED] <= stages[StepKind.GRANTED] <= stages[StepKind.ASKED]
    assert len(done) <= stages[StepKind.STARTED], "done before it was said to have started"
    results = [step.payload for step in steps if step.kind is StepKind.RESULT]
    if results and "error" not in results[0]:
        assert done == ["small"] and results == [{"shipped": "small"}]
    elif results:
        assert results[0]["error"] == INTERRUPTED and stages[StepKind.STARTED] == 1
    ended = bool(rows) and rows[0].state is SessionState.ENDED
    if ended:
        assert [step.kind.value for step in steps] == [
            *("opening", "decision", "asked", "granted", "started", "result", "decision")
        ]
    bus.close()
    return ended


def every_write(folder: Path) -> None:
    """Kill it at each write to the database; a second process then finishes it."""
    at_every_write(folder, one_approval, check)


def every_write_of_a_no(folder: Path) -> None:
    """The same where the person says no: nothing is done, ever."""
    at_every_write(folder, lambda path: one_approval(path, "no too big"), check_no)


def check_no(path: Path) -> bool:
    """Assert that nothing was done; return whether it is all over."""
    assert effects(path) == []
    bus = Bus(path)
    archive = Sessions(bus).archive
    rows = archive.list()
    steps = archive.steps(rows[0].id) if rows else ()
    bus.close()
    assert len(rows) <= 1 and not {StepKind.GRANTED, StepKind.STARTED} & {s.kind for s in steps}
    ended = bool(rows) and rows[0].state is SessionState.ENDED
    if ended:
        assert [step.kind.value for step in steps] == [
            *("opening", "decision", "asked", "denied", "result", "decision")
        ]
        told = {"parcel": "small", "error": "a person said no: too big"}
        assert steps[-2].payload == told
    return ended


def around_the_effect(folder: Path) -> None:
    """Kill it right before and after what it does: the model is told, and it is not redone."""
    for when in ("before", "after"):
        path = folder / f"{when}.db"
        bus = Bus(path)
        bus.accept("worker", "v", subscribe=LANE.subscribe)
        bus.publish("person", NewEvent("repo.changed", {"n": 1}))
        bus.close()  # before the fork

        def victim(path: Path = path, when: str = when) -> None:
            real = Shipper.dispatch

            def dispatch(self: Shipper, decision: Choice) -> Result:
                if when == "after":
                    real(self, decision)
                os.kill(os.getpid(), signal.SIGKILL)
                raise AssertionError

            setattr(Shipper, "dispatch", dispatch)  # noqa: B010 - mypy allows no assignment
            one_approval(path)

        status = os.waitpid(forked(victim), 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        assert not check(path)
        assert os.waitpid(forked(lambda path=path: one_approval(path)), 0)[1] == 0  # type: ignore[misc]
        assert check(path)
        assert effects(path) == ([] if when == "before" else ["small"])
        bus = Bus(path)
        (result, _) = [s for s in Sessions(bus).archive.steps(1) if s.seq > 5]
        assert result.payload["error"] == INTERRUPTED, result
        bus.close()


if __name__ == "__main__":
    programs = (every_write, every_write_of_a_no, around_the_effect)
    {one.__name__: one for one in programs}[sys.argv[1]](Path(sys.argv[2]))
