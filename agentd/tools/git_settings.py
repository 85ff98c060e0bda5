"""What git's settings name: files that they include, folders of hooks, programs that git runs.

Read by their text: each path in a value counts, whatever the key is, but for a few that name
repositories. To refuse one path too many costs little; to miss one is a program of somebody else.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agentd.errors import ConfigError, ToolError
from agentd.paths import expanded
from agentd.tools import repository
from agentd.whole import read_start

BYTES_MAX = 256_000  # of one file of settings
FILES_MAX = 64  # that one file includes
SECTION = re.compile(r'\s*\[\s*([\w.-]+)(?:\s+"(?:[^"\\]|\\.)*")?\s*\]')
WORDS = re.compile(r"[\s\"';#!=|&<>()]+")
# Sections whose values are repositories, branches and people.
PASSED = frozenset(
    {
        *("remote", "branch", "submodule", "url", "user", "author", "committer", "safe", "gui"),
        *("maintenance", "scalar", "color"),
    }
)
PATHS = frozenset({"path", "hookspath", "attributesfile", "templatedir"})  # a bare name is one, too


def named_by(repo: Path) -> Iterator[Path]:
    """Give the places that a repository's own settings name, without links."""
    with suppress(ToolError, OSError, ValueError):
        own = repository.git_folder(repo)
        for folder in dict.fromkeys((own, repository.common_folders(own)[0])):
            for name in ("config", "config.worktree"):
                yield from named_in(folder / name, repo)


def named_in(file: Path, root: Path) -> Iterator[Path]:
    """Give the places that a file of settings names, and those that it includes.

    Git runs its programs in `root`; a place that holds all of that is no answer.
    """
    files = [file]
    for read in files:
        for section, name, value in _settings(read):
            for place in _places(name, value, (read.parent, root)):
                if root.is_relative_to(place):
                    continue
                yield place
                if section.startswith("include") and place not in files and len(files) < FILES_MAX:
                    files.append(place)


def _settings(file: Path) -> Iterator[tuple[str, str, str]]:
    """Give section, key and value, in lower case but for the value."""
    text, section = "", ""
    with suppress(OSError):
        text = os.fsdecode(read_start(file, BYTES_MAX))
    for line in text.replace("\\\n", "").splitlines():
        if match := SECTION.match(line):
            section = match[1].partition(".")[0].lower()
        key, _, value = line[match.end() if match else 0 :].partition("=")
        name = key.strip().lower()
        if section not in PASSED and name != "worktree":
            yield section, name, value


def _places(name: str, value: str, bases: tuple[Path, ...]) -> Iterator[Path]:
    whole = value.strip().replace('"', "")
    bare = {whole, re.split(r"\s*[#;]", whole)[0]} if name in PATHS else set[str]()
    for text in {*bare, *(word for word in WORDS.split(value) if "/" in word)} - {""}:
        with suppress(OSError, ValueError, ConfigError):
            path = expanded(text)
            for base in bases:
                yield Path(os.path.realpath(base / path))
