"""When a child starts, restarts, is killed or given up: one state machine, no processes in it.

    STOPPED -> STARTING -> RUNNING -> BACKOFF -> STARTING ...
                                   -> PARKED   (crash loop or exit 78: a person must act)
               any of these        -> STOPPED or PAUSED, on request

It is told what happened and answers what to do at its one `deadline`. Clock and chance come from
outside, so a test walks through a day in a millisecond.
"""

import random
import signal
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from agentd.clock import Clock
from agentd.config.daemon import SupervisorConfig
from agentd.states import Exit, WorkerState

START_S = 60.0  # from spawn to the first beat
BEAT_GRACE_S = 5.0  # that a promise may be broken by: a loaded machine is not a hung child
JITTER = 0.2  # share of a backoff that is left to chance, so that fifty agents do not march in step
# What people, a closing terminal, a system that stops and one without memory send. Whoever dies of
# these was killed; of any other signal, of its own bug.
FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
)
RESTING = frozenset(
    {
        WorkerState.PARKED,
        WorkerState.PAUSED,
        WorkerState.STOPPED,
        WorkerState.WAITING,
        WorkerState.INVALID,
    }
)


class DueAction(Enum):
    """What is to be done when the deadline passes."""

    START = "start"  # the backoff is over
    HUNG = "hung"  # a promise was broken: kill it, it counts as a crash
    KILL = "kill"  # it did not stop within its grace


class Ended(Enum):
    """What an exit came to."""

    STOPPED = "stopped"  # as asked
    AGAIN = "again"  # as asked, and to be started again at once
    CRASHED = "crashed"  # or was killed; starts again after its backoff
    PARKED = "parked"  # will not start again by itself


@dataclass(frozen=True)
class Rules:
    """Restart and stop rules in seconds, the same for all children."""

    backoff_first_s: float
    backoff_max_s: float
    healthy_after_s: float
    crashes: int
    stop_grace_s: float

    @classmethod
    def of(cls, config: SupervisorConfig) -> "Rules":
        """Take them from the [supervisor] table."""
        return cls(
            backoff_first_s=config.backoff_first.total_seconds(),
            backoff_max_s=config.backoff_max.total_seconds(),
            healthy_after_s=config.healthy_after.total_seconds(),
            crashes=config.crashes,
            stop_grace_s=config.stop_grace.total_seconds(),
        )


