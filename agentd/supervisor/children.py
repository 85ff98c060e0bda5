"""Children in an event loop: processes, their pipes and timers around `restart.Life`."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agentd.clock import Clock, iso
from agentd.errors import AgentdError, Problem, StorageError
from agentd.logs.logger import Logger
from agentd.process.channel import Channel, ChannelClosed
from agentd.process.child import Child
from agentd.process.crash import Crash
from agentd.process.heart import STOPPING
from agentd.states import WorkerState
from agentd.supervisor.child_output import ChildOutput
from agentd.supervisor.restart import DueAction, Ended, Life

BEAT_DEPTH = 3  # of what a beat tells: ways by name, each with its problem
KILLED_S = 2.0  # for a killed child to be gone
PROMISE_MAX_S = 3600.0  # a longer promise counts as this one: it would switch the watch off
# What a child cannot be started for, and is none of its fault: a full or read-only disk, limits of
# the machine, an interpreter that is away while it is upgraded. Such an error parks nobody.
PASSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "EAGAIN", "ENOMEM", "ENOENT")
)
DRAIN_READS = 16  # of a dead child's pipes, 64 KiB each; more than the kernel holds
# Of the `SleepDetector`.
TICK_S = 1.0  # between two checks
SLACK_S = 1.0  # by which a check may be late on a loaded machine
RECENT_S = 3.0  # for so long after it woke, beats may still be on their way; below BEAT_GRACE_S


class Reaper:
    """Tells everyone concerned that some child has died. One SIGCHLD may stand for many.

    `sleep_detector` notices where this process stood still, so that no child seems to have.
    """

    def __init__(self, clock: Clock) -> None:
        self.sleep_detector = SleepDetector(clock)
        self._watchers: set[Callable[[], None]] = set()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Install the signal handler; only on the main thread's loop."""
        loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def reap(self) -> None:
        """Let each watcher look whether its own child is dead."""
        for watcher in tuple(self._watchers):
            watcher()

    def add(self, watcher: Callable[[], None]) -> None:
        """Call `watcher` after each death."""
        self._watchers.add(watcher)

    def discard(self, watcher: Callable[[], None]) -> None:
        """Stop calling it."""
        self._watchers.discard(watcher)


class ControlReader(Protocol):
    """Who hears what a process says by its control socket."""

    def end(self) -> None:
        """The process is gone; closes the socket."""


