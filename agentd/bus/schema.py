"""The database file: how it is opened, and its tables as numbered migrations that only go forward.

The file is never touched with plain `open()`: closing any descriptor of it would drop this
process's POSIX locks, which lost a committed row when it was tried.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from agentd.bus import ours, sql
from agentd.bus.busy import wait_for_locks
from agentd.bus.strict import strict
from agentd.errors import DamagedDatabase, NewerDatabase, StorageError

BUSY_TIMEOUT_MS = 30_000
WAL_RETRY_MS = 5
# 16 MB. A checkpoint waits for the disk, and so does the commit after it: at SQLite's own 1000 that
# was every 100th publish, and 3 ms instead of 0.1.
WAL_AUTOCHECKPOINT_PAGES = 4000
# Freed pages go back to the disk a few at a time; a plain VACUUM would hold the write lock for
# seconds. Can only be chosen before the first table, and costs about 2 % of a publish.
AUTO_VACUUM_INCREMENTAL = 2
JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024  # the WAL shrinks back to this after a burst
# What can go wrong with the file while running; anything else is a mistake of ours.
OPERATIONAL = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.ProtocolError,  # who locks the write-ahead log's index stands still
    apsw.FullError,
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.AuthError,
    apsw.NoMemError,
)
REPAIR_HINT = "stop agentd, then `agentd doctor --repair` saves what can be read"
DAMAGED = (apsw.CorruptError, apsw.NotADBError)  # trying again is of no use
_HINTS: dict[type[apsw.Error], str] = {
    apsw.BusyError: "another program holds its lock; `agentd doctor` says which",
    apsw.ProtocolError: "another program holds its lock; `agentd doctor` says which",
    apsw.FullError: "free some disk space",
    apsw.CorruptError: REPAIR_HINT,
    apsw.NotADBError: "stop agentd, then `agentd backup --restore FILE`; or move the file away",
    apsw.ReadOnlyError: "make the file and its folder writable",
    apsw.CantOpenError: "make the file and its folder exist and writable",
    apsw.IOError: "is the disk full, read-only or failing? see `df` and the system's log",
}


def _bus(db: apsw.Connection) -> None:
    """The outbox, its cursors, and what the bus knows of agents."""
    db.execute("""
CREATE TABLE outbox (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,  -- ids are never reused, also after pruning
  agent      TEXT NOT NULL,                      -- producer
  event_type TEXT NOT NULL,                      -- dotted lower case: repo.changed
  payload    JSON NOT NULL CHECK (json_type(payload) = 'object'),
  created_at TIMESTAMP NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  target     TEXT,                               -- NULL: every subscriber; else this agent alone
  priority   TEXT NOT NULL DEFAULT 'event' CHECK (priority IN ('person', 'event', 'schedule')),
  cause_id   INTEGER,                            -- the event that this one answers
  depth      INTEGER NOT NULL DEFAULT 0 CHECK (depth >= 0),  -- its cause's plus one
  dedup_key  TEXT UNIQUE
);
CREATE INDEX outbox_type ON outbox (event_type);
CREATE INDEX outbox_target ON outbox (target) WHERE target IS NOT NULL;

CREATE TABLE cursors (consumer TEXT PRIMARY KEY, last_seen_id INTEGER NOT NULL DEFAULT 0);

CREATE TABLE agents (
  name        TEXT PRIMARY KEY,
  version     TEXT NOT NULL,                     -- of the accepted folder
  subscribe   JSON NOT NULL CHECK (json_type(subscribe) = 'array'),
  paused      INTEGER NOT NULL DEFAULT 0,
  accepted_at TIMESTAMP NOT NULL,
  removed_at  TIMESTAMP
);

CREATE TABLE facts (
  agent      TEXT NOT NULL,
  key        TEXT NOT NULL,
  value      TEXT NOT NULL CHECK (json_valid(value)),  -- JSON would turn "1" into a number
  updated_at TIMESTAMP NOT NULL,
  PRIMARY KEY (agent, key)
) WITHOUT ROWID;

CREATE TABLE schedules (
  agent         TEXT NOT NULL,
  schedule      TEXT NOT NULL,
  last_due      TIMESTAMP NOT NULL,
  last_event_id INTEGER,                         -- the last event that it published
  PRIMARY KEY (agent, schedule)
) WITHOUT ROWID;