class Life:
    """One child's life as its supervisor sees it. The caller owns the process and the timer."""

    def __init__(self, rules: Rules, clock: Clock, chance: random.Random) -> None:
        self.rules = rules
        self.state = WorkerState.STOPPED
        self.since: datetime = clock.now()
        self.reason = ""  # why it is in this state, for people; "" where the state says it all
        self.restarts = 0  # unasked ones, since the supervisor began
        self.crashes = 0  # in a row, by its own doing; a kill is none
        self.crashes_total = 0  # since the supervisor began
        self.own_doing = ""  # how its last process ended by its own doing; "" after any other end
        self.deadline: float | None = None  # monotonic; what then: `due`
        self.alive = False  # a process exists
        self._clock = clock
        self._chance = chance
        # Kills and passing faults in a row: they lengthen the backoff and never park.
        self._faults = 0
        self._running_since: float | None = None
        self._promise_s = START_S
        self._asked: WorkerState | None = None  # the state to rest in once it has exited
        self._hung = ""
        self._suspended = False  # it hung because somebody stopped it

    @property
    def stopping(self) -> bool:
        """A process exists and was asked to stop."""
        return self.alive and self._asked is not None

    @property
    def wanted(self) -> bool:
        """It runs, will run again, or was given up: somebody still wants it to run."""
        if self.alive:
            return self._asked in (None, WorkerState.STARTING)
        return self.state in (WorkerState.BACKOFF, WorkerState.PARKED)

    def spawned(self) -> None:
        """A process was started."""
        self.alive, self._asked, self._hung, self._running_since = True, None, "", None
        self._suspended, self.own_doing = False, ""
        # After a crash the reason stays in sight until the first beat.
        reason = self.reason if self.state is WorkerState.BACKOFF else ""
        self._enter(WorkerState.STARTING, reason, self._clock.monotonic() + START_S)
        self._promise_s = START_S

    def beat(self, promise_s: float) -> bool:
        """A beat arrived: alive for `promise_s` more. True: it was the first, now RUNNING."""
        if not self.alive or self._asked is not None or self._hung:
            return False
        now = self._clock.monotonic()
        self._promise_s = promise_s
        if self.state is WorkerState.STARTING:
            self._running_since = now
            self._enter(WorkerState.RUNNING, "", now + promise_s + BEAT_GRACE_S)
            return True
        self.deadline = now + promise_s + BEAT_GRACE_S
        return False

    def late(self, seconds: float) -> None:
        """The supervisor itself was late (the machine slept): nobody's promise counts from before.

        The deadline moves by that much, so that beats on their way can arrive.
        """
        if self.deadline is not None:
            self.deadline += seconds + BEAT_GRACE_S

    def stop(self, rest: WorkerState, reason: str = "", *, grace_s: float | None = None) -> bool:
        """Ask it to rest in `rest`; STARTING: to stop and start again. True: a process must stop.

        Without a process the state is entered at once. `grace_s`: instead of the rules' own.
        """
        if not self.alive:
            if rest is not WorkerState.STARTING:
                self._enter(rest, reason, None)
            return False
        first = self._asked is None and not self._hung
        if first or grace_s is not None:
            grace_s = self.rules.stop_grace_s if grace_s is None else grace_s
            self.deadline = self._clock.monotonic() + grace_s
        self._asked, self.reason = rest, reason
        return first

    def forgive(self) -> None:
        """Start counting crashes anew: something has changed."""
        self.crashes = self._faults = 0

    def try_once(self) -> None:
        """Let it be started once more: its next crash parks it again."""
        self.crashes, self._faults = self.rules.crashes - 1, 0

    def suspended(self) -> None:
        """It broke its promise because it is stopped (SIGSTOP): nothing that it did itself."""
        self._suspended = True
        self._hung += ", stopped by a signal"

    def due(self) -> DueAction | None:
        """Return what is to be done now, or None while the deadline is ahead."""
        if self.deadline is None or self._clock.monotonic() < self.deadline:
            return None
        self.deadline = None
        if not self.alive:
            return DueAction.START if self.state is WorkerState.BACKOFF else None
        if self._asked is not None:
            return DueAction.KILL
        if self.state is WorkerState.STARTING:
            self._hung = f"hung: no beat within {START_S:.0f} s of its start"
        else:
            self._hung = f"hung: broke its promise to beat within {self._promise_s:g} s"
        return DueAction.HUNG

    def exited(self, code: int, said: str = "", *, in_order: bool = False) -> Ended:
        """The process is gone: exit `code`, negative for a signal. `said`: its own last reason.

        `in_order`: it said that it was asked to stop, by somebody else than its supervisor.
        """
        self.alive = False
        if self._asked is not None:
            rest, self._asked = self._asked, None
            if rest is WorkerState.STARTING:
                self.deadline = None
                return Ended.AGAIN
            self._enter(rest, self.reason, None)
            return Ended.STOPPED
        how = self._hung or describe(code)
        if self._hung:
            own = not self._suspended
        else:
            own = not in_order and code != Exit.TEMPORARY and -code not in FROM_OUTSIDE
        return self._failed(code, f"{how}: {said}" if said else how, own)

    def unstartable(self, why: str, *, passing: bool = False) -> Ended:
        """The process could not even be started. Counts as a crash, unless the cause will pass."""
        self.alive = False
        code = Exit.TEMPORARY if passing else Exit.FAILED
        return self._failed(code, f"cannot be started: {why}", not passing)

    def _failed(self, code: int, reason: str, own: bool) -> Ended:
        now = self._clock.monotonic()
        began, self._running_since = self._running_since, None
        if began is not None and now - began >= self.rules.healthy_after_s:
            self.forgive()
        if code == Exit.CONFIG and not self._hung:
            self._enter(WorkerState.PARKED, reason, None)
            return Ended.PARKED
        if own:
            self.crashes += 1
            self.crashes_total += 1
            self.own_doing = reason
        else:
            self._faults += 1
        self.restarts += 1
        if own and self.crashes >= self.rules.crashes:
            loop = f"crash loop: {self.crashes} crashes in a row, the last: {reason}"
            self._enter(WorkerState.PARKED, loop, None)
            return Ended.PARKED
        self._enter(WorkerState.BACKOFF, reason, now + self._backoff_s())
        return Ended.CRASHED

    def _backoff_s(self) -> float:
        doublings = min(self.crashes + self._faults - 1, 30)
        wait = min(self.rules.backoff_first_s * 2.0**doublings, self.rules.backoff_max_s)
        return wait * self._chance.uniform(1 - JITTER, 1)

    def _enter(self, state: WorkerState, reason: str, deadline: float | None) -> None:
        if state is not self.state:
            self.since = self._clock.now()
        self.state, self.reason, self.deadline = state, reason, deadline


def describe(code: int) -> str:
    """Say an exit code in words: "exit 1", "killed by SIGSEGV"."""
    if code >= 0:
        return "exited unasked" if code == 0 else f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
