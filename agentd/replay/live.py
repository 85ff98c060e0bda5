"""A real model in a replay: asked again at each turn, or followed from one turn on."""

from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from agentd.agent import Result
from agentd.clock import Clock, SystemClock
from agentd.errors import (
    ModelError,
    ModelUnavailable,
    PermissionRefused,
    RecordingError,
    ToolError,
    UsageError,
)
from agentd.events import NewEvent
from agentd.llm.decision import LLM, Ask, Decision
from agentd.llm.endpoint import Endpoint
from agentd.loop import Ending
from agentd.recordings.recording import Recording
from agentd.replay.agent import Chosen, runs
from agentd.replay.offline import online
from agentd.replay.replay import Replay
from agentd.replay.session import model_over
from agentd.replay.tape import Difference, Diverged, RecordedLLM, Tape, shown
from agentd.sessions.steps import Step, StepKind
from agentd.tools import Toolbox
from agentd.tools.place import locate

Asked = Callable[[int, int], None]  # told before each call: the turn, and the recorded turns


@dataclass(frozen=True)
class LiveTurn:
    """What a model decided at a turn, beside what was recorded. `error`: it decided nothing."""

    turn: int
    recorded: str
    now: str
    same: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration_ms: float = 0.0
    error: str | None = None


class _Asking(RecordedLLM):
    """Gives the recorded decisions, and asks a model what it would have decided."""

    def __init__(
        self, tape: Tape, recorded: RecordedLLM, model: LLM, call_deadline_s: float, asked: Asked
    ) -> None:
        super().__init__(tape, recorded.names, recorded.prompt(""), recorded.parse)
        self._model, self._deadline_s, self._asked = model, call_deadline_s, asked
        self.turns: list[LiveTurn] = []

    def decide(self, ask: Ask) -> Decision:
        """Return the recorded decision; note the model's own beside it."""
        recorded = super().decide(ask)
        turn = self.tape.turn + 1
        self._asked(turn, self.tape.recording.turns)
        before = shown({"tool": recorded.name, **recorded.args})
        try:
            with online():
                now = self._model.decide(replace(ask, deadline_s=self._deadline_s))
        except ModelUnavailable:
            raise
        except ModelError as error:
            self.turns.append(LiveTurn(turn, before, "", False, error=str(error)))
            return recorded
        decided = shown({"tool": now.name, **now.args})
        self.turns.append(
            LiveTurn(
                turn,
                before,
                decided,
                decided == before and now.finish_reason == recorded.finish_reason,
                now.usage.prompt_tokens,
                now.usage.completion_tokens,
                now.usage.duration_ms,
            )
        )
        return recorded


