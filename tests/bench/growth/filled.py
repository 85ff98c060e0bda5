"""A database that holds so many events, with what comes of them, written by SQL alone."""

from datetime import datetime
from pathlib import Path

import apsw

from agentd.bus import Bus
from agentd.paths import Paths

AGENTS = 20
ROWS = 500_000  # of a transaction
SESSION_EVERY = 20  # a session for so many events, with four steps
LETTERS_MOST = 100  # dead letters: how many there are says nothing of how many events there were
RESULT_EVERY = 50  # a result among so many events
NEEDLES = 10  # events with one rare word, however many there are
SPACING_S = 15  # between two events: the last hours hold the same, whatever lies before them
# One in ten has a target, one in four answers the one before.
EVENTS = f"""
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO outbox (id, agent, event_type, payload, created_at, target, cause_id, depth)
SELECT i, 'agent' || (i % {AGENTS}), 'thing.' || iif(i % {RESULT_EVERY}, 'seen', 'found')
    || (i % {AGENTS}),
  iif(i % {RESULT_EVERY},
    json_object('n', i, 'text', 'word' || (i * 7919 % 5003) || ' common'),
    json_object('title', 'Result ' || i, 'text', '* a line of word' || (i * 7919 % 5003)
      || iif(i % max(:all / {NEEDLES}, {RESULT_EVERY}), '', ' needle'))),
  strftime('%Y-%m-%dT%H:%M:%fZ', :end + {SPACING_S} * (i - :all), 'unixepoch'),
  iif(i % 10, NULL, 'agent' || (i % {AGENTS})), iif(i % 4, NULL, i - 1), iif(i % 4, 0, 1)
FROM n
"""
WORDS = """
INSERT INTO outbox_words (rowid, words)
SELECT id, agent || ' ' || event_type || ' ' || coalesce(payload ->> '$.title', '')
  || ' ' || (payload ->> '$.text')
FROM outbox WHERE id BETWEEN :first AND :last
"""
SESSIONS = f"""
INSERT INTO sessions (agent, consumer, event_id, delivered_id, event_type, version, state,
                      started_at, ended_at)
SELECT 'agent' || (id / {SESSION_EVERY} % {AGENTS}), 'agent' || (id / {SESSION_EVERY} % {AGENTS}),
  id, id, event_type, 'v', iif(id % 7, 'ended', 'failed'), created_at, created_at
FROM outbox WHERE id BETWEEN :first AND :last AND id % {SESSION_EVERY} = 0
"""
OF_STEPS = """
INSERT INTO steps (session_id, seq, kind, type, payload, ts, trusted, idempotent, prompt_tokens,
                   completion_tokens, duration_ms, active_ms, basis)
SELECT sessions.id, step.value, iif(step.value = 2, 'decision', 'result'), 'ReadFile',
  json_object('path', 'src/file' || sessions.id || '.py'), started_at, 0, 1, 1500, 20, 900.5, 10,
  '{"counts":[150],"context_tokens":1500}'
FROM sessions, json_each('[1,2,3,4]') AS step
WHERE sessions.id > coalesce((SELECT max(session_id) FROM steps), 0)
"""
LETTERS = f"""
INSERT INTO dead_letters (agent, reason, error, dead_at, event_id, producer, event_type, payload,
                          created_at, priority, depth)
SELECT agent, 'failed', 'the tool said no', created_at, id, agent, event_type, payload, created_at,
  'event', 0
FROM outbox WHERE id BETWEEN :first AND :last AND id % 10 = 0 AND id <= 10 * {LETTERS_MOST}
"""
CURSORS = "UPDATE cursors SET last_seen_id = ?"


def fill(paths: Paths, events: int, now: datetime) -> None:
    """Make the home's database, with AGENTS agents that have read all of it."""
    bus = Bus(paths.database)
    for number in range(AGENTS):
        types = (f"thing.seen{(number + 1) % AGENTS}", f"thing.found{(number + 2) % AGENTS}")
        bus.accept(f"agent{number}", "v", subscribe=types)
    db = bus.db.connection
    db.pragma("synchronous", "OFF")  # nobody needs it after a power failure
    db.pragma("cache_size", -200_000)
    for first in range(1, events + 1, ROWS):
        last = min(events, first + ROWS - 1)
        given = {"first": first, "last": last, "all": events, "end": now.timestamp()}
        with bus.transaction():
            bus.db.run(EVENTS, given)
            span = {"first": first, "last": last}
            for statement in (WORDS, SESSIONS, LETTERS):
                bus.db.run(statement, span)
            bus.db.run(OF_STEPS)
        bus.db.checkpoint()
    bus.db.run(CURSORS, (events,))
    bus.close()


def file_bytes(path: Path) -> int:
    """Return the bytes of a database that nobody writes, its log written back."""
    db = apsw.Connection(str(path))
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    db.close()
    return path.stat().st_size
