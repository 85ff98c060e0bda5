"""What is taken off labels: a biased model gets better, and one-sided streams do not get worse."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pytest

from agentd.llm.label_bias import RECENT, LogProbs, offsets, softmax

Taken = Callable[[LogProbs, Sequence[LogProbs]], Mapping[str, float]]
ROUNDS, LENGTH = 8, 80


def normalised(values: Sequence[float]) -> dict[str, float]:
    return {f"label {at}": math.log(p) for at, p in enumerate(softmax(values))}


def accuracy(
    taken: Taken, *, labels: int, bias: float, signal: float, noise: float, share: float | None
) -> float:
    """Return how often streams are labelled rightly, whichever label makes up `share` of them."""
    chance = random.Random(5)
    right = []
    for turn in range(ROUNDS):
        prefers = [chance.gauss(0, bias) for _ in range(labels)]
        neutral = normalised([value + chance.gauss(0, bias / 8) for value in prefers])
        rest = (1 - (share or 0)) / (labels - 1)
        shares = [1.0] * labels if share is None else [rest] * labels
        if share is not None:
            shares[turn % labels] = share
        recent: list[LogProbs] = []
        for true in chance.choices(range(labels), shares, k=LENGTH):
            given = normalised(
                [
                    value + signal * (at == true) + chance.gauss(0, noise)
                    for at, value in enumerate(prefers)
                ]
            )
            off = taken(neutral, recent)
            best = max(given, key=lambda label: given[label] - off.get(label, 0.0))
            right.append(best == f"label {true}")
            recent = [given, *recent][:RECENT]
    return fmean(right)


def greedy(_neutral: LogProbs, _recent: Sequence[LogProbs]) -> Mapping[str, float]:
    return {}


def mean(neutral: LogProbs, recent: Sequence[LogProbs]) -> Mapping[str, float]:
    """The plain rule: half neutral input, half the mean of the last decisions."""
    if not recent:
        return neutral
    return {label: (neutral[label] + fmean(r[label] for r in recent)) / 2 for label in neutral}


MODELS = {
    "the bundled one": {"bias": 3.0, "signal": 1.0, "noise": 0.6},
    "with a slight bias": {"bias": 0.5, "signal": 2.0, "noise": 1.0},
    "a strong one": {"bias": 0.5, "signal": 5.0, "noise": 1.5},
}


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("share", [0.8, 0.95])
@pytest.mark.parametrize("model", MODELS)
def test_a_one_sided_stream_is_labelled_no_worse_than_greedily(
    model: str, share: float, labels: int
) -> None:
    """Where nearly all is of one label, whichever it is, taking a bias off costs nothing."""
    setting: dict[str, Any] = {**MODELS[model], "labels": labels, "share": share}
    assert accuracy(offsets, **setting) >= accuracy(greedy, **setting)


@pytest.mark.parametrize("labels", [2, 4])
def test_an_even_stream_is_labelled_about_as_well_as_by_the_mean(labels: int) -> None:
    """What one-sided streams need costs an even one little of what calibration gives it."""
    setting: dict[str, Any] = {**MODELS["the bundled one"], "labels": labels, "share": None}
    calibrated = accuracy(offsets, **setting)
    assert calibrated > accuracy(greedy, **setting) + 0.1
    assert calibrated > accuracy(mean, **setting) - 0.07


def test_the_plain_mean_falls_below_greedy() -> None:
    """The reason for all this: else the mean would do."""
    setting: dict[str, Any] = {**MODELS["with a slight bias"], "labels": 2, "share": 0.95}
    assert accuracy(mean, **setting) < accuracy(greedy, **setting) - 0.05
