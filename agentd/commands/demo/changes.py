"""The demo's second screen: what is new in a repository, by facts, and how risky it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentd.commands.output import plain
from agentd.events import Event, result_of
from agentd.terminal import counted

COMMITS_SHOWN = 5
UNSURE = '"?" is code whose commit says too little for the model, or that is in none yet.'
NOTHING = "Nothing: no commit, and no work that is in none."


def what_is_new(changes: Sequence[Event], reviews: Sequence[Event], span: str) -> str:
    """Return in Markdown what `repo.changed` events and the reviews of them say.

    `span` says which commits were looked at.
    """
    parts, unsure = [], False
    for change in changes:
        review = next((r for r in reviews if r.cause_id == change.id), None)
        risk = "" if review is None else f"; {review.payload['risk']} risk"
        parts.append(f"{_facts(change.payload, span)}{risk}")
        if review is not None:
            parts.append(result_of(review)[1])
            unsure |= "?" in review.payload["kinds"]
        if change.payload["commits"]:
            parts.append(_commits(change.payload))
    parts += [UNSURE] if unsure else []
    return "\n\n".join(filter(None, parts)) or NOTHING


def _facts(change: Mapping[str, Any], span: str) -> str:
    """Say in a line how much changed."""
    number = len(change["commits"]) + change["more_commits"]
    what = f"{span}: {counted(number, 'commit')}"
    if change["uncommitted"]:
        what = "Not committed yet"
    files = change["files"]
    added = sum(file["added"] or 0 for file in files)
    deleted = sum(file["deleted"] or 0 for file in files)
    left = change["files_left_out"]
    among = f" in the {len(files)} that changed most" if left else ""
    total = counted(change["total_files"], "file")
    return f"{what}, {total}, +{added} -{deleted} lines{among}"


def _commits(change: Mapping[str, Any]) -> str:
    """List the latest commits. Their words are others', and may mean something in Markdown."""
    subjects = [plain(commit["subject"]).replace("`", "'") for commit in change["commits"]]
    shown = list(zip(change["commits"], subjects, strict=True))[:COMMITS_SHOWN]
    lines = [f"* {commit['id'][:10]} `{subject}`" for commit, subject in shown]
    rest = len(subjects) + change["more_commits"] - len(shown)
    more = [f"* and {counted(rest, 'commit')} before"] if rest else []
    return "\n".join(["The latest commits:", "", *lines, *more])
