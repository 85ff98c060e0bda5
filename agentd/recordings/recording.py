"""A recording: one session with all that it depended on, so that it can run again anywhere."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd.config.agent import AgentConfig, Verdict
from agentd.config.toml import config_error
from agentd.context import LogEvent, render
from agentd.errors import RecordingError
from agentd.events import ANSWER, ASKED, Event, NewEvent
from agentd.llm.decision import Message, with_log
from agentd.sessions.steps import LOGGED, Step, StepKind
from agentd.states import Priority, SessionState
from agentd.tools.declared_tools import REGISTRY
from agentd.transcript import event_about

FORMAT = 1  # of the file; a reader refuses any other
ANSWERED = (StepKind.GRANTED, StepKind.DENIED)  # a person's yes or no
TITLE = "agentd recording, format "  # its first line, before the number
INTEGER_MAX = 2**63 - 1  # SQLite's; a replay has a database, too
MARK = re.compile(r"\\*===")  # what begins a section, or a line that could be taken for one


Whole = Annotated[int, Field(ge=0, le=INTEGER_MAX)]


class HeadPart(BaseModel):
    """Base of what stands in a recording's head: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SessionHead(HeadPart):
    """How the session ended."""

    id: Whole
    state: SessionState
    started_at: datetime
    ended_at: datetime | None = None
    outcome: dict[str, Any] | None = None
    error: str | None = None
    question: str | None = None


class EventHead(HeadPart):
    """The event that the session answers."""

    id: Whole
    agent: str
    event_type: str
    payload: dict[str, Any]
    created_at: datetime
    target: str | None = None
    priority: Priority = Priority.EVENT
    cause_id: Whole | None = None
    depth: Whole = 0
    dedup_key: str | None = None

    def event(self) -> Event:
        """Return it as the loop reads it."""
        return Event(**{name: getattr(self, name) for name in type(self).model_fields})


class ModelHead(HeadPart):
    """The model as the loop saw it. Tokens."""

    name: str
    window: int
    fixed_tokens: int  # of the prompt without the log


class VersionHead(HeadPart):
    """The code that ran: digests of its sources by their place, and of the decisions' schema."""

    hash: str
    sources: dict[str, str] = Field(default_factory=dict)
    union: str = ""  # of the JSON Schema that the mask enforced
    tools: dict[str, str] = Field(default_factory=dict)  # of each shared tool's arguments


class RecordedFacts(HeadPart):
    """What the agent remembered, from the session's attempt of this number on."""

    attempt: int
    facts: dict[str, Any]


class Publication(HeadPart):
    """An event to publish."""

    type: str
    payload: dict[str, Any]
    target: str | None = None
    key: str | None = None

    def new(self) -> NewEvent:
        """Return it as it is published."""
        return NewEvent(self.type, self.payload, self.target, self.key)

    @classmethod
    def of(cls, event: NewEvent) -> "Publication":
        """Return an event as a recording has it."""
        payload = dict(event.payload)
        return cls(type=event.event_type, payload=payload, target=event.target, key=event.dedup_key)


class Settled(HeadPart):
    """What came at the session's closing or parking, besides what its steps had staged."""

    publish: list[Publication] = Field(default_factory=list)
    remember: dict[str, Any] = Field(default_factory=dict)
    scored: list[dict[str, Any]] = Field(default_factory=list)  # since the last step

    def events(self) -> list[NewEvent]:
        """Return what was published."""
        return [event.new() for event in self.publish]

    @property
    def question(self) -> str | None:
        """What a person was asked."""
        asked = [event.payload.get("question") for event in self.publish if event.type == ASKED]
        return str(asked[-1]) if asked else None


class Root(HeadPart):
    """A folder that the session knew by its absolute path; it lies elsewhere in a replay.

    `spellings` are the other ways in which it was written, such as `~/notes`.
    """

    path: str
    spellings: list[str] = Field(default_factory=list)


class Volatile(HeadPart):
    """What may differ between a session and its replay, and is mapped before it is compared.

    `times`: set from the recording, so that the log is the same. `paths`: the folders of the
    fixture stand for them. `fields`: as the agent's `volatile` declares; recorded values are taken.
    """

    times: list[str] = ["ts", "active_s", "duration_ms"]
    paths: list[Root] = Field(default_factory=list)
    fields: list[str] = Field(default_factory=list)


class Head(HeadPart):
    """A recording's head."""

    agent: str  # the agent's name
    agentd: str  # the version that ran it
    session: SessionHead
    event: EventHead
    config: dict[str, Any]  # of agents.d/NAME.toml, without what is as by default
    facts: list[RecordedFacts] = Field(default_factory=list)
    model: ModelHead
    version: VersionHead
    settled: list[Settled] = Field(default_factory=list)
    # What of its decisions a person had to allow, or nobody could.
    approve: dict[str, Verdict] = Field(default_factory=dict)
    own: str = ""  # the folder that was the agent's own
    volatile: Volatile = Field(default_factory=Volatile)
    redacted: dict[str, int] = Field(default_factory=dict)  # places changed, by rule


