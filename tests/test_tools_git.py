"""The git helpers, on real repositories of every odd shape; nothing in one is ever run."""

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from agentd.errors import Stopped, ToolError
from agentd.process.stop import Cancel
from agentd.testing import wait_for
from agentd.tools import git, git_command
from tests.repository import ENVIRONMENT, Repository


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repo")


def changes(repo: Repository, tip: str, base: str | None) -> dict[str, git.FileChange]:
    return {file.path: file for file in git.changed_files(repo.path, tip, base)}


def test_an_empty_repository_has_no_head(repo: Repository) -> None:
    """Before the first commit there is nothing, and that is no error."""
    assert git.head(repo.path) is None
    with pytest.raises(ToolError, match="no branch x"):
        git.head(repo.path, "x")


def test_no_repository(tmp_path: Path) -> None:
    """A plain folder inside a repository is not taken for it; a missing one is told."""
    inner = Repository(tmp_path / "repo").path / "inner"
    inner.mkdir()
    assert not git.is_repository(inner)
    assert git.is_repository(inner.parent)
    with pytest.raises(ToolError, match="failed"):
        git.head(inner)
    with pytest.raises(ToolError, match="not there"):
        git.head(tmp_path / "none")


def test_the_first_look_takes_the_latest_commit(repo: Repository) -> None:
    """An old repository does not flood the bus at the first look."""
    one = repo.commit("one", a__txt="1\n")
    first = git.new_commits(repo.path, one, None, 10)
    assert (first.base, [c.subject for c in first.commits]) == (None, ["one"])
    repo.commit("two", a__txt="2\n")
    three = repo.commit("three", b__txt="3\n")
    news = git.new_commits(repo.path, three, None, 10)
    assert [commit.subject for commit in news.commits] == ["three"]
    assert not news.rewritten
    assert list(changes(repo, three, news.base)) == ["b.txt"]


def test_new_commits_since(repo: Repository) -> None:
    """Newest first, bounded, the rest counted; nothing new is nothing."""
    one = repo.commit("one")
    for number in range(5):
        tip = repo.commit(f"c{number}")
    news = git.new_commits(repo.path, tip, one, 3)
    assert [commit.subject for commit in news.commits] == ["c4", "c3", "c2"]
    assert (news.more, news.base, news.rewritten) == (2, one, False)
    assert git.new_commits(repo.path, tip, tip, 3).commits == ()


def test_rewritten_history(repo: Repository) -> None:
    """An amended or vanished last-seen commit is noticed; a vanished one starts anew."""
    repo.commit("base", a__txt="1")
    seen = repo.commit("seen", a__txt="2")
    repo.git("commit", "-q", "--amend", "--message=amended")
    tip = repo.git("rev-parse", "HEAD")
    news = git.new_commits(repo.path, tip, seen, 5)
    assert news.rewritten and news.base == seen
    assert [commit.subject for commit in news.commits] == ["amended"]
    for gone in ("0" * 40, "not an id", "-h"):
        news = git.new_commits(repo.path, tip, gone, 5)
        assert news.rewritten and len(news.commits) == 1


def test_what_changed(repo: Repository) -> None:
    """Added, changed, deleted, renamed, binary: each with its lines, size and place."""
    base = repo.commit("base", keep__py="a\nb\nc\nd\n", gone__py="x\n", old__py="line\n" * 20)
    repo.git("mv", "old.py", "new.py")
    repo.git("rm", "-q", "gone.py")
    repo.write("image.png", b"\x89PNG\0\1")
    repo.write("sub/TODO.py", "# TODO one\n# FIXME: two\nXXXL\n")
    tip = repo.commit("all", keep__py="a\nb\nC\nd\n")
    found = changes(repo, tip, base)
    assert found == {
        "gone.py": git.FileChange(
            path="gone.py", status="deleted", added=0, deleted=1, subject="all"
        ),
        "image.png": git.FileChange(path="image.png", status="added", size=6, subject="all"),
        "keep.py": git.FileChange(
            path="keep.py", status="changed", added=1, deleted=1, size=8, line=3, subject="all"
        ),
        "new.py": git.FileChange(
            path="new.py",
            old_path="old.py",
            status="renamed",
            added=0,
            deleted=0,
            size=100,
            subject="all",
        ),
        "sub/TODO.py": git.FileChange(
            path="sub/TODO.py",
            status="added",
            added=3,
            deleted=0,
            size=29,
            markers=2,
            subject="all",
        ),
    }


