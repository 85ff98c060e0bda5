"""Which agentd.toml counts: the one that is there, or the last one that was right."""

import errno
from pathlib import Path

import pytest

from agentd.config.daemon import DaemonConfig
from agentd.config.last_good import effective_config, keep, last_good_config
from agentd.errors import ConfigError
from agentd.paths import Paths, discover

RIGHT, WRONG = "[bus]\npoll = '7s'\n", "[bus]\npol = '7s'\n"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = discover({"AGENTD_HOME": str(tmp_path)})
    found.create()
    return found


def test_the_last_right_one_counts_while_it_is_wrong(paths: Paths) -> None:
    """Until there was a right one its error is the answer."""
    paths.daemon_file.write_text(WRONG)
    keep(paths)
    with pytest.raises(ConfigError, match=r"bus\.pol: unknown key"):
        effective_config(paths)
    paths.daemon_file.write_text(RIGHT)
    keep(paths)
    right = effective_config(paths)
    assert right.bus.poll.total_seconds() == 7
    paths.daemon_file.write_text(WRONG)
    keep(paths)
    assert effective_config(paths) == right
    paths.daemon_file.write_text(RIGHT.replace("7", "9"))
    assert effective_config(paths).bus.poll.total_seconds() == 9


def test_a_removed_one_stands_for_the_defaults(paths: Paths) -> None:
    """Also later, when a wrong one takes its place."""
    paths.daemon_file.write_text(RIGHT)
    keep(paths)
    paths.daemon_file.unlink()
    keep(paths)
    paths.daemon_file.write_text(WRONG)
    assert effective_config(paths) == DaemonConfig()


def test_a_kept_one_that_this_version_does_not_know_is_none(paths: Paths) -> None:
    """After an update the error of the file itself is what helps."""
    paths.accepted_daemon_file.write_text(WRONG)
    paths.daemon_file.write_text("half a fi")
    assert last_good_config(paths) is None
    with pytest.raises(ConfigError, match="is not valid TOML"):
        effective_config(paths)


def test_an_empty_copy_is_none(paths: Paths) -> None:
    """It is what a crash leaves of a file that was not brought to the disk: no default counts."""
    paths.daemon_file.write_text(RIGHT)
    keep(paths)
    paths.daemon_file.write_text(WRONG)
    for torn in (b"", b"\0" * 40):
        paths.accepted_daemon_file.write_bytes(torn)
        assert last_good_config(paths) is None
        with pytest.raises(ConfigError, match=r"bus\.pol: unknown key"):
            effective_config(paths)


@pytest.mark.parametrize("content", [None, b""])
def test_every_default_can_be_kept(paths: Paths, content: bytes | None) -> None:
    """A person may have none, or an empty one: that is told from what a crash leaves."""
    if content is not None:
        paths.daemon_file.write_bytes(content)
    keep(paths)
    paths.daemon_file.write_text(WRONG)
    assert effective_config(paths) == DaemonConfig()
    assert paths.accepted_daemon_file.stat().st_size


def test_what_cannot_be_kept_leaves_the_one_before(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk; the caller is told, and nothing is left beside it."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    paths.daemon_file.write_text(RIGHT)
    keep(paths)
    paths.daemon_file.write_text(RIGHT.replace("7", "9"))
    monkeypatch.setattr("agentd.whole.os.fsync", full)
    with pytest.raises(OSError):
        keep(paths)
    assert not list(paths.data.glob(".*"))
    paths.daemon_file.write_text(WRONG)
    assert effective_config(paths).bus.poll.total_seconds() == 7
