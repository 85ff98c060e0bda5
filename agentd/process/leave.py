"""How a command ends at a signal: through its clean-up, so that nothing of it is left."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Leave:
    """Makes of Ctrl-C, SIGTERM and SIGHUP one exit through the clean-up; later ones hasten it."""

    def __init__(self) -> None:
        self.insisted = False  # a signal came while cleaning up
        self._number = 0  # the first signal; 0: none yet
        self.left = False  # the exit was raised
        self._held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no signal raise here: what is begun, or cleaned up, is so whole."""
        before, self._held = self._held, True
        try:
            yield
        finally:
            self._held = before
            if self._number:
                self._leave()

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self.insisted = self.insisted or self._held or self.left
        self._number = self._number or number
        self._leave()

    def _leave(self) -> None:
        if self._held or self.left:
            return
        self.left = True
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self._number)


@contextmanager
def stoppable() -> Iterator[Leave]:
    """Let the signals that end a program leave it through its clean-up.

    Who left at a signal is on the way out, so that further ones are ignored until the end.
    """
    leave = Leave()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            before[number] = signal.signal(number, leave.signalled)
    try:
        yield leave
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == leave.signalled:  # not ignored by one further inside
                signal.signal(number, signal.SIG_IGN if leave.left else handler)
