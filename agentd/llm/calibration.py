"""The labels that an agent declares: what was seen of each, and how a choice is weighed.

`label_bias.py` says what is taken off. A step records about a label, for later decisions and for a
replay: how it was taken (`by`), from which model, that model's own log-probabilities, the offsets
that were taken off them, the probabilities after that, the margin between the two highest, and what
neutral input came to.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agentd.config.agent import Labels
from agentd.llm.label_bias import RECENT, LogProbs, offsets, softmax
from agentd.states import CLOSED, GREEDY, OFFSETS

DIGITS = 4  # of what is recorded: a replay must find the same numbers
# A log that says nothing.
NEUTRAL = '<event type="note" ts="1970-01-01T00:00:00Z" trusted="no">\n{"text":"N/A"}\n</event>\n'

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
        known = [item for item in recorded if "logprobs" in item][:RECENT]
        neutral = next((item["neutral"] for item in known if "neutral" in item), None)
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

    def begin(self, field: str, seen: LabelsSeen) -> None:
        """Go on from what was seen of a field, neutral input included."""
        self._seen[field] = seen

    def weighed(
        self, field: str, logprobs: LogProbs, taken_off: LogProbs, by: str
    ) -> dict[str, Any]:
        """Return what a step records about a label, and count it for those to come.

        `logprobs` are the model's own, `taken_off` the offsets that were used.
        """
        seen = self.seen(field)
        about = weighed(logprobs, taken_off, by=by, unsure_below=self.rules.unsure_below)
        if not logprobs:
            return about
        self._seen[field] = seen.and_then(about["logprobs"])
        about["model"] = self._model
        return about if seen.neutral is None else {**about, "neutral": dict(seen.neutral)}


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
        "by": by,
        "logprobs": _rounded(logprobs),
        "offsets": _rounded(taken_off),
        "probabilities": _rounded(after),
        "margin": margin,
        "unsure": margin < unsure_below,
    }


def likeliest(logprobs: LogProbs, taken_off: LogProbs) -> str:
    """Return the label that is the likeliest after the offsets."""
    return max(logprobs, key=lambda label: logprobs[label] - taken_off.get(label, 0.0))


def _rounded(values: LogProbs) -> dict[str, float]:
    return {label: round(value, DIGITS) for label, value in values.items()}
