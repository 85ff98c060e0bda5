"""Reviews the changed files of a `repo.changed` event: what kind of change each is, and how risky.

Code finds the facts: files in their order of weight, the kind of tests and documents by their path,
the risk by what changed. The model labels code: a fix, a feature, a refactoring, or "?" where it is
not sure. With `words` it writes a sentence about each file as well; that wants a model of 3B.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentd.agent import Agent, Result
from agentd.errors import ModelMisconfigured, ToolError
from agentd.events import Event, NewEvent
from agentd.llm.label_phrases import labelled
from agentd.task_agent.written_result import inert
from agentd.terminal import counted
from agentd.tools.base import clean_line
from agentd.tools.declared_tools import PATH_CHARACTERS
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
# What a commit's subject scores behind these, and they behind it, tells the kinds of code apart.
PHRASES = {
    "fix": 'A commit that fixes a bug: "',
    "feature": 'A commit that adds a feature: "',
    "refactor": 'A commit that restructures code: "',
}
INSTRUCTIONS = "Label the commit by its kind."
# A subject that begins so says it itself: of 54 subjects 16 did, and none was wrong.
FIRST_WORDS: Mapping[str, str] = {
    "fix": "fix fixes fixed correct corrects prevent prevents avoid avoids guard handle repair",
    "feature": "add adds feat support supports allow allows introduce implement enable let",
    "refactor": "refactor rename move extract simplify split clean inline unify flatten merge",
}
SUBJECTS_MAX = 24  # labelled in one session
SCORED = "kinds"  # the remembered fact: what the labels of the last subjects scored
RISKY_LINES = 400  # of code, changed at once; reviewers find less beyond (SmartBear at Cisco, 2006)
ROWS_SHOWN = 20  # files in the result's text
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
Kind = Literal["fix", "feature", "refactor", "test", "docs", "other", "?"]
Risk = Literal["low", "medium", "high"]


class ReviewParams(BaseModel):
    """What the model is asked for."""

    model_config = ConfigDict(extra="forbid")

    words: bool = Field(
        False, description="A sentence about each file, by the model; of 3B parameters at least."
    )
    max_files: int = Field(
        5, ge=1, le=FILES_MAX, description="Files about which the model writes one."
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
    uncommitted: bool = False
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
    """One file's finding. `note` is the model's sentence, "" where it wrote none.

    `margin` says how sure it was of the kind, 0 to 1; None where the kind comes from the path.
    """

    repo: str
    head: str
    path: str
    kind: Kind
    margin: float | None = None
    note: str = Field("", max_length=NOTE_CHARACTERS)
    facts: Facts


class ReviewDone(BaseModel):
    """The end of a review: a result that a person reads. `kinds` counts the findings by label."""

    repo: str
    head: str
    title: str
    text: str
    risk: Risk
    reasons: list[str]  # of the risk
    files: int
    kinds: dict[str, int]


class RepoReview(Agent[ReviewParams]):
    """Finding | ReadFile | Done: what the model decides for with `words`; else nothing is asked."""

    Params = ReviewParams
    function = "RepoReview"
    uses = ("ReadFile",)
    accepts: ClassVar[Mapping[str, type[BaseModel]]] = {"repo.changed": Changed}
    publishes: ClassVar[Mapping[str, type[BaseModel]]] = {
        "review.finding": ReviewFinding,
        "review.done": ReviewDone,
    }
    arguments: ClassVar[Mapping[str, type[BaseModel]]] = {"Finding": FindingArgs}
    reads = frozenset({"Finding"})
    volatile = frozenset({"review.done.title"})  # a folder's name, which is another in a replay

    def begin(self, event: Event, results: Sequence[Mapping[str, Any]]) -> None:
        """Number the files, those with most changed lines first; note which have their sentence."""
        try:
            self._change = Changed.model_validate(event.payload)
        except ValueError:  # such as a person's trigger: nothing to review
            self._change = Changed(repo="-", head="-", files=[])
        ordered = sorted(self._change.files, key=_weight)
        self._files = dict(enumerate(ordered, 1))
        self._shown = min(len(ordered), self.params.max_files) if self.params.words else 0
        self._tests_changed = any(area(file.path) == "test" for file in ordered)
        self._notes = notes(results)
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
        if len(self._notes) >= self._shown:
            return frozenset({"ReadFile", "Finding"})
        return frozenset({"Done", "ReadFile"} if self._reads >= self.params.max_reads else {"Done"})

    def dispatch(self, decision: Any) -> Result:
        """Carry out ReadFile or Finding."""
        match decision:
            case self.kit.types.ReadFile():
                return self._read(decision.path, decision.start)
            case self.kit.types.Finding():
                return self._finding(decision.note)
        raise ToolError("decide ReadFile, Finding or Done")

    def finish(self, done: Any, event: Event, results: Sequence[Mapping[str, Any]]) -> Result:
        """Publish a finding for each file, and what they come to."""
        given, (kinds, remember) = notes(results), self._kinds()
        findings = [
            self._of(file, *kinds[number], given.get(number, ""))
            for number, file in self._files.items()
        ]
        risk, reasons = risk_of(findings)
        summary = ReviewDone(
            repo=self._change.repo,
            head=self._change.head,
            title=title(self._change, findings, risk),
            text=text(self._change, findings, reasons),
            risk=risk,
            reasons=reasons,
            files=len(findings),
            kinds=dict(Counter(finding.kind for finding in findings)),
        )
        publish = [NewEvent("review.finding", item.model_dump(mode="json")) for item in findings]
        publish.append(NewEvent("review.done", summary.model_dump(mode="json")))
        outcome = {"risk": risk, "files": len(findings), "kinds": summary.kinds}
        return Result(outcome, publish=publish if findings else (), remember=remember)

    def _kinds(self) -> tuple[dict[int, tuple[Kind, float | None]], dict[str, Any]]:
        """Return each file's kind and margin, by its number, and what is to be remembered."""
        areas = {number: area(file.path) for number, file in self._files.items()}
        subjects = [file.subject for n, file in self._files.items() if areas[n] == "code"]
        kinds_of, remember = self._labelled(
            list(islice(dict.fromkeys(text for text in subjects if text), SUBJECTS_MAX))
        )
        kinds: dict[int, tuple[Kind, float | None]] = {}
        for number, file in self._files.items():
            by_path = areas[number]
            if by_path != "code":
                kinds[number] = by_path, None
            else:
                kinds[number] = kinds_of.get(file.subject or "", ("?", None))
        return kinds, remember

    def _labelled(
        self, subjects: Sequence[str]
    ) -> tuple[dict[str, tuple[Kind, float | None]], dict[str, Any]]:
        """Return each subject's kind: by its first word, else what it goes best with.

        Of these nothing, where no server can tell.
        """
        kinds: dict[str, tuple[Kind, float | None]] = {
            subject: (said, None) for subject in subjects if (said := said_first(subject))
        }
        rest = [subject for subject in subjects if subject not in kinds]
        try:
            labels, remember = labelled(self.kit, SCORED, PHRASES, rest, INSTRUCTIONS)
        except ModelMisconfigured:  # a server of another kind: labels are not worth a rest
            return kinds, {}
        for subject, label in zip(rest, labels, strict=True):
            kind: Any = "?" if label.unsure else label.value
            kinds[subject] = kind, label.margin
        return kinds, remember

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

    def _finding(self, note: str) -> Result:
        number = len(self._notes) + 1
        if number > self._shown:
            raise ToolError("each file has its finding: decide Done")
        self._notes[number] = clean(note)
        following = _entry(number + 1, self._files[number + 1]) if number < self._shown else "done"
        return Result({str(number): clean(note), "next": following}, trusted=False)

    def _of(self, file: FileChange, kind: Kind, margin: float | None, note: str) -> ReviewFinding:
        facts = Facts(
            status=file.status,
            added=file.added,
            deleted=file.deleted,
            size=file.size,
            markers=file.markers,
            area=area(file.path),
            tests_changed=self._tests_changed,
            lines=self._lines(file) if note else None,
        )
        return ReviewFinding(
            repo=self._change.repo,
            head=self._change.head,
            path=file.path,
            kind=kind,
            margin=margin,
            note=note,
            facts=facts,
        )

    def _lines(self, file: FileChange) -> int | None:
        if file.status in ("deleted", "submodule") or file.added is None:
            return None
        try:
            path = str(Path(self._change.repo) / file.path)
            return int(self.kit.tools.call("ReadFile", {"path": path}).value["lines"])
        except ToolError:  # gone meanwhile, too large, not permitted: the fact is missing
            return None


