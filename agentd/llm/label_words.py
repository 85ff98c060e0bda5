"""Labels by words: where words tell labels apart, a rule is right more often than a small model."""

import re
from collections.abc import Iterable, Mapping


def by_words(rule: Mapping[str, Iterable[str]], text: str) -> str | None:
    """Return the label of which most words stand in a text, None where none of any does.

    A word counts as the beginning of one in the text, in upper or lower case. Of several labels
    that have as many, it is the first.
    """
    found = {
        label: sum(bool(_beginning(word).search(text)) for word in words)
        for label, words in rule.items()
    }
    most = max(found, key=lambda label: found[label])
    return most if found[most] else None


def _beginning(word: str) -> re.Pattern[str]:
    # `re` keeps the last 512 that it compiled.
    return re.compile((r"\b" if word[0].isalnum() else "") + re.escape(word), re.IGNORECASE)
