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
from agentd.macos import privacy
from agentd.tools import git_command
from agentd.tools.base import clean_line
from agentd.tools.git_command import OUTPUT_BYTES, git

SUBJECT_CHARACTERS = 120
OBJECT_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
RENAMES_LIMIT = "400"  # above it git compares only exact copies
SUBMODULE = "160000"
HUNK = re.compile(rb"^@@ -\S+ \+(\d+)", re.MULTILINE)
MARKER = re.compile(rb"^\+.*\b(?:TODO|FIXME|XXX)\b", re.MULTILINE)

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


def _answer(repo: Path, *args: str, given: bytes = b"") -> bytes:
    output = git(repo, *args, given=given)
    if output.code != 0:
        if (found := privacy.kept_out([repo])) is not None:
            raise ToolError(f"macOS keeps agentd out of {repo}; a person must allow it: {found[1]}")
        raise ToolError(f"git {args[0]} failed in {repo} (exit {output.code})")
    if output.dropped:
        raise ToolError(f"git {args[0]} wrote more than {OUTPUT_BYTES} bytes in {repo}")
    return output.data


def _commit(repo: Path, revision: str) -> str | None:
    """Return the id of the commit that `revision` names, or None."""
    args = ("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    text = git(repo, *args).data.decode("ascii", "replace").strip()
    return text if OBJECT_ID.fullmatch(text) else None


def head(repo: Path, branch: str | None) -> str | None:
    """See `git.head`."""
    _answer(repo, "rev-parse", "--git-dir")
    found = _commit(repo, f"refs/heads/{branch}" if branch else "HEAD")
    if found is None and branch:
        raise ToolError(f"{repo} has no branch {branch}")
    return found


def new_commits(repo: Path, tip: str, since: str | None, limit: int, first: int) -> dict[str, Any]:
    """See `git.new_commits`; the commits as [id, subject]."""
    known = since if since and OBJECT_ID.fullmatch(since) and _commit(repo, since) else None
    if known is None:
        line = _answer(repo, "rev-list", "--first-parent", f"--max-count={first + 1}", tip)
        ids = line.decode("ascii").split()
        base = ids[first] if len(ids) > first else None
        span = [tip] if base is None else [f"{base}..{tip}"]
    else:
        base, span = known, [f"{known}..{tip}"]
    rewritten = since is not None and (
        known is None or git(repo, "merge-base", "--is-ancestor", known, tip).code != 0
    )
    total = int(_answer(repo, "rev-list", "--count", *span))
    form = ("-z", "--format=%H %s", f"--max-count={limit}", "--no-show-signature")
    data = _answer(repo, "log", *form, "--no-color", "--encoding=UTF-8", *span)
    records = [item for item in data.split(b"\0") if item]
    commits = [_parse_commit(item) for item in records]
    more = total - len(commits)
    return {"commits": commits, "more": more, "base": base, "rewritten": rewritten}


def _parse_commit(record: bytes) -> list[str]:
    identity, _, subject = record.decode("utf-8", "replace").partition(" ")
    return [identity, clean_line(subject, SUBJECT_CHARACTERS)]


def changed_files(repo: Path, tip: str, base: str | None) -> list[dict[str, Any]]:
    """See `git.changed_files`."""
    empty = "hash-object", "-t", "tree", "--stdin"
    start = base or _answer(repo, *empty).decode("ascii").strip()
    entries, counts = _parse_changes(_raw_changes(repo, start, tip))
    sizes = _sizes(repo, [entry.blob for entry in entries if entry.has_blob])
    first = iter(_first_lines(repo, start, tip))
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
            }
        )
    return changes


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
    return _answer(repo, *form, "--no-renames", start, tip)


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
            found.append((max(1, int(hunk[1])), len(MARKER.findall(patch, hunk.start()))))
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
    "folders": folders,
    "git": raw,
}
