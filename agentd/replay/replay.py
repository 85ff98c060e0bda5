"""Replays a recording: the real loop, agent and tools, in a folder of their own."""

import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agentd.admission.version import Version
from agentd.agent import Result
from agentd.approval.approval import Policy
from agentd.bus import Bus
from agentd.config.agent import AgentConfig, Permissions
from agentd.errors import PermissionRefused, RecordingError, ToolError
from agentd.events import ANSWER, PERSON, Lane
from agentd.loop import Ending, Loop
from agentd.recordings.recording import ANSWERED, Recording, Settled, digest, tool_digest
from agentd.replay import endings, fixture
from agentd.replay.agent_proxy import Handling, ReplayedAgent
from agentd.replay.code import MAKES, Code, Workshop
from agentd.replay.difference import Difference, Diverged
from agentd.replay.fixture_toolbox import WRITES, FixtureToolbox, only_reads
from agentd.replay.folder_map import FolderMap
from agentd.replay.loaded import CALL_DEADLINE_S, LoadedAgent
from agentd.replay.no_effects import confined
from agentd.replay.offline import offline
from agentd.replay.playback import Cut, Playback
from agentd.replay.recorded_llm import RecordedLLM
from agentd.replay.replay_bus import compared_sessions, seed
from agentd.replay.results import recorded_answer, recorded_result, with_recorded_fields
from agentd.sessions.journal import Journal
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import StepKind
from agentd.states import Priority
from agentd.tools.declared_tools import REGISTRY
from agentd.tools.git import held_to
from agentd.tools.toolbox import Toolbox
from agentd.worker.runner import scoring, settle

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
        playback: Playback | None = None,
    ) -> None:
        self.recording = recording
        self.playback = playback or Playback(recording)
        self.notes: list[str] = []
        self.session: Session | None = None  # the one being replayed
        self._code = code
        self._workshop = workshop
        self._tools: Tools = tools
        self._live_effects = live_effects
        self._installed = installed or Permissions()
        self._where = where
        self._config = config or recording.config
        self._given = 0
        self._settled = 0  # closings and parkings so far

    def run(self) -> Outcome:
        """Replay to the end or to the first difference.

        Raises:
            RecordingError: it cannot be replayed with this code.
            ConfigError: the code does not take the recorded configuration.
        """
        difference = None
        try:
            with self._prepared():
                self._play()
        except Diverged as error:
            difference = self._explained(error.difference)
        return Outcome(difference, self.playback.turn, self._given, tuple(self.notes))

    def describe(self) -> tuple[str, Version]:
        """Return the digest of the decisions' schema, and the agent's version.

        Raises:
            ConfigError: the code does not take the recorded configuration.
        """
        with suppress(Diverged), self._prepared():  # another prompt does not matter here
            pass
        return self._union_digest(), self.loaded.version

    # --- preparing

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Make ready: the fixture's folders, the agent's code, the recorded model."""
        real = [root.path for root in self.recording.head.volatile.paths]
        with ExitStack() as stack:
            self._folder = stack.enter_context(self._workshop.empty_folder())
            stack.enter_context(offline())
            if not self._live_effects:
                stack.enter_context(confined(self._folder, real))
            self.folders = self._map_folders()
            try:
                fixture.restore(self.recording.fixture, self.folders)
                self._load()
                yield
            except RecordingError as error:
                error.where = error.where or self._where
                raise

    def _map_folders(self) -> FolderMap:
        return FolderMap(self.recording.head.volatile.paths, self._folder)

    def _load(self) -> None:
        config = self._confined(self.folders.config(self._config))
        self._toolbox = self._make_toolbox(config)
        self.loaded = LoadedAgent.of(
            self._code,
            self.recording.head.agent,
            config,
            self._where,
            tools=self._toolbox,
            folders=self.folders,
            facts=self._facts(1),
        )
        self.llm = self._make_llm()
        self._check_messages()
        version = self.recording.head.version
        if version.union not in ("", self._union_digest()):
            self.notes.append("the decisions' bounds changed: a model might decide otherwise now")
        for name, known in version.tools.items():
            if name in REGISTRY and tool_digest(name) != known:
                self.notes.append(f"the arguments of {name} changed since the recording")

    def _confined(self, config: AgentConfig) -> AgentConfig:
        """Return the configuration with permissions for nothing beyond the fixture."""
        permissions = config.permissions
        confined = {
            "read": tuple(filter(self._is_inside, permissions.read)),
            "write": tuple(filter(self._is_inside, permissions.write)),
        }
        if self._live_effects:
            for kind in ("run", "apps"):
                allowed = getattr(self._installed, kind)
                confined[kind] = tuple(n for n in getattr(permissions, kind) if n in allowed)
        return config.model_copy(update={"permissions": permissions.model_copy(update=confined)})

    def _make_toolbox(self, config: AgentConfig) -> Toolbox:
        own = str(self.folders.as_here(self.recording.head.own))
        return FixtureToolbox(
            config.permissions,
            own if self._is_inside(own) else "",
            self.recording.fixture.pages,
            live_effects=self._live_effects,
            unread=self._unread(),
        )

    def _unread(self) -> Container[Path]:
        """Return files of the fixture that have no contents, where somebody might read them."""
        return ()

    def _make_llm(self) -> RecordedLLM:
        return RecordedLLM(self.playback, self.loaded)

    def _check_messages(self) -> None:
        def text(of: Sequence[Mapping[str, str]]) -> str:
            return "\n".join(f"[{m['role']}]\n{m['content']}" for m in of)

        recorded, now = text(self.recording.messages), text(self.loaded.messages)
        if recorded != now:
            self._prompt_changed(Difference(1, "the prompt", recorded, now))

    def _prompt_changed(self, difference: Difference) -> None:
        raise Diverged(difference)

    def _union_digest(self) -> str:
        union = self.loaded.union
        return digest(union.schema(union.members))

    def _facts(self, attempt: int) -> dict[str, Any]:
        facts: dict[str, Any] = self.folders.as_here(self.recording.facts(attempt))
        return facts

    # --- playing

    def _play(self) -> None:
        head, playback = self.recording.head, self.playback
        event = head.event.event()
        bus = Bus(self._folder / "bus.db", clock=playback)
        try:
            seed(bus, head.agent, event, head.session.id)
            sessions = compared_sessions(bus, playback)
            lane = Lane(
                head.agent, direct=event.target == head.agent, subscribe=(event.event_type,)
            )
            while True:
                session = self.session = self._begin(sessions, bus, lane)
                try:
                    with held_to(self._readable):
                        ending = self._loop(session, sessions.journal).run()
                    self._check_settled(ending)
                    settle(sessions.closing, session, ending)
                except Cut:
                    sessions.closing.refund(session)
                except (Diverged, RecordingError):
                    raise
                except Exception as error:  # an agent's own code may raise anything
                    return self._check_failure(error)
                else:
                    self._settled += 1
                    if ending.question is None or playback.next_step is None:
                        return self._check_end(ending)
                    lane = self._answer(bus, session)
                assert playback.next_step is not None
                playback.attempt = playback.next_step.attempt
        finally:
            bus.close()

    def _readable(self, path: Path) -> None:
        """Let git read the fixture, whatever was permitted then: it once answered to no list."""
        if not self._is_inside(path):
            raise PermissionRefused(f"{path} is not in the recording")

    def _is_inside(self, path: str | Path) -> bool:
        # Resolved: `/notes/../../..` begins in the fixture as well.
        return Path(os.path.realpath(path)).is_relative_to(self._folder)

    def _begin(self, sessions: Sessions, bus: Bus, lane: Lane) -> Session:
        self.playback.hold()
        event = bus.next(lane)
        if event is None:
            raise RecordingError(
                "its event does not fit its agent", where=self._where, hint="record it again"
            )
        accepted = self.loaded.version.accepted
        session = sessions.begin(lane, event, accepted.code_hash, accepted.config.limits)
        if not isinstance(session, Session):
            raise RecordingError(f"the session does not begin: {session}", where=self._where)
        return session

    def _loop(self, session: Session, journal: Journal) -> Loop:
        facts = self._facts(self.playback.attempt)
        score = scoring(self.llm, session, CALL_DEADLINE_S)
        agent = ReplayedAgent.of(
            lambda: self.loaded.agent(facts, score, session),
            self.folders,
            handle=self._handle,
            check=self.playback.check_cut,
            adjust=self._adjust,
            results=lambda: session.results,
        )
        kept = None  # as the file says now
        if self._config.approve == self.recording.config.approve:
            kept = Policy.kept(self.recording.head.approve, self._config, self.loaded.grants)
        loop = self.loaded.loop(session, journal, agent, self.llm, kept)
        self.playback.release()
        return loop

    def _handle(self, name: str) -> Handling:
        """Say whether a decision is carried out, or its recorded result given."""
        playback = self.playback
        playback.check_cut()
        step = playback.next_step
        if step is None or step.kind is not StepKind.RESULT:
            return Handling(run=True)
        if (
            self._tools == "fixture"
            and step.seq not in self.recording.given
            and (self._live_effects or only_reads(name, self.loaded.version.agent))
        ):
            return Handling(run=True)
        if name in WRITES:  # what is read later is read from the fixture
            with suppress(ToolError):
                decision = self.recording.decision_before(step.seq)
                self._toolbox.call(name, self.folders.as_here(dict(decision.payload)))
        self._given += 1
        self.llm.count_given()
        return Handling(run=False, given=recorded_result(self.recording, step))

    def _adjust(self, name: str, result: Result) -> Result:
        """Put the recorded values of what is declared to be volatile into a result."""
        fields = {*self.recording.head.volatile.fields, *self.loaded.version.agent.volatile}
        step = self.playback.next_step
        if not fields:
            return result
        if step is not None:
            return with_recorded_fields(name, result, step.value, step.publish, fields)
        outcome = self.recording.head.session.outcome or {}
        known = self.recording.settled(self._settled) or Settled()
        return with_recorded_fields(name, result, outcome, known.events(), fields)

    def _answer(self, bus: Bus, session: Session) -> Lane:
        """Publish the person's recorded answer; return the lane that brings it."""
        step = self.playback.next_step
        if step is None or (step.type != ANSWER and step.kind not in ANSWERED):
            raise self.playback.diverged("what comes next", step and step.payload, "a question")
        answer = recorded_answer(session, step)
        bus.publish(PERSON, answer, priority=Priority.PERSON, system=True)
        return Lane(session.agent, direct=True)

    def _check_settled(self, ending: Ending) -> None:
        endings.check_settled(self.playback, ending, self._settled)

    def _check_end(self, ending: Ending) -> None:
        endings.check_end(self.playback, ending)

    def _check_failure(self, error: Exception) -> None:
        endings.check_failure(self.playback, error, self.folders)

    def _explained(self, difference: Difference) -> Difference:
        """Return the difference with what of the agent is another than recorded."""
        changed = self._code.changed(self.recording.head.version.sources)
        recorded = self.recording.config
        for key in MAKES:
            if getattr(recorded, key) != getattr(self._config, key):
                changed.append(f"{key} of its configuration")
        if not changed:
            return difference
        hint = f"changed since the recording: {', '.join(changed)}; if that was meant, record anew"
        return replace(difference, hint=hint)
