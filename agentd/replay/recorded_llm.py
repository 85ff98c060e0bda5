"""The recorded decisions in the model's place."""

from collections.abc import Sequence
from typing import Any

from agentd.agent import Scores
from agentd.errors import ModelError, ModelMisconfigured, RecordingError
from agentd.llm.decision import Ask, Candidates, Decision, Message, Terms, Usage, with_log
from agentd.llm.union import Malformed
from agentd.replay.difference import comparable_step
from agentd.replay.loaded import LoadedAgent
from agentd.replay.playback import Playback
from agentd.sessions.steps import Step, StepKind
from agentd.transcript import NO_ROOM

BYTES_PER_TOKEN = 3


class RecordedEnd(ModelError):
    """The recorded session failed for want of a further decision, and so does its replay."""


class RecordedLLM:
    """An `LLM` that gives the recorded decisions, and has no model to ask."""

    def __init__(self, playback: Playback, loaded: LoadedAgent) -> None:
        self.playback, self.loaded = playback, loaded
        self._counts: list[int] = []  # left of those of the next step
        self._counts_of = -1

    @property
    def names(self) -> frozenset[str]:
        """The classes of the union, as it is now."""
        return frozenset(self.loaded.union.members)

    def window(self) -> int:
        """Return the recorded window."""
        return self.playback.recording.head.model.window

    def fixed_tokens(self) -> int:
        """Return the recorded tokens of the prompt without the log."""
        return self.playback.recording.head.model.fixed_tokens

    def count_given(self) -> None:
        """Prepare to count a result that is given as it was recorded: cut already."""
        step = self.playback.next_step
        if step is not None and step.whole is None:  # else it is cut again
            # What found no room was counted twice, and its substitute last.
            kept = 2 if step.payload == NO_ROOM else 1
            self._counts, self._counts_of = list(step.counts[-kept:]), self.playback.done

    def count(self, text: str, within: int = 0) -> int:
        """Return what the model's tokenizer said at this place; an estimate where it said nothing.

        The estimate only serves what has left the recording already.
        """
        if self._counts_of != self.playback.done:
            step = self.playback.next_step
            self._counts, self._counts_of = list(step.counts if step else ()), self.playback.done
        if self._counts:
            return self._counts.pop(0)
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

    def prompt(self, log: str) -> list[Message]:
        """Return the messages of a call."""
        return with_log(self.loaded.messages, log)

    def decide(self, ask: Ask) -> Decision:
        """Return the recorded decision, if this is the recorded call.

        Raises:
            Diverged: another log or other allowed decisions than recorded.
            Cut, RecordedEnd: as it was recorded.
        """
        playback = self.playback
        playback.check_cut()
        step = playback.next_step
        if step is None:
            if playback.recording.head.session.error is not None:
                raise RecordedEnd(playback.recording.head.session.error)
            raise playback.diverged("the end", "no further decision", "asks for one more decision")
        if step.kind is not StepKind.DECISION:
            raise playback.diverged("what comes next", comparable_step(step), "asks for a decision")
        recorded = playback.recording.log(step.seq)
        if ask.log != recorded:
            raise playback.diverged("the log before the decision", recorded, ask.log)
        names = None if ask.allowed is None else sorted(ask.allowed)
        expected = None if step.allowed is None else sorted(step.allowed)
        if names != expected:
            raise playback.diverged("what may be decided", expected or "all", names or "all")
        own = f"{step.type}."
        fields = {key: list(of) for key, of in ask.candidates.items() if key.startswith(own)}
        known = {key: list(of) for key, of in step.candidates.items()}
        if fields != known:
            raise playback.diverged("what may stand in its fields", known, fields)
        playback.decided = True
        return self._decision(step, ask.among(self.names), ask.candidates)

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Return the recorded scores of these heads and items.

        Raises:
            Diverged: others were recorded, or none.
            ModelMisconfigured: the server could not score, as it was recorded.
        """
        asked = self.loaded.folders.as_recorded({"heads": list(heads), "items": list(items)})
        scored = self.playback.recording.scored
        for known in scored:
            if [*known["heads"]] == asked["heads"] and [*known["items"]] == asked["items"]:
                if not known["values"]:
                    raise ModelMisconfigured("the model server could not score")
                return Scores(heads, items, known["values"], known["model"])
        recorded = [{key: each[key] for key in asked} for each in scored]
        raise self.playback.diverged("what is scored", recorded, asked)

    def restore(self, raw: str) -> Decision:
        """Return a recorded decision of an earlier attempt."""
        name, args, value = self._parse(raw, self.names)
        return Decision(name, args, value, raw)

    def close(self) -> None:
        """There is no call to end."""

    def _decision(self, step: Step, names: frozenset[str], candidates: Candidates) -> Decision:
        raw = step.raw or ""
        if step.type not in self.names:
            raise RecordingError(
                f"turn {self.playback.turn + 1} decided {step.type}, which the agent's union has "
                "not",
                hint=f"it has {', '.join(sorted(self.names))}; record the session again",
            )
        name, args, value = self._parse(raw, names, candidates)
        usage = Usage(
            step.duration_ms or 0.0,
            step.prompt_tokens or 0,
            step.cached_tokens or 0,
            step.completion_tokens or 0,
        )
        told = step.context_tokens
        return Decision(
            name, args, value, raw, step.finish_reason, usage, step.labels, context_tokens=told
        )

    def _parse(
        self, raw: str, names: frozenset[str], candidates: Candidates | None = None
    ) -> tuple[str, dict[str, Any], Any]:
        try:
            return self.loaded.union.parse(raw, names, candidates)
        except Malformed as error:
            raise self.playback.diverged(
                "the recorded decision", raw, f"is no decision any more: {error}"
            ) from error
