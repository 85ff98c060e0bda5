"""`agentd backup`: a copy of the database, taken while it is in use; or back from one."""

import argparse
import contextlib
from pathlib import Path

from agentd.clock import SystemClock
from agentd.commands.home import home_alone
from agentd.commands.output import count, json_option, print_done
from agentd.errors import NotRunning, StorageError
from agentd.paths import Paths, discover, private_folder
from agentd.states import Exit
from agentd.storage import copies, database_files

EXAMPLES = """example:
  agentd backup                          # backups/agentd-20260115T103000Z.db in the data folder
  agentd backup --keep 7                 # and remove all but the newest 7 there
  agentd backup /Volumes/usb/agentd.db
  agentd backup --restore /Volumes/usb/agentd.db

The copy is one snapshot, whatever the agents write meanwhile, and is checked before it gets its
name. --restore needs the daemon stopped, and keeps what was there beside it. Copying agentd.db by
hand misses what still is in its log, and leaves a log that does not belong to it.

--json prints {done: "copied" or "restored", path, bytes, last_event_id}; for --restore also kept
(null: nothing was there)."""


def arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="where to write it")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--keep", type=count, metavar="N", help="without FILE: keep the newest N")
    parser.add_argument("--restore", type=Path, metavar="FILE", help="put this copy in its place")
    json_option(parser)
    parser.set_defaults(fail=parser.error)


def run(args: argparse.Namespace) -> int:
    """Write a copy, or restore one."""
    if args.file is not None and args.keep is not None:
        args.fail("--keep is for the copies in the data folder: leave FILE out")
    if args.keep == 0:
        args.fail("--keep 0 would remove the copy that was just made")
    paths = discover()
    if args.restore is not None:
        if args.file is not None or args.force or args.keep is not None:
            args.fail("--restore takes no other option")
        return _restore(args, paths)
    database_files.check(paths)
    if not paths.database.exists():
        raise NotRunning("there is no database yet", where=str(paths.database))
    target = args.file.absolute() if args.file else _default(paths)
    done = copies.backup(paths.database, target, force=args.force)
    for old in _older(paths, args.keep) if args.keep else []:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    line = f"{done.path}: {done.bytes / 1e6:.1f} MB, up to event {done.last_event_id}"
    print_done(args, "copied", line, **{**vars(done), "path": str(done.path)})
    return Exit.OK


def _default(paths: Paths) -> Path:
    try:
        private_folder(paths.backups)
    except OSError as error:
        raise StorageError(
            f"cannot be created: {error.strerror}", where=str(paths.backups), hint="name a FILE"
        ) from error
    stamp = SystemClock().now().strftime(copies.STAMP)
    target, number = paths.backups / f"agentd-{stamp}.db", 1
    while target.exists():  # two in one second
        number += 1
        target = paths.backups / f"agentd-{stamp}-{number}.db"
    return target


def _older(paths: Paths, keep: int) -> list[Path]:
    """Return the copies beyond the newest `keep`; their names say how old they are."""
    return sorted(paths.backups.glob("agentd-*.db"))[:-keep]


def _restore(args: argparse.Namespace, paths: Paths) -> int:
    with home_alone(paths):
        done, kept = copies.restore(args.restore.absolute(), paths.database, SystemClock())
    lines = [f"{paths.database} is what {args.restore} holds: up to event {done.last_event_id}"]
    lines += [f"what was there is kept as {kept}"] if kept is not None else []
    about = {**vars(done), "path": str(done.path), "kept": kept and str(kept)}
    print_done(args, "restored", *lines, **about)
    return Exit.OK
