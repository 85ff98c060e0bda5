"""A supervisor whose disk is really full: a small tmpfs, filled to the last byte."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervised import alive, daemon, wait_for

SIZE = "3m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave not a byte, also none that a file of one page would need."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def test_a_full_disk_looks_like_no_hang_and_loses_no_announcement(small_disk: Path) -> None:
    """Beats arrive, a killed worker comes back, a crash loop is parked: all of it is in status,
    and stands on the bus in its order once there is room again."""
    with daemon(small_disk / "home") as one:
        one.drop("steady", "promise little")
        one.drop("other")
        one.start()
        steady = one.wait_state("steady", "RUNNING")["pid"]
        other = one.wait_state("other", "RUNNING")["pid"]
        wait_for(lambda: len(one.events("agent.started")) == 2, "both are announced")
        filler = fill(small_disk)

        for number in range(1, 4):  # as often as parks a child here
            os.kill(one.agent("other")["pid"], signal.SIGSEGV)
            state = "PARKED" if number == 3 else "RUNNING"
            wait_for(lambda n=number: one.agent("other").get("crashes") == n)  # type: ignore[misc]
            one.wait_state("other", state)
        beats = one.agent("steady")["beat"]["number"]
        wait_for(
            lambda: one.agent("steady").get("beat", {}).get("number", 0) > beats + 20, "beats go on"
        )
        assert one.agent("steady")["pid"] == steady and one.agent("steady")["restarts"] == 0
        events = one.status()["events"]
        assert events["waiting"] == 6 and events["lost"] == 0 and "full" in events["error"]
        assert "crash loop" in one.agent("other")["reason"] and not alive(other)

        filler.unlink()
        wait_for(lambda: one.status().get("events", {}).get("waiting") == 0, "all is written", 60)
        assert len(one.events("agent.started")) == 4
        assert [event["restarts"] for event in one.events("agent.crashed")] == [1, 2, 3]
        (parked,) = one.events("agent.parked")
        assert parked["agent"] == "other" and "crash loop" in parked["reason"]
        assert one.status()["events"]["error"] == ""


def test_a_full_disk_does_not_delay_the_stop(small_disk: Path) -> None:
    """SIGTERM ends everything in order, whatever cannot be written any more."""
    with daemon(small_disk / "home") as one:
        one.drop("steady")
        one.start()
        pid = one.wait_state("steady", "RUNNING")["pid"]
        fill(small_disk)
        assert one.stop() == 0
        assert not alive(pid)


def test_a_supervisor_that_starts_on_a_full_disk_waits_for_room(small_disk: Path) -> None:
    """Killed and started again, it says what is wrong with what hint, and goes on by itself."""
    with daemon(small_disk / "home") as one:
        one.drop("steady")
        one.start()
        pid = one.wait_state("steady", "RUNNING")["pid"]
        wait_for(lambda: len(one.events("agent.started")) == 1, "the first start is written")
        one.end()
        wait_for(lambda: not alive(pid), "the worker is gone")
        for lock in one.paths.locks.iterdir():  # the next start would, and so make some room
            lock.unlink()
        filler = fill(small_disk)
        one.start()
        problem = wait_for(lambda: one.agent("steady").get("problem"), "status says so")
        assert "full" in problem["what"] and problem["hint"] == "free some disk space"
        filler.unlink()
        assert one.wait_state("steady", "RUNNING")["problem"] is None
        wait_for(lambda: len(one.events("agent.started")) == 2, "all is written", 60)
