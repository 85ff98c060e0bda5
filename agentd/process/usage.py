"""What processes take of the machine: CPU time and memory, by their pids.

Memory is a process's own share: workers that are forked share most of theirs, which would count in
full for each. On Linux it is PSS, where a page that several share is divided among them
(proc_pid_smaps(5)); on macOS the footprint (`footprint.py`); where neither can be read, what
is resident.

Linux tells all without a program. On macOS `ps` tells the CPU; its `%cpu` is an average over up to
a minute (its manual, `ps(1)`).
"""

import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from resource import getpagesize

from agentd.process.footprint import footprint

PS_S = 2.0  # for ps to answer; it takes 10 ms
# For which a process's share counts as it was: the kernel sums it up page by page, which takes 2 ms
# for a worker, half a second for the two looks at a hundred of them.
SHARE_S = 10.0
# The clock of another process, as clock_getcpuclockid(3) of glibc and musl makes it.
_CPU_CLOCK = 2


@dataclass(frozen=True)
class Taken:
    """What one process takes.

    Either `cpu_s` (so far) is known or `percent` (lately, of one core).
    """

    memory_bytes: int  # its own share
    cpu_s: float | None = None
    percent: float | None = None


class UsageMeter:
    """Measures processes again and again. What takes long to tell is told anew after `SHARE_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shares: dict[int, tuple[float, int]] = {}  # by pid: when, and bytes

    def of(self, pids: Collection[int]) -> dict[int, Taken]:
        """Return what these processes take; those that are gone are left out."""
        if not pids:
            return {}
        return _by_ps(pids) if sys.platform == "darwin" else self._by_kernel(pids)

    def _by_kernel(self, pids: Collection[int]) -> dict[int, Taken]:
        now, found = self._clock(), {}
        fresh = {pid: one for pid, one in self._shares.items() if now - one[0] < SHARE_S}
        for pid in pids:
            with suppress(OSError, ValueError, IndexError):  # it has ended
                cpu_s = time.clock_gettime((~pid << 3) | _CPU_CLOCK)
                if pid not in fresh:
                    fresh[pid] = (now, _share(pid) or _resident(pid))
                found[pid] = Taken(fresh[pid][1], cpu_s)
        self._shares = {pid: fresh[pid] for pid in found}
        return found


def percents(before: Mapping[int, Taken], after: Mapping[int, Taken], s: float) -> dict[int, float]:
    """Return how much of one core each process took between two looks, `s` seconds apart."""
    found = {pid: used.percent for pid, used in after.items() if used.percent is not None}
    for pid, used in after.items():
        earlier = before.get(pid)
        if used.cpu_s is not None and earlier and earlier.cpu_s is not None and s > 0:
            found[pid] = round(100 * max(0.0, used.cpu_s - earlier.cpu_s) / s, 1)
    return found


def _share(pid: int) -> int | None:
    """Return a process's PSS; None where that is another's to see, or the kernel is older."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * getpagesize()


def _by_ps(pids: Collection[int]) -> dict[int, Taken]:
    argv = ["ps", "-o", "pid=,rss=,%cpu=", "-p", ",".join(map(str, pids))]
    try:
        # Its numbers with a point, whatever the language.
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=PS_S, env={"LC_ALL": "C"}, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {
        pid: replace(one, memory_bytes=footprint(pid) or one.memory_bytes)
        for pid, one in read_ps(done.stdout).items()
    }


def read_ps(text: str) -> dict[int, Taken]:
    """Read what ps printed: lines of pid, KiB resident, percent of one core."""
    found = {}
    for line in text.splitlines():
        with suppress(ValueError):
            pid, kib, percent = line.split()
            found[int(pid)] = Taken(int(kib) * 1024, percent=float(percent))
    return found
