"""The database: whether it is sound, its size, who keeps it locked or its log from shrinking."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event

from agentd.bus import schema
from agentd.clock import iso
from agentd.config.daemon import DaemonConfig
from agentd.doctor.finding import Finding, ok, problem, warning
from agentd.errors import StorageError
from agentd.models.huggingface import folder_bytes
from agentd.paths import Paths
from agentd.storage import database_files, health
from agentd.storage.health import FREE_LOW_BYTES, WAL_MUCH_BYTES, command_of, holders, sizes

LOOK_AGAIN_S = 1.0  # who holds a lock in two looks holds it for longer than any of ours does
CLOCK_AHEAD = timedelta(minutes=5)  # a little is a time server's doing
CACHES_SLACK = 1.1  # names and shapes stand in the file, too
LOGS_SLACK = 1.1  # others write between two looks at the log folder's bound


def database(paths: Paths) -> Iterator[Finding]:
    """Look at the file itself."""
    path = paths.database
    if (gone := _removed(paths)) is not None:
        yield problem("database", f"{gone.where}: {gone.what}", gone.hint)
        return
    if not path.exists():
        yield ok("database", "there is none yet", "the first `agentd run` creates it")
        return
    try:
        wrong = health.wrongs(path)
    except StorageError as error:
        yield problem("database", error.what, error.hint)
        return
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield problem("database", f"is damaged: {wrong[0]}{more}", schema.REPAIR_HINT)
        return
    yield ok("database", f"is sound: {path}")


def _removed(paths: Paths) -> StorageError | None:
    """Return what is wrong where a file went that the daemon has open: opened, it misleads."""
    try:
        database_files.check(paths)
    except StorageError as error:
        return error
    return None


def space(paths: Paths, config: DaemonConfig) -> Iterator[Finding]:
    """Look at sizes: the disk, the database, its log, the log files."""
    if not paths.database.parent.is_dir():
        return
    size = sizes(paths.database)
    free = f"{size.free / 1e6:,.0f} MB are free for {paths.data}"
    if size.free < FREE_LOW_BYTES:
        yield problem("disk", free, "free some disk space")
    else:
        yield ok("disk", free)
    limit = config.retention.database_bytes
    held = f"{size.database / 1e6:.1f} MB of at most {limit / 1e6:.0f} MB"
    if size.database > 1.25 * limit:
        yield warning("size", held, "`agentd prune`; or raise [retention] database_bytes")
    else:
        yield ok("size", held)
    if size.wal > WAL_MUCH_BYTES:
        yield warning(
            "wal", f"its log has grown to {size.wal / 1e6:.0f} MB", "see who reads, under `locks`"
        )
    else:
        yield ok("wal", f"its log takes {size.wal / 1e6:.1f} MB")
    saved, limit = _bytes(paths.prompt_caches), config.model.saved_cache_bytes
    text = f"{saved / 1e6:.1f} MB of at most {limit / 1e6:.0f} MB: {paths.prompt_caches}"
    if saved > CACHES_SLACK * limit:
        yield warning("prompt-caches", text, "the model server's next stop makes it smaller")
    elif saved:
        yield ok("prompt-caches", text)
    logs = folder_bytes(paths.logs)
    text = f"log files take {logs / 1e6:.1f} MB of at most {config.logs.total_bytes / 1e6:.0f} MB"
    if logs > LOGS_SLACK * config.logs.total_bytes:
        yield warning("logs", text, f"remove what is not agentd's from {paths.logs}")
    else:
        yield ok("logs", text)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def locks(paths: Paths) -> Iterator[Finding]:
    """Look who else has the database open, and holds what nobody should hold for long."""
    if not paths.database.exists():
        return
    before = holders(paths.database)
    Event().wait(LOOK_AGAIN_S)
    now = holders(paths.database)
    for pid in sorted(before.writing & now.writing):
        yield problem("locks", f"nobody can write: {_who(pid)} holds the write lock", f"end {pid}")
    for pid in sorted((before.reading & now.reading) - now.writing):
        yield warning(
            "locks",
            f"{_who(pid)} has been reading for more than {LOOK_AGAIN_S:g} s",
            f"its log cannot shrink meanwhile; end {pid} if it is stuck",
        )
    if not (before.writing & now.writing or before.reading & now.reading):
        yield ok("locks", f"{len(now.open)} processes have the database open, none holds it")


def _who(pid: int) -> str:
    command = command_of(pid)
    return f"process {pid} ({command[:80]})" if command else f"process {pid}"


def clock(paths: Paths, now: datetime) -> Iterator[Finding]:
    """Look whether events come from the future: the clock was, or is, wrong."""
    there = paths.database.exists() and _removed(paths) is None
    newest = health.newest_event(paths.database) if there else None
    if newest is not None and newest > iso(now + CLOCK_AHEAD):
        yield warning(
            "clock",
            f"the newest event was created at {newest}, which is yet to come",
            "set the machine's clock; ages and schedules go by it",
        )
    else:
        yield ok("clock", f"it is {iso(now)}")
