"""Folders: what must stay is never in a folder that the system clears."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from agentd.bus import Bus
from agentd.bus.wake import Ear, socket_path
from agentd.config.agent import Permissions, load_agent
from agentd.config.daemon import DaemonConfig
from agentd.doctor.machine import limits
from agentd.errors import ConfigError, PermissionRefused, StorageError
from agentd.llm.listing import read_key
from agentd.logs import logger
from agentd.models import store
from agentd.paths import Paths, discover, expanded
from agentd.supervisor.housekeeping import Housekeeping
from agentd.testing import ManualClock
from agentd.tools.toolbox import Toolbox

LONGEST_NAME = "a" * 48


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Paths]:
    """A home whose path leaves no room for a socket's name."""
    paths = discover({"AGENTD_HOME": str(tmp_path / ("deep" * 20))})
    yield paths
    shutil.rmtree(paths.sockets, ignore_errors=True)


def test_on_macos_sockets_have_a_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Application Support` is too long; $TMPDIR is so, too, and cleared after three days."""
    monkeypatch.setattr("platformdirs.PlatformDirs", MacOS)
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
    deep.create_private()
    deep.agents_d.mkdir(parents=True)
    file = deep.agents_d / f"{LONGEST_NAME}.toml"
    file.write_text('agent = "task"\ndone = "It is done."\n')
    load_agent(file)
    with pytest.raises(ConfigError):
        load_agent(file.rename(file.with_name(f"{LONGEST_NAME}a.toml")))
    Ear(deep.wake, LONGEST_NAME).close()
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
            deep.create_private()
        assert caught.value.where == str(deep.sockets)
        assert elsewhere.stat().st_mode & 0o777 == 0o755
    finally:
        deep.sockets.unlink()


def test_sockets_in_tmp_are_touched(deep: Paths) -> None:
    """Else macOS takes them away from a daemon that has run, or slept, for three days.

    At every look: a Mac may wake from as long a sleep, in which no hour passed for the daemon.
    """
    deep.create_private()
    ear, clock = Ear(deep.wake, "reader"), ManualClock()
    Bus(deep.database, clock=clock).close()
    old = time.time() - 4 * 86_400
    things = [deep.sockets, deep.wake, ear.path]
    house = Housekeeping(
        deep, DaemonConfig(), lambda *_: None, log=logger.get_logger(), clock=clock
    )

    async def looks() -> None:
        try:
            for _ in range(2):
                for path in things:
                    os.utime(path, (old, old))
                await house._round()
                fresh.append([path.stat().st_mtime > old + 86_400 for path in things])
        finally:
            assert house._thread is not None
            house._thread.close()
            await house.closed()

    fresh: list[list[bool]] = []
    asyncio.run(looks())
    ear.close()
    assert fresh == [[True] * 3] * 2


@pytest.mark.parametrize(
    "home",
    [
        "~there-is-no-such-user/x",
        "agents",
        "./agents",
        "~there-is-no-such-user",
        "/tmp/caf\udce9",
    ],
)
def test_a_home_that_is_none_is_one_error(home: str) -> None:
    """A person's mistake, or another machine's encoding: named in text that any terminal takes."""
    with pytest.raises(ConfigError) as caught:
        discover({"AGENTD_HOME": home})
    assert caught.value.where.startswith("AGENTD_HOME=") and caught.value.hint
    str(caught.value).encode()


@pytest.mark.parametrize("variable", ["XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"])
def test_folders_of_the_system_are_looked_at_too(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Nothing that agentd writes could name such a folder."""
    monkeypatch.setattr("platformdirs.PlatformDirs", Unix)
    monkeypatch.setenv(variable, "/tmp/caf\udce9")
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        discover({})
    str(caught.value).encode()


@pytest.mark.parametrize("deep", ["short", "long" * 30])
def test_one_home_has_one_folder_for_sockets(tmp_path: Path, deep: str) -> None:
    """However it is spelt; else a daemon and who asks for it would not meet."""
    home = tmp_path / deep
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    (tmp_path / ("l" * 60)).symlink_to("link")
    spellings = [
        str(home),
        f"{home}/",
        f"{home}//",
        f"{home}/../{deep}",
        f"{home}/./.",
        str(tmp_path / "link"),
        str(tmp_path / ("l" * 60)),
    ]
    found = {os.path.realpath(discover({"AGENTD_HOME": home}).sockets) for home in spellings}
    assert len(found) == 1
    assert all(
        len(os.fsencode(socket_path(discover({"AGENTD_HOME": home}).wake, LONGEST_NAME))) < 104
        for home in spellings
    )


NOBODY = "~nobody-of-this-name/x"


@pytest.mark.parametrize(
    "use",
    [
        lambda paths: expanded(NOBODY),
        lambda paths: store.resolve(NOBODY, paths.models),
        lambda paths: store.pull(NOBODY, paths.models),
        lambda paths: read_key(Path(NOBODY)),
    ],
)
def test_nobodys_home_folder_is_one_clear_error(
    tmp_path: Path, use: Callable[[Paths], Any]
) -> None:
    """`Path.expanduser` raises RuntimeError for it, which a person saw as a traceback."""
    with pytest.raises(ConfigError) as caught:
        use(discover({"AGENTD_HOME": str(tmp_path)}))
    assert caught.value.what == "no such home folder"
    assert NOBODY in caught.value.where and caught.value.hint


def test_a_permission_in_nobodys_home_allows_nothing(tmp_path: Path) -> None:
    """Neither a program nor a folder, and the others of the list are still found."""
    tools = Toolbox(Permissions(run=(NOBODY, "true"), read=(NOBODY, str(tmp_path))))
    assert tools.call("RunCommand", {"program": "true", "args": []}).value["exit"] == 0
    with pytest.raises(PermissionRefused):
        tools.call("RunCommand", {"program": NOBODY, "args": []})
    (tmp_path / "a.txt").write_text("a")
    assert tools.call("ReadFile", {"path": str(tmp_path / "a.txt")}).value
