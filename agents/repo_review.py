"""Reviews the changed files of a `repo.changed` event: one finding for each, or an explicit none.

The facts of a finding come from git and from the files themselves, by typed tools. The model adds a
label and a short note. A file that it leaves out gets the label "none", and says so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentd.agent import Agent, Result
from agentd.errors import ToolError
from agentd.events import Event, NewEvent
from agentd.tools.git import Commit, FileChange

FILES_MAX = 50  # put before the model in one session
NOTE_CHARACTERS = 60
NOTE_LEAST = 16
NOTE_ACCEPTED = 400  # from a server without a mask; what is kept is cut at a word
# One short sentence that begins with a verb. Small models lose themselves in digits and signs, and
# write plain sentences once neither is allowed; tighter patterns make them invent words.
NOTE_PATTERN = (
    "^(Adds|Fixes|Changes|Updates|Removes|Moves|Explains|Breaks|Misses)"
    r" (the|a|an|how|some|more)( [A-Za-z]{1,14}){1,7}\.$"
)
ABOUT_CHARACTERS = 60  # of the latest commit's subject, as the model sees it
TEST_WORDS = frozenset({"test", "tests", "spec", "specs", "conftest"})
DOCS_SUFFIXES = frozenset({"md", "rst", "txt", "adoc"})
CODE_SUFFIXES = frozenset(
    {
        *("py", "pyi", "rb", "php", "sh", "sql", "baml"),
        *("js", "jsx", "ts", "tsx", "go", "rs", "swift", "java", "kt", "scala", "cs"),
        *("c", "h", "cc", "cpp", "hpp", "m", "mm"),
    }
)
Kind = Literal["bug", "test", "docs", "style", "none"]
Source = Literal["model", "unreviewed", "beyond max_files"]


class ReviewParams(BaseModel):
    """How much the model is asked to look at."""

    model_config = ConfigDict(extra="forbid")

    max_files: int = Field(
        5, ge=1, le=FILES_MAX, description="Files that the model reviews; the rest get a none."
    )
    max_reads: int = Field(
        10,
        ge=0,
        le=100,
        description="Times that it may read in a file; below 3B a model labels better without.",
    )


class Changed(BaseModel):
    """What this agent needs of a `repo.changed` payload; a producer may say more."""

    repo: str = Field(min_length=1)
    head: str = Field(min_length=1)
    commits: list[Commit] = Field(default=[], max_length=1000)
    files: list[FileChange] = Field(max_length=1000)


class FindingArgs(BaseModel):
    """Bounds of the model's finding; the mask enforces them.

    The pattern and the shorter length are the mask's alone: without a mask only large models run,
    and a good sentence of theirs is not refused for its form.
    """

    # Without a least length a small model writes one empty word.
    note: str = Field(
        min_length=NOTE_LEAST,
        max_length=NOTE_ACCEPTED,
        json_schema_extra={"maxLength": NOTE_CHARACTERS, "pattern": NOTE_PATTERN},
    )


class Facts(BaseModel):
    """What typed tools say of a changed file. `lines` is None where it could not be read."""

    status: str
    added: int | None
    deleted: int | None
    size: int | None
    markers: int  # added TODO, FIXME, XXX
    area: Literal["code", "test", "docs", "other"]
    tests_changed: bool  # whether this change touches any test
    lines: int | None = None


class ReviewFinding(BaseModel):
    """One file's finding. `source` says whether the model looked at it."""

    repo: str
    head: str
    path: str
    kind: Kind
    note: str = Field(max_length=NOTE_CHARACTERS)
    source: Source
    facts: Facts


class ReviewDone(BaseModel):
    """The end of a review. `kinds` counts the findings by label."""

    repo: str
    head: str
    risk: Literal["low", "medium", "high"]
    files: int
    reviewed: int  # by the model
    kinds: dict[str, int]