def notes(results: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Return the sentences that the session's results record, by file number; the first counts."""
    found: dict[int, str] = {}
    for result in results:
        if "next" in result and "error" not in result:
            for key, note in result.items():
                if key.isdecimal():
                    found.setdefault(int(key), str(note))
    return found


def said_first(subject: str) -> Any:
    """Return the kind that a subject's first word says, None where it says none."""
    found = re.match("[a-z]+", subject.lower())
    word = found[0] if found else ""
    return next((kind for kind, words in FIRST_WORDS.items() if word in words.split()), None)


def risk_of(findings: Sequence[ReviewFinding]) -> tuple[Risk, list[str]]:
    """Return how much a change wants a second look, and why: by facts, and by no model."""
    code = [item.facts for item in findings if item.facts.area == "code"]
    lines = sum((facts.added or 0) + (facts.deleted or 0) for facts in code)
    gone = sum(facts.status == "deleted" for facts in code)
    markers = sum(item.facts.markers for item in findings)
    reasons = []
    if code and not any(item.facts.tests_changed for item in findings):
        reasons.append("code changed, and no test with it")
    if lines > RISKY_LINES:
        reasons.append(f"{lines} lines of code changed")
    if gone:
        reasons.append(f"{counted(gone, 'file')} of code removed")
    if markers:
        reasons.append(f"{counted(markers, 'TODO, FIXME or XXX', '')} added")
    return ("low", "medium", "high")[min(2, len(reasons))], reasons


def title(change: Changed, findings: Sequence[ReviewFinding], risk: Risk) -> str:
    """Say the review in a line."""
    what = "uncommitted work" if change.uncommitted else counted(len(change.commits), "commit")
    name = Path(change.repo).name[:60]
    return f"{name}: {what}, {counted(len(findings), 'file')}, {risk} risk"


def text(change: Changed, findings: Sequence[ReviewFinding], reasons: Sequence[str]) -> str:
    """Say the review in Markdown: why it is risky, then file by file, the weightiest first."""
    lines = [f"* {reason}" for reason in reasons]
    lines += [""] if reasons else []
    for item in findings[:ROWS_SHOWN]:
        facts = item.facts
        size = facts.status if facts.added is None else f"+{facts.added} -{facts.deleted}"
        note = f": {inert(item.note)}" if item.note else ""
        path = clean_line(item.path.replace("`", "_"), PATH_CHARACTERS)
        lines.append(f"* {item.kind} `{path}` {size}{note}")
    if len(findings) > ROWS_SHOWN:
        lines.append(f"* and {counted(len(findings) - ROWS_SHOWN, 'file')} more")
    return "\n".join(lines)


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