CREATE TABLE dead_letters (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  agent      TEXT NOT NULL,                      -- who gave it up; for a loop, who published it
  reason     TEXT NOT NULL,
  error      TEXT NOT NULL,
  session_id INTEGER,
  dead_at    TIMESTAMP NOT NULL,
  event_id   INTEGER,                            -- NULL: it was never written (a loop)
  producer   TEXT NOT NULL,
  event_type TEXT NOT NULL,
  payload    JSON NOT NULL,
  created_at TIMESTAMP NOT NULL,
  target     TEXT,
  priority   TEXT NOT NULL,
  cause_id   INTEGER,
  depth      INTEGER NOT NULL
);
""")


def _sessions(db: apsw.Connection) -> None:
    """Sessions with their steps, and what was tried on each lane's event."""
    db.execute("""
CREATE TABLE sessions (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  agent          TEXT NOT NULL,
  consumer       TEXT NOT NULL,                  -- the lane that it holds while it runs
  event_id       INTEGER NOT NULL,               -- the event that it answers
  delivered_id   INTEGER NOT NULL,               -- the lane's event: the same, or a person's answer
  event_type     TEXT NOT NULL,
  version        TEXT NOT NULL,                  -- hash of code and prompt
  state          TEXT NOT NULL DEFAULT 'running'
                 CHECK (state IN ('running', 'ended', 'failed', 'parked')),
  attempt        INTEGER NOT NULL DEFAULT 1,     -- how often it was taken up: a fencing token
  started_at     TIMESTAMP NOT NULL,
  ended_at       TIMESTAMP,                      -- when it last came to rest
  settled_seq    INTEGER NOT NULL DEFAULT 0,     -- what steps up to this one staged is published
  settled_effect INTEGER NOT NULL DEFAULT 0,     -- whether that was anything
  question       TEXT,                           -- what a parked session waits for
  outcome        JSON,
  error          TEXT,
  event          JSON                            -- the event itself, where it may be pruned first
);
CREATE INDEX sessions_running ON sessions (consumer) WHERE state = 'running';
CREATE INDEX sessions_agent ON sessions (agent, started_at);

CREATE TABLE steps (
  session_id        INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
  seq               INTEGER NOT NULL,
  kind              TEXT NOT NULL CHECK (kind IN ('opening', 'decision', 'result', 'note')),
  type              TEXT NOT NULL,               -- event type in the log, or the decision's class
  payload           JSON NOT NULL,
  ts                TIMESTAMP NOT NULL,
  trusted           INTEGER NOT NULL,
  idempotent        INTEGER NOT NULL,            -- may be run again after it was cut off
  staged            JSON,                        -- what the session's closing will publish
  prompt_tokens     INTEGER,
  cached_tokens     INTEGER,
  completion_tokens INTEGER,
  duration_ms       REAL,
  raw               TEXT,                        -- the model's answer as it came
  active_ms         INTEGER NOT NULL,            -- the session's active time so far
  PRIMARY KEY (session_id, seq)
) WITHOUT ROWID;

CREATE TABLE deliveries (
  consumer       TEXT PRIMARY KEY,
  event_id       INTEGER NOT NULL,
  attempts       INTEGER NOT NULL,               -- since a step was last recorded
  total_attempts INTEGER NOT NULL,
  failures       INTEGER NOT NULL,               -- sessions that failed on this event
  blocked_s      REAL NOT NULL,                  -- seconds of backoff so far
  next_at        TIMESTAMP                       -- not to be tried before
);
""")


def _parked(db: apsw.Connection) -> None:
    """Sessions that wait for a person, oldest first: retention looks for them all the time."""
    db.execute("CREATE INDEX sessions_parked ON sessions (ended_at) WHERE state = 'parked'")


def _trouble(db: apsw.Connection) -> None:
    """Which process makes an attempt, how often one crashed over it; and breakers."""
    db.execute("""
ALTER TABLE deliveries ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;  -- since the last step
ALTER TABLE deliveries ADD COLUMN total_crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN last_crash TEXT;
ALTER TABLE deliveries ADD COLUMN pid INTEGER;   -- who makes the attempt; NULL: it has ended

CREATE TABLE breakers (
  agent         TEXT PRIMARY KEY,
  last_event_id INTEGER NOT NULL,
  failure       TEXT NOT NULL,                   -- what its errors have in common
  error         TEXT NOT NULL,                   -- the last one
  events        INTEGER NOT NULL,                -- in a row that failed so
  pauses        INTEGER NOT NULL,                -- 0: it has not tripped
  until         TIMESTAMP                        -- nothing is tried before
) WITHOUT ROWID;
""")


def _basis(db: apsw.Connection) -> None:
    """What sessions and their steps depended on, so that they can be replayed."""
    db.execute("ALTER TABLE sessions ADD COLUMN basis JSON")  # configuration, facts, model ...
    db.execute("ALTER TABLE steps ADD COLUMN basis JSON")  # token counts, allowed classes ...


def _fired(db: apsw.Connection) -> None:
    """The keys of a schedule's last runs: the outbox forgets them with the events it prunes."""
    db.execute("ALTER TABLE schedules ADD COLUMN fired JSON")  # an array, the newest last


