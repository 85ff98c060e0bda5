"""Notices changed files: configuration, agent modules, prompts.

Without polling, unless links stand there or no watcher can be had.

`watchfiles` only wakes us up; what changed is found by comparing file stamps. So a lost event, a
replaced folder or an overflowing queue costs delay and never a missed change, and the many events
of one save come out as one change.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import watchfiles

SUFFIXES = (".toml", ".py", ".baml")
DEBOUNCE_MS = 200  # to gather the events of one save
STEP_MS = 100  # watchfiles looks so often, at 0.06 % of a core; a quiet step ends the gathering
LOOK_AGAIN_S = 30.0  # the safety net behind lost events
STANDS_S = 1.0  # until a new watcher surely notices changes
UNWATCHED_S = 1.5  # between looks where no watcher can be had, or where links lead elsewhere

Stamp = tuple[int, int, int, int]  # modified ns, changed ns, size, inode


def stamps(folders: Sequence[Path]) -> dict[Path, Stamp]:
    """Return every watched file in `folders` themselves: TOML, Python, BAML; not hidden ones.

    What lies deeper is nobody's: a link to `/` or a checkout among the files must cost nothing.
    """
    found: dict[Path, Stamp] = {}
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue  # not there yet, or gone
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.endswith(SUFFIXES):
                continue
            try:
                status = entry.stat()
            except OSError:
                continue  # gone in between, or a dangling link
            found[Path(entry.path)] = (
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_size,
                status.st_ino,
            )
    return found


def linked(folders: Sequence[Path]) -> bool:
    """Whether a link stands in one of these folders, or in its own path.

    What it leads to may change, or another link on the way, in a folder that nobody watches.
    """
    for folder in folders:
        if os.path.realpath(folder) != os.fspath(folder):
            return True
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # not there yet, or gone
            if any(entry.is_symlink() for entry in entries):
                return True
    return False


def differences(old: Mapping[Path, Stamp], new: Mapping[Path, Stamp]) -> frozenset[Path]:
    """Return the files that are new, gone or different."""
    return frozenset(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))


async def changes(
    folders: Sequence[Path], known: Mapping[Path, Stamp], stop: asyncio.Event
) -> AsyncGenerator[frozenset[Path], None]:
    """Yield the sets of changed files in `folders`, starting from the stamps `known`.

    A folder that does not exist yet is picked up within `LOOK_AGAIN_S`, and so is a change that
    the watcher missed; within `UNWATCHED_S` where links are. Ends when `stop` is set.
    """
    while not stop.is_set():
        watched = _inodes(folders)
        # Between the caller's stamps and the start of the watcher something may have changed.
        new = stamps(folders)
        if changed := differences(known, new):
            yield changed
        known = new
        links = linked(folders)
        look_again_s = UNWATCHED_S if links else LOOK_AGAIN_S
        if not watched:
            await _wait(stop, look_again_s)
            continue
        try:
            woken = watchfiles.awatch(
                *watched,
                watch_filter=_interesting,
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=int(look_again_s * 1000),
                yield_on_timeout=True,
                stop_event=cast("Any", _End(stop)),
                recursive=False,
            )
            async for _ in _also_soon(woken):
                new = stamps(folders)
                if changed := differences(known, new):
                    yield changed
                known = new
                if _inodes(folders) != watched or linked(folders) is not links:
                    break  # a folder came, went or was replaced, or a link: watch the new ones
        except (OSError, RuntimeError, ExceptionGroup):
            # A folder went at this moment; the system has no watcher left for us (128 a user on
            # Linux); a file's name is not UTF-8. The last two are RuntimeErrors. Look ourselves.
            await _wait(stop, UNWATCHED_S)


class _End:
    """Ends one watcher at the stop; watchfiles sets it too, for a watcher that is cancelled.

    That must not be the stop itself: a folder that was replaced just after the start ended the
    daemon, in order and without a word.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop, self._over = stop, False

    def is_set(self) -> bool:
        """Whether the watcher is to end."""
        return self._over or self._stop.is_set()

    def set(self) -> None:
        """End this watcher, and nothing else."""
        self._over = True


async def _also_soon(woken: AsyncGenerator[object, None]) -> AsyncGenerator[None, None]:
    """Wake up as `woken` does, and once a moment after its start.

    What changed between the last stamps and the moment when the watcher stood, nobody tells.
    """
    first = asyncio.ensure_future(anext(woken, None))
    try:
        await asyncio.wait({first}, timeout=STANDS_S)
        yield
        if await first is None:
            return
    finally:
        first.cancel()
        await asyncio.wait({first})
    yield
    async for _ in woken:
        yield


def _inodes(folders: Sequence[Path]) -> dict[Path, int]:
    found = {}
    for folder in folders:
        with contextlib.suppress(OSError):  # not there yet, or gone
            status = folder.stat()
            if stat.S_ISDIR(status.st_mode):
                found[folder] = status.st_ino
    return found


def _interesting(_change: watchfiles.Change, path: str) -> bool:
    return not path.rsplit("/", 1)[-1].startswith(".")


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
