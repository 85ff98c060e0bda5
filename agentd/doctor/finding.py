"""What the doctor says."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # works, but may surprise
    PROBLEM = "problem"  # does not work, or will lose something


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `hint` is what to do; "" where there is nothing to do."""

    name: str  # stable, for scripts
    level: Level
    what: str
    hint: str = ""


def ok(name: str, what: str, hint: str = "") -> Finding:
    """Return that something is as it should be."""
    return Finding(name, Level.OK, what, hint)


def warning(name: str, what: str, hint: str) -> Finding:
    """Return that something may surprise."""
    return Finding(name, Level.WARNING, what, hint)


def problem(name: str, what: str, hint: str) -> Finding:
    """Return that something does not work."""
    return Finding(name, Level.PROBLEM, what, hint)