def _ages(db: apsw.Connection) -> None:
    """What rests, by age: ids alone do not tell it where a wall clock jumped."""
    db.execute("""
CREATE INDEX sessions_rest ON sessions (ended_at) WHERE state IN ('ended', 'failed');
CREATE INDEX dead_letters_age ON dead_letters (dead_at);
""")


def _newest(db: apsw.Connection) -> None:
    """An agent's session with the highest id: times do not tell which was begun last."""
    db.execute("CREATE INDEX sessions_newest ON sessions (agent)")  # and the id, as every index


MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (
    _bus,
    _sessions,
    _parked,
    _basis,
    _trouble,
    _fired,
    _ages,
    strict,
    _newest,
)


@dataclass(frozen=True)
class Opening:
    """How a database is opened."""

    # False: not where it is missing. A new file beside the write-ahead log of one that was deleted
    # a moment ago would confuse both.
    create: bool = True
    busy_ms: int = BUSY_TIMEOUT_MS  # how long a statement waits for a lock
    # True: a commit returns when the disk itself has it, so that a power failure takes nothing
    # back. False: it may take back the last commits, in order.
    full_sync: bool = False


OPENING = Opening()


def connect(path: Path, opening: Opening = OPENING) -> apsw.Connection:
    """Open the database, create it if needed, and bring its tables up to date.

    Raises:
        DamagedDatabase: it is damaged, or no database.
        NewerDatabase: a newer agentd wrote it. Nothing was changed.
        StorageError: it cannot be opened or is no database.
    """
    try:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if opening.create else 0)
        db = apsw.Connection(str(path), flags=flags)
        try:
            wait_for_locks(db, opening.busy_ms)
            ours.check(db, path, len(MIGRATIONS))
            _check_version(db, path)
            if _version(db) == 0:
                path.chmod(0o600)  # events are private; SQLite gives -wal and -shm the same mode
                db.pragma("auto_vacuum", AUTO_VACUUM_INCREMENTAL)
            _pragmas(db, opening)
            _migrate(db, path)
        except BaseException:
            db.close()
            raise
    except OPERATIONAL as error:
        raise storage_error(error, path) from error
    except apsw.SQLError as error:
        raise ours.foreign(path, str(error)) from error
    except OSError as error:
        raise StorageError(f"cannot be made private: {error.strerror}", where=str(path)) from error
    return db


def storage_error(error: apsw.Error, path: Path | str) -> StorageError:
    """Say what went wrong with the file and what to do."""
    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")
    if isinstance(error, DAMAGED):
        return DamagedDatabase(f"the database is damaged: {error}", where=str(path), hint=hint)
    return StorageError(f"the database cannot be used: {error}", where=str(path), hint=hint)


def _pragmas(db: apsw.Connection, opening: Opening) -> None:
    # Entering WAL wants the file for itself, and SQLite does not always use the busy timeout for
    # that: 8 processes in a fresh home gave 5 % "database is locked".
    deadline = time.monotonic() + opening.busy_ms / 1000
    while db.pragma("journal_mode") != "wal":
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            apsw.sleep(WAL_RETRY_MS)
    db.pragma("synchronous", "FULL" if opening.full_sync else "NORMAL")
    # macOS: fsync alone leaves data in the disk's cache, in any order. A checkpoint is rare and
    # must not tear the file; a commit is frequent and waits only where asked to. No-ops elsewhere.
    db.pragma("checkpoint_fullfsync", True)
    db.pragma("fullfsync", opening.full_sync)
    db.pragma("foreign_keys", True)
    db.pragma("journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES)
    db.wal_autocheckpoint(WAL_AUTOCHECKPOINT_PAGES)
    # APSW's SQLite is built with STAT4: without this it compiles a statement anew whenever a value
    # compared with an indexed column changes, which is every call (21 us instead of 4 for `next`).
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _version(db: apsw.Connection) -> int:
    version = db.pragma("user_version")
    assert isinstance(version, int)
    return version


def _check_version(db: apsw.Connection, path: Path) -> None:
    version = _version(db)
    if version > len(MIGRATIONS):
        raise NewerDatabase(
            f"written by a newer agentd (schema {version}; this one knows {len(MIGRATIONS)})",
            where=str(path),
            hint="update agentd, or set AGENTD_HOME to another folder",
        )


def _migrate(db: apsw.Connection, path: Path) -> None:
    while _version(db) < len(MIGRATIONS):
        db.execute(sql.BEGIN)
        try:
            _check_version(db, path)
            version = _version(db)  # again, under the lock: another process may have been faster
            if version < len(MIGRATIONS):
                MIGRATIONS[version](db)
                db.pragma("user_version", version + 1)
            db.execute(sql.COMMIT)
        except BaseException:
            if db.in_transaction:
                db.execute(sql.ROLLBACK)
            raise
