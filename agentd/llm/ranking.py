"""Ranks texts by what a person is interested in, by scores.

How much likelier does a text get for a reader with that interest than for any reader? A question
with yes or no fails a small model, and so does a fixed threshold: texts are compared with each
other, interests with each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.agent import Score

HEAD = "The reader likes {interest}. The reader opens:"
NEUTRAL = "everything"
TOGETHER = 32  # texts of one call: with 16 interests under its 1,024 pairs
LEAST = 0.0


@dataclass(frozen=True)
class Ranked:
    """A text's interest, None where none stands out, and what it gains by it, in nats."""

    interest: str | None
    gain: float

    @property
    def key(self) -> tuple[bool, float]:
        """What it is ordered by."""
        return self.interest is not None, self.gain


def ranked(score: Score, interests: Sequence[str], texts: Sequence[str]) -> list[Ranked]:
    """Return what each text gains. See `Kit.score` for errors."""
    heads = [HEAD.format(interest=interest) for interest in (*interests, NEUTRAL)]
    gains: list[list[float]] = [[] for _ in interests]
    for at in range(0, len(texts), TOGETHER):
        some = texts[at : at + TOGETHER]
        scores = score(heads, [f" {text}" for text in some])
        for of, head in zip(gains, heads, strict=False):
            of += scores.gain(head, over=heads[-1])
    return [_best(interests, row) for row in zip(*gains, strict=True)]


def _best(interests: Sequence[str], gains: Sequence[float]) -> Ranked:
    best = max(range(len(gains)), key=gains.__getitem__)
    return Ranked(interests[best] if gains[best] > LEAST else None, gains[best])