def test_odd_names(repo: Repository) -> None:
    """Names with newlines, tabs, quotes, a leading dash or colon, or bytes that are not UTF-8."""
    names: list[str | bytes] = [
        "-rf",
        ":odd",
        "new\nline",
        "tab\tname",
        'quo"te',
        "ümlaut",
        b"\xff",
    ]
    base = repo.commit("base")
    for name in names:
        try:
            repo.write(name, "x\n")
        except OSError:  # macOS has UTF-8 names only
            names = [other for other in names if other != name]
    tip = repo.commit("-n --odd subject\x07")
    found = changes(repo, tip, base)
    assert sorted(found) == sorted(name if isinstance(name, str) else "\\xff" for name in names)
    assert all((file.added, file.size) == (1, 2) for file in found.values())
    assert git.new_commits(repo.path, tip, base, 5).commits[0].subject == "-n --odd subject "


def test_a_file_that_became_a_link(repo: Repository) -> None:
    """A change of type counts once, and does not shift the facts of the files after it."""
    base = repo.commit("base", a="text\n", b="1\n2\n3\n")
    (repo.path / "a").unlink()
    (repo.path / "a").symlink_to("b")
    tip = repo.commit("link", b="1\n2\n# TODO\n")
    found = changes(repo, tip, base)
    assert [file.status for file in found.values()] == ["changed", "changed"]
    assert (found["b"].line, found["b"].markers) == (3, 1)


def test_merges_and_branches(repo: Repository) -> None:
    """A merge brings the other side's commits and files; a named branch is followed."""
    base = repo.commit("base", a="1\n")
    repo.git("checkout", "-q", "-b", "-x-side".lstrip("-"))
    side = repo.commit("side", b="1\n")
    repo.git("checkout", "-q", "main")
    main = repo.commit("main", c="1\n")
    repo.git("merge", "-q", "--no-ff", "--message=merge", side)
    tip = git.head(repo.path)
    assert tip is not None and git.head(repo.path, "x-side") == side
    news = git.new_commits(repo.path, tip, main, 5)
    assert {commit.subject for commit in news.commits} == {"merge", "side"}
    assert list(changes(repo, tip, main)) == ["b"]
    assert list(changes(repo, tip, base)) == ["b", "c"]
    first = git.new_commits(repo.path, tip, None, 5)
    assert first.base == main and len(first.commits) == 2


def test_detached_bare_worktree_and_shallow(repo: Repository, tmp_path: Path) -> None:
    """Repositories of other shapes are read the same way."""
    one = repo.commit("one", a="1\n")
    two = repo.commit("two", a="2\n")
    repo.git("checkout", "-q", one)
    assert git.head(repo.path) == one
    repo.git("worktree", "add", "-q", str(tmp_path / "tree"), "main")
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    repo.git(
        "clone", "-q", "--depth=1", "-b", "main", f"file://{repo.path}", str(tmp_path / "thin")
    )
    for other in ("tree", "thin"):
        assert git.is_repository(tmp_path / other)
        assert git.head(tmp_path / other, "main") == two
    assert git.is_repository(tmp_path / "bare.git")
    thin = git.new_commits(tmp_path / "thin", two, None, 5)
    assert [commit.subject for commit in thin.commits] == ["two"]
    assert [file.status for file in git.changed_files(tmp_path / "thin", two, thin.base)] == [
        "added"
    ]


def test_submodules(repo: Repository, tmp_path: Path) -> None:
    """A submodule is named as one, and never entered."""
    inner = Repository(tmp_path / "inner")
    inner.commit("inner", a="1\n")
    base = repo.commit("base")
    repo.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner.path), "sub")
    tip = repo.commit("add")
    found = changes(repo, tip, base)
    assert (found["sub"].status, found["sub"].size) == ("submodule", None)
    assert found[".gitmodules"].status == "added"


