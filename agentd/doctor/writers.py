"""Who besides this user may write what decides which code runs: configuration, modules, prompts.

A folder above counts as well: who may write there can put another in its place, unless it is sticky
as /tmp is.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from agentd.doctor.finding import Finding, ok, problem
from agentd.paths import Paths

ENTRIES_MAX = 2_000  # of one folder that are looked at
SHOWN = 20  # findings; more are counted
OWNER = "its owner"


def writers(paths: Paths) -> Iterator[Finding]:
    """Look where others may write."""
    found = dict(others_write(paths))
    for path, who in list(found.items())[:SHOWN]:
        hint = f"`chmod go-w {path}`, or `agentd doctor --repair` for what is agentd's"
        if who.startswith(OWNER):
            hint = f"`chown $USER {path}`, or move what is yours to a folder of your own"
        yield problem("writers", f"{who} may write {path}, and so decide what runs", hint)
    if len(found) > SHOWN:
        more = f"and {len(found) - SHOWN} more files and folders that others may write"
        yield problem("writers", more, f"`chmod -R go-w {paths.config.parent}`")
    if not found:
        yield ok("writers", "nobody else may write the configuration, modules and prompts")


def closable(paths: Paths) -> Iterator[tuple[Path, int]]:
    """Yield what is ours to close, with a mode that lets nobody else write.

    What lies elsewhere, such as a folder above them or what a link leads to, may be so on purpose.
    """
    for path, who in others_write(paths):
        inside = path in _kept(paths) or any(path.is_relative_to(top) for top in _folders(paths))
        if inside and not path.is_symlink() and not who.startswith(OWNER):
            yield path, stat.S_IMODE(path.stat().st_mode) & ~0o022


def others_write(paths: Paths) -> Iterator[tuple[Path, str]]:
    """Yield each file and folder that somebody else may write, with who that is."""
    seen = set[Path]()
    for folder in (*_folders(paths), *_kept(paths)):
        for path in (folder, *_entries(folder, deep=folder in _folders(paths))):
            for one in _chain(path):
                if one not in seen:
                    seen.add(one)
                    if who := _other(one):
                        yield one, who


def _folders(paths: Paths) -> tuple[Path, ...]:
    return paths.config, paths.agents_d, paths.agents, paths.baml_src


def _kept(paths: Paths) -> tuple[Path, ...]:
    return paths.data, paths.versions, paths.models


def _entries(folder: Path, *, deep: bool) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:ENTRIES_MAX] if deep else []
    except OSError:
        return []  # not there, or not ours to read: another check tells


def _chain(path: Path) -> Iterator[Path]:
    """Yield a path and the folders above it, as written and as its links lead."""
    for one in (path, Path(os.path.realpath(path))):
        yield one
        yield from one.parents


def _other(path: Path) -> str:
    """Return who besides us and root may write this, "" for nobody."""
    try:
        status = path.stat()
    except OSError:
        return ""  # gone, or a dangling link
    shared = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_uid not in (0, os.getuid()):
        return f"{OWNER}, {_user(status.st_uid)},"
    if status.st_mode & stat.S_IWOTH and not shared:
        return "everybody"
    if status.st_mode & stat.S_IWGRP and not shared and not _alone(status.st_gid):
        return f"the group {_group(status.st_gid)}"
    return ""


def _alone(gid: int) -> bool:
    """Whether a group has nobody but us and root, as the one that many systems give each user."""
    if gid == 0:
        return True
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    private = gid == user.pw_gid and group.gr_name == user.pw_name
    return private and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
