"""What processes leave in the data folder that were killed: half copies, half builds."""

import contextlib
import shutil
from pathlib import Path

from agentd.paths import Paths
from agentd.whole import PARTIAL

PRUNE_PREFIX = ".prune-"  # of the folder in which a dry run prunes a copy


def leftovers(paths: Paths) -> list[Path]:
    """Return files and folders that somebody is writing, or has left; their age says which."""
    found = list(paths.data.glob(f"{PRUNE_PREFIX}*"))
    for folder in (paths.data, paths.run, paths.backups):
        found += folder.glob(f".*{PARTIAL}")
    for folder in (paths.config, paths.agents_d, paths.agents, paths.baml_src):  # a person's own
        found += folder.glob(f".agentd-*{PARTIAL}")
    for word in ("repaired", "restored"):  # new databases that did not get their place
        found += paths.data.glob(f"{paths.database.name}.{word}-*")
    found += paths.models.glob(".pull-*/")
    found += paths.versions.glob("*/.build-*")
    return found


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
