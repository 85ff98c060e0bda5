"""What the agents found, put into a few lines.

Facts come from git and files, through typed payloads; what the model said is marked as its words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.bus import Bus
from agentd.commands.output import BOLD, colour, duration, plain, shorten
from agentd.events import Event
from agentd.sessions.archive import Archive, SessionRow
from agentd.sessions.steps import Step, StepKind
from agentd.states import SessionState

COMMITS_SHOWN = 5
FILES_SHOWN = 20
SESSIONS_MAX = 1000
PATH_WIDTH = 48
WORDS_LEAST = 3  # of a note that is worth reading
WORD_CHARACTERS = 24
WORD_REPEATS = 2
LETTERS_LEAST = 0.6  # of all its characters


@dataclass(frozen=True)
class Tokens:
    """What the model's calls took."""

    decisions: int
    prompt: int
    cached: int  # of the prompt tokens: not computed again
    decided: int
    seconds: float

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.decisions} decisions in {duration(self.seconds)}: {self.prompt} prompt tokens, "
            f"{self.cached} of them cached, {self.decided} decision tokens"
        )


@dataclass(frozen=True)
class Report:
    """The demo's result."""

    changes: Sequence[Event]  # repo.changed
    findings: Sequence[Event]  # review.finding
    reviews: Sequence[Event]  # review.done
    sessions: Sequence[SessionRow]
    tokens: Tokens
    dead_letters: int

    @property
    def complete(self) -> bool:
        """Whether every event was answered; a session may have needed a second try."""
        ended = any(row.state is SessionState.ENDED for row in self.sessions)
        return ended and not self.dead_letters

    def text(self) -> str:
        """Return the report for people."""
        parts = [colour("What the agents found", BOLD), *self._changes(), *self._findings()]
        failed = [row for row in self.sessions if row.state is not SessionState.ENDED]
        parts += ["", f"{len(self.sessions)} sessions, {len(failed)} of them failed"]
        for row in failed:
            why = (row.error or row.state.value).splitlines()[0]
            parts.append(f"  session {row.id} of {row.agent}: {plain(why)}")
        parts.append(str(self.tokens))
        return "\n".join(parts)

    def _changes(self) -> list[str]:
        if not self.changes:
            return ["  nothing new in the repository"]
        first = self.changes[0].payload
        count = len(first["commits"]) + first["more_commits"]
        lines = [f"{_count(count, 'new commit')}, {_count(first['total_files'], 'changed file')}"]
        for commit in first["commits"][:COMMITS_SHOWN]:
            lines.append(f"  {commit['id'][:10]}  {plain(commit['subject'])}")
        if count > COMMITS_SHOWN:
            lines.append(f"  and {count - COMMITS_SHOWN} more")
        files = [file for event in self.changes for file in event.payload["files"]]
        if not files:
            return lines
        added = sum(file["added"] or 0 for file in files)
        deleted = sum(file["deleted"] or 0 for file in files)
        states = Counter(file["status"] for file in files)
        told = ", ".join(f"{number} {state}" for state, number in states.most_common())
        lines += ["", f"{_count(len(files), 'file')} looked at, +{added} -{deleted} lines: {told}"]
        if first["files_left_out"]:
            lines.append(f"  {_count(first['files_left_out'], 'smaller change')} left out")
        biggest = max(files, key=_changed_lines)
        if len(files) > 1 and _changed_lines(biggest):
            path = shorten(plain(biggest["path"]), PATH_WIDTH)
            lines.append(f"  most changed lines: {path} ({_size(biggest)})")
        return lines

    def _findings(self) -> list[str]:
        facts = [event.payload["facts"] for event in self.findings]
        areas = Counter(item["area"] for item in facts)
        lines = []
        if areas:
            told = ", ".join(f"{number} {area}" for area, number in areas.most_common())
            lines.append(f"  kinds of files: {told}")
        if areas["code"] and not any(item["tests_changed"] for item in facts):
            left_out = any(event.payload["files_left_out"] for event in self.changes)
            among = "no test among these files" if left_out else "no test with it"
            lines.append(f"  code changed, and {among}")
        markers = sum(item["markers"] for item in facts)
        if markers:
            lines.append(f"  {_count(markers, 'TODO, FIXME or XXX', '')} added")
        said = [event.payload for event in self.findings if event.payload["source"] == "model"]
        if said:
            lines += ["", "File by file; in quotes what the model says:"]
        width = min(PATH_WIDTH, max((len(plain(f["path"])) for f in said[:FILES_SHOWN]), default=0))
        for finding in said[:FILES_SHOWN]:
            fact = finding["facts"]
            path = shorten(plain(finding["path"]), width)
            lines.append(f"  {path:{width}}  {fact['area']:5}  {_size(fact)}")
            lines.append(f"    {words(finding)}")
        rest = len(self.findings) - len(said[:FILES_SHOWN])
        if rest and said:
            lines.append(f"  {_count(rest, 'further file')} without the model's words")
        risks = [event.payload["risk"] for event in self.reviews]
        if risks:
            quoted = ", ".join(f'"{risk}"' for risk in risks)
            lines.append(f"The model calls the risk of this change {quoted}.")
        return lines


def words(finding: Mapping[str, Any]) -> str:
    """Return the model's label and note in quotes; a note that is no words is left out."""
    note = plain(finding["note"])
    return f'"{finding["kind"]}: {note}"' if readable(note) else f'"{finding["kind"]}"'


def readable(note: str) -> bool:
    """Say whether a note consists of words: mostly letters, none endless, none again and again."""
    found = note.split()
    counts = Counter(word.strip(".,:;!?").lower() for word in found)
    letters = sum(character.isalpha() for character in note)
    return (
        len(found) >= WORDS_LEAST
        and letters >= LETTERS_LEAST * len(note)
        and all(len(word) <= WORD_CHARACTERS for word in found)
        and max(counts.values()) <= WORD_REPEATS
    )


def _changed_lines(file: Mapping[str, Any]) -> int:
    return (file["added"] or 0) + (file["deleted"] or 0)


def _size(file: Mapping[str, Any]) -> str:
    if file["added"] is not None:
        return f"+{file['added']} -{file['deleted']}"
    return "submodule" if file["status"] == "submodule" else "binary"


def gather(bus: Bus) -> Report:
    """Read the report from the bus."""
    archive = Archive(bus)
    rows = list(reversed(archive.list(limit=SESSIONS_MAX)))
    steps = [step for row in rows for step in archive.show(row.id)[1]]
    return Report(
        changes=bus.events.list(event_type="repo.changed"),
        findings=bus.events.list(event_type="review.finding", limit=SESSIONS_MAX),
        reviews=bus.events.list(event_type="review.done"),
        sessions=rows,
        tokens=tokens(steps),
        dead_letters=len(bus.dead.list()),
    )


def tokens(steps: Sequence[Step]) -> Tokens:
    """Sum up what the decisions among `steps` took."""
    decisions = [step for step in steps if step.kind is StepKind.DECISION]
    return Tokens(
        decisions=len(decisions),
        prompt=sum(step.prompt_tokens or 0 for step in decisions),
        cached=sum(step.cached_tokens or 0 for step in decisions),
        decided=sum(step.completion_tokens or 0 for step in decisions),
        seconds=sum(step.duration_ms or 0.0 for step in decisions) / 1000,
    )


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"
