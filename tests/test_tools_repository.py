"""What git reads of a repository answers to the permissions, wherever it leads."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.config.agent import Permissions
from agentd.errors import PermissionRefused, ToolError
from agentd.tools import git
from agentd.tools.toolbox import Toolbox
from tests.repository import Repository


@pytest.fixture
def secret(tmp_path: Path) -> Repository:
    """Another repository, which nobody permitted."""
    secret = Repository(tmp_path / "secret")
    secret.commit("secret", a__txt="secret\n")
    return secret


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    repo = Repository(tmp_path / "open" / "repo")
    repo.commit("one", a__txt="1\n")
    return repo


def look(folder: Path, *read: Path) -> str | None:
    tools = Toolbox(Permissions(read=tuple(map(str, read))))
    with git.held_to(tools.check_readable):
        tip = git.head(folder)
        if tip:
            git.new_commits(folder, tip, None, 5)
            git.changed_files(folder, tip, None)
        return tip


def test_a_plain_repository_needs_its_own_folder(repo: Repository, secret: Repository) -> None:
    """Listed it is read, below a listed folder too; not listed it is refused."""
    tip = repo.git("rev-parse", "HEAD")
    assert look(repo.path, repo.path) == look(repo.path, repo.path.parent) == tip
    for read in ((), (secret.path,), (repo.path / ".git",)):
        with pytest.raises(PermissionRefused):
            look(repo.path, *read)


def pointer(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git").rename(repo.path / "away")
    (repo.path / ".git").write_text(f"gitdir: {secret.path}/.git\n")


def relative_pointer(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git").rename(repo.path / "away")
    (repo.path / ".git").write_text("gitdir: ../../secret/.git")


def link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git").rename(repo.path / "away")
    (repo.path / ".git").symlink_to(secret.path / ".git")


def common(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git" / "commondir").write_text(f"{secret.path}/.git\n")


def alternates(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git/objects/info/alternates").write_text(f"# x\n{secret.path}/.git/objects\n")


def alternates_of_alternates(repo: Repository, secret: Repository) -> None:
    between = Repository(repo.path / "between")
    (repo.path / ".git/objects/info/alternates").write_text("../../between/.git/objects")
    alternates(between, secret)


def quoted_alternates(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git/objects/info/alternates").write_text(f'"{secret.path}/.git/objects"')


def linked_objects(repo: Repository, secret: Repository) -> None:
    for name in ("objects", "refs"):
        (repo.path / ".git" / name).rename(repo.path / f"away-{name}")
        (repo.path / ".git" / name).symlink_to(secret.path / ".git" / name)


def linked_deep(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git/refs/heads/theirs").symlink_to(secret.path / ".git/refs/heads/main")


def linked_twice(repo: Repository, secret: Repository) -> None:
    (repo.path / "between").mkdir()
    (repo.path / "between" / "more").symlink_to(secret.path / ".git" / "objects")
    (repo.path / ".git" / "objects" / "pack").rmdir()
    (repo.path / ".git" / "objects" / "pack").symlink_to(repo.path / "between")


def linked_config(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git/config").unlink()
    (repo.path / ".git/config").symlink_to(secret.path / ".git/config")


def include(repo: Repository, secret: Repository) -> None:
    repo.git("config", "include.path", f"{secret.path}/.git/config")


def conditional_include(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git/more").write_text(f"[Include]\npath = {secret.path}/.git/config\n")
    repo.git("config", "includeIf.onbranch:main.path", "more")


def worktree_config(repo: Repository, secret: Repository) -> None:
    repo.git("config", "extensions.worktreeConfig", "true")
    (repo.path / ".git/config.worktree").write_text(f"[include]\npath={secret.path}/.git/config\n")


def work_tree(repo: Repository, secret: Repository) -> None:
    repo.git("config", "core.worktree", str(secret.path))


def linked_up(repo: Repository) -> Path:
    """A folder two below the repository: `..` from there leads less far than its name says."""
    (repo.path / "deep" / "er").mkdir(parents=True)
    return repo.path / "deep" / "er"


def pointer_by_link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git").rename(repo.path / "away")
    (repo.path / "sub").symlink_to(secret.path / "in")
    (secret.path / "in").mkdir()
    (repo.path / ".git").write_text("gitdir: sub/../.git\n")


def common_by_link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git" / "sub").symlink_to(repo.path)
    (repo.path / ".git" / "commondir").write_text("sub/../../secret/.git\n")


def alternates_by_link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git/objects/sub").symlink_to(linked_up(repo))
    (repo.path / ".git/objects/info/alternates").write_text("sub/../../../../secret/.git/objects\n")


def alternates_by_text(repo: Repository, secret: Repository) -> None:
    """As a git that shortens the path first reads it; by the link it leads to nothing."""
    (repo.path / ".git/objects/sub").symlink_to(linked_up(repo))
    text = "sub/../../../../../secret/.git/objects\n"
    (repo.path / ".git/objects/info/alternates").write_text(text)


def include_by_link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git" / "sub").symlink_to(linked_up(repo))
    repo.git("config", "include.path", "sub/../../../../secret/.git/config")


def conditional_include_by_link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git" / "sub").symlink_to(linked_up(repo))
    repo.git("config", "includeIf.onbranch:main.path", "sub/../../../../secret/.git/config")


def work_tree_by_link(repo: Repository, secret: Repository) -> None:
    (repo.path / ".git" / "sub").symlink_to(linked_up(repo))
    repo.git("config", "core.worktree", "sub/../../../../secret")


def behind_a_ring_of_links(repo: Repository, secret: Repository) -> None:
    """A folder's listing is not broken off where one of its names leads nowhere."""
    heads = repo.path / ".git/refs/heads"
    for number in range(40):
        (heads / f"ring{number}").symlink_to(f"ring{number}")
    (heads / "theirs").symlink_to(secret.path / ".git/refs/heads/main")
    for number in range(40, 80):
        (heads / f"ring{number}").symlink_to(f"ring{number}")


