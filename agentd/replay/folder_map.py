"""Where the folders of a session lie in its replay: a recording's absolute paths lead nowhere here.

The agent and its tools work in the fixture's folders. In what they say those paths are replaced by
the recorded ones, so that log and prompts are those of the recording.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.config.agent import AgentConfig
from agentd.recordings.recording import Root

# What HFS+ leaves out of a name when it compares it; see git's utf8.c, `next_hfs_char`.
IGNORED = dict.fromkeys(
    [*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF]
)
SHORT_NAME = re.compile(r"git~\d+")
DEVICE = re.compile(r"con|prn|aux|nul|(?:com|lpt)[1-9]")


class FolderMap:
    """Maps the recorded folders to those below `base`: the N-th is `base`/N, or in an outer one.

    Each other spelling of a folder is a link to it, `base`/N.K. So it can be told from the folder's
    own path, and comes back as it was written.
    """

    def __init__(self, roots: Sequence[Root], base: Path) -> None:
        self.base = base
        self.folders = [self._folder(roots, number) for number in range(len(roots))]
        self.links: dict[Path, Path] = {}
        here_of: dict[str, str] = {}
        recorded_of: dict[str, str] = {}
        for number, (root, here) in enumerate(zip(roots, self.folders, strict=True)):
            here_of.setdefault(root.path, str(here))
            recorded_of[str(here)] = root.path
            for which, spelling in enumerate(root.spellings):
                link = base / f"{number}.{which}"
                self.links[link] = here
                here_of.setdefault(spelling, str(link))
                recorded_of[str(link)] = spelling
        self._to_here, self._to_recorded = _Renaming(here_of), _Renaming(recorded_of)

    def _folder(self, roots: Sequence[Root], number: int) -> Path:
        path, outermost = Path(roots[number].path), self.base / str(number)
        for which, root in sorted(enumerate(roots), key=lambda at: -len(at[1].path)):
            if path.is_relative_to(root.path) and str(path) != root.path:
                inner = path.relative_to(root.path)
                if not any(map(unsafe, inner.parts)):  # a recording may come from somebody else
                    outermost = self.base / str(which) / inner
        return outermost

    def config(self, config: AgentConfig) -> AgentConfig:
        """Return a configuration that names its folders as they are here."""
        plain = config.model_dump(mode="json", exclude_defaults=True)
        return AgentConfig.model_validate(self.as_here(plain))

    def as_here(self, value: Any) -> Any:
        """Return JSON with its recorded folders replaced by those of the fixture."""
        return self._to_here(value)

    def as_recorded(self, value: Any) -> Any:
        """Return JSON with the fixture's folders replaced by the recorded ones."""
        return self._to_recorded(value)


class _Renaming:
    """Replaces names in JSON: as whole paths or as the beginning of deeper ones, longest first."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        self._pattern = re.compile(rf"(?<![\w/.~-])(?:{either})(?![\w-]|\.\w)")

    def __call__(self, value: Any) -> Any:
        if not self._names:
            return value
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self._names[match[0]], value)
        if isinstance(value, Mapping):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self, value))
        return value


def unsafe(part: str) -> bool:
    """Whether a part of a name leads elsewhere, or may be `.git` on some file system.

    As git itself refuses them (`is_hfs_dotgit`, `is_ntfs_dotgit`): any case, ignorable characters
    on HFS+, short names, streams, trailing dots and spaces on NTFS; also names of devices.
    """
    plain = unicodedata.normalize("NFC", part.translate(IGNORED)).casefold().replace("\\", "/")
    stem = plain.partition(":")[0].rstrip(". ")
    return (
        stem in ("", ".git")
        or "/" in plain
        or "\0" in part
        or SHORT_NAME.fullmatch(stem) is not None
        or DEVICE.fullmatch(stem.partition(".")[0].rstrip()) is not None
    )
