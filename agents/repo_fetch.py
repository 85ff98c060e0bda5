"""Looks at a local git repository for what is new since it last looked.

New commits, or all that a branch has and another has not; and with `uncommitted` the work that is
in no commit yet. Publishes `repo.changed`: the facts come from git, the model only says when to
look and what kind of change it was. A change of many files becomes several events, each bounded.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentd.agent import Agent, Result
from agentd.errors import ConfigError, ToolError
from agentd.events import Event, NewEvent
from agentd.paths import expanded
from agentd.tools.git import (
    Commit,
    FileChange,
    changed_files,
    folders,
    fork,
    head,
    is_repository,
    new_commits,
    stopped_by,
    uncommitted,
)

LAST_COMMIT = "last_commit"  # the remembered fact: the newest commit that was published
LAST_WORK = "last_work"  # and which state of the uncommitted work
COMMITS_LISTED = 20  # in one event; more are counted
EVENTS_MAX = 25  # of one look


class FetchParams(BaseModel):
    """Which repository, and how much of it at once."""

    model_config = ConfigDict(extra="forbid")

    repo: str = Field(min_length=1, description="Folder of a local git repository, absolute or ~.")
    branch: str | None = Field(
        None, min_length=1, description="Branch to follow; otherwise what is checked out."
    )
    days: int = Field(
        7,
        ge=0,
        le=366,
        description="What the first look takes: the branch's last days; 0: a commit.",
    )
    against: str | None = Field(
        None, min_length=1, description="A branch: look at all that is not in it, as in main..HEAD."
    )
    uncommitted: bool = Field(
        False, description="Also look at work that is in no commit yet, new files included."
    )
    max_files: int = Field(20, ge=1, le=100, description="Changed files in one event.")
    max_events: int = Field(
        EVENTS_MAX,
        ge=1,
        le=EVENTS_MAX,
        description="Events of one look; files with fewest changed lines are left out and counted.",
    )
    shown: int = Field(3, ge=1, le=20, description="Files that the model is told by name.")

    @field_validator("repo")
    @classmethod
    def _is_repository(cls, value: str) -> str:
        try:
            path = expanded(value)
        except ConfigError as error:
            raise ValueError(f"{value!r}: {error.what}") from error
        if not path.is_absolute():
            raise ValueError(f'{value!r} is relative; write it as "/..." or "~/..."')
        if not path.is_dir():
            raise ValueError(f"{value!r} is not a folder on this machine")
        if not is_repository(path):
            raise ValueError(f"{value!r} is no git repository; name the folder that holds .git")
        return str(path.resolve())


class RepoChanged(BaseModel):
    """What changed between `since` and `head`. Part `part` of `parts`, each with its own files."""

    model_config = ConfigDict(extra="forbid")

    repo: str
    branch: str | None
    head: str
    since: str | None  # None: before the first commit
    rewritten: bool  # the commit seen last is gone from the branch's history
    uncommitted: bool = False  # work on top of `head`
    commits: list[Commit]
    more_commits: int = Field(ge=0)  # new as well, and not listed
    files: list[FileChange]
    total_files: int = Field(ge=0)  # of all parts together
    files_left_out: int = Field(ge=0)  # in no part at all
    part: int = Field(ge=1)
    parts: int = Field(ge=1)


class RepoFetch(Agent[FetchParams]):
    """FetchRepo | Done: looks once, then says what kind of change it was."""

    Params = FetchParams
    function = "RepoFetch"
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {"repo.changed": RepoChanged}
    reads = frozenset({"FetchRepo"})  # its events are staged
    labels = frozenset({"Done.kind"})

    @classmethod
    def folders(cls, params: FetchParams) -> Iterable[Path]:
        """Return what git reads of the repository, wherever it lies."""
        return folders(Path(params.repo))

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Note whether this session has looked already."""
        self._looked = any("error" not in result for result in results)

    def opening(self, event: Event) -> Result:
        """Return nothing but the event's type: what asked makes no difference to the work."""
        return Result({})

    def barred(self) -> frozenset[str]:
        """One look is enough."""
        return frozenset({"FetchRepo"} if self._looked else ())

    def dispatch(self, decision: Any) -> Result:
        """Carry out FetchRepo, the only decision besides Done."""
        match decision:
            case self.kit.types.FetchRepo():
                return self._fetch()
        raise ToolError("decide FetchRepo or Done")

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Return what was found, with the model's word for it. Looks now if it never did.

        Raises:
            ToolError: git failed; the session is tried again, and then is a dead letter.
        """
        looked = next((result for result in results if "error" not in result), None)
        late = self._fetch() if looked is None else Result(looked)
        # A result that was cut to a small [limits] result_tokens may have lost its numbers.
        value = {"kind": done.kind} | {key: late.value.get(key) for key in ("commits", "files")}
        return Result(value, publish=late.publish, remember=late.remember)

    def _fetch(self) -> Result:
        if self._looked:
            raise ToolError("fetched already; decide Done")
        result = self._look()
        self._looked = True
        return result

    def _look(self) -> Result:
        with stopped_by(self.kit.tools.cancel):
            tip = head(Path(self.params.repo), self.params.branch)
            if tip is None:  # before the first commit
                return Result({"commits": 0, "files": 0})
            news = self._news(tip)
            return self._and_work(news, tip) if self.params.uncommitted else news

    def _news(self, tip: str) -> Result:
        repo, against = Path(self.params.repo), self.params.against
        seen = self._last(LAST_COMMIT)
        since = seen
        known = {"repo": self.params.repo, "id": tip}
        if against:
            since = fork(repo, tip, against)
            known["id"] = f"{since}..{tip}"
        if known["id"] == seen:
            return Result({"commits": 0, "files": 0})
        news = new_commits(repo, tip, since, COMMITS_LISTED, days=self.params.days or None)
        remember = {LAST_COMMIT: known}
        if not news.commits:  # the branch was moved back to a commit known before
            return Result({"commits": 0, "files": 0}, remember=remember)
        files = changed_files(repo, tip, news.base)
        value = {
            "commits": len(news.commits) + news.more,
            "files": len(files),
            "top": [brief(file) for file in sorted(files, key=churn)[: self.params.shown]],
        }
        events = self._events(tip, news.base, news.rewritten, news.commits, news.more, files)
        return Result(value, trusted=False, publish=events, remember=remember)

    def _and_work(self, news: Result, tip: str) -> Result:
        """Return what was found, with the work that is in no commit, where it is in a new state."""
        work = uncommitted(Path(self.params.repo), tip)
        if not work.files or work.id == self._last(LAST_WORK):
            return news
        events = self._events(tip, tip, False, (), 0, work.files, more_files=work.more, work=True)
        value = {**news.value, "uncommitted": len(work.files) + work.more}
        remember = {**news.remember, LAST_WORK: {"repo": self.params.repo, "id": work.id}}
        publish = [*news.publish, *events]
        return Result(value, trusted=False, publish=publish, remember=remember)

    def _last(self, fact: str) -> str | None:
        """Return what was published last; of another repository it says nothing about this."""
        known = self.kit.memory.get(fact)
        if isinstance(known, dict) and known.get("repo") == self.params.repo:
            return str(known.get("id"))
        return None

    def _events(
        self,
        tip: str,
        base: str | None,
        rewritten: bool,
        commits: Sequence[Commit],
        more: int,
        files: Sequence[FileChange],
        *,
        more_files: int = 0,
        work: bool = False,
    ) -> list[NewEvent]:
        size = self.params.max_files
        most = size * self.params.max_events
        listed = files if len(files) <= most else sorted(files, key=churn)[:most]
        groups = [listed[start : start + size] for start in range(0, len(listed), size)] or [[]]
        events = []
        for part, group in enumerate(groups, 1):
            payload = RepoChanged(
                repo=self.params.repo,
                branch=self.params.branch,
                head=tip,
                since=base,
                rewritten=rewritten,
                uncommitted=work,
                commits=list(commits),
                more_commits=more,
                files=list(group),
                total_files=len(files) + more_files,
                files_left_out=len(files) + more_files - len(listed),
                part=part,
                parts=len(groups),
            )
            events.append(NewEvent("repo.changed", payload.model_dump(mode="json")))
        return events


def churn(file: FileChange) -> int:
    """Sort by lines changed, most first; binary files last."""
    return -((file.added or 0) + (file.deleted or 0))


def brief(file: FileChange) -> str:
    """Return a file in a few tokens, such as `src/a.py +12 -3`."""
    if file.added is None:
        return f"{file.path} {file.status if file.status == 'submodule' else 'binary'}"
    return f"{file.path} +{file.added} -{file.deleted}"
