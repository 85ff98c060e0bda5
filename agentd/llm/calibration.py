"""The labels that an agent declares: what was seen of each, and how a choice is weighed.

`label_bias.py` says what is taken off. A step records about a label, for later decisions and for a
replay: how it was taken (`by`), from which model, that model's own log-probabilities, whether they
are those of the labels as words, the offsets that were taken off, the probabilities after that, the
margin between the two highest, and what neutral input came to.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentd.config.agent import Labels
from agentd.llm.label_bias import RECENT, LogProbs, offsets, softmax
from agentd.states import CLOSED, GREEDY, OFFSETS

DIGITS = 4  # of what is recorded: a replay must find the same numbers
PAYLOAD = re.compile(r"(?m)^\{.*$")  # of an event in a log: JSON on one line
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"(:?)')  # in JSON; a key where a colon follows
BLANK = '"..."'
TRY_AGAIN = 8  # decisions after neutral input was asked in vain

# Models that `agentd eval` has shown to label better with calibration than without.
GAINS = frozenset({"smollm2-135m"})


@dataclass(frozen=True)
class LabelsSeen:
    """What a model gave a field's labels so far: on neutral input, and in the last decisions."""

    neutral: LogProbs | None = None
    recent: Sequence[LogProbs] = ()  # the newest first

    @classmethod
    def of(cls, recorded: Iterable[Mapping[str, Any]]) -> "LabelsSeen":
        """Read it from what steps record about a field's labels, the newest first."""
        known = [item for item in recorded if "logprobs" in item and not _of_old(item)][:RECENT]
        neutral = next((item["neutral"] for item in known if item.get("neutral")), None)
        return cls(neutral, [item["logprobs"] for item in known])

    def and_then(self, logprobs: LogProbs) -> "LabelsSeen":
        """Return it with one decision more."""
        return replace(self, recent=[logprobs, *self.recent][:RECENT])

    def offsets(self) -> dict[str, float]:
        """Return what to take off each label; nothing where neutral input was not tried."""
        return _rounded(offsets(self.neutral, self.recent)) if self.neutral else {}


class Calibration:
    """An agent's label fields, by "Class.field", and what was seen of each."""

    def __init__(self, fields: Mapping[str, Sequence[str]], rules: Labels | None = None) -> None:
        self.fields, self.rules = fields, rules or Labels()
        self._model = ""
        self._load: Callable[[str], Iterable[Mapping[str, Any]]] = lambda _field: ()
        self._seen: dict[str, LabelsSeen] = {}
        self._pauses: dict[str, int] = {}  # decisions until neutral input is due, by class

    def resume(self, model: str, load: Callable[[str], Iterable[Mapping[str, Any]]]) -> None:
        """Go by what `load` gives of a field's earlier decisions by `model`, as steps record them.

        The newest come first.
        """
        self._model, self._load, self._seen = model, load, {}

    def among(self, names: Iterable[str]) -> dict[str, Sequence[str]]:
        """Return the label fields of these classes, with their labels."""
        known = set(names)
        return {f: labels for f, labels in self.fields.items() if f.partition(".")[0] in known}

    def helps(self, model: str) -> bool:
        """Whether offsets are taken off with this model."""
        wanted = self.rules.calibrate
        return model in GAINS if wanted is None else wanted

    def seen(self, field: str) -> LabelsSeen:
        """Return what is known of a field."""
        if field not in self._seen:
            self._seen[field] = LabelsSeen.of(self._load(field))
        return self._seen[field]

    def neutral_due(self, name: str) -> bool:
        """Whether the next decision of a class is to be asked with neutral input first.

        Once; and where that told nothing, again after some decisions.
        """
        if all(self.seen(field).neutral for field in self.among((name,))):
            return False
        pause = self._pauses.get(name, 0)
        self._pauses[name] = pause - 1 if pause else TRY_AGAIN
        return not pause

    def begin(self, field: str, seen: LabelsSeen) -> None:
        """Go on from what was seen of a field, neutral input included."""
        self._seen[field] = seen

    def weighed(
        self, field: str, logprobs: LogProbs, taken_off: LogProbs, by: str, *, words: bool = False
    ) -> dict[str, Any]:
        """Return what a step records about a label, and count it for those to come.

        `logprobs` are the model's own, as words or as JSON; `taken_off` are the offsets used.
        """
        seen = self.seen(field)
        about = weighed(logprobs, taken_off, by=by, unsure_below=self.rules.unsure_below)
        if not logprobs:
            return about
        self._seen[field] = seen.and_then(about["logprobs"])
        about["model"], about["words"] = self._model, words
        return {**about, "neutral": dict(seen.neutral)} if seen.neutral else about


def blanked(log: str) -> str:
    """Return a log that says nothing: each text of its events' payloads is replaced by dots.

    Events, keys and numbers stay. What the model is given otherwise tells how it reads just such
    logs: on 364 texts of ten kinds, taking that off made 61 % of the labels right, where a note of
    another type with the text "N/A" made 55 %.
    """
    return PAYLOAD.sub(
        lambda line: TEXT.sub(lambda text: text[0] if text[1] else BLANK, line[0]), log
    )


def weighed(
    logprobs: LogProbs, taken_off: LogProbs, *, by: str = OFFSETS, unsure_below: float = 0.0
) -> dict[str, Any]:
    """Return what a step records about a label: see `agentd.agent.Label`."""
    if not logprobs:
        return {"by": CLOSED, "unsure": True} if by == CLOSED else {"by": GREEDY}
    shifted = [value - taken_off.get(label, 0.0) for label, value in logprobs.items()]
    after = dict(zip(logprobs, softmax(shifted), strict=True))
    first, second = sorted(after.values(), reverse=True)[:2]
    margin = round(first - second, DIGITS)
    return {
        "by": by if taken_off else GREEDY,
        "logprobs": _rounded(logprobs),
        "offsets": _rounded(taken_off),
        "probabilities": _rounded(after),
        "margin": margin,
        "unsure": margin < unsure_below,
    }


def likeliest(logprobs: LogProbs, taken_off: LogProbs) -> str:
    """Return the label that is the likeliest after the offsets."""
    return max(logprobs, key=lambda label: logprobs[label] - taken_off.get(label, 0.0))


def _of_old(recorded: Mapping[str, Any]) -> bool:
    """Whether a step is of an agentd that took offsets off what labels have as JSON."""
    return bool(recorded["by"] == OFFSETS and not recorded.get("words"))


def _rounded(values: LogProbs) -> dict[str, float]:
    return {label: round(value, DIGITS) for label, value in values.items()}
