"""Has an agent's file checked: what it says, here; its code, in a process that may hang."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agentd.clock import Clock
from agentd.errors import AgentdError, Problem
from agentd.paths import Paths, private_folder
from agentd.process.child import Child
from agentd.process.jobs import in_thread
from agentd.states import Exit
from agentd.supervisor.argv import Commands
from agentd.supervisor.children import Reaper
from agentd.supervisor.one_job import Ran, run_to_end
from agentd.supervisor.worker_forks import WorkerForks

DEADLINE_S = 30.0  # for one check; a module that imports for longer is as good as hanging
AT_ONCE = 2  # checks: they are CPU-bound, and the machine has other work
SLOT_S = 3.0  # a check that takes longer goes on beside the others: hanging ones must block nobody


@dataclass(frozen=True)
class CheckResult:
    """What a check came to."""

    ok: bool
    version: str = ""
    waiting: bool = False  # not wrong, only incomplete: a module or .baml is missing
    changed: bool = False  # its MCP tools are not what was accepted: nothing of it may run
    problem: Problem | None = None
    module: str = ""  # its `agent = ...`, "" where that cannot be told
    folders: tuple[str, ...] = ()  # that it may touch, as its file has them
    enabled: bool = True
    subscribe: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mcp: tuple[str, ...] = ()  # MCP servers whose tools it names
    asks: Mapping[str, str] = field(default_factory=dict)
    start: Literal["now", "beginning"] = "now"
    triggers: Mapping[str, Any] = field(default_factory=dict)  # for `Bus.accept`
    wakes: Mapping[str, Any] = field(default_factory=dict)  # the same, for `status`
    again: bool = False  # it says nothing about the file: ask again later


def refused(what: str, where: str = "", hint: str = "", **more: Any) -> CheckResult:
    """Return a CheckResult that is not ok."""
    problem = AgentdError(what, where=where, hint=hint).document()
    return CheckResult(ok=False, problem=problem, **more)


class Gate:
    """Lets a few through at a time: those that go first in their order, then the latest comer.

    The latest first: a good file that is dropped beside thousands of wrong ones is soon reached.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._first: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    async def enter(self, *, first: bool) -> None:
        """Wait for a place."""
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        (self._first if first else self._others).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()  # it was given one in the same moment
            raise

    def leave(self) -> None:
        """Give the place to the next one."""
        while self._first or self._others:
            place = self._first.popleft() if self._first else self._others.pop()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class Checks:
    """Runs checks, `AT_ONCE` at a time."""

    def __init__(
        self,
        paths: Paths,
        commands: Commands,
        reaper: Reaper,
        clock: Clock,
        forks: WorkerForks | None = None,
    ) -> None:
        self._paths, self._commands, self._reaper, self._clock = paths, commands, reaper, clock
        self._forks = forks
        self._gate = Gate(AT_ONCE)

    async def check(self, name: str, *, first: bool) -> CheckResult:
        """Check agents.d/NAME.toml with all that it names. Never raises for what it finds.

        `first`: it goes before all that are not: an agent that runs before one that never did.
        """
        if self._forks is not None:
            await self._forks.settled()
        await self._gate.enter(first=first)
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOT_S, self._gate.leave)
        try:
            seen = await in_thread(self._commands.precheck, name, self._paths)
            if (error := seen.problem) is not None:
                result = refused(error.what, error.where, error.hint, waiting=seen.waiting)
            else:
                result = await self._admit(name)
        finally:
            if slow.when() > loop.time():  # it has not left the gate yet
                slow.cancel()
                self._gate.leave()
        enabled = result.enabled if result.ok else seen.enabled
        return replace(result, module=seen.module, folders=seen.folders, enabled=enabled)

    async def _admit(self, name: str) -> CheckResult:
        try:
            private_folder(self._paths.data)  # where it runs, also before the first daemon
            ran = await run_to_end(self._start(name), self._reaper, DEADLINE_S)
        except (OSError, AgentdError) as error:
            return refused(f"cannot be checked: {error}", again=True)
        finally:
            with contextlib.suppress(OSError):  # else one for every file that was ever dropped
                (self._paths.locks / f"{name}.admission.lock").unlink()
        where = str(self._paths.agents_d / f"{name}.toml")
        if ran.code is None:
            hint = (
                "its module waits or runs on: where it is imported, or in `__init__`, `chosen`, "
                "`published`, `folders`, `prompt_arguments` or a validator, which the check calls"
            )
            return refused(f"its check took longer than {DEADLINE_S:g} s", where, hint)
        return _verdict(ran, ran.code, where)

    def _start(self, name: str) -> Child:
        job, argv = f"{name}.admission", self._commands.admission(name)
        if self._forks is not None:
            return self._forks.admission(job, argv)
        return Child.spawn(job, argv, self._paths.locks, cwd=self._paths.data, clock=self._clock)


def _verdict(ran: Ran, code: int, where: str) -> CheckResult:
    try:
        answer = json.loads(ran.answer)
        ok = answer["ok"] is True
    except (ValueError, TypeError, KeyError):  # it died before, or halfway
        lines = reversed(ran.output.decode("utf-8", "replace").splitlines())
        last = next((line.strip() for line in lines if line.strip()), "it said nothing")
        return refused(f"its check died (exit {code}): {last[:300]}", where, "see its module")
    if ok:
        return CheckResult(
            ok=True,
            version=str(answer["version"]),
            enabled=bool(answer.get("enabled", True)),
            subscribe=tuple(answer.get("subscribe", ())),
            publishes=tuple(answer.get("publishes", ())),
            decisions=tuple(answer.get("decisions", ())),
            labels=answer.get("labels", {}),
            mcp=tuple(answer.get("mcp", ())),
            asks=answer.get("asks", {}),
            start="beginning" if answer.get("start") == "beginning" else "now",
            triggers=answer.get("triggers", {}),
            wakes=answer.get("wakes", {}),
        )
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    return refused(
        str(error.get("what", "is refused")),
        str(error.get("where") or where),
        str(error.get("hint", "")),
        waiting=bool(answer.get("waiting", False)),
        changed=bool(answer.get("changed", False)),
        # A passing fault (75), such as a full disk, is no judgement of the file.
        again=code == Exit.TEMPORARY,
    )