# A folder's entries: sizes of files in bytes, None for folders, "link" and "special".
Listing = Mapping[str, int | str | None]


@dataclass(frozen=True)
class Repository:
    """What a session saw of a git repository: the objects it needs, as a pack."""

    head: str  # what HEAD says: a branch's full name or a commit
    refs: Mapping[str, str] = field(default_factory=dict)
    shallow: tuple[str, ...] = ()  # commits whose parents are left out
    pack: bytes = b""  # empty: nothing is kept of it


@dataclass(frozen=True)
class Page:
    """What a URL answered: the address it came from in the end, and its text."""

    url: str
    text: str


@dataclass(frozen=True)
class Fixture:
    """What the read-only tools saw. Keys are `N/path` below the N-th of the volatile paths."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    folders: Mapping[str, Listing] = field(default_factory=dict)
    repositories: Mapping[str, Repository] = field(default_factory=dict)
    pages: Mapping[str, Page] = field(default_factory=dict)


@dataclass(frozen=True)
class Recording:
    """One session."""

    head: Head
    messages: tuple[Message, ...]  # the prompt up to the log
    steps: tuple[Step, ...]
    texts: Mapping[int, str]  # of the log's events, by step, exactly as the model saw them
    given: frozenset[int] = frozenset()  # results, by step, that the fixture does not reproduce
    fixture: Fixture = field(default_factory=Fixture)

    @property
    def config(self) -> AgentConfig:
        """The agent's configuration.

        Raises:
            RecordingError: this agentd does not know it.
        """
        try:
            return AgentConfig.model_validate(self.head.config)
        except ValidationError as error:
            what = config_error(error, "", model=AgentConfig).what
            raise RecordingError(
                f"its configuration is not one of this agentd: {what}",
                hint="record the session again with this agentd",
            ) from error

    @property
    def turns(self) -> int:
        """Decisions."""
        return sum(step.kind is StepKind.DECISION for step in self.steps)

    @property
    def scored(self) -> list[Mapping[str, Any]]:
        """What the agent had scored."""
        in_steps = [item for step in self.steps for item in step.scored]
        return [*in_steps, *(item for settled in self.head.settled for item in settled.scored)]

    def log(self, before: int | None = None) -> str:
        """Return the event log exactly as the model saw it, before step `before` or to the end."""
        return log_at(None if before is None else self.steps[before - 1], self.steps, self.texts)

    def settled(self, number: int) -> Settled | None:
        """Return what came at the session's closing or parking of this number; 0 is the first."""
        return self.head.settled[number] if number < len(self.head.settled) else None

    def question_after(self, seq: int) -> str | None:
        """Return the question on which the session was parked after this step, if it was."""
        answers = [s.seq for s in self.steps if s.type == ANSWER or s.kind in ANSWERED]
        parked = answers.index(seq + 1) if seq + 1 in answers else len(answers)
        last = seq == self.steps[-1].seq and self.head.session.question is not None
        if not last and seq + 1 not in answers:
            return None
        asked = self.settled(parked) or Settled()
        return asked.question or self.head.session.question

    def decision_before(self, seq: int) -> Step:
        """Return the decision of which this step is the result."""
        decisions = [s for s in self.steps[: seq - 1] if s.kind is StepKind.DECISION]
        return decisions[-1] if decisions else self.steps[0]

    def facts(self, attempt: int) -> dict[str, Any]:
        """Return what the agent remembered at an attempt."""
        known = [item.facts for item in self.head.facts if item.attempt <= attempt]
        return known[-1] if known else {}


def prompt_at(
    turn: int, messages: Sequence[Message], steps: Iterable[Step], texts: Mapping[int, str]
) -> list[Message]:
    """Return the messages of a turn: those before the log, with the log up to its decision."""
    steps = list(steps)
    decisions = [step for step in steps if step.kind is StepKind.DECISION]
    return with_log(messages, log_at(decisions[turn - 1], steps, texts))


def log_at(step: Step | None, steps: Sequence[Step], texts: Mapping[int, str]) -> str:
    """Return the log that the model saw at a step; None: at the session's end."""
    if step is not None and step.about is not None:
        return render(event_about(step.about, steps))
    return "".join(text for seq, text in texts.items() if step is None or seq < step.seq)


def texts_of(steps: Iterable[Step]) -> dict[int, str]:
    """Return the events of the log that steps make, by step."""
    return {
        step.seq: render(LogEvent(step.type, step.ts, step.payload, step.trusted))
        for step in steps
        if step.kind in LOGGED
    }


def digest(value: Any) -> str:
    """Return a short digest of text or JSON; the order of keys counts, as it does for the mask."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def tool_digest(name: str) -> str:
    """Return a short digest of a shared tool's arguments and their bounds."""
    return digest(REGISTRY[name].args.model_json_schema())
