"""What the demo's sessions came to and took."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.bus import Bus
from agentd.commands.output import duration, plain
from agentd.sessions.archive import Archive, SessionRow
from agentd.sessions.steps import StepKind
from agentd.states import SessionState

SESSIONS_MAX = 1000


@dataclass(frozen=True)
class Effort:
    """Sessions, and what their decisions took; planned ones ask no model."""

    sessions: Sequence[SessionRow]
    dead_letters: int
    decisions: int
    prompt: int  # tokens
    cached: int  # of them: not computed again
    decided: int
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every event was answered; a session may have needed a second try."""
        ended = any(row.state is SessionState.ENDED for row in self.sessions)
        return ended and not self.dead_letters

    def text(self) -> str:
        """Say it in a few lines."""
        failed = [row for row in self.sessions if row.state is not SessionState.ENDED]
        lines = [
            f"{len(self.sessions)} sessions, {len(failed)} of them failed; "
            f"{self.decisions} decisions in {duration(self.seconds)}: {self.prompt} prompt tokens, "
            f"{self.cached} of them cached, {self.decided} decision tokens"
        ]
        for row in failed:
            why = (row.error or row.state.value).splitlines()[0]
            lines.append(f"  session {row.id} of {row.agent}: {plain(why)}")
        return "\n".join(lines)


def effort(bus: Bus) -> Effort:
    """Sum up what is on the bus."""
    archive = Archive(bus)
    rows = list(reversed(archive.list(limit=SESSIONS_MAX)))
    steps = [step for row in rows for step in archive.show(row.id)[1]]
    asked = [step for step in steps if step.kind is StepKind.DECISION and step.prompt_tokens]
    return Effort(
        sessions=rows,
        dead_letters=len(bus.dead.list()),
        decisions=len(asked),
        prompt=sum(step.prompt_tokens or 0 for step in asked),
        cached=sum(step.cached_tokens or 0 for step in asked),
        decided=sum(step.completion_tokens or 0 for step in asked),
        seconds=sum(step.duration_ms or 0.0 for step in asked) / 1000,
    )
