"""Asks a model for the labels of texts: greedily, calibrated, and by the scores of phrases."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agentd.context import LogEvent, render
from agentd.errors import ConfigError
from agentd.evaluate.evaluate import START, Setting
from agentd.evaluate.labelled import Labelled
from agentd.llm.calibration import NEUTRAL, LabelsSeen, likeliest
from agentd.llm.label_bias import LogProbs

# The prompt of an agent that decides at once, without the log.
PROMPT = '{instructions}\nDone: The label fits.\nAnswer:\n{{"tool":"done","label":{labels}}}'
ANSWER_TOKENS = 48
AT_ONCE = 8  # calls: as many rows as the model server decodes together
ITEMS = 16  # of one call for scores

Answers = Sequence[str]  # the texts' labels


def ask(
    labelled: Labelled, texts: Sequence[str], setting: Setting, step: Callable[[], None]
) -> dict[str, list[Answers]]:
    """Return the texts' labels by each way of choosing, and by each order of the labels.

    Greedy is what the model itself finds the likeliest, calibrated what it says with the worker's
    offsets; what it gives each label is the same for both, so it is asked once. Phrases are scored
    each by itself, so there is no order. `step` is called after each answer.

    Raises:
        ModelUnavailable: the model server is down.
        CallDeadline: it takes longer for a call than it may.
        ConfigError: it does not tell what it gives each label, or what is likely.
    """
    order = list(labelled.cases)
    greedy, calibrated = list[Answers](), list[Answers]()
    for labels in (order, order[::-1]):
        neutral, given = _logprobs(labelled, labels, texts, setting, step)
        greedy.append([likeliest(one, {}) for one in given])
        calibrated.append(list(_in_turn(LabelsSeen(neutral), given)))
    ways = {"greedy": greedy, "calibrated": calibrated}
    if labelled.phrases:
        # As of `task`: no text is neutral behind every phrase.
        seen = LabelsSeen(dict.fromkeys(order, 0.0))
        ways["scored"] = [list(_in_turn(seen, _scores(labelled.phrases, texts, setting)))]
    return ways


def _in_turn(seen: LabelsSeen, given: Iterable[LogProbs]) -> Iterator[str]:
    """Yield the calibrated labels of one text after another, each by what came before."""
    for logprobs in given:
        yield likeliest(logprobs, seen.offsets())
        seen = seen.and_then(logprobs)


def _logprobs(
    labelled: Labelled,
    labels: Sequence[str],
    texts: Iterable[str],
    setting: Setting,
    step: Callable[[], None],
) -> tuple[LogProbs, list[LogProbs]]:
    """Return what the model gives each label on neutral input, and for each text."""
    prompt = PROMPT.format(
        instructions=labelled.instructions, labels="|".join(f'"{label}"' for label in labels)
    )

    def ask_for(log: str) -> LogProbs:
        answer = copy.copy(setting.endpoint).chat(  # one serves one thread; all are closed together
            _body(prompt, labels, log),
            {},
            deadline_s=setting.call_deadline_s,
            progress=lambda: None,
        )
        if "label" not in answer.labels:
            raise ConfigError(
                "the model server does not tell what it gives each label",
                where=setting.model,
                hint="agentd's own does: name a model of `agentd model list` with --model",
            )
        return answer.labels["label"]

    logs = [
        render(LogEvent(labelled.event, START, {labelled.field: text}, False)) for text in texts
    ]
    neutral, given = ask_for(NEUTRAL), list[LogProbs]()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for logprobs in pool.map(ask_for, logs):
            given.append(logprobs)
            step()
    finally:
        pool.shutdown(cancel_futures=True)
    return neutral, given


def _body(prompt: str, labels: Sequence[str], log: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "tool": {"const": "done"},
            "label": {"type": "string", "enum": list(labels)},
        },
        "required": ["tool", "label"],
        "additionalProperties": False,
    }
    return {
        "messages": [{"role": "system", "content": prompt}, {"role": "user", "content": log}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "decision", "strict": True, "schema": schema},
        },
        "agentd_labels": {"label": dict.fromkeys(labels, 0.0)},
    }


def _scores(
    phrases: Mapping[str, str], texts: Sequence[str], setting: Setting
) -> Iterator[LogProbs]:
    """Yield how likely each text is after each label's phrase."""
    for start in range(0, len(texts), ITEMS):
        asked = {"heads": list(phrases.values()), "items": texts[start : start + ITEMS]}
        answer = setting.endpoint.ask("/v1/score", asked, {}, setting.call_deadline_s)
        if answer is None:
            raise ConfigError("the model server gives no scores", where=setting.model)
        for row in zip(*answer["scores"], strict=True):
            yield dict(zip(phrases, row, strict=True))
