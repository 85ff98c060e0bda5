"""Replays a recording: the real loop, agent and tools on a stage of their own."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from agentd.admission.version import Version
from agentd.agent import Agent, Kit, Result
from agentd.bus import Bus
from agentd.config.agent import AgentConfig, Permissions
from agentd.errors import PermissionRefused, RecordingError, ToolError
from agentd.events import PERSON, Lane, NewEvent
from agentd.llm.baml import load_client
from agentd.llm.decision import Message
from agentd.llm.union import Malformed, Union
from agentd.logs.logger import Logger
from agentd.loop import Ending, Loop
from agentd.recordings.recording import Recording, digest, tool_digest
from agentd.replay import fixture
from agentd.replay import tape as ends
from agentd.replay.agent import READS, Actor, Chosen, runs
from agentd.replay.code import MAKES, Code, Workshop
from agentd.replay.folders import Places
from agentd.replay.offline import offline
from agentd.replay.results import recorded_result, steady
from agentd.replay.sandbox import confined
from agentd.replay.session import CALL_DEADLINE_S, Quiet, seed
from agentd.replay.tape import Cut, Difference, Diverged, RecordedLLM, Tape, taped_sessions
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.sessions.sessions import ANSWER, Sessions
from agentd.sessions.steps import StepKind
from agentd.states import Priority
from agentd.tools import REGISTRY, Toolbox
from agentd.tools.git import held_to
from agentd.worker.runner import Facts, repeatable, settle

Tools = Literal["fixture", "recorded"]


@dataclass(frozen=True)
class Outcome:
    """How a replay went. `given` counts results that were taken as recorded."""

    difference: Difference | None
    turns: int  # decisions that were replayed
    given: int
    notes: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Whether everything was as recorded."""
        return self.difference is None


