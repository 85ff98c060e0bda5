"""Wakes the watcher when something changed in its folders; a look finds what."""

import os
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import watchfiles

DEBOUNCE_MS = 300  # to gather the changes of one save
STEP_MS = 100
TIMEOUT_MS = 2_000  # between looks whether it is to end


class Notices:
    """A descriptor that becomes readable after a change, by a thread of its own.

    Where the system has no watcher for us (too many, no FSEvents in a sandbox), it never does, and
    `failed` says why: then looks at intervals have to do.
    """

    def __init__(self, shallow: Collection[Path], deep: Collection[Path]) -> None:
        """Watch folders, and folders with all that is in them; those that are there."""
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        self._over = threading.Event()
        self.failed = ""
        for folders, recursive in ((shallow, False), (deep, True)):
            if folders:
                watch = threading.Thread(target=self._watch, args=(folders, recursive), daemon=True)
                watch.start()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._read

    def drain(self) -> None:
        """Read what has come."""
        with suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass

    def close(self) -> None:
        """End the threads, soon."""
        self._over.set()

    def _watch(self, folders: Collection[Path], recursive: bool) -> None:
        try:
            for _ in watchfiles.watch(
                *folders,
                watch_filter=None,
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=TIMEOUT_MS,
                stop_event=cast("Any", self._over),
                recursive=recursive,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                with suppress(BlockingIOError):
                    os.write(self._write, b"\0")
        except (OSError, RuntimeError) as error:  # also where a folder went this moment
            self.failed = str(error) or type(error).__name__
