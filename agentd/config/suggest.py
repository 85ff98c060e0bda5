"""What a person who misspelt a word may have meant."""

from collections.abc import Iterable

ALIKE = 0.65  # of difflib's ratio, where 1 is the same word
NAMED = 50  # of a list of names; more are counted
NAME_CHARACTERS = 60  # of each of them
WORD_CHARACTERS_MAX = 100  # a longer one is no misspelling, and comparing it takes long


def listed(names: Iterable[str], none: str = "none") -> str:
    """Return names for an error: each cut to a length that can be read, and not too many."""
    known = list(names)
    told = [n if len(n) <= NAME_CHARACTERS else f"{n[:NAME_CHARACTERS]}..." for n in known[:NAMED]]
    more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return f"{', '.join(told) or none}{more}"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like this one, None where none is."""
    from difflib import get_close_matches  # 10 ms, and only after a mistake

    if len(word) > WORD_CHARACTERS_MAX:
        return None
    by_lower = {item.lower(): item for item in known}
    if word in by_lower.values():  # it is right as it is
        return None
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=ALIKE)
    return by_lower[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question for an error's end, with the space before it; "" where none is alike."""
    found = nearest(word, known)
    return f'; did you mean "{found}"?' if found is not None else ""
