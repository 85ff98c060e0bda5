"""What a model gives each label whatever it reads, so that it can be taken off.

A small model under a mask says one label for everything. What is taken off: what it gives them on
neutral input (contextual calibration, arXiv 2102.09690), mixed half and half with what it gave them
in the last decisions (batch calibration, arXiv 2309.17249; domain-conditional PMI, arXiv
2104.08315, divides by the same).

The plain mean takes every stream for an even one. Where 95 % are of one label, the mean is full of
what that label deserved, and taking it off is worse than the model's own choice: .78 against .92 in
the simulation of `tests/test_label_bias.py` (two labels, slight bias), and .94 by this rule. First
what its own label explains is taken from each decision, and a label that is rare in the stream
stays rare. Both are estimated together, in a few rounds of expectation maximisation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LogProbs = Mapping[str, float]  # by label, in nats
Row = list[float]  # one number a label
RECENT = 32  # decisions that count; 8 were within .03 of 32 in accuracy
ROUNDS = 8  # after which nothing moves any more
# What is believed before there are decisions, with the weight of so many: a label gains one nat
# where it is right, in a noise of one. The bundled model has about one, in a half.
SIGNAL = NOISE = 1.0
BELIEF = 4
LEAST = 0.05  # of both
# How much rare labels stay rare. All of it is best for one-sided streams, but on even ones it holds
# fast to what is left of a bias (.59 against .70 with four labels, the plain mean .74).
SHARES = 0.5


def offsets(neutral: LogProbs, recent: Sequence[LogProbs]) -> dict[str, float]:
    """Return what to take off each label, in nats.

    `neutral` and `recent` are the model's own log-probabilities: on neutral input, and in the last
    decisions. Neutral input counts as `RECENT` decisions do: half of what so many give is its own.
    """
    labels = list(neutral)
    rows = [_centred([row.get(label, 0.0) for label in labels]) for row in recent[:RECENT]]
    begun = _centred(list(neutral.values()))
    fit = _Fit(begun, [1 / len(labels)] * len(labels))
    for _ in range(ROUNDS if rows else 0):
        fit = fit.closer(rows, begun)
    return dict(zip(labels, fit.offsets(), strict=True))


@dataclass(frozen=True)
class _Fit:
    """What explains the rows: a label's log-probability is its bias, and `signal` if it is right.

    `shares` say how often each is; `noise` is the variance of what is left. Rows are centred.
    """

    bias: Row
    shares: Row
    signal: float = SIGNAL
    noise: float = NOISE

    def offsets(self) -> Row:
        """Return what leaves the likeliest label on top: Bayes' rule, with part of the shares."""
        weight, size = SHARES * self.noise / self.signal, len(self.shares)
        return [
            bias - weight * math.log(share * size)
            for bias, share in zip(self.bias, self.shares, strict=True)
        ]

    def closer(self, rows: Sequence[Row], begun: Row) -> "_Fit":
        """Return a fit that explains the rows better: one round of expectation maximisation."""
        size, count, shift = len(begun), len(rows), self.offsets()
        odds = [softmax([self.signal / self.noise * x for x in _minus(row, shift)]) for row in rows]
        right = [sum(column) for column in zip(*odds, strict=True)]
        given = [sum(column) for column in zip(*rows, strict=True)]
        bias = [
            (total - self.signal * (hits - count / size) + RECENT * start) / (count + RECENT)
            for total, hits, start in zip(given, right, begun, strict=True)
        ]
        left = [_minus(row, bias) for row in rows]
        gained = sum(map(_dot, odds, left))
        signal = (gained / (1 - 1 / size) + BELIEF * SIGNAL) / (count + BELIEF)
        signal = max(signal, LEAST)
        unexplained = sum(map(_dot, left, left)) - 2 * signal * gained
        unexplained += count * signal**2 * (1 - 1 / size)
        noise = (unexplained / (size - 1) + BELIEF * NOISE) / (count + BELIEF)
        shares = [(hits + 1) / (count + size) for hits in right]
        return _Fit(bias, shares, signal, max(noise, LEAST))


def softmax(logprobs: Sequence[float]) -> Row:
    """Return probabilities that sum to 1."""
    highest = max(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    whole = sum(weights)
    return [weight / whole for weight in weights]


def _centred(row: Row) -> Row:
    mean = sum(row) / len(row)
    return [value - mean for value in row]


def _minus(row: Row, other: Row) -> Row:
    return [one - two for one, two in zip(row, other, strict=True)]


def _dot(row: Row, other: Row) -> float:
    return sum(one * two for one, two in zip(row, other, strict=True))
