"""Where the folders of a session lie in its replay: a recording's absolute paths are no place here.

The agent and its tools work in the fixture's folders; what they say is told in the recorded paths,
so that log and prompts are those of the recording.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.replay.recording import Root


class Places:
    """Maps the recorded folders to those below `base`: the N-th is `base`/N."""

    def __init__(self, roots: Sequence[Root], base: Path) -> None:
        self.base = base
        self._in: dict[str, str] = {}
        self._out: dict[str, str] = {}
        for number, root in enumerate(roots):
            here = str(base / str(number))
            self._out[here] = root.path
            for spelling in (root.path, *root.spellings):
                self._in.setdefault(spelling, here)
        self._inward = _pattern(self._in)
        self._outward = _pattern(self._out)

    def inward(self, value: Any) -> Any:
        """Return JSON with its recorded folders replaced by those of the fixture."""
        return _map(value, self._inward, self._in)

    def outward(self, value: Any) -> Any:
        """Return JSON with the fixture's folders replaced by the recorded ones."""
        return _map(value, self._outward, self._out)


def _pattern(names: Mapping[str, str]) -> re.Pattern[str] | None:
    """Match the names as whole paths or as the beginning of deeper ones; the longest first."""
    if not names:
        return None
    ordered = sorted(names, key=len, reverse=True)
    either = "|".join(map(re.escape, ordered))
    return re.compile(rf"(?<![\w/.~-])(?:{either})(?![\w-]|\.\w)")


def _map(value: Any, pattern: re.Pattern[str] | None, names: Mapping[str, str]) -> Any:
    if pattern is None:
        return value
    if isinstance(value, str):
        return pattern.sub(lambda match: names[match[0]], value)
    if isinstance(value, Mapping):
        return {key: _map(item, pattern, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(item, pattern, names) for item in value)
    return value
