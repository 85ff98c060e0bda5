"""What processes take of the machine: measured by the kernel, and by ps as on macOS."""

import os
import struct
import subprocess
import sys
import time

import pytest

from agentd.process import usage as module
from agentd.process.footprint import RECORD_BYTES, footprint, read_record
from agentd.process.usage import SHARE_S, UsageMeter, percents, read_ps
from agentd.supervisor.process_use import measured
from agentd.testing import wait_for
from agentd.views.machine_use import MachineUse


def test_a_busy_process_shows_its_cpu_and_an_idle_one_does_not() -> None:
    """Who looks for what warms the machine finds it."""
    busy = subprocess.Popen([sys.executable, "-c", "print(1, flush=True)\nwhile True: pass"])
    idle = subprocess.Popen(["sleep", "60"])
    try:
        pids = {busy.pid, idle.pid}
        usage = UsageMeter()
        first, at = usage.of(pids), time.monotonic()
        assert {pid for pid, used in first.items() if used.memory_bytes > 0} == pids

        def shares() -> dict[int, float]:
            return percents(first, usage.of(pids), time.monotonic() - at)

        # The idle one has its start to pay for as well.
        wait_for(lambda: (now := shares())[busy.pid] > max(1.0, 10 * now[idle.pid]))
    finally:
        for process in (busy, idle):
            process.kill()
            process.wait()
    assert usage.of(pids) == {}


def test_ps_is_read_as_macos_prints_it() -> None:
    """Columns are padded, memory is in KiB; a line of something else counts for nothing."""
    text = "    1    9344   0.0\n  812   51200  12.5\nps: a warning\n"
    found = read_ps(text)
    assert found[812].memory_bytes == 51200 * 1024 and found[812].percent == 12.5
    assert percents({}, found, 0.1) == {1: 0.0, 812: 12.5}


def test_ps_of_this_machine_knows_us() -> None:
    """The options are those that every ps has."""
    found = module._by_ps([os.getpid()])
    assert found[os.getpid()].memory_bytes > 1_000_000


ON_LINUX = pytest.mark.skipif(
    sys.platform != "linux", reason="macOS has its footprint, read by rule below"
)
FORKED = """
import os, signal
held = bytearray(os.urandom(40_000_000))
ends = os.pipe()
child = os.fork()
if child == 0:
    os.close(ends[1])
    os.read(ends[0], 1)
    os._exit(0)
print(child, flush=True)
signal.pause()
"""


@ON_LINUX
def test_what_a_process_shares_is_not_counted_in_full_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forked worker adds 8 MB, and 34 MB of it are resident: ten of them would seem four times
    what they take. Where the kernel does not tell the share, what is resident counts."""
    parent = subprocess.Popen([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        both = UsageMeter().of({parent.pid, child})
        assert 20_000_000 < both[child].memory_bytes < 38_000_000
        assert sum(used.memory_bytes for used in both.values()) < 70_000_000
        monkeypatch.setattr(module, "_share", lambda pid: None)
        assert UsageMeter().of({child})[child].memory_bytes > 40_000_000
    finally:
        parent.kill()  # the child reads the end of its pipe
        parent.communicate()


@ON_LINUX
def test_a_share_is_summed_up_anew_after_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page looks twice at a time, and an open one at each event. What ended is forgotten."""
    now, looks = 0.0, []

    def share(pid: int) -> int:
        looks.append(pid)
        return 1_000 * len(looks)

    monkeypatch.setattr(module, "_share", share)
    here, above = os.getpid(), os.getppid()
    usage = UsageMeter(lambda: now)
    assert usage.of([here])[here].memory_bytes == 1_000
    now = SHARE_S - 1
    both = usage.of([here, above])
    assert both[here].memory_bytes == 1_000 and both[above].memory_bytes == 2_000
    now = SHARE_S
    assert usage.of([above, here])[here].memory_bytes == 3_000 and looks == [here, above, here]
    usage.of([above])
    assert usage.of([here])[here].memory_bytes == 4_000


def test_a_footprint_is_read_as_macos_records_it() -> None:
    """`rusage_info_v4` of <sys/resource.h>: it follows a UUID and seven numbers."""
    record = struct.pack("=16s35Q", b"\xff" * 16, *range(1, 36))
    assert len(record) == RECORD_BYTES
    assert read_record(record) == 8
    told = footprint(os.getpid())
    assert (told or 0) > 1_000_000 if sys.platform == "darwin" else told is None


def test_on_macos_memory_is_the_footprint_and_else_what_ps_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process may have ended between the two looks."""
    here, above = os.getpid(), os.getppid()
    monkeypatch.setattr(module, "footprint", lambda pid: 5_000 if pid == here else None)
    found = module._by_ps([here, above])
    assert found[here].memory_bytes == 5_000
    assert found[above].memory_bytes > 100_000


def test_an_agent_is_its_worker_and_its_hands() -> None:
    """What its tools take is the agent's as well; what is not known is null, not nought."""
    here = {"pid": os.getpid(), "model": {"pid": None}, "agents": [{"pid": os.getppid()}]}
    document = {**here, "deliver": None, "watcher": None, "ui": None, "workers": None}
    usage, hands = UsageMeter(), {"hello": os.getpid()}
    first = measured(document, hands, usage)
    took = MachineUse(first, measured(document, hands, usage))
    alone = took.of(os.getppid())["memory_bytes"]
    assert took.of(os.getppid(), took.hands["hello"])["memory_bytes"] > alone > 0
    assert took.of(None, None) == {"cpu_percent": None, "memory_bytes": None}
    assert MachineUse(None, None).of(1) == {"cpu_percent": None, "memory_bytes": None}
