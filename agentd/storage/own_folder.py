"""Moves a database into the folder of its own that older versions did not give it.

A sandbox can let a process write there, and nowhere beside it: SQLite makes further files.
"""

from datetime import datetime
from pathlib import Path

from agentd.errors import storage_errors
from agentd.paths import DATABASE, Paths
from agentd.storage.copies import stamped
from agentd.whole import PARTIAL, flush_folder

BESIDE = ("-journal", "-wal", "-shm")


def move_in(paths: Paths, now: datetime) -> None:
    """Move an older version's database into its folder, and leave a link where it was.

    The home's lock must be held. Until the link is there the old names are the database: cut off
    at any point, it is begun anew. Who has it open goes on with the same files.

    Raises:
        StorageError: it cannot be moved; it is where it was.
    """
    old, new = paths.database_link, paths.data / DATABASE
    if old != paths.database and old.is_symlink():
        _remove_beside(old)  # of a move that was cut off: nobody opens it by these names
        return
    if old.is_symlink() or (old.exists() and not old.is_file()):
        return  # a person's link is left to them
    with storage_errors(old, f"move it and its -wal to {new.parent} yourself", "cannot be moved"):
        if old.exists():
            if new.exists() and not new.samefile(old):
                _keep(new, now)
            new.unlink(missing_ok=True)
            _remove_beside(new)
            for one, other in zip(_beside(old), _beside(new), strict=True):
                if one.exists():
                    other.hardlink_to(one)
            new.hardlink_to(old)
            flush_folder(new.parent)
        half = old.with_name(f".agentd-link{PARTIAL}")
        half.unlink(missing_ok=True)
        half.symlink_to(DATABASE)
        half.replace(old)
        flush_folder(old.parent)
        _remove_beside(old)


def _keep(database: Path, now: datetime) -> None:
    """Keep what another database, put where the old one was, is to replace."""
    kept = stamped(database, "replaced", now)
    for one, other in zip(_beside(database), _beside(kept), strict=True):
        if one.exists():
            other.hardlink_to(one)
    kept.hardlink_to(database)


def _beside(database: Path) -> list[Path]:
    return [database.with_name(database.name + end) for end in BESIDE]


def _remove_beside(database: Path) -> None:
    for path in _beside(database):
        path.unlink(missing_ok=True)
