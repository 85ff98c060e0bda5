"""Work in a repository that is in no commit yet: changed, staged, removed and new files.

To compare a file of the working tree, git would run the filters that the repository names. So git
is asked for nothing but its index, with the times and sizes there, and the files are read here.
"""

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import shown
from agentd.tools.base import MARKER
from agentd.tools.git_command import answer, git

FILES_MAX = 200  # looked at; more are counted
FILE_BYTES = 1_000_000  # of a larger one no lines are counted
HERE = "--work-tree=."  # whatever the settings say
STAGED = re.compile(
    rb"(?P<mode>\d{6}) (?P<blob>[0-9a-f]+) \d\t(?P<path>[^\0]+)\0.*?"
    rb"mtime: (?P<s>\d+):(?P<ns>\d+)\n.*?size: (?P<size>\d+)\tflags: (?P<flags>[0-9a-f]+)\n",
    re.DOTALL,
)
SKIPPED = 0x40008000  # flags of a file that is not to be here, or not to be looked at (cache.h)
REGULAR = (b"100644", b"100755")
OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class _Differing:
    """A file that differs from a commit. `blob` is its old content, "" where it is new."""

    path: bytes
    blob: str
    there: bool


def uncommitted(repo: Path, tip: str) -> dict[str, Any]:
    """See `git.uncommitted`."""
    if not (repo / ".git").exists():  # bare: nobody works in there
        return {"files": [], "more": 0, "id": ""}
    found = sorted(_differing(repo, tip), key=lambda work: work.path)
    listed = found[:FILES_MAX]
    contents = dict(zip(listed, _old(repo, listed), strict=True))
    files = []
    state = hashlib.sha256()
    for work in listed:
        new = _read(repo, work.path) if work.there else b""
        files.append(_change(work, contents[work], new))
        state.update(b"%b\0%b\0" % (work.path, hashlib.sha256(new or b"").digest()))
    return {"files": files, "more": len(found) - len(listed), "id": state.hexdigest()}


def _differing(repo: Path, tip: str) -> Iterator[_Differing]:
    """Give what differs from the commit: in the index, in the working tree, or in neither."""
    staged = dict(_staged(repo, tip))
    tracked = set()
    for entry in STAGED.finditer(answer(repo, HERE, "ls-files", "--stage", "--debug", "-z")):
        path = entry["path"]
        if path in tracked:  # one of the sides of a conflict
            continue
        tracked.add(path)
        blob = staged.pop(path, None)
        changed = entry["mode"] in REGULAR and not int(entry["flags"], 16) & SKIPPED
        there = _changed(repo, entry) if changed else None
        if blob is not None or there is not None:
            old = entry["blob"].decode("ascii") if blob is None else blob
            yield _Differing(path, old, there is not False)
    for path, blob in staged.items():  # removed from the index
        yield _Differing(path, blob, os.path.lexists(repo / os.fsdecode(path)))
    others = git(repo, HERE, "ls-files", "--others", "--exclude-standard", "-z").data.split(b"\0")
    for path in others[:-1]:
        if path not in staged and not path.endswith(b"/"):  # that is another repository
            yield _Differing(path, "", there=True)


def _staged(repo: Path, tip: str) -> Iterator[tuple[bytes, str]]:
    """Give path and old blob of what the index has otherwise than the commit."""
    form = ("diff-index", "--cached", "--raw", "-z", "--no-abbrev", "--no-renames")
    words = iter(answer(repo, *form, tip, "--").split(b"\0"))
    for word in words:
        if word:
            old, new, blob = word[1:].split(b" ")[:3]
            path = next(words)
            if old in REGULAR or (not old.strip(b"0") and new in REGULAR):
                yield path, blob.decode("ascii") if blob.strip(b"0") else ""


def _changed(repo: Path, entry: "re.Match[bytes]") -> bool | None:
    """Say how a file differs from the index: True, False for removed, None for not at all."""
    try:
        status = os.lstat(repo / os.fsdecode(entry["path"]))
    except OSError:
        return False
    known = int(entry["s"]) * 10**9 + int(entry["ns"])
    if status.st_size == int(entry["size"]) and status.st_mtime_ns == known:
        return None
    data = _read(repo, entry["path"])
    if data is None:  # a link by now, or too large
        return True
    # Git may have kept it with other ends of lines.
    same = (_blob(data, entry["blob"]), _blob(data.replace(b"\r\n", b"\n"), entry["blob"]))
    return None if entry["blob"].decode("ascii") in same else True


def _blob(data: bytes, like: bytes) -> str:
    """Return the name that git gives a file of this content: see gitformat-pack(5)."""
    whole = b"blob %d\0%b" % (len(data), data)
    if len(like) == hashlib.sha256().digest_size * 2:
        return hashlib.sha256(whole).hexdigest()
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def _read(repo: Path, path: bytes) -> bytes | None:
    """Return a file's content; None for what is none, is too large or lies behind a link."""
    whole = repo / os.fsdecode(path)
    with suppress(OSError, ValueError):
        if whole.parent.resolve() != repo.resolve() / whole.relative_to(repo).parent:
            return None
        with os.fdopen(os.open(whole, OPEN_FLAGS), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read(FILE_BYTES + 1)
            return data if len(data) <= FILE_BYTES else None
    return None


def _old(repo: Path, works: list[_Differing]) -> Iterator[bytes | None]:
    """Give the old contents, in order; None for what is missing or too large."""
    names = "".join(f"{work.blob}\n" for work in works if work.blob)
    known: dict[str, bytes] = {}
    sizes = git(repo, "cat-file", "--batch-check", given=names.encode()).data.split(b"\n")
    small = [
        row[0] for line in sizes if len(row := line.split()) == 3 and int(row[2]) <= FILE_BYTES
    ]
    data = git(repo, "cat-file", "--batch", given=b"".join(name + b"\n" for name in small)).data
    at = 0
    while at < len(data) and (end := data.find(b"\n", at)) > 0:
        name, _kind, size = data[at:end].split()
        at = end + 1 + int(size) + 1
        known[name.decode("ascii")] = data[end + 1 : at - 1]
    for work in works:
        yield known.get(work.blob) if work.blob else b""


def _change(work: _Differing, old: bytes | None, new: bytes | None) -> Mapping[str, Any]:
    """Return what happened to a file. Lines are compared as a set: one that moved is the same."""
    status = "added" if not work.blob else "changed" if work.there else "deleted"
    change = {"path": shown(os.fsdecode(work.path)), "old_path": None, "status": status}
    size = len(new) if new is not None and work.there else None
    if old is None or new is None or b"\0" in old or b"\0" in new:
        return {**change, "added": None, "deleted": None, "size": size, "line": 1, "markers": 0}
    before, after = old.splitlines(), new.splitlines()
    added, deleted = Counter(after) - Counter(before), Counter(before) - Counter(after)
    differing = (n for n, line in enumerate(after, 1) if n > len(before) or line != before[n - 1])
    return {
        **change,
        "added": added.total(),
        "deleted": deleted.total(),
        "size": size,
        "line": next(differing, 1),
        "markers": sum(n for line, n in added.items() if MARKER.search(line)),
    }
