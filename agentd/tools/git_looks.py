"""Looks at local git repositories, in whichever process may: what is new, and what it changed.

Arguments and answers are JSON, for `git.py` to make types of.
"""

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import ToolError, shown
from agentd.tools import git_command, git_work
from agentd.tools.base import MARKER, clean_line
from agentd.tools.git_command import answer, git

SUBJECT_CHARACTERS = 120
DAY_S = 86_400
OBJECT_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
SUBJECTS_MAX = 50  # commits whose subjects are told with their files
RENAMES_LIMIT = "400"  # above it git compares only exact copies
SUBMODULE = "160000"
HUNK = re.compile(rb"^@@ -\S+ \+(\d+)", re.MULTILINE)
ADDED = re.compile(rb"^\+.*", re.MULTILINE)

DIFF = (
    *("-r", "-M", f"-l{RENAMES_LIMIT}", "--no-ext-diff", "--no-textconv", "--no-color"),
    "--submodule=short",
)
STATUSES = {
    "A": "added",
    "D": "deleted",
    "R": "renamed",
    "C": "copied",
    "M": "changed",
    "T": "changed",
}


def _commit(repo: Path, revision: str) -> str | None:
    """Return the id of the commit that `revision` names, or None."""
    args = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    text = git(repo, *args).data.decode("ascii", "replace").strip()
    return text if OBJECT_ID.fullmatch(text) else None


def head(repo: Path, branch: str | None) -> str | None:
    """See `git.head`."""
    answer(repo, "rev-parse", "--git-dir")
    found = _commit(repo, f"refs/heads/{branch}" if branch else "HEAD")
    if found is None and branch:
        raise ToolError(f"{repo} has no branch {branch}")
    return found


def fork(repo: Path, tip: str, branch: str) -> str | None:
    """See `git.fork`."""
    other = _commit(repo, f"refs/heads/{branch}") or _commit(repo, f"refs/remotes/origin/{branch}")
    if other is None:
        raise ToolError(f"{repo} has no branch {branch}")
    output = git(repo, "merge-base", other, tip)
    return output.data.decode("ascii").strip() or None


def new_commits(
    repo: Path, tip: str, since: str | None, limit: int, days: int | None
) -> dict[str, Any]:
    """See `git.new_commits`; the commits as [id, subject]."""
    known = since if since and OBJECT_ID.fullmatch(since) and _commit(repo, since) else None
    if known is None:
        base = _before(repo, tip, days)
        span = [tip] if base is None else [f"{base}..{tip}"]
    else:
        base, span = known, [f"{known}..{tip}"]
    rewritten = since is not None and (
        known is None or git(repo, "merge-base", "--is-ancestor", known, tip).code != 0
    )
    total = int(answer(repo, "rev-list", "--count", *span))
    form = ("-z", "--format=%H %s", f"--max-count={limit}", "--no-show-signature")
    data = answer(repo, "log", *form, "--no-color", "--encoding=UTF-8", *span)
    records = [item for item in data.split(b"\0") if item]
    commits = [_parse_commit(item) for item in records]
    more = total - len(commits)
    return {"commits": commits, "more": more, "base": base, "rewritten": rewritten}


def _before(repo: Path, tip: str, days: int | None) -> str | None:
    """Return the latest commit of the branch that is older than the tip by so many days.

    By the tip's own time, so that it is the same whenever it is looked at.
    """
    line = ("rev-list", "--first-parent")
    if days is None:
        ids = answer(repo, *line, "--max-count=2", tip).decode("ascii").split()
        return ids[1] if len(ids) > 1 else None
    stamp = answer(repo, "log", "--max-count=1", "--no-show-signature", "--format=%ct", tip)
    until = max(0, int(stamp) - days * DAY_S)
    before = answer(repo, *line, "--max-count=1", f"--before={until}", tip)
    return before.decode("ascii").strip() or None


def _parse_commit(record: bytes) -> list[str]:
    identity, _, subject = record.decode("utf-8", "replace").partition(" ")
    return [identity, clean_line(subject, SUBJECT_CHARACTERS)]


def changed_files(repo: Path, tip: str, base: str | None) -> list[dict[str, Any]]:
    """See `git.changed_files`."""
    empty = "hash-object", "-t", "tree", "--stdin"
    start = base or answer(repo, *empty).decode("ascii").strip()
    entries, counts = _parse_changes(_raw_changes(repo, start, tip))
    sizes = _sizes(repo, [entry.blob for entry in entries if entry.has_blob])
    first = iter(_first_lines(repo, start, tip))
    subjects = _subjects(repo, [tip] if base is None else [f"{base}..{tip}"])
    changes = []
    for entry in entries:
        added, deleted = counts.get(entry.path, (None, None))
        line, markers = next(first, (1, 0))
        if entry.new_type:  # its patch comes in two parts: the old file away, the new one there
            line, markers = next(first, (1, 0))
        changes.append(
            {
                "path": shown(entry.path),
                "old_path": shown(entry.old_path) if entry.old_path else None,
                "status": entry.status,
                "added": added,
                "deleted": deleted,
                "size": sizes.get(entry.blob) if entry.has_blob else None,
                "line": line,
                "markers": markers,
                "subject": subjects.get(entry.path),
            }
        )
    return changes


