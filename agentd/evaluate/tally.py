"""How many of a set's texts got their label by one way of choosing, and how sure that figure is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.llm.label_words import by_words

Z_95 = 1.959964  # of the normal distribution: 95 % lie within so many standard deviations


@dataclass(frozen=True)
class Tally:
    """Counts of one set or of several. `same` is None where the order of the labels is nothing."""

    right: int
    of: int
    same: int | None = None  # answers that every other order of the labels left as they were

    @classmethod
    def of_answers(
        cls, wanted: Sequence[str], answers: Sequence[str], *others: Sequence[str]
    ) -> "Tally":
        """Count the answers against what was wanted, and against those of other orders."""
        right = sum(a == w for a, w in zip(answers, wanted, strict=True))
        same = sum(len(set(each)) == 1 for each in zip(answers, *others, strict=True))
        return cls(right, len(wanted), same if others else None)

    def __add__(self, other: "Tally") -> "Tally":
        same = None if self.same is None or other.same is None else self.same + other.same
        return Tally(self.right + other.right, self.of + other.of, same)

    def interval(self) -> tuple[float, float]:
        """Return the bounds that hold the true share in 95 of 100 such samples.

        Wilson's score interval (E. B. Wilson 1927, "Probable inference, the law of succession, and
        statistical inference"): right for few cases and near 0 and 1, too.
        """
        share, z2 = self.right / self.of, Z_95**2
        middle = share + z2 / (2 * self.of)
        spread = Z_95 * math.sqrt(share * (1 - share) / self.of + z2 / (4 * self.of**2))
        whole = 1 + z2 / self.of
        return (middle - spread) / whole, (middle + spread) / whole

    def document(self) -> dict[str, Any]:
        """Return it as --json shows it."""
        low, high = (round(bound, 4) for bound in self.interval())
        return {"right": self.right, "of": self.of, "low": low, "high": high, "same": self.same}


def by_majority(wanted: Sequence[str]) -> list[str]:
    """Return the most frequent label for every text: what a constant answer gets at best."""
    return [max(wanted, key=wanted.count)] * len(wanted)


def by_rule(rule: Mapping[str, Iterable[str]], texts: Iterable[str]) -> list[str]:
    """Return the label of which most words stand in each text, the first one where none does."""
    first = next(iter(rule))
    return [by_words(rule, text) or first for text in texts]
