"""Who else may write what decides which code runs: `agentd doctor` says it, and mends its own."""

import os
from pathlib import Path

import pytest

from agentd.clock import SystemClock
from agentd.doctor import mend
from agentd.doctor.finding import Level
from agentd.doctor.writers import closable, others_write, writers
from agentd.paths import Paths, discover

ROOT = os.getuid() == 0


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = discover({"AGENTD_HOME": str(tmp_path / "above" / "home")})
    found.create()
    (found.agents / "x.py").write_text("")
    (found.agents / "x.py").chmod(0o644)
    return found


def test_a_home_as_it_is_made_is_nobody_elses(paths: Paths) -> None:
    """Also below /tmp, which is everybody's and sticky."""
    assert list(others_write(paths)) == []
    (finding,) = writers(paths)
    assert finding.level is Level.OK


@pytest.mark.parametrize(
    "place",
    ["config", "agents_d", "agents", "baml_src", "data", "versions", "daemon_file", "module"],
)
def test_what_others_may_write_is_named(paths: Paths, place: str) -> None:
    """Each folder and each file in them; a folder above serves as well."""
    path = paths.agents / "x.py" if place == "module" else getattr(paths, place)
    path.touch()
    path.chmod(0o777)
    (finding,) = writers(paths)
    assert finding.level is Level.PROBLEM
    assert f"everybody may write {path}" in finding.what and f"chmod go-w {path}" in finding.hint


def test_a_folder_above_is_named_and_left_alone(paths: Paths) -> None:
    """Whoever may write there puts another home in the place of ours."""
    above = paths.user.parent
    above.chmod(0o777)
    assert list(others_write(paths)) == [(above, "everybody")]
    assert list(closable(paths)) == [], "it may be open on purpose"
    above.chmod(0o1777)
    assert list(others_write(paths)) == []


def test_what_a_link_leads_to_is_named(paths: Paths, tmp_path: Path) -> None:
    """Dotfiles lie elsewhere, in folders with a mode of their own."""
    elsewhere = tmp_path / "dotfiles"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (elsewhere / "x.toml").touch()
    (paths.agents_d / "x.toml").symlink_to(elsewhere / "x.toml")
    (paths.agents_d / "gone.toml").symlink_to(elsewhere / "gone.toml")
    assert (elsewhere, "everybody") in list(others_write(paths))


@pytest.mark.skipif(not ROOT, reason="gives files away")
@pytest.mark.parametrize(("group", "mode", "wrong"), [(12345, 0o664, True), (0, 0o664, False)])
def test_a_group_counts_unless_it_is_ours_alone(
    paths: Paths, group: int, mode: int, wrong: bool
) -> None:
    """Many systems give each user a group, and an editor's files are writable to that."""
    file = paths.agents / "x.py"
    os.chown(file, 0, group)
    file.chmod(mode)
    assert bool(list(others_write(paths))) is wrong


@pytest.mark.skipif(not ROOT, reason="gives files away")
def test_another_owner_is_named(paths: Paths) -> None:
    os.chown(paths.agents / "x.py", 12345, 0)
    ((path, who),) = others_write(paths)
    assert path == paths.agents / "x.py" and "its owner, 12345" in who
    assert list(closable(paths)) == [], "no chmod helps"
    (finding,) = writers(paths)
    assert "chown" in finding.hint


def test_repair_closes_what_is_ours(paths: Paths) -> None:
    """And leaves the other bits as they are."""
    (paths.agents / "x.py").chmod(0o757)
    paths.config.chmod(0o777)
    assert len(mend(paths, SystemClock()).done) == 2
    assert list(others_write(paths)) == []
    assert (paths.agents / "x.py").stat().st_mode & 0o777 == 0o755