class RepoReview(Agent[ReviewParams]):
    """Finding | ReadFile | Done: reads what it wants, labels each file, ends."""

    Params = ReviewParams
    function = "RepoReview"
    uses = ("ReadFile",)
    accepts: ClassVar[Mapping[str, type[BaseModel]]] = {"repo.changed": Changed}
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {
        "review.finding": ReviewFinding,
        "review.done": ReviewDone,
    }
    arguments: ClassVar[Mapping[str, type[BaseModel]]] = {"Finding": FindingArgs}
    reads = frozenset({"Finding"})  # its event is staged
    labels = frozenset({"Finding.kind", "Done.risk"})

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Number the files, those with most changed lines first; note which have their finding."""
        self._event_id = event.id
        try:
            self._change = Changed.model_validate(event.payload)
        except ValueError:  # such as a person's trigger: nothing to review
            self._change = Changed(repo="-", head="-", files=[])
        ordered = sorted(self._change.files, key=_weight)
        self._files = dict(enumerate(ordered, 1))
        self._shown = min(len(ordered), self.params.max_files)
        self._tests_changed = any(area(file.path) == "test" for file in ordered)
        self._labels = labels(results)
        self._reads = sum("path" in result for result in results)

    def opening(self, event: Event) -> Result:
        """Return the files as `number path +added -deleted`, and what helps to word a finding."""
        files = [_entry(n, file) for n, file in self._files.items() if n <= self._shown]
        value: dict[str, Any] = {"files": files}
        if self._change.commits:
            value = {"commit": self._change.commits[0].subject[:ABOUT_CHARACTERS], **value}
        if any(area(file.path) == "code" for file in self._files.values()):
            value["tests"] = "changed" if self._tests_changed else "unchanged"
        return Result(value, trusted=False)

    def barred(self) -> frozenset[str]:
        """Done comes after the last finding, and not before; readings are counted."""
        if len(self._labels) >= self._shown:
            return frozenset({"ReadFile", "Finding"})
        return frozenset({"Done", "ReadFile"} if self._reads >= self.params.max_reads else {"Done"})

    def dispatch(self, decision: Any) -> Result:
        """Carry out ReadFile or Finding."""
        match decision:
            case self.kit.types.ReadFile():
                return self._read(decision.path, decision.start)
            case self.kit.types.Finding():
                return self._finding(decision.kind, decision.note)
        raise ToolError("decide ReadFile, Finding or Done")

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Publish an explicit none for each file without a finding, and the summary."""
        given = labels(results)
        publish = []
        for number, file in self._files.items():
            if number not in given:
                source: Source = "unreviewed" if number <= self._shown else "beyond max_files"
                publish.append(self._event(number, file, "none", "", source))
        kinds = Counter(given.get(number, "none") for number in self._files)
        summary = ReviewDone(
            repo=self._change.repo,
            head=self._change.head,
            risk=done.risk,
            files=len(self._files),
            reviewed=len(given),
            kinds=dict(kinds),
        )
        value = summary.model_dump(mode="json")
        if self._files:
            publish.append(NewEvent("review.done", value))
        return Result(value, publish=publish)

    def _read(self, path: str, start: int | None) -> Result:
        self._reads += 1
        file = self._named(path)
        whole = str(Path(self._change.repo) / file.path)
        # Without a line it reads from a little above the first change, where the news is.
        line = start or max(1, file.line - 3)
        result = self.kit.tools.call("ReadFile", {"path": whole, "start": line})
        value = {**result.value, "path": file.path}
        return Result(value, trusted=False)

    def _named(self, path: str) -> FileChange:
        """Return the changed file that the model means, by path, by its end, or by number."""
        if path.isdecimal() and int(path) in self._files:
            return self._files[int(path)]
        files = list(self._files.values())
        for same in (
            [file for file in files if file.path == path],
            [file for file in files if file.path in path.split()],  # as the opening shows it
            [file for file in files if file.path.endswith("/" + path.lstrip("./"))],
        ):
            if len(same) == 1:
                return same[0]
        raise ToolError(f"{path} is not among the changed files")

    def _finding(self, kind: Kind, note: str) -> Result:
        number = len(self._labels) + 1
        if number > self._shown:
            raise ToolError("each file has its finding: decide Done")
        event = self._event(number, self._files[number], kind, clean(note), "model")
        self._labels[number] = kind
        following = _entry(number + 1, self._files[number + 1]) if number < self._shown else "done"
        value = {str(number): kind, "next": following}
        return Result(value, trusted=False, publish=[event])

    def _event(
        self, number: int, file: FileChange, kind: Kind, note: str, source: Source
    ) -> NewEvent:
        facts = Facts(
            status=file.status,
            added=file.added,
            deleted=file.deleted,
            size=file.size,
            markers=file.markers,
            area=area(file.path),
            tests_changed=self._tests_changed,
            lines=self._lines(file) if source == "model" else None,
        )
        finding = ReviewFinding(
            repo=self._change.repo,
            head=self._change.head,
            path=file.path,
            kind=kind,
            note=note,
            source=source,
            facts=facts,
        )
        # After a cut the handler may run a second time: the first event is the one that counts.
        key = f"{self.kit.name}:{self._event_id}:{number}"
        return NewEvent("review.finding", finding.model_dump(mode="json"), dedup_key=key)

    def _lines(self, file: FileChange) -> int | None:
        if file.status in ("deleted", "submodule") or file.added is None:
            return None
        try:
            path = str(Path(self._change.repo) / file.path)
            return int(self.kit.tools.call("ReadFile", {"path": path}).value["lines"])
        except ToolError:  # gone meanwhile, too large, not permitted: the fact is missing
            return None


def labels(results: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return the labels that the session's results record, by file number; the first one counts."""
    found: dict[int, str] = {}
    for result in results:
        if "next" in result and "error" not in result:
            for key, kind in result.items():
                if key.isdecimal():
                    found.setdefault(int(key), str(kind))
    return found


def area(path: str) -> Literal["code", "test", "docs", "other"]:
    """Return what kind of file the path names."""
    pure = PurePosixPath(path)
    words = {word for part in pure.parts for word in part.replace(".", "_").split("_")}
    suffix = pure.suffix.removeprefix(".").lower()
    if words & TEST_WORDS and suffix in CODE_SUFFIXES:
        return "test"
    if suffix in CODE_SUFFIXES:
        return "code"
    return "docs" if suffix in DOCS_SUFFIXES else "other"


def clean(note: str) -> str:
    """Return the note as one printable line, cut after a whole word where it is too long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in note).split())
    if len(text) <= NOTE_CHARACTERS:
        return text
    kept = text[: NOTE_CHARACTERS - 2]  # " …" stands for the rest
    whole = kept if text[len(kept)] == " " else kept.rpartition(" ")[0] or kept
    return whole.rstrip(" ,;:") + " …"


def _weight(file: FileChange) -> tuple[bool, int, str]:
    """Sort code first, then by changed lines, most first."""
    lines = (file.added or 0) + (file.deleted or 0)
    return area(file.path) not in ("code", "test"), -lines, file.path


def _entry(number: int, file: FileChange) -> str:
    """Return a file as the model sees it: number, path, and what happened, in a few tokens."""
    if file.status in ("deleted", "submodule"):
        return f"{number} {file.path} {file.status}"
    if file.added is None:
        return f"{number} {file.path} binary"
    return f"{number} {file.path} +{file.added} -{file.deleted}"
