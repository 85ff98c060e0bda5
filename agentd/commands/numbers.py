"""Numbers on the command line: what the database cannot hold is a usage error."""

import argparse

INTEGER_MAX = 2**63 - 1  # SQLite's, and Python's for lengths


def whole(text: str) -> int:
    """Return an id."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a whole number: {text[:40]!r}") from None
    if abs(number) > INTEGER_MAX:
        raise argparse.ArgumentTypeError(f"too large: {text[:40]}")
    return number


def count(text: str) -> int:
    """Return how many of something, zero or more."""
    number = whole(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number
