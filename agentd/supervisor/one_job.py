"""A child that does one job, answers, and ends."""

import asyncio
import contextlib
from dataclasses import dataclass

from agentd.process.child import Child
from agentd.supervisor.children import DRAIN_READS, KILLED_S, Reaper

KEPT_BYTES = 262_144  # of what it prints, and of its answer


@dataclass(frozen=True)
class Ran:
    """What a child that does one job came to."""

    code: int | None  # None: the deadline passed, and its group was killed
    answer: bytes  # what it gave by its heart
    output: bytes  # the end of what it printed
    told: bytes = b""  # the end of what came by a pipe of its own


async def run_to_end(
    child: Child, reaper: Reaper, deadline_s: float | None, told: int | None = None
) -> Ran:
    """Wait for a child that does one job; None: however long that takes.

    `told`: a further pipe that it writes to, which stays the caller's.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    fds = (child.heart_fd, child.output_fd, *(() if told is None else (told,)))
    read = {fd: bytearray() for fd in fds}

    def read_some(fd: int) -> bool:
        data = child.read(fd)
        if data == b"":
            loop.remove_reader(fd)
        read[fd].extend(data or b"")
        del read[fd][:-KEPT_BYTES]
        return bool(data)

    def look() -> None:
        if child.poll() is not None:
            done.set()

    reaper.add(look)
    for fd in read:
        loop.add_reader(fd, read_some, fd)
    late = False
    try:
        look()
        try:
            await asyncio.wait_for(done.wait(), deadline_s)
        except TimeoutError:
            late = True
    finally:
        child.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), KILLED_S)
        reaper.discard(look)
        for fd in read:
            for _ in range(DRAIN_READS):
                if not read_some(fd):
                    break
            loop.remove_reader(fd)
        child.close()
    return Ran(None if late else child.poll(), *map(bytes, read.values()))