class Managed:
    """One child that is kept running: spawned, watched, restarted, stopped.

    Every change of state is logged, and `changed` is called with what an exit came to, if it was
    one. `hear` begins to hear what a new process says by its control socket.
    """

    def __init__(
        self,
        name: str,
        spawn: Callable[[], Child],
        life: Life,
        reaper: Reaper,
        changed: Callable[[Ended | None], None] = lambda ended: None,
        *,
        hear: Callable[[Child], ControlReader] | None = None,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.name = name
        self.life = life
        self.beat: dict[str, Any] = {}  # the last one: state, promise_s and what else it tells
        self.problem: Problem | None = None  # the child's own
        self.damaged = False  # the child found the database damaged
        self.broken = False  # the child found its version broken
        self.code: int | None = None  # of the last exit
        self.crash: Crash | None = None  # how the process before crashed; the next one is told
        self._spawn = spawn
        self._reaper = reaper
        self._on_change = changed
        self._hear = hear
        self.hearing: ControlReader | None = None
        self._log = log
        self._clock = clock
        self._output = ChildOutput(name, log, clock)
        self._child: Child | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._gone.set()

    @property
    def pid(self) -> int | None:
        """The process, None without one."""
        return self._child.pid if self._child else None

    def document(self) -> dict[str, Any]:
        """Return what `status` says of any child."""
        life = self.life
        return {
            "state": life.state.value,
            "stopping": life.stopping,
            "pid": self.pid,
            "since": iso(life.since),
            "restarts": life.restarts,
            "crashes": life.crashes,
            "reason": life.reason,
            "beat": self.beat,
        }

    def start(self) -> None:
        """Start it, unless a process exists already."""
        if self._child is not None:
            return
        self.beat, self.problem, self.code = {}, None, None
        self.damaged = self.broken = False
        try:
            child = self._spawn()
        except (OSError, AgentdError) as error:
            if isinstance(error, AgentdError):
                self.problem = error.document()
            passing = isinstance(error, StorageError) or getattr(error, "errno", None) in PASSING
            why = getattr(error, "what", None) or str(error)
            ended = self.life.unstartable(why, passing=passing)
            self._arm()
            self._changed(ended)
            return
        if child.took_over is not None:
            self._log.warning("worker.took_over", agent=self.name, killed_group=child.took_over)
        self._child = child
        self._gone.clear()
        loop = asyncio.get_running_loop()
        loop.add_reader(child.heart_fd, self._on_beat)
        loop.add_reader(child.output_fd, self._on_output)
        self.hearing = self._hear(child) if self._hear is not None else None
        self._reaper.add(self.reap)
        self.life.spawned()
        self._arm()
        self._changed()

    def restart(self) -> None:
        """Start it, or stop it in order and start it again."""
        if self._child is None:
            self.start()
        else:
            self.stop(WorkerState.STARTING)

    def stop(self, rest: WorkerState, reason: str = "", *, grace_s: float | None = None) -> None:
        """Stop it in order and let it rest in `rest`. Returns at once; see `gone`."""
        before = (self.life.state, self.life.reason)
        must_stop = self.life.stop(rest, reason, grace_s=grace_s)
        self._arm()
        if must_stop and self._child is not None:
            self._child.terminate()
        elif self._child is None and (self.life.state, self.life.reason) != before:
            self._changed()

    def hand_over(self, document: Mapping[str, Any], sock: socket.socket | None = None) -> None:
        """Send it a document, and a socket of ours, by its control socket.

        Raises:
            AgentdError: it does not run, or takes nothing at the moment.
        """
        if self._child is None or self._child.control is None:
            state = f"{self.name} is {self.life.state.value}"
            raise AgentdError(f"{state}: {self.life.reason}" if self.life.reason else state)
        fds = [] if sock is None else [sock.fileno()]
        try:
            Channel(self._child.control).send(document, fds, deadline_s=0)
        except (ChannelClosed, TimeoutError) as error:  # it has just ended, or was stopped
            raise AgentdError(f"{self.name} takes nothing: {error}") from error

    def kill(self) -> None:
        """Kill its whole group at once."""
        if self._child is not None:
            self._child.kill()

    async def gone(self) -> None:
        """Return when no process is left."""
        await self._gone.wait()

    def reap(self) -> None:
        """If the process is dead, take note of its end and act on it."""
        child = self._child
        if child is None or (code := child.poll()) is None:
            return
        self._reaper.discard(self.reap)
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.heart_fd)
        loop.remove_reader(child.output_fd)
        if self.hearing is not None:
            self.hearing.end()
        for _ in range(DRAIN_READS):
            if not self._read_beats(child):
                break
        for _ in range(DRAIN_READS):
            if not (data := child.read(child.output_fd)):
                break
            self._output.feed(data)
        child.close()
        self._child, self.code = None, code
        last_line = self._output.end()
        said = self.problem["what"] if self.problem else last_line
        ended = self.life.exited(code, said, in_order=self.beat.get("state") == STOPPING)
        if self.life.own_doing:
            self.crash = Crash(child.pid, self.life.own_doing)
        self._arm()
        self._gone.set()
        self._changed(ended)
        if ended is Ended.AGAIN:
            self.start()

    def _changed(self, ended: Ended | None = None) -> None:
        life = self.life
        keys = {"reason": life.reason, "pid": self.pid, "exit": self.code}
        known = {key: value for key, value in keys.items() if value not in (None, "")}
        write = self._log.warning if ended in (Ended.CRASHED, Ended.PARKED) else self._log.info
        state = life.state.value
        write("worker.state", agent=self.name, state=state, restarts=life.restarts, **known)
        self._on_change(ended)

    def _on_beat(self) -> None:
        child = self._child
        if child is not None and self._read_beats(child) is None:
            asyncio.get_running_loop().remove_reader(child.heart_fd)
            self.reap()  # most likely dead; if it lives on, its promise will break

    def _read_beats(self, child: Child) -> bool | None:
        messages = child.beats()
        for message in messages or ():
            problem = message.pop("problem", None)
            if isinstance(problem, dict):
                self.problem = {key: str(problem.get(key, "")) for key in ("what", "where", "hint")}
                self.damaged = message.get("damaged") is True
                self.broken = message.get("broken") is True
            promise = message.get("promise_s")
            if not isinstance(promise, int | float) or not promise > 0:
                continue
            if problem is None:
                self.problem = None  # it goes on: what it reported is over
            # No deeper: an agent's own code can write here, and what nests stops whoever reads it.
            self.beat = {key: told for key, told in message.items() if not _nests(told)}
            if self.life.beat(min(promise, PROMISE_MAX_S)):
                self.crash = None  # it has written that down, before its first beat
                self._changed()
        self._arm()
        return None if messages is None else bool(messages)

    def _on_output(self) -> None:
        child = self._child
        if child is None:
            return
        data = child.read(child.output_fd)
        if data == b"":
            asyncio.get_running_loop().remove_reader(child.output_fd)
        elif data:
            self._output.feed(data)

    def _arm(self) -> None:
        deadline = self.life.deadline
        if self._timer is not None:
            # A deadline that moved back needs no new timer: `_on_timer` looks again. Beats come
            # often and their deadlines pass never.
            if deadline is not None and self._timer.when() <= deadline + self._offset():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(deadline + self._offset(), self._on_timer)

    def _offset(self) -> float:
        return asyncio.get_running_loop().time() - self._clock.monotonic()

    def _on_timer(self) -> None:
        self._timer = None
        slept_s = self._reaper.sleep_detector.check()
        if slept_s and self.life.alive and not self.life.stopping:
            self.life.late(slept_s)
        match self.life.due():
            case DueAction.START:
                self.start()
            case DueAction.HUNG:
                stopped = self._child is not None and self._child.suspended()
                if stopped:
                    self.life.suspended()
                self._log.warning(
                    "worker.hung", agent=self.name, pid=self.pid, beat=self.beat, stopped=stopped
                )
                self.kill()
            case DueAction.KILL:
                self._log.warning("worker.killed", agent=self.name, pid=self.pid)
                self.kill()
            case None:
                pass
        self._arm()


def _nests(told: object, deepest: int = BEAT_DEPTH) -> bool:
    inner = told.values() if isinstance(told, dict) else told if isinstance(told, list) else None
    return inner is not None and (
        deepest == 0 or any(_nests(value, deepest - 1) for value in inner)
    )


class SleepDetector:
    """Notices that the machine slept, or stood still, by the time between its checks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = clock.monotonic()
        self._slept_s, self._woke = 0.0, float("-inf")

    def check(self) -> float:
        """Return for how many seconds it stood still, if it woke just now; else 0."""
        now = self._clock.monotonic()
        gap, self._seen = now - self._seen, now
        if gap > TICK_S + SLACK_S:
            self._slept_s, self._woke = gap, now
        return self._slept_s if now - self._woke < RECENT_S else 0.0