WAYS = (
    *(
        pointer,
        relative_pointer,
        link,
        common,
        alternates,
        alternates_of_alternates,
        linked_objects,
    ),
    *(linked_deep, linked_twice, linked_config, include, conditional_include, worktree_config),
    *(work_tree, quoted_alternates, pointer_by_link, common_by_link, alternates_by_link),
    *(alternates_by_text, include_by_link, conditional_include_by_link, work_tree_by_link),
    behind_a_ring_of_links,
)


@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_into_another_repository(
    repo: Repository, secret: Repository, way: Callable[[Repository, Repository], None]
) -> None:
    """However a permitted repository leads to another one, that one has to be permitted as well."""
    way(repo, secret)
    with pytest.raises(ToolError) as refused:
        look(repo.path, repo.path)
    assert "secret" in refused.value.what or way is quoted_alternates
    if way is not quoted_alternates:
        look(repo.path, repo.path, secret.path)


def test_what_git_itself_lays_elsewhere_is_named(repo: Repository, tmp_path: Path) -> None:
    """A worktree, a submodule, a shared clone and a folder of its own for the git files."""
    tree = tmp_path / "tree"
    repo.git("worktree", "add", "-q", str(tree))
    shared = tmp_path / "shared"
    repo.git("clone", "-q", "--shared", str(repo.path), str(shared))
    apart = tmp_path / "apart"
    repo.git(
        "clone", "-q", "--separate-git-dir", str(tmp_path / "files"), str(repo.path), str(apart)
    )
    outer = Repository(tmp_path / "outer")
    outer.git(
        "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repo.path), "sub"
    )
    for folder, more in (
        (tree, repo.path / ".git"),
        (shared, repo.path / ".git" / "objects"),
        (apart, tmp_path / "files"),
        (outer.path / "sub", outer.path / ".git" / "modules" / "sub"),
    ):
        with pytest.raises(PermissionRefused, match=str(more)):
            look(folder, folder)
        named = git.folders(folder)
        assert more in named
        assert look(folder, *named) == look(folder, folder, more) == git.head(folder)


def test_a_bare_repository_and_none(tmp_path: Path, repo: Repository) -> None:
    """A bare one is its own git folder; below a listed folder there need not be any."""
    bare = tmp_path / "open" / "bare.git"
    repo.git("clone", "-q", "--bare", str(repo.path), str(bare))
    assert look(bare, bare) == git.head(repo.path)
    (repo.path / "inner").mkdir()
    with pytest.raises(ToolError, match="no git repository"):
        look(repo.path / "inner", repo.path)
    for odd in ("", "gitdir:", "gitdir: /nowhere", "x" * 100_000, "gitdir: " + "y" * 5_000):
        (repo.path / "inner" / ".git").write_text(odd)
        with pytest.raises(ToolError):
            look(repo.path / "inner", repo.path)


def test_endless_alternates_and_includes_end(repo: Repository) -> None:
    """A repository that leads to itself is one error."""
    (repo.path / ".git/objects/info/alternates").write_text(f"{repo.path}/.git/objects\n")
    with pytest.raises(ToolError, match="without end"):
        look(repo.path, repo.path)
    (repo.path / ".git/objects/info/alternates").unlink()
    repo.git("config", "include.path", "config")
    with pytest.raises(ToolError, match="without end"):
        look(repo.path, repo.path)


@pytest.mark.parametrize(
    "name",
    [
        *("objects/info/alternates", "commondir", "config", "config.worktree", "HEAD", "shallow"),
        *("packed-refs", "refs/heads/more", "info/grafts", "objects/pack/x.idx", "../included"),
    ],
)
@pytest.mark.parametrize("by_link", [False, True])
def test_a_pipe_in_a_repository_is_not_waited_for(
    repo: Repository, name: str, by_link: bool
) -> None:
    """Neither by us nor by git: it is one error, at once."""
    if "included" in name:
        repo.git("config", "include.path", name)
    file = repo.path / ".git" / name
    file.unlink(missing_ok=True)
    pipe = repo.path / "pipe" if by_link else file
    os.mkfifo(pipe)
    if by_link:
        file.symlink_to(pipe)
    with pytest.raises(ToolError, match=r"no regular file|pipe or a device|no git repository"):
        look(repo.path, repo.path)


@pytest.mark.skipif(sys.platform != "linux", reason="a short name needs /proc")
def test_a_socket_in_a_repository_is_none_of_it(repo: Repository) -> None:
    """Git's own monitor of files lays one down; nobody can open it, so nobody waits."""
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(repo.path / ".git", os.O_RDONLY | os.O_DIRECTORY)
        try:
            listening.bind(f"/proc/self/fd/{here}/fsmonitor--daemon.ipc")
        finally:
            os.close(here)
        assert look(repo.path, repo.path)
