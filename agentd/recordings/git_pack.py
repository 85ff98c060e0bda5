"""A git repository in a fixture: the commits, trees and changed files that a session looked at.

Packed by git itself into a bundle of objects, without a working tree. History beyond is cut off, as
in a shallow clone, so that a large repository makes a small fixture.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from agentd.errors import RecordingError, ToolError
from agentd.recordings.recording import Repository
from agentd.tools.git import OBJECT_ID, git

COMMITS_MAX = 400  # of history; the objects of commits alone are small
PACK_BYTES_MAX = 2_000_000
OBJECT_BYTES_MAX = 1_000_000  # a larger file in the repository is left out
TREE_MODE = "040000"
HEADLESS = "main"  # the branch of a repository of which nothing is kept
CONFIG = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n"


def capture(repo: Path, mentioned: Iterable[str], branches: Iterable[str]) -> Repository:
    """Return what a session saw of `repo`; an empty repository where that is too large.

    `mentioned` are texts that may be commits' ids, those seen last first; `branches` names that may
    be branches. The newest mentioned commit becomes their tip, else what is checked out.
    """
    known = _commits(repo, mentioned)
    head = _git(repo, "symbolic-ref", "--quiet", "HEAD").decode().strip() or "HEAD"
    tip = _newest(repo, known) or _word(repo, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    nothing = Repository(head if head != "HEAD" else f"refs/heads/{HEADLESS}")
    if not tip:
        return nothing
    parents = _history(repo, tip, known)
    shallow = [commit for commit, above in parents.items() if set(above) - parents.keys()]
    objects = {*parents, *_contents(repo, parents, known, tip)}
    pack = _git(repo, "pack-objects", "--stdout", "-q", given=_lines(sorted(objects)))
    if not pack or len(pack) > PACK_BYTES_MAX:
        return nothing
    names = {f"refs/heads/{name}" for name in branches}
    present = set(_git(repo, "for-each-ref", "--format=%(refname)", "refs/heads").decode().split())
    refs = dict.fromkeys(sorted((names & present) | ({head} - {"HEAD"})), tip)
    return Repository(head if head != "HEAD" else tip, refs, tuple(shallow), pack)


def contents(folder: Path) -> Iterator[bytes]:
    """Yield the objects of a restored repository that people wrote: commits and files."""
    data, at = _git(folder, "cat-file", "--batch-all-objects", "--batch"), 0
    while at < len(data):
        end = data.index(b"\n", at)
        _name, kind, size = data[at:end].split()
        at = end + 1 + int(size) + 1
        if kind in (b"commit", b"blob", b"tag"):
            yield data[end + 1 : at - 1]


def restore(repository: Repository, folder: Path) -> None:
    """Make `folder` a repository with these objects.

    Raises:
        RecordingError: the pack cannot be read, or a reference is none.
    """
    dot = folder / ".git"
    for name in ("objects/pack", "refs/heads"):
        (dot / name).mkdir(parents=True, exist_ok=True)
    (dot / "config").write_text(CONFIG)
    symbolic = repository.head.startswith("refs/")
    (dot / "HEAD").write_text(f"ref: {repository.head}\n" if symbolic else f"{repository.head}\n")
    if not repository.pack:
        return
    for name, commit in repository.refs.items():
        path = dot / name
        if not path.resolve().is_relative_to(dot / "refs"):
            raise RecordingError(f"its fixture names {name!r} as a branch")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{commit}\n")
    if repository.shallow:
        (dot / "shallow").write_text("".join(f"{name}\n" for name in repository.shallow))
    if not _git(folder, "index-pack", "--stdin", given=repository.pack):
        raise RecordingError("its repository cannot be read", hint="record the session again")


def _git(repo: Path, *args: str, given: bytes = b"") -> bytes:
    """Return what git says; nothing where it fails or says too much."""
    try:
        output = git(repo, *args, given=given)
    except ToolError:
        return b""
    return b"" if output.code != 0 or output.dropped else output.data


def _word(repo: Path, *args: str) -> str:
    return _git(repo, *args).decode("ascii", "replace").strip()


def _lines(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _commits(repo: Path, mentioned: Iterable[str]) -> list[str]:
    ids = [text for text in dict.fromkeys(mentioned) if OBJECT_ID.fullmatch(text)]
    found = _git(repo, "cat-file", "--batch-check", given=_lines(ids)).decode().splitlines()
    return [line.split()[0] for line in found if line.split()[1:2] == ["commit"]]


def _newest(repo: Path, commits: Sequence[str]) -> str:
    """Return the one that no other one has in its history."""
    if not commits:
        return ""
    return _word(repo, "rev-list", "--topo-order", "--max-count=1", *commits)


def _history(repo: Path, tip: str, known: Sequence[str]) -> dict[str, list[str]]:
    """Return the latest commits, each with its parents, which may be left out themselves."""
    args = ("rev-list", "--topo-order", "--parents", f"--max-count={COMMITS_MAX}", tip, *known)
    rows = [line.split() for line in _git(repo, *args).decode().splitlines()]
    return {row[0]: row[1:] for row in rows}


def _contents(
    repo: Path, history: Mapping[str, Sequence[str]], known: Sequence[str], tip: str
) -> set[str]:
    """Return what git reads to compare the tip with the commits that were looked at, and these.

    Between the tip and each of them files as well; between one and its parents the trees alone.
    """
    empty = _word(repo, "hash-object", "-t", "tree", "--stdin")  # git knows it without having it
    wanted: set[str] = set()
    bases = set(known)
    for commit in dict.fromkeys([tip, *known]):
        parents = history.get(commit)
        if parents is None:  # it is older than all that is kept
            parents = _word(repo, "rev-list", "--parents", "--max-count=1", commit).split()[1:]
        if commit == tip or not parents:
            bases |= {*parents[:1]} or {empty}
        for base in parents or [empty]:
            wanted |= {name for name, is_tree in _differing(repo, base, commit) if is_tree}
        trees = [name for name in (commit, *parents) if name in history]
        wanted |= {_word(repo, "rev-parse", f"{name}^{{tree}}") for name in trees}
    for base in bases - {tip}:
        wanted |= {name for name, _ in _differing(repo, base, tip)}
    return {name for name in _sized(repo, wanted) if name}


def _differing(repo: Path, base: str, commit: str) -> Iterator[tuple[str, bool]]:
    """Give what differs between two commits, on both sides, and whether it is a tree."""
    form = ("diff-tree", "-r", "-t", "--no-renames", "--no-abbrev")
    for line in _git(repo, *form, base, commit).decode("utf-8", "replace").splitlines():
        words = line.removeprefix(":").split()
        if len(words) > 3:
            yield words[2], words[0] == TREE_MODE
            yield words[3], words[1] == TREE_MODE


def _sized(repo: Path, names: Iterable[str]) -> list[str]:
    """Return those objects that are there, and not too large."""
    rows = _git(repo, "cat-file", "--batch-check", given=_lines(sorted(names))).decode()
    sized = [line.split() for line in rows.splitlines()]
    return [row[0] for row in sized if len(row) == 3 and int(row[2]) <= OBJECT_BYTES_MAX]
