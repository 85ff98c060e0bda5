"""One agent on one event, outside of any daemon: its real code and loop, a bus in a folder.

For tests and evaluations; there is no recording, and nothing of a daemon is read or written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from agentd.bus import Bus
from agentd.bus.search import Readable
from agentd.clock import Clock
from agentd.errors import AgentdError, UsageError
from agentd.events import PERSON, Event, Lane, NewEvent
from agentd.llm.decision import LLM
from agentd.replay.agent_proxy import MappedAgent
from agentd.replay.loaded import CALL_DEADLINE_S, LoadedAgent
from agentd.sessions.asked import NO, YES, Asked, asked_by
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import Priority, SessionState
from agentd.tools.git import held_to
from agentd.tools.session_view import SessionView
from agentd.worker.runner import scoring, settle

# A person who is asked to allow a decision, by its class and arguments: True, or False or why not.
Approver = Callable[[str, Mapping[str, Any]], bool | str]


@dataclass
class Performance:
    """How a session went. `published` are the events that its closing wrote, in order."""

    state: SessionState
    steps: Sequence[Step]
    published: Sequence[Event] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] | None = None
    question: str | None = None
    error: str | None = None
    log: str = ""
    forced: str | None = None  # why Done was the only decision left, None where it was chosen
    asked: Asked | None = None  # what a person has yet to answer or to allow

    @property
    def decisions(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The decisions: classes with their fields."""
        return [(s.type, s.payload) for s in self.steps if s.kind is StepKind.DECISION]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """What the decisions came to, as the model saw it."""
        return [step.payload for step in self.steps if step.kind is StepKind.RESULT]

    def events(self, event_type: str) -> list[Mapping[str, Any]]:
        """The payloads of the published events of a type."""
        return [e.payload for e in self.published if e.event_type == event_type]


def run_event(
    loaded: LoadedAgent,
    event: NewEvent,
    llm: LLM,
    folder: Path,
    *,
    clock: Clock,
    facts: Mapping[str, Any] | None = None,
    answers: Sequence[Any] = (),
    approve: Approver | None = None,
    before: Sequence[tuple[str, NewEvent]] = (),
) -> Performance:
    """Let the agent answer one event, and a person answer what it asks, in an empty folder.

    `before` are events by their producers that lie on the bus already.

    What fails the session is in what is returned; it is not tried again. Where there is no further
    answer, or nobody to `approve`, it ends parked.
    """
    name = loaded.version.accepted.name
    bus = Bus(folder / "bus.db", clock=clock)
    try:
        bus.accept(name, "v", subscribe=[event.event_type], start="beginning")
        bus.facts.remember(name, facts or {})
        for producer, earlier in before:
            bus.publish(producer, earlier)
        bus.publish(PERSON, event, system=True)
        view = SessionView(
            events=bus.search.finder(Readable(name, [event.event_type])),
            passages=partial(bus.search.passages, name),
            news=partial(bus.events.news, name),
        )
        run = _Run(loaded, bus, llm, view)
        lane = Lane(name, direct=event.target == name, subscribe=(event.event_type,))
        waiting = list(answers)
        while True:
            session_id, error = run.session(lane)
            row, steps = run.sessions.archive.show(session_id)
            parked = row.state is SessionState.PARKED
            asked = asked_by(session_id, steps, row.question) if parked else None
            answer = None if asked is None else _answer(asked, waiting, approve)
            if asked is None or answer is None:
                break
            event = asked.answered(answer, name)
            bus.publish(PERSON, event, priority=Priority.PERSON, system=True)
            lane = Lane(name, direct=True)
        published = [e for e in bus.events.list(limit=10_000) if e.agent == name]
        return Performance(
            SessionState.FAILED if error else row.state,
            steps,
            published,
            bus.facts.of(name),
            row.outcome,
            row.question,
            error,
            run.log,
            row.forced,
            asked,
        )
    finally:
        bus.close()


def _answer(asked: Asked, answers: list[Any], approve: Approver | None) -> dict[str, Any] | None:
    """Return what a person answers; None: nothing."""
    if asked.expires is None:
        return {"answer": answers.pop(0)} if answers else None
    if approve is None:
        return None
    said = approve(asked.tool, asked.args)
    if said is True:
        return {"answer": YES}
    return {"answer": NO, **({"why": said} if isinstance(said, str) else {})}


@dataclass
class _Run:
    loaded: LoadedAgent
    bus: Bus
    llm: LLM
    view: SessionView  # but for what is one session's
    log: str = ""

    def __post_init__(self) -> None:
        # Nobody else writes to this bus.
        self.sessions = Sessions(self.bus, jitter=lambda: 0.0, verify=lambda answer: None)

    def session(self, lane: Lane) -> tuple[int, str | None]:
        """Run one session, or go on with a parked one; return its id, and why it failed."""
        loaded = self.loaded
        event = self.bus.next(lane)
        if event is None:
            raise UsageError("the event does not reach the agent", where=lane.consumer)
        session = self.sessions.begin(lane, event, "v", loaded.version.accepted.config.limits)
        if not isinstance(session, Session):
            raise UsageError(f"the session does not begin: {session}", where=lane.consumer)
        facts = self.bus.facts.of(lane.agent)
        error: str | None = None
        score = scoring(self.llm, session, CALL_DEADLINE_S)
        agent = MappedAgent.of(
            lambda: loaded.agent(facts, score, session, self.view), loaded.folders
        )
        try:
            loop = loaded.loop(session, self.sessions.journal, agent, self.llm)
            try:
                with held_to(loaded.tools.check_readable):
                    ending = loop.run()
                settle(self.sessions.closing, session, ending)
            finally:
                self.log = loop.transcript.context.text
        except AgentdError as problem:
            error = str(problem)
        except Exception as problem:  # an agent's own code may raise anything
            error = f"{type(problem).__name__}: {problem}"
        return session.id, error
