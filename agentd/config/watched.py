"""Patterns of watched files, as an agent's file writes them: `~/Downloads/*.pdf`."""

import fnmatch
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from agentd.errors import ConfigError
from agentd.paths import expanded

WILD = re.compile(r"[*?\[]")
DEEP = "**"  # any folders in between, also none
CHARACTERS_MAX = 300
PARTS_MAX = 8  # with wildcards, at the end of a pattern


@dataclass(frozen=True)
class Pattern:
    """A folder, and what the paths in it look like, part by part. Upper and lower case are one.

    `*`, `?` and `[...]` match names and parts of names, `**` any folders; none of them a name that
    begins with a dot, which the pattern has to write.
    """

    text: str
    folder: Path  # absolute, without wildcards
    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> "Pattern":
        """Read a pattern.

        Raises:
            ValueError: it is none, or leaves open where to look.
        """
        if not 0 < len(text) <= CHARACTERS_MAX or "\0" in text or text.endswith("/"):
            raise ValueError(f'{text!r} names no files; write "~/Downloads/*.pdf"')
        try:
            path = expanded(text)
        except ConfigError as error:
            raise ValueError(error.what) from error
        if not path.is_absolute():
            raise ValueError(f'{text!r} is no absolute path; write "/..." or "~/..."')
        parts = path.parts
        wild = next((n for n, part in enumerate(parts) if WILD.search(part)), len(parts) - 1)
        if wild < 2 or ".." in parts:
            raise ValueError(f"{text!r} does not say in which folder; name one before the first *")
        if len(parts) - wild > PARTS_MAX:
            raise ValueError(f"{text!r} has more than {PARTS_MAX} parts after the first wildcard")
        if parts[-1] == DEEP:
            raise ValueError(f'{text!r} names folders alone; write "{text}/*"')
        return cls(text, Path(*parts[:wild]), parts[wild:])

    @property
    def deep(self) -> bool:
        """Whether it reaches into folders below its own."""
        return len(self.parts) > 1

    def matches(self, parts: tuple[str, ...]) -> bool:
        """Whether this is the way from its folder to a file that is meant."""
        return any(not left for left in self._left(parts))

    def enters(self, parts: tuple[str, ...]) -> bool:
        """Whether a folder by this way may hold such files."""
        return any(self._left(parts))

    def _left(self, names: tuple[str, ...]) -> set[tuple[str, ...]]:
        """Return what may be left of the parts once these names are matched."""
        left = {self.parts}
        for name in names:
            left = {after for parts in left for after in _after(parts, name)}
        return left


def _after(parts: tuple[str, ...], name: str) -> set[tuple[str, ...]]:
    if not parts:
        return set()
    if parts[0] == DEEP:
        deeper = set() if name.startswith(".") else {parts}
        return deeper | _after(parts[1:], name)
    return {parts[1:]} if _like(name, parts[0]) else set()


def _like(name: str, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return fnmatch.fnmatchcase(_folded(name), _folded(part))


def _folded(name: str) -> str:
    """Return a name as it is compared: macOS may spell it otherwise than it was typed."""
    return unicodedata.normalize("NFC", name).casefold()
