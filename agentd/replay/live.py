"""A real model in a replay: asked at each turn what it would have decided."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentd.errors import ModelError, ModelUnavailable
from agentd.llm.decision import LLM, Ask, Decision
from agentd.llm.endpoint import Endpoint
from agentd.replay.difference import Difference, comparable
from agentd.replay.loaded import FixedPromptLLM, LoadedAgent
from agentd.replay.offline import online
from agentd.replay.playback import Playback
from agentd.replay.recorded_llm import RecordedLLM
from agentd.replay.replay import Replay

Asked = Callable[[int, int], None]  # called before each call: the turn, and the recorded turns


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


class LiveReplay(Replay):
    """A replay with the model of `endpoint`, which a call may take `call_deadline_s`.

    A changed prompt is what is to be tried, so it is no difference here.
    """

    def __init__(
        self, *args: Any, endpoint: Endpoint, call_deadline_s: float, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._endpoint, self._call_deadline_s = endpoint, call_deadline_s

    def _model(self) -> FixedPromptLLM:
        return FixedPromptLLM(self.loaded, self._endpoint, self._call_deadline_s)

    def _prompt_changed(self, difference: Difference) -> None:
        self.notes.append("the prompt is another one now; the model is asked with it")


class AskAgain(LiveReplay):
    """A replay that asks a model at each turn, with the recorded log."""

    def __init__(
        self, *args: Any, asked: Asked = lambda _turn, _turns: None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._asked = asked

    @property
    def turns(self) -> list[LiveTurn]:
        """What the model decided, turn by turn."""
        return self.llm.turns if isinstance(self.llm, _AskingLLM) else []

    def _make_llm(self) -> RecordedLLM:
        return _AskingLLM(self.playback, self.loaded, self._model(), self._asked)


class _AskingLLM(RecordedLLM):
    """Gives the recorded decisions, and asks a model what it would have decided."""

    def __init__(self, playback: Playback, loaded: LoadedAgent, model: LLM, asked: Asked) -> None:
        super().__init__(playback, loaded)
        self._model, self._asked = model, asked
        self.turns: list[LiveTurn] = []

    def decide(self, ask: Ask) -> Decision:
        """Return the recorded decision; note the model's own beside it."""
        recorded = super().decide(ask)
        turn = self.playback.turn + 1
        self._asked(turn, self.playback.recording.turns)
        before = comparable({"tool": recorded.name, **recorded.args})
        try:
            with online():
                now = self._model.decide(replace(ask, offsets=self._offsets()))
        except ModelUnavailable:
            raise
        except ModelError as error:
            self.turns.append(LiveTurn(turn, before, "", False, error=str(error)))
            return recorded
        decided = comparable({"tool": now.name, **now.args})
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

    def _offsets(self) -> Mapping[str, Mapping[str, float]] | None:
        """Return what was taken off the recorded decision's labels; None where nothing is known."""
        step = self.playback.next_step
        if step is None or not step.labels:
            return None
        return {
            f"{step.type}.{key}": about.get("offsets", {}) for key, about in step.labels.items()
        }
