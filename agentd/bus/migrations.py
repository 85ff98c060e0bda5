"""The tables, as numbered migrations that only go forward."""

from collections.abc import Callable

import apsw

from agentd.bus.strict import strict


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


def _forced(db: apsw.Connection) -> None:
    """Why Done was a session's only decision left: an agent may have a `forced` of its own."""
    db.execute("ALTER TABLE sessions ADD COLUMN forced TEXT")  # NULL: Done was chosen
    db.execute("""
UPDATE sessions SET forced = CASE
  WHEN json_valid(outcome) AND json_type(outcome, '$.forced') = 'text'
  THEN json_extract(outcome, '$.forced') END
WHERE outcome LIKE '%"forced"%'
""")


def _approvals(db: apsw.Connection) -> None:
    """Kinds of steps on the way to a person's yes.

    SQLite drops no CHECK without a name. Its own way for that is the schema's text, which changes
    no row: https://sqlite.org/lang_altertable.html#otheralter
    """
    version = db.pragma("schema_version")
    assert isinstance(version, int)
    kinds = "'opening', 'decision', 'result', 'note'"
    more = f"{kinds}, 'asked', 'granted', 'denied', 'started'"
    db.pragma("writable_schema", True)
    try:
        db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, ?, ?)"
            " WHERE type = 'table' AND name = 'steps'",
            (kinds, more),
        )
        db.pragma("schema_version", version + 1)  # other connections read it anew
    finally:
        db.pragma("writable_schema", False)


def _words(db: apsw.Connection) -> None:
    """Which words stand in which event; empty at first, see `agentd.bus.search`.

    Without the texts themselves, and without the words' places: half the size.
    """
    db.execute("""
CREATE VIRTUAL TABLE outbox_words USING fts5 (
  words, content = '', contentless_delete = 1, detail = none,
  tokenize = 'unicode61 remove_diacritics 2')
""")


def _triggers(db: apsw.Connection) -> None:
    """Subscriptions by payload, an agent's own events to come, and files that it was told of."""
    db.execute("""
ALTER TABLE agents ADD COLUMN fits TEXT  -- what payloads must hold (JSON); NULL: anything
  CHECK (fits IS NULL OR (json_valid(fits) AND json_type(fits) = 'object'));

CREATE TABLE later (
  id       INTEGER PRIMARY KEY AUTOINCREMENT,
  agent    TEXT NOT NULL,
  due      TIMESTAMP NOT NULL,
  payload  JSON NOT NULL CHECK (json_type(payload) = 'object'),
  cause_id INTEGER,                              -- the event that it answers
  depth    INTEGER NOT NULL
);
CREATE INDEX later_due ON later (agent, due);

CREATE TABLE seen_files (
  agent       TEXT NOT NULL,
  fingerprint TEXT NOT NULL,                     -- of the content
  path        TEXT NOT NULL,                     -- where it was seen last
  stamp       TEXT NOT NULL,                     -- of that file: the same stamp, the same content
  seen_at     TIMESTAMP NOT NULL,
  PRIMARY KEY (agent, fingerprint)
) WITHOUT ROWID;
""")


def _causes(db: apsw.Connection) -> None:
    """What an event came to: the events that answer it, and the sessions."""
    db.execute("""
CREATE INDEX outbox_cause ON outbox (cause_id) WHERE cause_id IS NOT NULL;
CREATE INDEX sessions_event ON sessions (event_id);
""")


def _results(db: apsw.Connection) -> None:
    """Results, of all and of each agent; and the dead letters of each. Few events are results."""
    db.execute("""
CREATE INDEX outbox_results ON outbox (json_type(payload, '$.title'))
  WHERE json_type(payload, '$.title') = 'text';
CREATE INDEX outbox_results_of ON outbox (agent, json_type(payload, '$.title'))
  WHERE json_type(payload, '$.title') = 'text';
CREATE INDEX dead_letters_of ON dead_letters (agent, event_id);
""")


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
    _forced,
    _approvals,
    _triggers,
    _words,
    _causes,
    _results,
)
