"""A failure in words: where it was raised, and what makes it the same as another one."""

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

FRAMES = 3  # of a traceback, the innermost ones; the log has all
SIGNATURE_CHARACTERS = 200

# What differs between two events that fail alike: numbers, ids, quoted names, paths.
_DIFFERS = re.compile(r"""'[^']*'|"[^"]*"|\S*/\S*|\b[0-9a-f]{7,}\b|\d+([.:]\d+)*""")

_PLACES = re.compile(r" \([^()]+:\d+ in [^()]+\)$")


def summary(error: BaseException) -> str:
    """Return an exception with the places that it came through, innermost first, on one line.

    `ValueError: no such box (station.py:81 in _ship, station.py:60 in dispatch)`
    """
    import traceback  # `agentd status` imports this module, and is to answer at once

    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in reversed(frames)]
    return f"{type(error).__name__}: {error} ({', '.join(places)})"


def end_with_threads(report: Callable[[BaseException], None]) -> None:
    """End this process, as crashed, when one of its threads does: what waits for it would hang.

    `report` is called before, with the error that nobody caught.
    """

    def end(ended: threading.ExceptHookArgs) -> None:
        try:
            report(ended.exc_value or ended.exc_type())
        finally:
            os._exit(1)

    threading.excepthook = end


def without_places(text: str) -> str:
    """Return a summary without where it was raised, which changes with every edit of the code."""
    return _PLACES.sub("", text)


def signature(error: str) -> str:
    """Return what two errors have in common when only their numbers and names differ."""
    first = error.strip().partition("\n")[0]
    return _DIFFERS.sub("#", first)[:SIGNATURE_CHARACTERS]
