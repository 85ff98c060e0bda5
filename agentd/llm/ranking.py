"""Ranks texts by what a person is interested in, by scores.

How much likelier is a text in a magazine about that than in one about nothing in particular? What
is likelier in none of them is of no interest: that margin is the model's own. A question with yes
or no fails a small model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from agentd.agent import Score

# Measured with the bundled model on three sets of 24 headlines, 6 for each of three interests and 6
# for none: 23 of 24 had the right one of the four in each set. By what a reader likes, 17 to 21 at
# the best threshold. 24 headlines take 8 s on a quiet machine of two cores.
HEAD = 'From a magazine about {interest}. Headline: "'
NEUTRAL = 'From a magazine. Headline: "'
TOGETHER = 32  # texts of one call: with 16 interests under its 1,024 pairs
CHARACTERS = 200  # of a text: a headline, or the beginning of what has none


@dataclass(frozen=True)
class Ranked:
    """A text's interest, None where none stands out, and what it gains by it, in nats."""

    interest: str | None
    gain: float

    @property
    def key(self) -> tuple[bool, float]:
        """What it is ordered by."""
        return self.interest is not None, self.gain


def ranked(
    score: Score,
    interests: Sequence[str],
    texts: Sequence[str],
    heads: tuple[str, str] = (HEAD, NEUTRAL),
    characters: int = CHARACTERS,
) -> list[Ranked]:
    """Return what each text gains, by its first `characters`. See `Kit.score` for errors.

    `heads`: what stands before a text of an `{interest}`, and before one of none in particular.
    """
    of_one, of_none = heads
    heads_of = [*(of_one.format(interest=interest) for interest in interests), of_none]
    gains: list[list[float]] = [[] for _ in interests]
    for at in range(0, len(texts), TOGETHER):
        some = texts[at : at + TOGETHER]
        scores = score(heads_of, [" ".join(text.split())[:characters] for text in some])
        for of, head in zip(gains, heads_of, strict=False):
            of += scores.gain(head, over=of_none)
    return [_best(interests, row) for row in zip(*gains, strict=True)]


def _best(interests: Sequence[str], gains: Sequence[float]) -> Ranked:
    best = max(range(len(gains)), key=gains.__getitem__)
    return Ranked(interests[best] if gains[best] > 0 else None, gains[best])
