"""A scripted model at the loop's edge: no prompt, no parser, values as the test gives them."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentd.agent import Scores
from agentd.errors import ModelError, ModelMisconfigured, Stopped
from agentd.llm.calibration import weighed
from agentd.llm.decision import Ask, Choice, Decision, Message, Terms, Usage

BYTES_PER_TOKEN = 4  # what the doubles count
WINDOW = 8192  # tokens

# Log-probabilities of labels, by field and label; the decision's own label should be the likeliest.
LabelScript = Mapping[str, Mapping[str, float]]
# One scripted answer: a decision, a typed value, a (name, fields) pair, the same with its labels'
# log-probabilities, or an error to raise.
Scripted = (
    Decision
    | BaseModel
    | tuple[str, Mapping[str, Any]]
    | tuple[str, Mapping[str, Any], LabelScript]
    | Exception
)
Script = Iterable[Scripted] | Callable[[str], Scripted]
ScoreScript = Callable[[str, str], float]  # of a head and an item


class ScriptedLLM:
    """An `LLM` that answers from a script: a list, or a function of the log.

    `asked` keeps each call's log and `allowed`. A decision that was not allowed is an
    AssertionError: a real mask could not have produced it.
    """

    def __init__(
        self,
        script: Script,
        *,
        names: Iterable[str] = (),
        window: int = WINDOW,
        fixed: int = 50,
        typed: Mapping[str, type[BaseModel]] | None = None,
        scores: ScoreScript | None = None,
    ) -> None:
        self._function = script if callable(script) else None
        self._script = [] if callable(script) else list(script)
        self._typed = typed or {}
        given = {_name(item) for item in self._script if not isinstance(item, Exception)}
        self._names = frozenset(names) or frozenset(given | {"Done", *self._typed})
        self._window = window
        self._fixed = fixed
        self._scores = scores
        self._stopped = threading.Event()
        self.asked: list[tuple[str, frozenset[str] | None]] = []

    @property
    def names(self) -> frozenset[str]:
        """The classes of the union: as given, else those of the script."""
        return self._names

    def window(self) -> int:
        """Return the tokens of the pretended window."""
        return self._window

    def fixed_tokens(self) -> int:
        """Return the tokens of the pretended instructions."""
        return self._fixed

    def count(self, text: str, within: int = 0) -> int:
        """Return a quarter of the bytes."""
        return count(text)

    def prompt(self, log: str) -> list[Message]:
        """Return plausible messages."""
        return [{"role": "system", "content": "scripted"}, {"role": "user", "content": log}]

    def decide(self, ask: Ask) -> Decision:
        """Return the script's next decision, or raise its next error."""
        if self._stopped.is_set():
            raise Stopped("the scripted model was closed")
        self.asked.append((ask.log, ask.allowed))
        ask.progress()
        if self._function is not None:
            item = self._function(ask.log)
        elif self._script:
            item = self._script.pop(0)
        else:
            raise ModelError("the script has no further answer", hint="script one more decision")
        if isinstance(item, Exception):
            raise item
        decision = self._decision(item)
        if ask.allowed is not None and decision.name not in ask.allowed:
            may = sorted(ask.allowed)
            raise AssertionError(f"scripted {decision.name}, but only {may} may be")
        return decision

    def score(self, heads: Sequence[str], items: Sequence[str], terms: Terms) -> Scores:
        """Return what `scores` gives for each head and item."""
        return scripted_scores(heads, items, self._scores)

    def restore(self, raw: str) -> Decision:
        """Return a recorded decision from its text, which this double wrote."""
        args = json.loads(raw)
        return self._decision((args.pop("tool"), args))

    def close(self) -> None:
        """Refuse further calls."""
        self._stopped.set()

    def _decision(self, item: Any) -> Decision:
        if isinstance(item, Decision):
            return item
        value: Any
        labels: LabelScript = item[2] if isinstance(item, tuple) and len(item) > 2 else {}
        if isinstance(item, tuple):
            name, args = item[0], dict(item[1])
            model = self._typed.get(name)
            value = model.model_validate(args) if model else Choice(name, args)
        else:
            name, args = type(item).__name__, item.model_dump(mode="json", exclude={"tool"})
            value = item
        raw = json.dumps({"tool": name, **args}, separators=(",", ":"))
        return Decision(
            name,
            args,
            value,
            raw,
            usage=Usage(completion_tokens=count(raw)),
            labels={key: weighed(logprobs, {}) for key, logprobs in labels.items()},
        )


def count(text: str) -> int:
    """Return a quarter of the bytes: no tokenizer is at hand."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def scripted_scores(
    heads: Sequence[str], items: Sequence[str], score: ScoreScript | None
) -> Scores:
    """Return what a function of head and item gives.

    Raises:
        ModelMisconfigured: there is none.
    """
    if score is None:
        raise ModelMisconfigured(
            "the script has no scores", hint="give `scores=lambda head, item: ...`"
        )
    rows = tuple(tuple(score(head, item) for item in items) for head in heads)
    return Scores(tuple(heads), tuple(items), rows, "scripted")


def _name(item: Any) -> str:
    if isinstance(item, tuple):
        return str(item[0])
    return item.name if isinstance(item, Decision) else type(item).__name__
