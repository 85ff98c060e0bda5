"""A real model in a replay: from one turn on it decides in the place of the recorded one."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agentd.agent import Result, Scores
from agentd.clock import Clock, SystemClock
from agentd.errors import ModelUnavailable, RecordingError, UsageError
from agentd.events import NewEvent
from agentd.llm.decision import LLM, Ask, Decision, Terms
from agentd.loop import Ending
from agentd.recordings.recording import Recording
from agentd.replay.agent_proxy import Handling
from agentd.replay.difference import Diverged
from agentd.replay.fixture_toolbox import not_here, only_reads
from agentd.replay.live import LiveReplay
from agentd.replay.loaded import LoadedAgent
from agentd.replay.offline import online
from agentd.replay.playback import Playback
from agentd.replay.recorded_llm import RecordedLLM
from agentd.sessions.steps import Step, StepKind


class Halted(Exception):
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


class ForkAt(LiveReplay):
    """Replays up to a turn, then lets the model go on, to the session's end.

    Reading tools run on the fixture. What would change something stops the fork, unless
    `live_effects`.
    """

    def __init__(self, recording: Recording, *args: Any, turn: int, **options: Any) -> None:
        if not 1 <= turn <= recording.turns:
            raise UsageError(f"the session has turns 1 to {recording.turns}", where=f"turn {turn}")
        self._fork = _ForkedPlayback(recording, turn, SystemClock())
        self._result = Fork(turn)
        super().__init__(recording, *args, playback=self._fork, **options)

    def fork(self) -> Fork:
        """Run it.

        Raises:
            RecordingError: the replay differs before the fork.
            ModelUnavailable: the model server is down.
        """
        result = self._result
        try:
            with self._prepared():
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

    def _make_llm(self) -> RecordedLLM:
        return _ForkedLLM(self._fork, self.loaded, self._model())

    def _unread(self) -> Container[Path]:
        fixture = self.recording.fixture
        return {
            self._folder / folder / name
            for folder, listing in fixture.folders.items()
            for name, size in listing.items()
            if isinstance(size, int) and f"{folder}/{name}" not in fixture.files
        }

    def _handle(self, name: str) -> Handling:
        if not self._fork.left:
            return super()._handle(name)
        if self._live_effects or only_reads(name, self.loaded.version.agent):
            return Handling(run=True)
        raise Halted(not_here(name))

    def _adjust(self, name: str, result: Result) -> Result:
        return result if self._fork.left else super()._adjust(name, result)

    def _check_settled(self, ending: Ending) -> None:
        if not self._fork.left:
            super()._check_settled(ending)

    def _check_end(self, ending: Ending) -> None:
        self._result.outcome, self._result.question = ending.outcome, ending.question
        self._result.published = list(ending.result.publish)

    def _check_failure(self, error: Exception) -> None:
        if isinstance(error, ModelUnavailable):
            raise error
        self._result.stopped = str(error) or type(error).__name__


class _ForkedPlayback(Playback):
    """A playback that is left at a turn: from there on nothing is compared, and time is real."""

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
    def next_step(self) -> Step | None:
        """The recorded step that comes next; none beyond the fork."""
        return None if self.left else super().next_step

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


class _ForkedLLM(RecordedLLM):
    """Gives the recorded decisions up to a turn; then the model decides."""

    def __init__(self, playback: _ForkedPlayback, loaded: LoadedAgent, model: LLM) -> None:
        super().__init__(playback, loaded)
        self._fork, self._model = playback, model

    def count(self, text: str, within: int = 0) -> int:
        """Return the recorded tokens, and beyond the fork the model's own."""
        if not self._fork.left:
            return super().count(text, within)
        with online():
            return self._model.count(text, within)

    def decide(self, ask: Ask) -> Decision:
        """Return the recorded decision, or the model's."""
        if not self._fork.left and self._fork.turn + 1 < self._fork.first:
            return super().decide(ask)
        self._fork.leave()
        with online():
            return self._model.decide(ask)

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Return the recorded scores, and beyond the fork the model's."""
        if not self._fork.left:
            return super().score(heads, items, terms)
        with online():
            return self._model.score(heads, items, terms)