def test_nothing_in_a_repository_is_run(repo: Repository, tmp_path: Path) -> None:
    """Hooks, monitors, pagers, diff drivers, filters and signature checkers stay asleep."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path / 'sprung'}\nexit 1\n")
    trap.chmod(trap.stat().st_mode | stat.S_IXUSR)
    base = repo.commit("base", a__txt="1\n")
    repo.write(".gitattributes", "*.txt diff=trap filter=trap\n")
    tip = repo.commit("change", a__txt="2\n")
    for key in (
        *("core.fsmonitor", "core.pager", "pager.log", "pager.diff-tree", "diff.external"),
        *("diff.trap.command", "diff.trap.textconv", "filter.trap.clean", "filter.trap.smudge"),
        *("gpg.program", "core.sshCommand", "core.alternateRefsCommand", "core.editor"),
    ):
        repo.git("config", key, str(trap))
    repo.git("config", "log.showSignature", "true")
    repo.git("config", "core.hooksPath", str(tmp_path))
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        (tmp_path / hook).symlink_to(trap)
    assert git.head(repo.path) == tip
    assert len(git.new_commits(repo.path, tip, base, 5).commits) == 1
    assert set(changes(repo, tip, base)) == {".gitattributes", "a.txt"}
    assert not (tmp_path / "sprung").exists()


def test_nothing_is_fetched(repo: Repository, tmp_path: Path) -> None:
    """A partial clone lacks contents: their facts are missing, and no transport is started."""
    base = repo.commit("base", a="1\n")
    tip = repo.commit("two", a="2\n", b="1\n")
    repo.git("config", "uploadpack.allowFilter", "true")
    thin = tmp_path / "thin"
    repo.git("clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{repo.path}", str(thin))
    found = changes(Repository(thin, init=False), tip, base)
    assert {path: file.status for path, file in found.items()} == {"a": "changed", "b": "added"}
    assert all(file.added is None and file.size is None for file in found.values())


def test_the_daemons_environment_stays_out(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIT_DIR and the like do not redirect us, and the user's own git settings are not read."""
    tip = repo.commit("one")
    other = Repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[broken")
    assert git.head(repo.path) == tip


def test_nothing_is_written(repo: Repository) -> None:
    """Reading leaves every file of the repository as it was."""
    tip = repo.commit("one", a="1\n")

    def state() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in repo.path.rglob("*")}

    before = state()
    git.head(repo.path)
    git.changed_files(repo.path, tip, git.new_commits(repo.path, tip, None, 5).base)
    assert state() == before