def _subjects(repo: Path, span: Sequence[str]) -> dict[str, str]:
    """Return by path what the latest commit that touched it says; merges say nothing of a file.

    These are hints: of more commits, or where a shallow clone lacks some, they are missing.
    """
    # `log` obeys a setting for the order of files, which is switched off with a name of no file.
    form = ("--name-only", "-z", "--format=%H %s", "--no-renames", "-O/dev/null")
    args = (
        "log",
        *form,
        "--no-show-signature",
        "--no-merges",
        f"--max-count={SUBJECTS_MAX}",
        "--no-color",
        *span,
        "--",
    )
    found: dict[str, str] = {}
    subject = ""
    for word in git(repo, *args).data.split(b"\0"):
        text = word.removeprefix(b"\n").decode("utf-8", "surrogateescape")
        identity, _, rest = text.partition(" ")
        if OBJECT_ID.fullmatch(identity):
            subject = clean_line(rest.encode("utf-8", "replace").decode(), SUBJECT_CHARACTERS)
        elif text and subject:
            found.setdefault(text, subject)
    return found


@dataclass(frozen=True)
class _Entry:
    status: str
    blob: str
    path: str
    old_path: str | None
    new_type: bool = False  # such as a file that became a link

    @property
    def has_blob(self) -> bool:
        return self.status not in ("deleted", "submodule")


def _raw_changes(repo: Path, start: str, tip: str) -> bytes:
    form = ("diff-tree", *DIFF, "-z", "--no-abbrev", "--raw")
    counted = git(repo, *form, "--numstat", start, tip)
    if counted.code == 0 and not counted.dropped:
        return counted.data
    # A partial clone lacks old contents, and nothing is fetched: say what changed, uncounted.
    return answer(repo, *form, "--no-renames", start, tip)


Counts = dict[str, tuple[int | None, int | None]]


def _parse_changes(data: bytes) -> tuple[list[_Entry], Counts]:
    """Parse `--raw --numstat -z`: all raw records, then all counts."""
    words: Iterator[str] = iter(data.decode("utf-8", "surrogateescape").split("\0"))
    entries: list[_Entry] = []
    counts: Counts = {}
    for word in words:
        if word.startswith(":"):
            old_mode, mode, _, blob, letter = word[1:].split(" ")
            path, old_path = next(words), None
            if letter[0] in "RC":
                old_path, path = path, next(words)
            status = STATUSES.get(letter[0], "changed")
            if SUBMODULE in (old_mode, mode) and status != "deleted":
                status = "submodule"
            entries.append(_Entry(status, blob, path, old_path, letter == "T"))
        elif word:
            added, deleted, path = word.split("\t", 2)
            if not path:  # a rename: both names follow
                next(words)
                path = next(words)
            binary = added == "-"
            counts[path] = (None, None) if binary else (int(added), int(deleted))
    return entries, counts


def _sizes(repo: Path, blobs: list[str]) -> dict[str, int]:
    """Return the sizes of those blobs that are there; a partial clone lacks some."""
    if not blobs:
        return {}
    given = "".join(f"{blob}\n" for blob in blobs).encode("ascii")
    output = git(repo, "cat-file", "--batch-check", given=given)  # fails at the first missing one
    found = {}
    for line in output.data.decode("ascii", "replace").splitlines():
        words = line.split()
        if len(words) == 3 and words[2].isdigit():
            found[words[0]] = int(words[2])
    return found


def _first_lines(repo: Path, start: str, tip: str) -> list[tuple[int, int]]:
    """Return each file's first changed line and its added markers, in the order of the changes.

    What does not fit the output's limit is missing at the end: these are hints, no counts.
    """
    output = git(repo, "diff-tree", *DIFF, "-p", "-U0", start, tip)
    # Lines of content begin with +, -, a space or a backslash: only headers begin with "diff".
    patches = re.split(rb"^diff --git .*\n", output.data, flags=re.MULTILINE)[1:]
    found = []
    for patch in patches:
        hunk = HUNK.search(patch)
        if hunk is None:  # binary, or renamed without a change
            found.append((1, 0))
        else:
            marked = sum(
                MARKER.search(line) is not None for line in ADDED.findall(patch, hunk.start())
            )
            found.append((max(1, int(hunk[1])), marked))
    return found


def folders(repo: Path) -> list[str]:
    """See `git.folders`."""
    return [str(path) for path in git_command.folders(repo)]


def raw(repo: Path, args: Sequence[str], given: str, limit: int) -> list[Any]:
    """See `git.git`; what is read and written as base64."""
    output = git(repo, *args, given=base64.b64decode(given), limit=limit)
    return [output.code, base64.b64encode(output.data).decode("ascii"), output.dropped]


# By the name that another process calls them by.
LOOKS: Mapping[str, Callable[..., Any]] = {
    "head": head,
    "new_commits": new_commits,
    "changed_files": changed_files,
    "uncommitted": git_work.uncommitted,
    "fork": fork,
    "folders": folders,
    "git": raw,
}
