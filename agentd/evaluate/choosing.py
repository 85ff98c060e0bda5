"""Compares ways to choose a label on labelled sets: greedily, calibrated, by score.

The most frequent label and a rule of words stand beside them. Each text is also asked with the
labels in the opposite order: an answer that turns with the order was no choice.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from agentd.errors import ConfigError
from agentd.evaluate.choosers import ANSWERS, Answers, ask
from agentd.evaluate.evaluate import Setting
from agentd.evaluate.labelled import Labelled
from agentd.evaluate.tally import Tally, by_majority, by_rule
from agentd.models.huggingface import Progress

POOLED = "pooled"
SEED = 0  # of the order of the texts: calibration goes by those that came before


@dataclass(frozen=True)
class LabelRow:
    """How one model labelled one set, or all of them, by each way that every set allows."""

    model: str
    name: str
    ways: Mapping[str, Tally]

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        ways = {way: tally.document() for way, tally in self.ways.items()}
        return {"model": self.model, "set": self.name, "ways": ways}


def evaluate_labels(
    files: Mapping[str, Labelled],
    setting: Setting,
    *,
    development: bool = False,
    progress: Progress = lambda _done, _total, _label: None,
) -> Iterator[LabelRow]:
    """Yield a row for each set, and one for all of them where there are several.

    Raises:
        ModelUnavailable: the model server is down.
        CallDeadline: it takes longer for a call than it may.
        ConfigError: a set does not fit its agent, or has no texts for development.
    """
    sets = {name: _cases(labelled, development, name) for name, labelled in files.items()}
    total, done, rows = sum(map(len, sets.values())), 0, list[LabelRow]()
    for name, cases in sets.items():

        def step(name: str = name) -> None:
            nonlocal done
            done += 1
            progress(done // ANSWERS, total, f"{setting.model}, {name}")

        answers = ask(files[name], [text for text, _label in cases], setting, step)
        rows.append(LabelRow(setting.model, name, _tallies(files[name], cases, answers)))
        yield rows[-1]
    if len(rows) > 1:
        common = [way for way in rows[0].ways if all(way in row.ways for row in rows)]
        pooled = {way: reduce(add, (row.ways[way] for row in rows)) for way in common}
        yield LabelRow(setting.model, POOLED, pooled)


def _cases(labelled: Labelled, development: bool, where: str) -> list[tuple[str, str]]:
    """Return the texts with their labels, in an order that is always the same."""
    parts = labelled.development if development else labelled.cases
    if not parts:
        raise ConfigError(
            "there are no texts for development", where=where, hint="write [labelled.development]"
        )
    cases = [(text, label) for label, texts in parts.items() for text in texts]
    random.Random(SEED).shuffle(cases)
    return cases


def _tallies(
    labelled: Labelled, cases: Sequence[tuple[str, str]], answers: Mapping[str, Sequence[Answers]]
) -> dict[str, Tally]:
    wanted = [label for _text, label in cases]
    tallies = {"majority": Tally.of_answers(wanted, by_majority(wanted))}
    if labelled.rule:
        said = by_rule(labelled.rule, [text for text, _label in cases])
        tallies["rule"] = Tally.of_answers(wanted, said)
    return tallies | {way: Tally.of_answers(wanted, *said) for way, said in answers.items()}
