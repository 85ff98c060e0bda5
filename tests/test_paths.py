"""Folders: what must stay is never in a folder that the system clears."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from platformdirs.macos import MacOS

from agentd import log
from agentd.bus import Bus
from agentd.bus.wake import Waker, socket_path
from agentd.config import DaemonConfig, load_agent
from agentd.doctor.machine import limits
from agentd.errors import ConfigError, StorageError
from agentd.paths import Paths, discover
from agentd.supervisor.housekeeping import Housekeeping
from agentd.testing import ManualClock

LONGEST_NAME = "a" * 48


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Paths]:
    """A home whose path leaves no room for a socket's name."""
    paths = discover({"AGENTD_HOME": str(tmp_path / ("deep" * 20))})
    yield paths
    shutil.rmtree(paths.sockets, ignore_errors=True)


def test_on_macos_sockets_have_a_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Application Support` is too long; $TMPDIR is so, too, and cleared after three days."""
    monkeypatch.setattr("agentd.paths.platformdirs.PlatformDirs", MacOS)
    monkeypatch.setenv("HOME", "/Users/somebody.with-a-name")
    support = Path("/Users/somebody.with-a-name/Library/Application Support/agentd")
    paths = discover({"TMPDIR": "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/"})
    assert paths.lock == support / "run" / "agentd.lock" and paths.token.parent == paths.run
    assert paths.status_socket == Path("/Users/somebody.with-a-name/.agentd/status.sock")
    longest = socket_path(paths.wake, LONGEST_NAME)
    assert len(os.fsencode(longest)) < 104
    monkeypatch.setenv("HOME", "/Volumes/" + "long" * 20)
    paths = discover({})
    assert paths.sockets.parent == Path("/tmp") and paths.run.is_relative_to("/Volumes")


def test_the_longest_name_is_what_the_paths_allow_for(deep: Paths) -> None:
    """An agent with the longest name that is allowed can be woken in the deepest home."""
    deep.create()
    file = deep.agents_d / f"{LONGEST_NAME}.toml"
    file.write_text('agent = "task"\ndone = "It is done."\n')
    load_agent(file)
    with pytest.raises(ConfigError):
        load_agent(file.rename(file.with_name(f"{LONGEST_NAME}a.toml")))
    Waker(deep.wake, LONGEST_NAME).close()
    assert deep.lock.is_relative_to(deep.data) and deep.token.is_relative_to(deep.data)
    assert all(finding.level == "ok" for finding in limits(deep, 1) if finding.name == "sockets")


def test_a_short_home_holds_everything() -> None:
    """Nothing lies elsewhere where it need not."""
    paths = discover({"AGENTD_HOME": "/srv/agents"})
    assert paths.sockets == paths.run == Path("/srv/agents/run")


@pytest.mark.parametrize("thing", ["link", "file"])
def test_a_folder_for_sockets_that_is_not_ours_is_refused(deep: Paths, thing: str) -> None:
    """Its name can be guessed, and /tmp is everybody's."""
    elsewhere = deep.data / "elsewhere"
    elsewhere.mkdir(0o755, parents=True)
    if thing == "link":
        deep.sockets.symlink_to(elsewhere)
    else:
        deep.sockets.touch()
    try:
        with pytest.raises(StorageError, match="cannot create this folder") as caught:
            deep.create()
        assert caught.value.where == str(deep.sockets)
        assert elsewhere.stat().st_mode & 0o777 == 0o755
    finally:
        deep.sockets.unlink()


def test_sockets_in_tmp_are_touched(deep: Paths) -> None:
    """Else macOS takes them away from a daemon that has run, or slept, for three days.

    At every look: a Mac may wake from as long a sleep, in which no hour passed for the daemon.
    """
    deep.create()
    waker, clock = Waker(deep.wake, "reader"), ManualClock()
    Bus(deep.database, clock=clock).close()
    old = time.time() - 4 * 86_400
    things = [deep.sockets, deep.wake, waker.path]
    house = Housekeeping(deep, DaemonConfig(), lambda *_: None, log=log.get_logger(), clock=clock)

    async def looks() -> None:
        try:
            for _ in range(2):
                for path in things:
                    os.utime(path, (old, old))
                await house._look()
                fresh.append([path.stat().st_mtime > old + 86_400 for path in things])
        finally:
            assert house._thread is not None
            house._thread.close()
            await house.closed()

    fresh: list[list[bool]] = []
    asyncio.run(looks())
    waker.close()
    assert fresh == [[True] * 3] * 2
