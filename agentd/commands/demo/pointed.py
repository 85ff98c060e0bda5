"""The shipped agents pointed at a person's repository, and how much they are asked to do."""

import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import ConfigError, ToolError, UsageError
from agentd.paths import expanded, shipped
from agentd.tools import git

AGENTS = ("repo_fetch", "repo_review")  # the shipped pipeline: the first wakes the second
TRUNKS = ("main", "master")


@dataclass(frozen=True)
class Scale:
    """How much the agents are asked to do, by how fast the model is."""

    headlines: int
    listed: int  # changed files in an event
    written: int  # of them with a sentence, where the model writes any
    reads: int  # of files by the model, for that


# 2 cores without a fast BLAS read 7 tokens/s.
SLOW = Scale(headlines=12, listed=3, written=1, reads=0)
FAST = Scale(headlines=24, listed=20, written=5, reads=5)


def check_repository(path: Path) -> Path:
    """Return the top of the git repository that holds `path`.

    Raises:
        UsageError: there is none, it is bare or has no commit yet, or git is missing.
    """
    hint = "name one with --repo PATH"
    try:
        # Resolved before the way up: above `../x` is not the folder that one stands in.
        folder = expanded(path).resolve()
        known = folder.is_dir()
    except ConfigError as error:
        raise UsageError(f"cannot be used: {error.what}", where=str(path), hint=hint) from error
    except (OSError, RuntimeError) as error:  # kept out; a loop of links
        problem = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be used: {problem}", where=str(path), hint=hint) from error
    if not known:
        raise UsageError("is not a folder", where=str(folder), hint=hint)
    if shutil.which("git") is None:
        raise UsageError("the demo needs the `git` command", hint="install git")
    for top in (folder, *folder.parents):
        if git.is_repository(top):
            break
    else:
        raise UsageError("is not in a git repository", where=str(folder), hint=hint)
    if not (top / ".git").exists():
        raise UsageError("is a bare repository, without files to read", where=str(top), hint=hint)
    try:
        str(top).encode()
    except UnicodeEncodeError as error:
        raise UsageError("its path is not UTF-8", where=repr(top), hint=hint) from error
    try:
        tip = git.head(top)
    except ToolError as error:  # such as a worktree of a repository that was removed
        raise UsageError(f"git cannot use it: {error.what}", where=str(top), hint=hint) from error
    if tip is None:
        raise UsageError("this git repository has no commit yet", where=str(top), hint=hint)
    return top


@dataclass(frozen=True)
class Span:
    """Which commits are looked at."""

    words: str
    against: str | None = None


def span_of(repo: Path) -> Span:
    """Return what a branch has that the main one has not, else the last week."""
    tip = git.head(repo)
    for trunk in TRUNKS:
        try:
            left = git.fork(repo, tip or "", trunk)
        except ToolError:  # there is no such branch
            continue
        if left not in (None, tip):
            return Span(f"On this branch and not on {trunk}", trunk)
    return Span("The week up to the latest commit")


def agent_config(
    name: str, repo: Path, scale: Scale, *, against: str | None = None, words: bool = False
) -> dict[str, Any]:
    """Return a shipped agent's configuration, pointed at `repo` and enabled."""
    path = shipped() / "config" / "agents.d" / f"{name}.toml"
    config: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    config["enabled"] = True
    config.pop("schedule", None)  # the demo asks for one run
    if name == "repo_fetch":
        params = {"repo": str(repo), "max_files": scale.listed, "max_events": 1, "shown": 1}
        params |= {"uncommitted": True, **({"against": against} if against else {})}
        config["permissions"] = {"read": [str(path) for path in git.folders(repo)]}
    else:
        params = {"words": words, "max_files": scale.written, "max_reads": scale.reads}
        config["permissions"] = {"read": [str(repo)]}
    config["params"] = {**config.get("params", {}), **params}
    return config
