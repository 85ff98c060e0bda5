"""A child that is started when it is needed, and not again by itself."""

import asyncio
from collections.abc import Callable

from agentd.clock import Clock
from agentd.logs.logger import Logger
from agentd.process.child import Child
from agentd.process.heart import STOPPING
from agentd.supervisor.child_output import ChildOutput
from agentd.supervisor.children import DRAIN_READS, PROMISE_MAX_S, Reaper
from agentd.supervisor.restart import BEAT_GRACE_S, START_S


class AtNeed:
    """One such child: its output is logged, its end is told, and with `beats` it is watched.

    `ended` is called once it is dead, with its exit code and its last words.
    """

    def __init__(
        self,
        child: Child,
        reaper: Reaper,
        ended: Callable[[int, str], None],
        *,
        beats: bool,
        log: Logger,
        clock: Clock,
    ) -> None:
        self.child = child
        self.stopping = False  # it was asked to, or says so itself
        self._reaper, self._on_end, self._log = reaper, ended, log
        self._output = ChildOutput(child.name, log, clock)
        self._gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._late: asyncio.TimerHandle | None = None
        self._loop.add_reader(child.output_fd, self._read_output)
        if beats:
            self._loop.add_reader(child.heart_fd, self._read_beats)
            self._promised(START_S)
        reaper.add(self._reap)

    def stop(self, grace_s: float) -> None:
        """Ask it to stop, and kill its group if it has not after `grace_s` seconds."""
        if not self.stopping:
            self.child.terminate()
        self.stopping = True
        self._set_late(grace_s)

    async def gone(self) -> None:
        """Return when no process is left."""
        await self._gone.wait()

    def _read_output(self) -> bool:
        data = self.child.read(self.child.output_fd)
        if data == b"":
            self._loop.remove_reader(self.child.output_fd)
        self._output.feed(data or b"")
        return bool(data)

    def _read_beats(self) -> None:
        messages = self.child.beats()
        if messages is None:
            self._loop.remove_reader(self.child.heart_fd)
        for message in messages or ():
            promise = message.get("promise_s")
            self.stopping = self.stopping or message.get("state") == STOPPING
            if isinstance(promise, int | float):
                self._promised(min(promise, PROMISE_MAX_S))

    def _promised(self, promise_s: float) -> None:
        if not self.stopping:
            self._set_late(promise_s + BEAT_GRACE_S)

    def _set_late(self, in_s: float) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self._loop.call_later(in_s, self._kill)

    def _kill(self) -> None:
        self._log.warning("worker.killed", agent=self.child.name, pid=self.child.pid)
        self.child.kill()

    def _reap(self) -> None:
        code = self.child.poll()
        if code is None:
            return
        self._reaper.discard(self._reap)
        if self._late is not None:
            self._late.cancel()
        for _ in range(DRAIN_READS):
            if not self._read_output():
                break
        for fd in (self.child.output_fd, self.child.heart_fd):
            self._loop.remove_reader(fd)
        self.child.close()
        self._gone.set()
        self._on_end(code, self._output.end())
