"""The ways to choose a label that ask a model: an agent's decision, greedy or calibrated; scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agentd.clock import SystemClock
from agentd.config.agent import AgentConfig, Labels
from agentd.errors import ConfigError
from agentd.evaluate.evaluate import CountingLLM, Setting, load_agent
from agentd.evaluate.labelled import Labelled, LabelledFile
from agentd.events import NewEvent
from agentd.llm.calibration import Calibration, Seen, likeliest
from agentd.llm.decision import Terms
from agentd.replay.folder_map import FolderMap
from agentd.replay.loaded import LoadedAgent
from agentd.replay.single_run import run_event
from agentd.states import Priority

NEUTRAL_ITEM = "N/A"  # says nothing: what the scores' offsets begin with

Answers = tuple[str | None, ...]  # a text's label, by each order of the labels; None: it has none
Chooser = Callable[[str], Answers]


@contextmanager
def choosers(file: LabelledFile, setting: Setting, where: str) -> Iterator[dict[str, Chooser]]:
    """Yield what chooses a text's label, by the way of choosing. They learn as texts come.

    Raises:
        ConfigError: the set does not fit its agent.
    """
    with setting.workshop.empty_folder() as folder:
        loaded = [_load(config, file.labelled, setting, folder, where) for config in _orders(file)]
        ways: dict[str, Chooser] = {
            "greedy": _Deciding(file.labelled, setting, loaded, calibrated=False),
            "calibrated": _Deciding(file.labelled, setting, loaded, calibrated=True),
        }
        if file.labelled.phrases:
            ways["scored"] = _Scoring(file.labelled.phrases, CountingLLM(loaded[0], setting))
        yield ways


def _orders(file: LabelledFile) -> list[AgentConfig]:
    """Return the agent with its labels in the set's order, and in the opposite one.

    Only the labels of a configuration can be turned; those of an agent's code are as they are.
    """
    given = file.agent.params.get("labels")
    if not isinstance(given, Mapping) or given.keys() != file.labelled.cases.keys():
        return [file.agent]
    labels = list(file.labelled.cases)
    return [_with_labels(file.agent, {k: given[k] for k in order}) for order in _turns(labels)]


def _turns(labels: Sequence[str]) -> list[Sequence[str]]:
    return [labels, labels[::-1]]


def _with_labels(config: AgentConfig, labels: Mapping[str, str]) -> AgentConfig:
    return config.model_copy(update={"params": {**config.params, "labels": labels}})


def _load(
    config: AgentConfig, labelled: Labelled, setting: Setting, folder: Path, where: str
) -> LoadedAgent:
    """Return the agent, whose field must have the set's labels.

    Raises:
        ConfigError: it has others.
    """
    loaded = load_agent(config, setting, FolderMap([], folder), where)
    labels = loaded.union.labels(labelled.decision)
    if set(labels) != labelled.cases.keys():
        raise ConfigError(
            f"{labelled.decision} has the labels {', '.join(labels)}",
            where=f"{where}: labelled.cases",
            hint="the cases have one list of texts for each of them",
        )
    return loaded


class _Deciding:
    """Lets the agent decide over each text as over any event, with each order of its labels."""

    def __init__(
        self,
        labelled: Labelled,
        setting: Setting,
        agents: Sequence[LoadedAgent],
        *,
        calibrated: bool,
    ) -> None:
        self._labelled, self._setting = labelled, setting
        self._asked = [(agent, CountingLLM(agent, setting)) for agent in agents]
        for agent, llm in self._asked:
            labels = {labelled.decision: agent.union.labels(labelled.decision)}
            llm.calibration = Calibration(labels if calibrated else {}, Labels(calibrate=True))

    def __call__(self, text: str) -> Answers:
        return tuple(self._decide(agent, llm, text) for agent, llm in self._asked)

    def _decide(self, agent: LoadedAgent, llm: CountingLLM, text: str) -> str | None:
        event = NewEvent(self._labelled.event, {self._labelled.field: text})
        with self._setting.workshop.empty_folder() as folder:
            performance = run_event(agent, event, llm, folder, clock=SystemClock())
        llm.check()
        name, _, field = self._labelled.decision.partition(".")
        said = [args.get(field) for tool, args in performance.decisions if tool == name]
        return said[-1] if said else None


class _Scoring:
    """Looks after which label's phrase a text is the likeliest, its mean there taken off.

    Each phrase stands by itself, so their order is nothing to it.
    """

    def __init__(self, phrases: Mapping[str, str], llm: CountingLLM) -> None:
        self._phrases, self._llm = phrases, llm
        self._seen = Seen(self._scores(NEUTRAL_ITEM))

    def __call__(self, text: str) -> Answers:
        scores = self._scores(text)
        label = likeliest(scores, self._seen.offsets())
        self._seen = self._seen.and_then(scores)
        return (label,)

    def _scores(self, text: str) -> dict[str, float]:
        terms = Terms(deadline_s=0, priority=Priority.EVENT, session=1, progress=lambda: None)
        scores = self._llm.score(list(self._phrases.values()), [f" {text}"], terms)
        return {label: row[0] for label, row in zip(self._phrases, scores.values, strict=True)}
