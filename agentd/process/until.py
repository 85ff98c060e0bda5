"""Looks for what nobody tells of."""

import threading
import time
from collections.abc import Iterator


def until(seconds: float, every_s: float) -> Iterator[None]:
    """Yield at once, and then every `every_s` seconds until `seconds` are over."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    yield
    while time.monotonic() < deadline:
        pause.wait(every_s)
        yield
