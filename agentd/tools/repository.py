"""What git reads where it is asked about one repository, found without asking it.

A repository may lead elsewhere in many ways: a `.git` file, a common folder, alternate objects,
included settings, a working tree of its own choice, links. Each of these is a folder or file that
an agent's permission to read has to cover. See gitrepository-layout(5) and git's setup.c.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from agentd.errors import ToolError
from agentd.whole import read_start

POINTER_BYTES = 8_192  # of a `.git` file, `commondir` or `alternates`; git's own are far shorter
# Of alternates of alternates, and of settings that include others; git stops at 5 and 10.
DEPTH_MAX = 6
LINKS_LOOKED_AT = 200_000  # entries of a git folder in which links are looked for
UNREAD = frozenset({"hooks", "lfs", "logs", "modules", "worktrees", "annex", "rr-cache"})

# The settings of one file, as git reads them: key and value, in order, nothing included.
Settings = Callable[[Path], Iterable[tuple[str, str]]]


def is_bare(path: Path) -> bool:
    """Say whether `path` is a repository without a working tree, by its files."""
    return (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()


def git_folder(repo: Path) -> Path:
    """Return the folder that holds the repository's own files, as `repo`/.git leads to it.

    Raises:
        ToolError: `repo` is no repository.
    """
    pointer = repo / ".git"
    if pointer.is_dir():
        return pointer
    if pointer.is_file():
        text = _pointer(pointer).removeprefix("gitdir:").strip()
        return _ways(repo, text)[0]
    if is_bare(repo):
        return repo
    raise ToolError(f"{repo} is no git repository")


def reached(repo: Path, settings: Settings) -> list[Path]:
    """Return the folders and files that git reads of a repository, the repository's own first.

    Raises:
        ToolError: it is no repository, or leads on without end.
    """
    own = git_folder(repo)
    found = [repo, Path(os.path.realpath(own)), own]
    common, *_ = ways = common_folders(own)
    found += ways
    for folder in dict.fromkeys((own, common)):
        found += _links(folder)
    found += _alternates(common / "objects", DEPTH_MAX)
    for file in dict.fromkeys(
        (own / "config", own / "config.worktree", common / "config", common / "config.worktree")
    ):
        found += _settings(file, own, settings, DEPTH_MAX)
    return list(dict.fromkeys(found))


def common_folders(own: Path) -> list[Path]:
    """Return what a worktree shares with its repository, first as the system reads its name."""
    if (own / "commondir").exists():
        return _ways(own, _pointer(own / "commondir").strip())
    return [own]


def _alternates(objects: Path, depth: int) -> Iterator[Path]:
    file = objects / "info" / "alternates"
    if not file.exists():
        return
    if depth == 0:
        raise ToolError(f"{file} leads on to alternates without end")
    for line in _pointer(file).splitlines():
        if line.startswith('"'):
            raise ToolError(f"{file} names its folders in quotes, which is not looked into")
        if line and not line.startswith("#"):
            for other in _ways(objects, line):
                yield other
                yield from _links(other)
                yield from _alternates(other, depth - 1)


def _settings(file: Path, own: Path, settings: Settings, depth: int) -> Iterator[Path]:
    if not file.exists():
        return
    if depth == 0:
        raise ToolError(f"{file} includes settings without end")
    _check_readable(str(file))
    for key, value in settings(file):
        name = key.lower()
        if name == "core.worktree":
            yield from _ways(own, value)
        elif name.startswith(("include.", "includeif.")) and name.endswith(".path"):
            if value.startswith("%("):
                raise ToolError(f"{file} includes {value}, which is not looked into")
            if value.startswith("~"):  # git has no home here
                continue
            bases = dict.fromkeys((file.parent, Path(os.path.realpath(file)).parent))
            for other in dict.fromkeys(way for base in bases for way in _ways(base, value)):
                if os.path.lexists(other):
                    yield other
                    yield from _settings(other, own, settings, depth - 1)


def _ways(folder: Path, text: str) -> list[Path]:
    """Return what `text`, as it stands in a file of git's, may lead to from `folder`.

    The system follows a link before the `..` behind it. Git shortens some of these paths by their
    text before it opens them, in one version and not in the next: what is there counts.
    """
    path = folder / text
    real, short = Path(os.path.realpath(path)), Path(os.path.normpath(path))
    if os.path.realpath(short) == str(real):
        return [real]
    return [way for way in (real, short) if os.path.lexists(way)] or [real]


def _links(top: Path) -> list[Path]:
    """Return where the links in a git folder lead to, also those behind them."""
    found: list[Path] = []
    seen: set[str] = set()
    waiting = [str(top)]
    looked = 0
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                looked += 1
                if looked > LINKS_LOOKED_AT:
                    raise ToolError(f"{top} holds more files than are looked at; run `git gc`")
                if folder == str(top) and entry.name in UNREAD:
                    continue
                if entry.is_symlink():
                    found.append(Path(os.path.realpath(entry.path)))
                with suppress(OSError):  # a ring of links: there are others behind it
                    if entry.is_dir():
                        waiting.append(entry.path)
                    elif not entry.is_file():
                        _check_readable(entry.path)
    return found


def _check_readable(path: str) -> None:
    """Raise ToolError where git, which opens all that it finds, would wait for ever.

    A socket cannot be opened: git's own monitor lays one down there.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 - one of very many
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ToolError(f"{path} is a pipe or a device, which git would wait for")


def _pointer(file: Path) -> str:
    """Return the text of a file that names others.

    Raises:
        ToolError: it cannot be read, or is too long for one.
    """
    try:
        data = read_start(file, POINTER_BYTES + 1)
    except OSError as error:
        raise ToolError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > POINTER_BYTES:
        raise ToolError(f"{file} is too long for what it is")
    return os.fsdecode(data)