class AskAgain(Replay):
    """A replay that asks the model of `endpoint` at each turn, with the recorded log.

    A changed prompt is what is to be tried, so it is no difference here.
    """

    def __init__(
        self,
        *args: Any,
        endpoint: Endpoint,
        call_deadline_s: float,
        asked: Asked = lambda _turn, _turns: None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._endpoint, self._deadline_s, self._asked = endpoint, call_deadline_s, asked

    @property
    def turns(self) -> list[LiveTurn]:
        """What the model decided, turn by turn."""
        return self.llm.turns if isinstance(self.llm, _Asking) else []

    def _make_llm(self) -> RecordedLLM:
        model = model_over(self._endpoint, self.version, self._union, self.messages)
        return _Asking(self.tape, super()._make_llm(), model, self._deadline_s, self._asked)

    def _prompt_changed(self, difference: Difference) -> None:
        self.notes.append("the prompt is another one now; the model is asked with it")


class Forked(Exception):
    """The fork cannot go on: what came next would change something for real."""


@dataclass
class Fork:
    """How a session went on with another model from a turn on."""

    turn: int  # the first that was not recorded
    steps: list[Step] = field(default_factory=list)  # those of the fork
    outcome: Mapping[str, Any] | None = None
    published: list[NewEvent] = field(default_factory=list)
    question: str | None = None
    stopped: str | None = None  # why it did not come to its end


class _ForkedTape(Tape):
    """A tape that is left at a turn: from there on nothing is compared, and time is real."""

    def __init__(self, recording: Recording, first: int, clock: Clock) -> None:
        super().__init__(recording)
        self.first = first
        self.left = False
        self._clock = clock

    def leave(self) -> None:
        """Leave the recording."""
        if not self.left:
            self._at, self._since = super().monotonic(), self._clock.monotonic()
            self.left = True

    @property
    def coming(self) -> Step | None:
        """The recorded step that comes next; none beyond the fork."""
        return None if self.left else super().coming

    def now(self) -> datetime:
        """Return the recorded wall time; beyond the fork the real one."""
        return self._clock.now() if self.left else super().now()

    def monotonic(self) -> float:
        """Return the recorded time, going on beyond the fork."""
        if not self.left:
            return super().monotonic()
        return self._at + self._clock.monotonic() - self._since

    def compare(self, step: Step, of: str) -> None:
        """Compare a step that was recorded; beyond the fork there is nothing to compare."""
        if not self.left:
            super().compare(step, of)


class _Forking(RecordedLLM):
    """Gives the recorded decisions up to a turn; then the model decides."""

    def __init__(
        self, tape: "_ForkedTape", recorded: RecordedLLM, model: LLM, deadline_s: float
    ) -> None:
        super().__init__(tape, recorded.names, recorded.prompt(""), recorded.parse)
        self._fork, self._model, self._deadline_s = tape, model, deadline_s

    def count(self, text: str) -> int:
        """Return the recorded tokens, and beyond the fork the model's own."""
        if not self._fork.left:
            return super().count(text)
        with online():
            return self._model.count(text)

    def decide(self, ask: Ask) -> Decision:
        """Return the recorded decision, or the model's."""
        if not self._fork.left and self._fork.turn + 1 < self._fork.first:
            return super().decide(ask)
        self._fork.leave()
        with online():
            return self._model.decide(replace(ask, deadline_s=self._deadline_s))


class ForkAt(Replay):
    """Replays up to a turn, then lets the model of `endpoint` go on, to the session's end.

    Reading tools run on the fixture. What would change something stops the fork, unless
    `live_effects`.
    """

    def __init__(
        self,
        recording: Recording,
        *args: Any,
        turn: int,
        endpoint: Endpoint,
        call_deadline_s: float,
        **options: Any,
    ) -> None:
        if not 1 <= turn <= recording.turns:
            raise UsageError(f"the session has turns 1 to {recording.turns}", where=f"turn {turn}")
        self._fork = _ForkedTape(recording, turn, SystemClock())
        self._result = Fork(turn)
        self._endpoint, self._deadline_s = endpoint, call_deadline_s
        super().__init__(recording, *args, **options)

    def fork(self) -> Fork:
        """Run it.

        Raises:
            RecordingError: the replay differs before the fork.
            ModelUnavailable: the model server is down.
        """
        result = self._result
        try:
            with self._staged():
                self._play()
        except Diverged as error:
            raise RecordingError(
                f"its replay differs before the fork: {error.difference}", where=self._where
            ) from error
        recorded = [s.seq for s in self.recording.steps if s.kind is StepKind.DECISION]
        first = recorded[result.turn - 1]
        result.steps = [s for s in (self.session.steps if self.session else ()) if s.seq >= first]
        staged = [event for step in result.steps for event in step.publish]
        result.published = [*staged, *result.published]
        return result

    def _make_tape(self) -> Tape:
        return self._fork

    def _make_llm(self) -> RecordedLLM:
        model = model_over(self._endpoint, self.version, self._union, self.messages)
        return _Forking(self._fork, super()._make_llm(), model, self._deadline_s)

    def _make_toolbox(self) -> Toolbox:
        fixture = self.recording.fixture
        unread = {
            self._stage / folder / name
            for folder, listing in fixture.folders.items()
            for name, size in listing.entries.items()
            if isinstance(size, int) and f"{folder}/{name}" not in fixture.files
        }
        return PartialToolbox(super()._make_toolbox(), unread)

    def _prompt_changed(self, difference: Difference) -> None:
        self.notes.append("the prompt is another one now; the model is asked with it")

    def _choose(self, name: str) -> Chosen:
        if not self._fork.left:
            return super()._choose(name)
        if runs(name, self.version.agent, live_effects=self._live_effects):
            return Chosen(run=True)
        raise Forked(f"{name} would change something: --live-effects lets it")

    def _settle(self, name: str, result: Result) -> Result:
        return result if self._fork.left else super()._settle(name, result)

    def _check_rest(self, ending: Ending) -> None:
        if not self._fork.left:
            super()._check_rest(ending)

    def _check_ended(self, ending: Ending) -> None:
        self._result.outcome, self._result.question = ending.outcome, ending.question
        self._result.published = list(ending.result.publish)

    def _check_failed(self, error: Exception) -> None:
        if isinstance(error, ModelUnavailable):
            raise error
        self._result.stopped = str(error) or type(error).__name__


class PartialToolbox(Toolbox):
    """Tools for a model that may read what the recorded one only saw listed."""

    def __init__(self, tools: Toolbox, unread: Container[Path]) -> None:
        super().__init__(tools.permissions)
        self._tools, self._unread, self.cancel = tools, unread, tools.cancel

    def call(self, name: str, args: Mapping[str, Any]) -> Result:
        """Run the tool; say of a file without contents that the recording lacks them."""
        try:
            return self._tools.call(name, args)
        except PermissionRefused:
            raise
        except ToolError as error:
            if name == "ReadFile" and self._is_unread(str(args.get("path", ""))):
                what = f"{args['path']} is not in this recording: the session did not read it"
                raise ToolError(what) from error
            raise

    def _is_unread(self, path: str) -> bool:
        with suppress(ToolError):
            return Path(locate(path, self.permissions.read).path) in self._unread
        return False
