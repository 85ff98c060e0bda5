"""Asks a model for a text's label: greedily, calibrated, and by the scores of phrases."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentd.clock import SystemClock
from agentd.config.agent import AgentConfig
from agentd.context import LogEvent, render
from agentd.errors import ConfigError, ModelError
from agentd.evaluate.evaluate import START, CountingLLM, Setting, load_agent
from agentd.evaluate.labelled import Labelled
from agentd.events import NewEvent
from agentd.llm.calibration import NEUTRAL, LabelsSeen, likeliest
from agentd.llm.label_bias import LogProbs
from agentd.replay.folder_map import FolderMap
from agentd.replay.single_run import run_event

# Of an agent that decides at once: its prompt without the log, and the answer's bound.
DONE = "The label fits."
PROMPT = '{instructions}\nDone: {done}\nAnswer:\n{{"tool":"done","label":{labels}}}'
ANSWER_TOKENS = 48

Answers = tuple[str, ...]  # a text's label, by each order of the labels
Choose = Callable[[str], Mapping[str, Answers]]  # a text's labels, by the way of choosing


def chooser(labelled: Labelled, setting: Setting, where: str) -> Choose:
    """Return what asks for one text after another. It learns as they come.

    Raises:
        ConfigError: the model server does not tell what it gives each label.
    """
    order = list(labelled.cases)
    asked = [_Decider(labelled, labels, setting) for labels in (order, order[::-1])]
    score = _Scorer(labelled.phrases, setting, where)

    def choose(text: str) -> dict[str, Answers]:
        greedy, calibrated = zip(*(decide(text) for decide in asked), strict=True)
        scored = {"scored": (score(text),)} if labelled.phrases else {}
        return {"greedy": greedy, "calibrated": calibrated, **scored}

    return choose


class _Decider:
    """Asks as an agent does whose decision has a label, with the labels in one order.

    One call gives both labels: the one that the model itself finds the likeliest, and the one that
    the model server takes when it is told the worker's offsets.
    """

    def __init__(self, labelled: Labelled, labels: Sequence[str], setting: Setting) -> None:
        self._labelled, self._labels, self._setting = labelled, labels, setting
        either = "|".join(f'"{label}"' for label in labels)
        self._prompt = PROMPT.format(instructions=labelled.instructions, done=DONE, labels=either)
        self._seen = LabelsSeen(self._logprobs(NEUTRAL))

    def __call__(self, text: str) -> tuple[str, str]:
        event = LogEvent(self._labelled.event, START, {self._labelled.field: text}, False)
        logprobs = self._logprobs(render(event))
        calibrated = likeliest(logprobs, self._seen.offsets())
        self._seen = self._seen.and_then(logprobs)
        return likeliest(logprobs, {}), calibrated

    def _logprobs(self, log: str) -> LogProbs:
        answer = self._setting.endpoint.chat(
            self._body(log), {}, deadline_s=self._setting.call_deadline_s, progress=lambda: None
        )
        if "label" not in answer.labels:
            raise ConfigError(
                "the model server does not tell what it gives each label",
                where=self._setting.model,
                hint="agentd's own does: name a model of `agentd model list` with --model",
            )
        return answer.labels["label"]

    def _body(self, log: str) -> dict[str, Any]:
        tool, label = {"const": "done"}, {"type": "string", "enum": list(self._labels)}
        schema = {
            "type": "object",
            "properties": {"tool": tool, "label": label},
            "required": ["tool", "label"],
            "additionalProperties": False,
        }
        return {
            "messages": [
                {"role": "system", "content": self._prompt},
                {"role": "user", "content": log},
            ],
            "temperature": 0,
            "max_tokens": ANSWER_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "decision", "strict": True, "schema": schema},
            },
            "agentd_labels": {"label": dict.fromkeys(self._labels, 0.0)},
        }


class _Scorer:
    """Labels a text by phrases: a `task` agent, which remembers what came before.

    Each phrase is scored by itself, so their order is nothing to it.
    """

    def __init__(self, phrases: Mapping[str, str], setting: Setting, where: str) -> None:
        self._config = AgentConfig(agent="task", done=DONE, params={"labels": phrases})
        self._setting, self._where = setting, where
        self._facts: Mapping[str, Any] = {}

    def __call__(self, text: str) -> str:
        event = NewEvent("text.written", {"text": text})
        with self._setting.workshop.empty_folder() as folder:
            agent = load_agent(self._config, self._setting, FolderMap([], folder), self._where)
            llm = CountingLLM(agent, self._setting)
            clock = SystemClock()
            session = run_event(agent, event, llm, folder, clock=clock, facts=self._facts)
        llm.check()
        if session.outcome is None:
            raise ModelError(f"a text got no scores: {session.error}", where=self._where)
        self._facts = session.facts
        return str(session.outcome["label"])
