"""A bound on the time of others' parsers, in the middle of whatever they do."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_S = 0.5  # where somebody caught it: a library's `except` without a class, or an object's end


class TooSlow(BaseException):
    """The time is over. No `Exception`: libraries catch those, and go on."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in the body after so many seconds.

    Only in a process's main thread, in which hands carry calls out. In another one, as in tests and
    replays, nothing is bounded. One long step of a library in C ends first; the supervisor kills
    hands that do not answer at all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    tell = sys.unraisablehook

    def swallowed(error: Any) -> None:  # it rings again, so there is nothing to tell
        if error.exc_type is not TooSlow:
            tell(error)

    before = signal.signal(signal.SIGALRM, ring)
    sys.unraisablehook = swallowed
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN_S)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # it may have rung just then
            signal.signal(signal.SIGALRM, before)
            sys.unraisablehook = tell
