"""Asks a model for the labels of texts: greedily, calibrated, and by the scores of phrases."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from agentd.agent import Scores
from agentd.context import LogEvent, render
from agentd.errors import ConfigError
from agentd.evaluate.evaluate import START, Setting
from agentd.evaluate.labelled import Labelled
from agentd.llm.calibration import LabelsSeen, blanked, likeliest
from agentd.llm.label_bias import LogProbs
from agentd.llm.label_call import label_call
from agentd.llm.label_phrases import scored, scored_by_any_text
from agentd.llm.likelihood import likelihood

# The prompt of an agent that decides at once, without the log.
PROMPT = '{instructions}\nDone: The label fits.\nAnswer:\n{{"tool":"done","label":{labels}}}'
ANSWER_TOKENS = 48
AT_ONCE = 8  # calls: as many rows as the model server decodes together
ITEMS = 16  # texts of one call for scores
ANSWERS = 4  # to each text: in two orders of the labels, greedily and calibrated

Answers = Sequence[str]  # the texts' labels


def ask(
    labelled: Labelled, texts: Sequence[str], setting: Setting, step: Callable[[], None]
) -> dict[str, list[Answers]]:
    """Return the texts' labels by each way of choosing, and by each order of the labels.

    Greedy is what the model itself finds the likeliest in JSON, calibrated what it finds the
    likeliest word with the worker's offsets. Phrases are scored each by itself, so there is no
    order. `step` is called after each of `ANSWERS` answers to a text.

    Raises:
        ModelUnavailable: the model server is down.
        CallDeadline: it takes longer for a call than it may.
        ConfigError: it does not tell what it gives each label.
        ModelMisconfigured: it does not tell what is likely.
    """
    order = list(labelled.cases)
    logs = [
        render(LogEvent(labelled.event, START, {labelled.field: text}, False)) for text in texts
    ]
    greedy, calibrated = list[Answers](), list[Answers]()
    for labels in (order, order[::-1]):
        asker = _LabelQuestion(labelled, labels, setting)
        greedy.append([likeliest(one, {}) for one in asker.each(logs, step)])
        # As a worker does: the first text's log says nothing once its texts are taken out.
        seen = LabelsSeen(asker.logprobs(blanked(logs[0]), words=True))
        calibrated.append(list(_in_turn(seen, asker.each(logs, step, words=True))))
    ways = {"greedy": greedy, "calibrated": calibrated}
    if labelled.phrases:
        ways["scored"] = [list(_by_phrase(labelled, texts, setting))]
    return ways


def _in_turn(seen: LabelsSeen, given: Iterable[LogProbs]) -> Iterator[str]:
    """Yield the calibrated labels of one text after another, each by what came before."""
    for logprobs in given:
        yield likeliest(logprobs, seen.offsets())
        seen = seen.and_then(logprobs)


def _by_phrase(labelled: Labelled, texts: Sequence[str], setting: Setting) -> Iterator[str]:
    """Yield the texts' labels as the agent `task` takes them."""

    def score(heads: Sequence[str], items: Sequence[str]) -> Scores:
        deadline_s = setting.call_deadline_s
        return likelihood(setting.endpoint, heads, items, headers={}, deadline_s=deadline_s)

    phrases, instructions = labelled.phrases, labelled.instructions
    given = list[LogProbs]()
    for start in range(0, len(texts), ITEMS):
        given += scored(score, phrases, texts[start : start + ITEMS], instructions)[0]
    return _in_turn(LabelsSeen(scored_by_any_text(score, phrases, instructions)), given)


class _LabelQuestion:
    """Asks for a set's labels in one order."""

    def __init__(self, labelled: Labelled, labels: Sequence[str], setting: Setting) -> None:
        listed = "|".join(f'"{label}"' for label in labels)
        self._prompt = PROMPT.format(instructions=labelled.instructions, labels=listed)
        self._labels, self._setting = labels, setting

    def logprobs(self, log: str, *, words: bool) -> LogProbs:
        """Return what the model gives each label for a log, as words or as JSON."""
        messages = [
            {"role": "system", "content": self._prompt},
            {"role": "user", "content": log},
        ]
        answer = copy.copy(self._setting.endpoint).chat(  # one serves one thread; all close at once
            label_call(messages, "label", self._labels, max_tokens=ANSWER_TOKENS, words=words),
            {},
            deadline_s=self._setting.call_deadline_s,
            progress=lambda: None,
        )
        if "label" not in answer.labels:
            raise ConfigError(
                "the model server does not tell what it gives each label",
                where=self._setting.model,
                hint="agentd's own does: name a model of `agentd model list` with --model",
            )
        return answer.labels["label"]

    def each(
        self, logs: Iterable[str], step: Callable[[], None], *, words: bool = False
    ) -> list[LogProbs]:
        """Return it for several logs, and call `step` after each."""
        given = list[LogProbs]()
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            for logprobs in pool.map(lambda log: self.logprobs(log, words=words), logs):
                given.append(logprobs)
                step()
        finally:
            pool.shutdown(cancel_futures=True)
        return given