def test_a_slow_git_is_killed(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every git command has its deadline."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (fake / "git").chmod(0o755)
    monkeypatch.setattr(git_command, "PROGRAM_PATH", f"{fake}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(git_command, "DEADLINE_S", 0.2)
    with pytest.raises(ToolError, match="longer than"):
        git.head(repo.path)


def test_a_stop_ends_a_running_git(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An orderly stop does not wait for the deadline of a command, and starts no further one."""
    fake, started = tmp_path / "bin", tmp_path / "started"
    fake.mkdir()
    (fake / "git").write_text(f"#!/bin/sh\necho $$ >> {started}\nexec sleep 60\n")
    (fake / "git").chmod(0o755)
    monkeypatch.setattr(git_command, "PROGRAM_PATH", f"{fake}{os.pathsep}{os.environ['PATH']}")
    cancel = Cancel()

    def stop() -> None:
        wait_for(lambda: started.exists() and started.read_text(), what="git runs")
        cancel.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    with git.stopped_by(cancel):
        with pytest.raises(Stopped):
            git.head(repo.path)
        thread.join()
        with pytest.raises(Stopped):
            git.head(repo.path)
    assert len(started.read_text().split()) == 1


def work(repo: Repository) -> dict[str, tuple[str, int | None, int | None]]:
    """Return what is not committed, by path."""
    found = git.uncommitted(repo.path, repo.git("rev-parse", "HEAD"))
    return {file.path: (file.status, file.added, file.deleted) for file in found.files}


def test_work_in_no_commit_yet(repo: Repository) -> None:
    """Changed, staged, removed and new files are told, and ignored ones are not."""
    repo.commit("one", a__py="1\n2\n", b__py="x\n", c__py="y\n", d__py="z\n", __gitignore="*.log\n")
    assert work(repo) == {}
    repo.write("a.py", "1\n2\n3  # TODO\n")
    repo.write("b.py", "other\n")
    repo.git("add", "b.py")
    repo.git("rm", "-q", "c.py")
    (repo.path / "d.py").unlink()
    repo.write("new/e.py", "a\nb\n")
    repo.write("noise.log", "...")
    assert work(repo) == {
        "a.py": ("changed", 1, 0),
        "b.py": ("changed", 1, 1),
        "c.py": ("deleted", 0, 1),
        "d.py": ("deleted", 0, 1),
        "new/e.py": ("added", 2, 0),
    }
    first = git.uncommitted(repo.path, repo.git("rev-parse", "HEAD"))
    assert (first.files[0].line, first.files[0].markers) == (3, 1)
    assert first == git.uncommitted(repo.path, repo.git("rev-parse", "HEAD"))
    repo.write("a.py", "1\n2\n4\n")
    assert git.uncommitted(repo.path, repo.git("rev-parse", "HEAD")).id != first.id


def test_a_file_that_was_only_touched_is_no_work(repo: Repository) -> None:
    """Another time of the same content, or the other end of its lines, is no change."""
    repo.commit("one", a__txt="1\n2\n")
    os.utime(repo.path / "a.txt", (1, 1))
    assert work(repo) == {}
    repo.write("a.txt", "1\r\n2\r\n")
    assert work(repo) == {}


def test_uncommitted_work_runs_nothing(repo: Repository, tmp_path: Path) -> None:
    """A filter that the repository names is a program of others."""
    ran = tmp_path / "ran"
    repo.commit("one", a__txt="1\n", __gitattributes="*.txt filter=evil diff=evil\n")
    for key in ("filter.evil.clean", "filter.evil.process", "diff.evil.textconv"):
        repo.git("config", key, f"touch {ran}")
    repo.git("config", "core.fsmonitor", f"touch {ran}")
    repo.write("a.txt", "1\n2\n")
    repo.write("b.txt", "1\n")
    assert work(repo) == {"a.txt": ("changed", 1, 0), "b.txt": ("added", 1, 0)}
    assert not ran.exists()


def test_odd_files_in_a_working_tree(repo: Repository, tmp_path: Path) -> None:
    """Links lead nowhere, pipes do not hang, binary and large files count no lines."""
    repo.commit("one", a__txt="1\n", b__txt="1\n", **{"dir/c.txt": "1\n"})
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "c.txt").write_text("secret\n" * 9)
    (repo.path / "a.txt").unlink()
    (repo.path / "a.txt").symlink_to(tmp_path / "outside" / "c.txt")
    (repo.path / "b.txt").unlink()
    os.mkfifo(repo.path / "b.txt")
    (repo.path / "dir" / "c.txt").unlink()
    (repo.path / "dir").rmdir()
    (repo.path / "dir").symlink_to(tmp_path / "outside")
    repo.write("d.bin", b"\0\1")
    repo.write("e.txt", "x\n" * 600_000)
    repo.write(b"odd\xff\n\x01name", "1\n")
    found = work(repo)
    assert found["a.txt"] == found["b.txt"] == ("changed", None, None)
    assert found["d.bin"] == found["e.txt"] == ("added", None, None)
    assert found["odd\\xff\n\x01name"] == ("added", 1, 0)
    assert all(added is None or added <= 1 for _, added, _ in found.values())


def test_a_first_look_at_some_days(repo: Repository) -> None:
    """They are counted from the newest commit, and not from today."""
    for day, name in ((1, "old"), (20, "middle"), (25, "new")):
        date = f"2026-01-{day:02}T12:00:00"
        repo.write(f"{name}.txt", name)
        repo.git("add", "-A")
        with_date = {**ENVIRONMENT, "GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date}
        subprocess.run(["git", "commit", "-qm", name], cwd=repo.path, env=with_date, check=True)
    tip = repo.git("rev-parse", "HEAD")
    news = git.new_commits(repo.path, tip, None, 9, days=7)
    assert [commit.subject for commit in news.commits] == ["new", "middle"]
    assert news.base == repo.git("rev-parse", "HEAD~2")
    assert git.new_commits(repo.path, tip, None, 9, days=100).base is None
    files = git.changed_files(repo.path, tip, news.base)
    assert {file.path: file.subject for file in files} == {
        "middle.txt": "middle",
        "new.txt": "new",
    }


def test_where_a_branch_left_another(repo: Repository) -> None:
    """Whatever came to the other one since."""
    base = repo.commit("one", a__txt="1")
    repo.git("switch", "-q", "-c", "mine")
    tip = repo.commit("two", b__txt="1")
    repo.git("switch", "-q", "main")
    repo.commit("three", c__txt="1")
    assert git.fork(repo.path, tip, "main") == base
    with pytest.raises(ToolError, match="no branch nowhere"):
        git.fork(repo.path, tip, "nowhere")