class Replay:
    """One replay, to be run once.

    `config` is what makes up the agent now, None for what is recorded. `tools="recorded"` takes
    every result as recorded; `live_effects` carries out also what changes something: `WriteFile` in
    the fixture, all else for real, as far as the `installed` agent may: a recording may come from
    somebody else, and its own permissions only narrow that. `where` stands in errors.
    """

    def __init__(
        self,
        recording: Recording,
        code: Code,
        workshop: Workshop,
        *,
        config: AgentConfig | None = None,
        tools: Tools = "fixture",
        live_effects: bool = False,
        installed: Permissions | None = None,
        where: str = "the recording",
    ) -> None:
        self.recording = recording
        self.tape = self._make_tape()
        self.notes: list[str] = []
        self._code = code
        self._workshop = workshop
        self._tools: Tools = tools
        self._live_effects = live_effects
        self._installed = installed or Permissions()
        self._where = where
        self._config = config or recording.config
        self.session: Session | None = None  # the one being replayed
        self._given = 0
        self._rests = 0  # closings and parkings so far

    def run(self) -> Outcome:
        """Replay to the end or to the first difference.

        Raises:
            RecordingError: it cannot be replayed with this code.
            ConfigError: the code does not take the recorded configuration.
        """
        difference = None
        try:
            with self._staged():
                self._play()
        except Diverged as error:
            difference = self._explained(error.difference)
        return Outcome(difference, self.tape.turn, self._given, tuple(self.notes))

    def describe(self) -> tuple[str, Version]:
        """Return the digest of the decisions' schema, and the agent's version.

        Raises:
            ConfigError: the code does not take the recorded configuration.
        """
        with suppress(Diverged), self._staged():  # another prompt does not matter here
            pass
        return digest(self._union.schema(self._union.members)), self.version

    # --- preparing

    @contextmanager
    def _staged(self) -> Iterator[None]:
        """Set the stage: the fixture's folders, the agent's code, the recorded model."""
        roots = self.recording.head.volatile.paths
        real = [root.path for root in roots]
        with ExitStack() as stack:
            self._stage = stage = stack.enter_context(self._workshop.stage())
            stack.enter_context(offline())
            if not self._live_effects:
                stack.enter_context(confined(stage, real))
            self.places = self._find_places(stage)
            try:
                fixture.restore(self.recording.fixture, self.places)
                self._prepare()
                yield
            except RecordingError as error:
                error.where = error.where or self._where
                raise

    def _find_places(self, stage: Path) -> Places:
        return Places(self.recording.head.volatile.paths, stage)

    def _prepare(self) -> None:
        head = self.recording.head
        given = self._config.model_dump(mode="json", exclude_defaults=True)
        self.config = self._confined(AgentConfig.model_validate(self.places.inward(given)))
        self.version = version = self._code.version(head.agent, self.config, self._where)
        self._client = load_client(version.client_dir)
        self._union = Union(self._client, version.function, version.members, version.arguments)
        self._toolbox = self._make_toolbox()
        fixed = self._agent(1).prompt_arguments()
        self.messages: list[Message] = [
            {**message, "content": self.places.outward(message["content"])}
            for message in self._union.frame({"done": self.config.done, **fixed})
        ]
        self.llm = self._make_llm()
        self._check_messages()
        now = digest(self._union.schema(self._union.members))
        if head.version.union not in ("", now):
            self.notes.append("the decisions' bounds changed: a model might decide otherwise now")
        for name, known in head.version.tools.items():
            if name in REGISTRY and tool_digest(name) != known:
                self.notes.append(f"the arguments of {name} changed since the recording")

    def _confined(self, config: AgentConfig) -> AgentConfig:
        """Return the configuration with permissions for nothing beyond the fixture."""
        permissions = config.permissions

        def inside(paths: Sequence[str]) -> tuple[str, ...]:
            # Resolved: `/notes/../../..` begins in the fixture as well.
            return tuple(p for p in paths if Path(os.path.realpath(p)).is_relative_to(self._stage))

        confined = {"read": inside(permissions.read), "write": inside(permissions.write)}
        if self._live_effects:
            allowed = self._installed.run
            confined["run"] = tuple(name for name in permissions.run if name in allowed)
        return config.model_copy(update={"permissions": permissions.model_copy(update=confined)})

    def _make_toolbox(self) -> Toolbox:
        pages = fixture.Pages(self.recording.fixture.pages)
        kind = Toolbox if self._live_effects else _Harmless
        return kind(self.config.permissions, connect=pages.connect)

    def _make_tape(self) -> Tape:
        return Tape(self.recording)

    def _make_llm(self) -> RecordedLLM:
        return RecordedLLM(self.tape, self._union.members, self.messages, self._parse)

    def _check_messages(self) -> None:
        def text(of: Sequence[Mapping[str, str]]) -> str:
            return "\n".join(f"[{m['role']}]\n{m['content']}" for m in of)

        recorded, now = text(self.recording.messages), text(self.messages)
        if recorded != now:
            self._prompt_changed(Difference(1, "the prompt", recorded, now))

    def _prompt_changed(self, difference: Difference) -> None:
        raise Diverged(difference)

    def _agent(self, attempt: int) -> Agent[Any]:
        facts = Facts(self.places.inward(self.recording.facts(attempt)))
        name = self.recording.head.agent
        kit = Kit(name, self.config.done, self._toolbox, facts, self._client.types)
        return self.version.agent(self.version.params, kit)

    def _parse(self, text: str, names: frozenset[str]) -> tuple[str, dict[str, Any], Any]:
        try:
            return self._union.parse(text, names)
        except Malformed as error:
            raise self.tape.diverged(
                "the recorded decision", text, f"is no decision any more: {error}"
            ) from error

    # --- playing

    def _play(self) -> None:
        head, tape = self.recording.head, self.tape
        event = head.event.event()
        bus = Bus(self._stage / "bus.db", clock=tape)
        try:
            seed(bus, head.agent, event, head.session.id)
            sessions = taped_sessions(bus, tape)
            lane = Lane(head.agent, event.target == head.agent, (event.event_type,))
            while True:
                session = self.session = self._begin(sessions, bus, lane)
                try:
                    with held_to(self._readable):
                        ending = self._loop(session, sessions.journal).run()
                    self._check_rest(ending)
                    settle(sessions.closing, session, ending)
                except Cut:
                    sessions.closing.refund(session)
                except (Diverged, RecordingError):
                    raise
                except Exception as error:  # an agent's own code may raise anything
                    return self._check_failed(error)
                else:
                    self._rests += 1
                    if ending.question is None or tape.coming is None:
                        return self._check_ended(ending)
                    lane = self._answer(bus, session)
                assert tape.coming is not None
                tape.attempt = tape.coming.attempt
        finally:
            bus.close()

    def _readable(self, path: Path) -> None:
        """Let git read the fixture, whatever was permitted then: it once answered to no list."""
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._stage)):
            raise PermissionRefused(f"{path} is not in the recording")

    def _begin(self, sessions: Sessions, bus: Bus, lane: Lane) -> Session:
        self.tape.hold()
        event = bus.next(lane)
        if event is None:
            raise RecordingError(
                "its event does not fit its agent", where=self._where, hint="record it again"
            )
        session = sessions.begin(lane, event, self.version.accepted.code_hash, self.config.limits)
        if not isinstance(session, Session):
            raise RecordingError(f"the session does not begin: {session}", where=self._where)
        return session

    def _loop(self, session: Session, journal: Journal) -> Loop:
        attempt = self.tape.attempt
        actor = Actor.of(
            lambda: self._agent(attempt),
            self.places,
            choose=self._choose,
            settle=self._settle,
            results=lambda: session.results,
        )
        loop = Loop(
            session,
            actor,
            self.llm,
            journal,
            idempotent=repeatable(self.version),
            call_deadline_s=CALL_DEADLINE_S,
            log=cast(Logger, Quiet()),
            beat=lambda _promise: None,
        )
        self.tape.release()
        return loop

    def _choose(self, name: str) -> Chosen:
        """Say whether a decision is carried out, or its recorded result taken."""
        tape = self.tape
        tape.check_cut()
        step = tape.coming
        if step is None or step.kind is not StepKind.RESULT:
            return Chosen(run=True)
        run = self._tools == "fixture" and step.seq not in self.recording.given
        if run and runs(name, self.version.agent, live_effects=self._live_effects):
            return Chosen(run=True)
        if name == "WriteFile":  # what is read later is read from the fixture
            with suppress(ToolError):
                decision = self.recording.steps[tape.done - 1]
                self._toolbox.call(name, self.places.inward(dict(decision.payload)))
        self._given += 1
        self.llm.given()
        return Chosen(False, recorded_result(self.recording, step))

    def _settle(self, name: str, result: Result) -> Result:
        """Take the recorded values of what is declared to be volatile."""
        fields = {*self.recording.head.volatile.fields, *self.version.agent.volatile}
        step = self.tape.coming
        if not fields:
            return result
        if step is not None:
            return steady(name, result, step.payload, step.publish, fields)
        outcome = self.recording.head.session.outcome or {}
        return steady(name, result, outcome, self.recording.published(self._rests), fields)

    def _answer(self, bus: Bus, session: Session) -> Lane:
        """Publish the person's recorded answer; return the lane that brings it."""
        step = self.tape.coming
        if step is None or step.type != ANSWER:
            raise self.tape.diverged("what comes next", step and step.payload, "a question")
        payload = {"session": session.id, **step.payload}
        answer = NewEvent(ANSWER, payload, target=session.agent)
        bus.publish(PERSON, answer, priority=Priority.PERSON)
        return Lane(session.agent, True)

    def _check_rest(self, ending: Ending) -> None:
        ends.check_rest(self.tape, ending, self._rests)

    def _check_ended(self, ending: Ending) -> None:
        ends.check_ended(self.tape, ending)

    def _check_failed(self, error: Exception) -> None:
        ends.check_failed(self.tape, error, self.places)

    def _explained(self, difference: Difference) -> Difference:
        """Return the difference with what of the agent is another than recorded."""
        changed = self._code.changed(self.recording.head.version.sources)
        recorded = self.recording.config
        for key in MAKES:
            if getattr(recorded, key) != getattr(self._config, key):
                changed.append(f"{key} of its configuration")
        if not changed or difference.hint:
            return difference
        hint = f"changed since the recording: {', '.join(changed)}; if that was meant, record anew"
        return replace(difference, hint=hint)


class _Harmless(Toolbox):
    """The tools for an agent's code outside of a decision, too: none has effects."""

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run a reading tool, or write in the fixture; refuse all others."""
        if name in REGISTRY and name not in READS and name != "WriteFile":
            raise ToolError(f"{name} would change something: a replay runs it with --live-effects")
        return super().call(name, args)
