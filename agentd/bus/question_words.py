"""What a question asks for by its words, and how much of that stands in a text.

A word is looked for as the beginning of one, without its last letters: who asks for "invoices"
finds "invoice", too. A rare word counts more than a frequent one.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

WORDS_MAX = 24  # of one question
STEM_MIN, ENDING = 4, 2  # characters that are left of a longer word, and that are left off
WORD = re.compile(r"[^\W_]+")
# They say how something is asked, and not what for.
COMMON = frozenset(
    WORD.findall("""
    a about after all also am an and any anything are as at be been before but by can come could did
    do does for from get give had has have he her him his how i if in into is it its just many me
    much my no not of on or our out please say she should so some tell than that the their them then
    there they this time to until up us was we were what when where which who whom whose why will
    with would you your
    """)
)


@dataclass(frozen=True)
class QuestionWords:
    """The beginnings of the words that a question is about."""

    stems: tuple[str, ...]

    @classmethod
    def of(cls, question: str) -> "QuestionWords":
        """Read a question; where it has only common words, these are what it asks for."""
        words = [word for word in WORD.findall(folded(question)) if len(word) > 1]
        telling = [word for word in words if word not in COMMON] or words
        stems = sorted({_stem(word) for word in telling[:WORDS_MAX]})
        # What begins with another one is found with that.
        return cls(tuple(s for s in stems if not any(s != o and s.startswith(o) for o in stems)))

    def within(self, text: str) -> frozenset[str]:
        """Return those that stand in a text."""
        if not self.stems:
            return frozenset()
        return frozenset(self._pattern.findall(folded(text)))

    def weights(self, counts: Mapping[str, int], total: int) -> dict[str, float]:
        """Return what each is worth, all together 1: in how many of `total` texts does it stand?"""
        worth = {s: math.log(1 + (total + 1) / (1 + counts.get(s, 0))) for s in self.stems}
        whole = sum(worth.values())
        return {stem: value / whole for stem, value in worth.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, self.stems))})")


def folded(text: str) -> str:
    """Return a text in lower case and without accents."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.lower())
    return "".join(character for character in apart if not unicodedata.combining(character))


def share(found: Iterable[str], weights: Mapping[str, float]) -> float:
    """Return how much of a question stands in a text, 0 to 1."""
    return round(sum(weights[stem] for stem in found), 4)


def _stem(word: str) -> str:
    if any(character.isdigit() for character in word):  # a number, a code: it has no ending
        return word
    return word[: max(STEM_MIN, len(word) - ENDING)]
