"""Local git repositories, read only: what is new, and what it changed.

Git runs in this process, or in the hands of the agent that asks; see `carried_out_by`.
"""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from agentd.tools import git_command, git_looks, repository
from agentd.tools.base import Output
from agentd.tools.git_command import OUTPUT_BYTES, cancel_of_block, environment, held_to, stopped_by
from agentd.tools.git_looks import OBJECT_ID

if TYPE_CHECKING:
    from agentd.tools.remote import Remote

__all__ = [
    "OBJECT_ID",
    "Commit",
    "FileChange",
    "News",
    "Work",
    "carried_out_by",
    "changed_files",
    "environment",
    "folders",
    "fork",
    "git",
    "head",
    "held_to",
    "is_repository",
    "new_commits",
    "stopped_by",
    "uncommitted",
]

LOOK_S = 90.0  # for a look of several commands, each with its own deadline, in another process
REMOTE_BYTES = 8_000_000  # of one command's raw output from another process
_remote: ContextVar["Remote | None"] = ContextVar("remote", default=None)  # see `carried_out_by`

Status = Literal["added", "changed", "deleted", "renamed", "copied", "submodule"]


class Commit(BaseModel):
    """One commit. `subject` is one clean line, cut visibly."""

    model_config = ConfigDict(frozen=True)

    id: str
    subject: str


class FileChange(BaseModel):
    """What happened to one file. `path` is clean text: bytes that are not UTF-8 stand as `\\xNN`.

    `added` and `deleted` count lines and are None for binary files and for those that a partial
    clone lacks; `size` is in bytes, None where nothing is left or known; `line` is the first
    changed line; `markers` counts added TODO, FIXME, XXX; `subject` is that of the latest commit
    that touched it, None where there is none, or it was not looked for.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    old_path: str | None = None
    status: Status
    added: int | None = None
    deleted: int | None = None
    size: int | None = None
    line: int = 1
    markers: int = 0
    subject: str | None = None


@dataclass(frozen=True)
class News:
    """Commits that are new since the last look, newest first; `more` counts those not listed.

    `base` is what the changed files are measured from: a commit, or None for the empty tree.
    `rewritten` says that the commit seen last is gone from the branch's history.
    """

    commits: tuple[Commit, ...]
    more: int
    base: str | None
    rewritten: bool


@dataclass(frozen=True)
class Work:
    """What is in no commit yet. `more` counts files beyond those; `id` tells one state of it."""

    files: tuple[FileChange, ...]
    more: int
    id: str


@contextmanager
def carried_out_by(remote: "Remote") -> Iterator[None]:
    """Let all of this module run in an agent's hands inside the block, held to its permissions."""
    token = _remote.set(remote)
    try:
        yield
    finally:
        _remote.reset(token)


def _look(name: str, repo: Path, **args: Any) -> Any:
    remote = _remote.get()
    if remote is None:
        return git_looks.LOOKS[name](repo, **args)
    given = {"repo": str(repo), **args}
    found = remote.call(f"git.{name}", given, LOOK_S, cancel_of_block(), idempotent=True)
    return found.value["git"]


def is_repository(path: Path) -> bool:
    """Say whether `path` is the top of a working tree, or a bare repository. Runs nothing."""
    return repository.is_bare(path) or (path / ".git").exists()


def folders(repo: Path) -> list[Path]:
    """Return what git reads of a repository: its folders, and all that these lead on to.

    An agent that looks at it must be permitted to read each of them.

    Raises:
        ToolError: it is no repository, or leads on to what is not looked into.
    """
    return [Path(path) for path in _look("folders", repo)]


def head(repo: Path, branch: str | None = None) -> str | None:
    """Return the commit at the tip of `branch`, or of what is checked out; None before the first.

    Raises:
        ToolError: no repository, or no such branch.
    """
    found: str | None = _look("head", repo, branch=branch)
    return found


def fork(repo: Path, tip: str, branch: str) -> str | None:
    """Return the commit at which the history of `tip` left that of `branch`; None for nowhere.

    Raises:
        ToolError: there is no such branch, here or at `origin`.
    """
    found: str | None = _look("fork", repo, tip=tip, branch=branch)
    return found


def new_commits(
    repo: Path, tip: str, since: str | None, limit: int, *, days: int | None = None
) -> News:
    """Return what `tip` has that `since` has not.

    At the first look (`since` is None), or when `since` no longer exists, what was committed in the
    `days` before the tip is new, along first parents; without `days` the latest commit.

    Raises:
        ToolError: git failed.
    """
    found = _look("new_commits", repo, tip=tip, since=since, limit=limit, days=days)
    commits = tuple(Commit(id=id, subject=subject) for id, subject in found.pop("commits"))
    return News(commits, **found)


def changed_files(repo: Path, tip: str, base: str | None) -> list[FileChange]:
    """Return what differs between `base` (None: nothing) and `tip`, in git's order of paths.

    Raises:
        ToolError: git failed.
    """
    return [FileChange(**file) for file in _look("changed_files", repo, tip=tip, base=base)]


def uncommitted(repo: Path, tip: str) -> Work:
    """Return what differs in the working tree from `tip`, new files that are not ignored included.

    Raises:
        ToolError: git failed.
    """
    found = _look("uncommitted", repo, tip=tip)
    files = tuple(FileChange(**file) for file in found["files"])
    return Work(files, found["more"], found["id"])


def git(repo: Path, *args: str, given: bytes = b"", limit: int = OUTPUT_BYTES) -> Output:
    """Run one git command in `repo`, with all that it could be made to run switched off.

    Raises:
        PermissionRefused: not all of it may be read; see `held_to`.
        ToolError: there is no such folder, or git cannot be started or takes too long.
    """
    if _remote.get() is None:
        return git_command.git(repo, *args, given=given, limit=limit)
    text, limit = base64.b64encode(given).decode("ascii"), min(limit, REMOTE_BYTES)
    code, data, dropped = _look("git", repo, args=args, given=text, limit=limit)
    return Output(code, base64.b64decode(data), dropped)
