"""One agent on one event, on a stage of its own: its real code and loop, a bus in a folder.

For tests and evaluations; nothing of a daemon is read or written.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agentd.admission.version import Version
from agentd.agent import Kit
from agentd.bus import Bus, sql
from agentd.bus.database import REFUSED
from agentd.bus.json_text import compact
from agentd.clock import Clock, iso
from agentd.config.agent import AgentConfig
from agentd.errors import AgentdError, RecordingError, UsageError
from agentd.events import PERSON, Event, Lane, NewEvent
from agentd.llm.baml import BamlLLM, load_client
from agentd.llm.decision import LLM, Message
from agentd.llm.endpoint import Endpoint
from agentd.llm.union import Client, Union
from agentd.logs.logger import Logger
from agentd.loop import Loop
from agentd.net.exchange import Stream
from agentd.replay.agent import Actor, Chosen
from agentd.replay.code import Code
from agentd.replay.folders import Places
from agentd.sessions.session import Session
from agentd.sessions.sessions import ANSWER, Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import Priority, SessionState
from agentd.tools import Toolbox
from agentd.tools.git import held_to
from agentd.tools.shell import Output
from agentd.worker.runner import Facts, repeatable, settle

CALL_DEADLINE_S = 30.0  # promised to nobody here


class Quiet:
    """A logger whose lines nobody reads."""

    def _nothing(self, *_args: Any, **_keys: Any) -> None:
        pass

    debug = info = warning = error = exception = _nothing

    def bind(self, **_keys: Any) -> "Quiet":
        """Return itself: nobody reads the keys either."""
        return self


@dataclass(frozen=True)
class Cast:
    """An agent's code with its union and its prompt without the log."""

    version: Version
    client: Client
    union: Union
    messages: tuple[Message, ...]

    places: Places

    @classmethod
    def of(
        cls, code: Code, name: str, config: AgentConfig, where: str, places: Places | None = None
    ) -> "Cast":
        """Import the code for a configuration; `places` say where its folders really are.

        Raises:
            ConfigError: they do not fit, or the prompt cannot be rendered.
        """
        places = places or Places([], Path())
        told = config.model_dump(mode="json", exclude_defaults=True)
        config = AgentConfig.model_validate(places.inward(told))
        version = code.version(name, config, where)
        client = load_client(version.client_dir)
        union = Union(client, version.function, version.members, version.arguments)
        kit = Kit(name, config.done, Toolbox(config.permissions), Facts({}), client.types)
        fixed = version.agent(version.params, kit).prompt_arguments()
        messages = tuple(
            {**message, "content": places.outward(message["content"])}
            for message in union.frame({"done": config.done, **fixed})
        )
        return cls(version, client, union, messages, places)

    def over(self, endpoint: Endpoint, *, agent: str = "") -> BamlLLM:
        """Return the model of `endpoint`, asked with this union and prompt in the agent's name."""
        return model_over(endpoint, self.version, self.union, self.messages, agent=agent)


def model_over(
    endpoint: Endpoint,
    version: Version,
    union: Union,
    messages: Sequence[Message],
    *,
    agent: str = "",
) -> BamlLLM:
    """Return the model of `endpoint`, asked with these messages before the log."""
    accepted = version.accepted
    weight = accepted.config.priority
    return BamlLLM(union, messages, endpoint, agent=agent or accepted.name, weight=weight)


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


