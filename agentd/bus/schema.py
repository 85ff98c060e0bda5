"""The database file: how it is opened, and its tables as numbered migrations that only go forward.

The file is never touched with plain `open()`: closing any descriptor of it would drop this
process's POSIX locks, which lost a committed row when it was tried.
"""

import time
from collections.abc import Callable
from pathlib import Path

import apsw

from agentd.bus import sql
from agentd.errors import NewerDatabase, StorageError

BUSY_TIMEOUT_MS = 30_000
WAL_RETRY_MS = 5
# 16 MB. A checkpoint waits for the disk, and so does the commit after it: at SQLite's own 1000 that
# was every 100th publish, and 3 ms instead of 0.1.
WAL_AUTOCHECKPOINT_PAGES = 4000
JOURNAL_SIZE_LIMIT_BYTES = 64 * 1024 * 1024  # the WAL shrinks back to this after a burst
# What can go wrong with the file while running; anything else is a mistake of ours.
OPERATIONAL = (
    apsw.BusyError,
    apsw.LockedError,
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
_HINTS: dict[type[apsw.Error], str] = {
    apsw.BusyError: "another program holds its write lock; find it with `lsof`",
    apsw.FullError: "free some disk space",
    apsw.CorruptError: "restore a backup, or move the file away to start anew",
    apsw.NotADBError: "this is no agentd database; move the file away to start anew",
    apsw.ReadOnlyError: "make the file and its folder writable",
    apsw.CantOpenError: "make the folder exist and writable",
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


MIGRATIONS: tuple[Callable[[apsw.Connection], None], ...] = (_bus, _sessions)


def connect(path: Path) -> apsw.Connection:
    """Open the database, create it if needed, and bring its tables up to date.

    Raises:
        NewerDatabase: a newer agentd wrote it. Nothing was changed.
        StorageError: it cannot be opened or is no database.
    """
    try:
        db = apsw.Connection(str(path))
        try:
            db.set_busy_timeout(BUSY_TIMEOUT_MS)
            _check_version(db, path)
            if _version(db) == 0:
                path.chmod(0o600)  # events are private; SQLite gives -wal and -shm the same mode
            _pragmas(db)
            _migrate(db, path)
        except BaseException:
            db.close()
            raise
    except OPERATIONAL as error:
        raise storage_error(error, path) from error
    except OSError as error:
        raise StorageError(f"cannot be made private: {error.strerror}", where=str(path)) from error
    return db


def storage_error(error: apsw.Error, path: Path | str) -> StorageError:
    """Say what went wrong with the file and what to do."""
    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")
    return StorageError(f"the database cannot be used: {error}", where=str(path), hint=hint)


def _pragmas(db: apsw.Connection) -> None:
    # Entering WAL wants the file for itself, and SQLite does not always use the busy timeout for
    # that: 8 processes in a fresh home gave 5 % "database is locked".
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while db.pragma("journal_mode") != "wal":
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            apsw.sleep(WAL_RETRY_MS)
    db.pragma("synchronous", "NORMAL")
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
