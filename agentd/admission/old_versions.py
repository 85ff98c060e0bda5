"""Versions of an agent that nothing runs any more."""

import shutil
from pathlib import Path

VERSIONS_KEPT = 3  # per agent, newest first, besides those that are in use


def prune_versions(folder: Path, in_use: set[str]) -> None:
    """Remove old versions of one agent from `folder`; those `in_use` and the newest ones stay.

    What cannot be removed stays, too. A build under way has a name with a dot, and is left alone.
    """
    versions = []
    for path in folder.glob("[!.]*"):
        try:
            versions.append((path.stat().st_mtime, path))
        except OSError:
            continue  # somebody else removed it
    versions.sort(reverse=True)
    for _, old in versions[VERSIONS_KEPT:]:
        if old.name not in in_use:
            shutil.rmtree(old, ignore_errors=True)