def perform(
    cast_: Cast,
    event: NewEvent,
    llm: LLM,
    folder: Path,
    *,
    clock: Clock,
    facts: Mapping[str, Any] | None = None,
    answers: Sequence[Any] = (),
    connect: Callable[[str], AbstractContextManager[Stream]] | None = None,
    programs: Callable[[Sequence[str]], Output] | None = None,
    call_deadline_s: float = CALL_DEADLINE_S,
) -> Performance:
    """Let the agent answer one event, and a person answer its questions, in an empty folder.

    What fails the session is in the performance; it is not tried again.
    """
    name = cast_.version.accepted.name
    config = cast_.version.accepted.config
    bus = Bus(folder / "bus.db", clock=clock)
    try:
        bus.accept(name, "v", subscribe=[event.event_type], start="beginning")
        bus.facts.remember(name, facts or {})
        bus.publish(PERSON, event, system=True)
        tools = Toolbox(config.permissions, connect=connect, programs=programs)
        play = _Play(cast_, bus, llm, tools, call_deadline_s)
        lane = Lane(name, event.target == name, (event.event_type,))
        waiting = list(answers)
        while True:
            session_id, error = play.session(lane)
            row, steps = play.sessions.archive.show(session_id)
            if row.state is not SessionState.PARKED or not waiting:
                break
            payload = {"session": session_id, "answer": waiting.pop(0)}
            bus.publish(PERSON, NewEvent(ANSWER, payload, name), priority=Priority.PERSON)
            lane = Lane(name, True)
        published = [e for e in bus.events.list(limit=10_000) if e.agent == name]
        return Performance(
            SessionState.FAILED if error else row.state,
            steps,
            published,
            bus.facts.of(name),
            row.outcome,
            row.question,
            error,
            play.log,
            row.forced,
        )
    finally:
        bus.close()


@dataclass
class _Play:
    cast: Cast
    bus: Bus
    llm: LLM
    tools: Toolbox
    call_deadline_s: float
    log: str = ""

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.bus, jitter=lambda: 0.0)

    def session(self, lane: Lane) -> tuple[int, str | None]:
        """Run one session, or go on with a parked one; return its id, and why it failed."""
        version = self.cast.version
        event = self.bus.next(lane)
        if event is None:
            raise UsageError("the event does not reach the agent", where=lane.consumer)
        session = self.sessions.begin(lane, event, "v", version.accepted.config.limits)
        if not isinstance(session, Session):
            raise UsageError(f"the session does not begin: {session}", where=lane.consumer)
        facts = Facts(self.bus.facts.of(lane.agent))
        done = version.accepted.config.done
        kit = Kit(lane.agent, done, self.tools, facts, self.cast.client.types)
        error: str | None = None
        actor = Actor.of(
            lambda: version.agent(version.params, kit),
            self.cast.places,
            choose=lambda _name: Chosen(run=True),
            settle=lambda _name, result: result,
            results=lambda: [],  # needed only where a result is taken
        )
        try:
            loop = Loop(
                session,
                actor,
                self.llm,
                self.sessions.journal,
                idempotent=repeatable(version),
                call_deadline_s=self.call_deadline_s,
                log=cast(Logger, Quiet()),
                beat=lambda _promise: None,
            )
            try:
                with held_to(self.tools.check_readable):
                    ending = loop.run()
                settle(self.sessions.closing, session, ending)
            finally:
                self.log = loop.transcript.context.text
        except AgentdError as problem:
            error = str(problem)
        except Exception as problem:  # an agent's own code may raise anything
            error = f"{type(problem).__name__}: {problem}"
        return session.id, error


def seed(bus: Bus, agent: str, event: Event, session_id: int) -> None:
    """Put one event before an agent on a bus of its own; its session is to have this id."""
    with bus.transaction():
        bus.db.run(sql.SEED_SESSION, (session_id - 1,))
        row = (
            *(event.id, event.agent, event.event_type, compact(dict(event.payload))),
            *(iso(event.created_at), event.target, event.priority.value),
            *(event.cause_id, event.depth, event.dedup_key),
        )
        try:
            bus.db.run(sql.SEED_EVENT, row)
        except REFUSED as error:
            raise RecordingError(f"its event can stand in no outbox: {error}") from error
        for direct in (True, False):
            bus.db.run(sql.CREATE_CURSOR, (Lane(agent, direct).consumer, event.id - 1))
