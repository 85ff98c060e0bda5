"""Asks a model for a text's label: greedily, calibrated, and by score."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agentd.clock import SystemClock
from agentd.config.agent import AgentConfig, Labels
from agentd.errors import ConfigError
from agentd.evaluate.evaluate import CountingLLM, Setting, load_agent
from agentd.evaluate.labelled import LabelledFile
from agentd.events import NewEvent
from agentd.llm.calibration import Calibration, LogProbs, Seen, likeliest
from agentd.llm.decision import Terms
from agentd.replay.folder_map import FolderMap
from agentd.replay.loaded import LoadedAgent
from agentd.replay.single_run import run_event
from agentd.sessions.steps import StepKind
from agentd.states import Priority

NEUTRAL_ITEM = "N/A"  # says nothing: what the scores' offsets begin with

Answers = tuple[str | None, ...]  # a text's label, by each order of the labels; None: it has none
Choose = Callable[[str], Mapping[str, Answers]]  # a text's labels, by the way of choosing


@contextmanager
def chooser(file: LabelledFile, setting: Setting, where: str) -> Iterator[Choose]:
    """Yield what asks for one text after another. It learns as they come.

    Raises:
        ConfigError: the set does not fit its agent.
    """
    with setting.workshop.empty_folder() as folder:
        asked = [_Decider(config, file, setting, folder, where) for config in _orders(file)]
        phrases = file.labelled.phrases
        score = _Scorer(phrases, CountingLLM(asked[0].agent, setting)) if phrases else None

        def choose(text: str) -> dict[str, Answers]:
            greedy, calibrated = zip(*(decide(text) for decide in asked), strict=True)
            scored = {"scored": (score(text),)} if score else {}
            return {"greedy": greedy, "calibrated": calibrated, **scored}

        yield choose


def _orders(file: LabelledFile) -> list[AgentConfig]:
    """Return the agent with its labels in the set's order, and in the opposite one.

    Only the labels of a configuration can be turned; those in an agent's code stay as they are.
    """
    given = file.agent.params.get("labels")
    if not isinstance(given, Mapping) or given.keys() != file.labelled.cases.keys():
        return [file.agent]
    order = list(file.labelled.cases)
    return [
        file.agent.model_copy(
            update={"params": {**file.agent.params, "labels": {k: given[k] for k in labels}}}
        )
        for labels in (order, order[::-1])
    ]


class _Decider:
    """Lets an agent decide over a text as over any event.

    It gives the label that the model itself finds the likeliest, and the calibrated one. The first
    needs no call of its own: what the model gives each label stands in the recorded step.
    """

    def __init__(
        self, config: AgentConfig, file: LabelledFile, setting: Setting, folder: Path, where: str
    ) -> None:
        self.agent = load_agent(config, setting, FolderMap([], folder), where)
        self._labelled, self._setting = file.labelled, setting
        self._tool, _, self._field = file.labelled.decision.partition(".")
        self._llm = CountingLLM(self.agent, setting)
        labels = {file.labelled.decision: _labels(self.agent, file, where)}
        self._llm.calibration = Calibration(labels, Labels(calibrate=True))

    def __call__(self, text: str) -> tuple[str | None, str | None]:
        event = NewEvent(self._labelled.event, {self._labelled.field: text})
        with self._setting.workshop.empty_folder() as folder:
            performance = run_event(self.agent, event, self._llm, folder, clock=SystemClock())
        self._llm.check()
        for step in reversed(performance.steps):
            if step.kind is StepKind.DECISION and step.type == self._tool:
                calibrated = str(step.payload[self._field])
                logprobs = step.labels.get(self._field, {}).get("logprobs")
                return likeliest(logprobs, {}) if logprobs else calibrated, calibrated
        return None, None


def _labels(agent: LoadedAgent, file: LabelledFile, where: str) -> list[str]:
    """Return the labels of the decision's field in the agent's order.

    Raises:
        ConfigError: they are not those of the set, or it is no such field.
    """
    labels = agent.union.labels(file.labelled.decision)
    if set(labels) != file.labelled.cases.keys():
        raise ConfigError(
            f"{file.labelled.decision} has the labels {', '.join(labels)}",
            where=f"{where}: labelled.cases",
            hint="give each of them a list of texts, and no other",
        )
    return labels


class _Scorer:
    """Looks after which label's phrase a text is the likeliest, the phrase's own mean taken off.

    Each phrase stands by itself, so their order is nothing to it.
    """

    def __init__(self, phrases: Mapping[str, str], llm: CountingLLM) -> None:
        self._phrases, self._llm = phrases, llm
        self._seen = Seen(self._scores(NEUTRAL_ITEM))

    def __call__(self, text: str) -> str:
        scores = self._scores(text)
        label = likeliest(scores, self._seen.offsets())
        self._seen = self._seen.and_then(scores)
        return label

    def _scores(self, text: str) -> LogProbs:
        terms = Terms(deadline_s=0, priority=Priority.EVENT, session=1, progress=lambda: None)
        scores = self._llm.score(list(self._phrases.values()), [text], terms)
        return {label: row[0] for label, row in zip(self._phrases, scores.values, strict=True)}
