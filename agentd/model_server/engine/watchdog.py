"""Ends the process when the engine makes no step for long. Busy is not dead."""

import threading
from collections.abc import Callable

EXIT_ENGINE = 70  # EX_SOFTWARE: the engine raised and cannot go on
EXIT_STALLED = 69  # EX_UNAVAILABLE: the engine's thread made no step for too long
TICK_SECONDS = 1.0


class Progress:
    """What the engine's thread does, for others to look at."""

    def __init__(self) -> None:
        self.steps = 0  # engine steps and other proofs of life
        self.busy = False  # a step is due
        self.ready = False  # a token was generated since the model was loaded

    def step(self) -> None:
        """Count a step."""
        self.steps += 1


class Watchdog:
    """Counts its own ticks without a step, not the clock.

    A process that was stopped (SIGSTOP, a sleeping Mac) must not be found dead when it goes on.
    """

    def __init__(
        self,
        progress: Progress,
        *,
        stall_s: float,
        load_s: float,
        on_stall: Callable[[float], object],
        tick_s: float = TICK_SECONDS,
    ) -> None:
        self._progress = progress
        self._stall_s = stall_s
        self._load_s = load_s
        self._on_stall = on_stall
        self._tick_s = tick_s
        self._stop = threading.Event()
        self.quiet_s = 0.0  # seconds without a step while busy
        self._seen = -1

    def start(self) -> None:
        """Watch from a thread of its own."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()

    def tick(self) -> bool:
        """Look once; True if the engine must be given up."""
        progress = self._progress
        if not progress.busy or progress.steps != self._seen:
            self._seen, self.quiet_s = progress.steps, 0.0
            return False
        self.quiet_s += self._tick_s
        return self.quiet_s >= (self._stall_s if progress.ready else self._load_s)

    def _run(self) -> None:
        while not self._stop.wait(self._tick_s):
            if self.tick():
                self._on_stall(self.quiet_s)
                return
