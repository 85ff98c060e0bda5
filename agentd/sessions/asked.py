"""What a parked session waits for: a person's yes to a decision, or the answer to a question.

An answer names what it answers by a digest of session, step, tool, arguments, and of when it was
asked and for how long. So a yes is good for these arguments alone, in that time: another decision
is another step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agentd.clock import EPOCH, iso
from agentd.config.duration import parse
from agentd.events import ANSWER, NewEvent
from agentd.json_schema.canonical import json_digest
from agentd.sessions.steps import Step, StepKind

YES, NO = "yes", "no"
EXPIRES = "expires"  # of a step that asks: a duration, such as "1d"
EXPIRED = "expired"  # of an answer: nobody gave one in time
AHEAD = timedelta(hours=1)  # what was asked so far in the future was so by a wrong clock


@dataclass(frozen=True)
class Asked:
    """What one session asks. `expires`: after that, nothing is a no; a question has no such end."""

    session: int
    step: int  # of the decision
    tool: str  # the decision's class
    args: Mapping[str, Any]
    question: str
    since: datetime
    expires: datetime | None

    @property
    def digest(self) -> str:
        """What an answer has to name."""
        limit_s = self.expires and (self.expires - self.since).total_seconds()
        asked = [self.session, self.step, self.tool, dict(self.args), iso(self.since), limit_s]
        return json_digest(asked)

    @property
    def kind(self) -> str:
        """Return "approval" or "question"."""
        return "question" if self.expires is None else "approval"

    def overdue(self, now: datetime) -> bool:
        """Whether it is too late for a yes; also where the clock that asked was far ahead."""
        return self.expires is not None and (now > self.expires or self.since > now + AHEAD)

    def document(self) -> dict[str, Any]:
        """Return it as the event `person.asked` and --json show it."""
        return {
            "session": self.session,
            "asked": self.digest,
            "kind": self.kind,
            "question": self.question,
            "tool": self.tool,
            "args": dict(self.args),
            "expires": self.expires and iso(self.expires),
        }

    def said(self, answer: Any) -> dict[str, Any]:
        """Return what a person says as its answer: to an approval `yes`, or `no` and a reason.

        A yes stands alone: "yes, but" is none.
        """
        if self.expires is None or not isinstance(answer, str):
            return {"answer": answer}
        word, _, why = answer.strip().partition(" ")
        if word.lower().rstrip(",.:;") == NO and why:
            return {"answer": NO, "why": why.strip()}
        return {"answer": answer.strip().lower()}

    def answered(self, answer: Mapping[str, Any], agent: str) -> NewEvent:
        """Return the event that answers it: to the agent that asks, and not signed yet."""
        return NewEvent(ANSWER, {"session": self.session, "asked": self.digest, **answer}, agent)

    def mistake(self, answer: Mapping[str, Any]) -> str | None:
        """Say why this is no answer to it, None where it is one."""
        if "answer" not in answer:
            return "has no `answer`"
        if answer.get("asked") != self.digest:
            return f"answers something else than what session {self.session} asks now"
        if self.expires is not None and answer["answer"] not in (YES, NO):
            return f"is neither {YES} nor {NO}, and {self.tool} waits for one of them"
        return None

    def denied(self, answer: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
        """Return what an approval's answer denies with, as its step keeps it; None: it is a yes."""
        if answer["answer"] == YES:
            return {EXPIRED: True} if self.overdue(now) else None
        return {key: answer[key] for key in ("why", EXPIRED) if answer.get(key)}


def asked_by(session_id: int, steps: Sequence[Step], question: str | None) -> Asked | None:
    """Return what a session asks that is parked after these steps; None: they ask nothing."""
    decision = next((s for s in reversed(steps) if s.kind is StepKind.DECISION), None)
    if decision is None or question is None:
        return None
    asks = next((s for s in reversed(steps) if s.kind is StepKind.ASKED), None)
    asks = asks if asks is not None and asks.seq > decision.seq else None
    return Asked(
        session_id,
        decision.seq,
        decision.type,
        decision.payload,
        question,
        (asks or steps[-1]).ts,
        None if asks is None else _end(asks),
    )


def _end(asks: Step) -> datetime:
    """Return when it expires: at once, if somebody changed the step's row."""
    try:
        return asks.ts + parse(str(asks.payload.get(EXPIRES)))
    except (ValueError, OverflowError):
        return EPOCH


def denial(payload: Mapping[str, Any]) -> str:
    """Return what the model is told of a no, by what its step keeps."""
    if payload.get(EXPIRED):
        return "nobody said yes in time: that is a no"
    return f"a person said no: {payload['why']}" if payload.get("why") else "a person said no"
