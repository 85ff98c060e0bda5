"""Every query of the bus and of the sessions. Tables are made in schema.py."""

_EVENT = "id, agent, event_type, payload, created_at, target, priority, cause_id, depth, dedup_key"

# --- transactions

# Takes the write lock at once: a deferred transaction fails with SQLITE_BUSY when it upgrades.
BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# --- outbox

# Append one event; a known dedup_key writes nothing.
PUBLISH = """
INSERT INTO outbox (agent, event_type, payload, created_at, target, priority, cause_id, depth,
                    dedup_key)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (dedup_key) DO NOTHING
"""

# The highest id ever given, also when the outbox was pruned empty.
LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'"

# A lane's cursor and the highest id, in one snapshot.
POSITION = """
SELECT (SELECT last_seen_id FROM cursors WHERE consumer = ?),
       (SELECT seq FROM sqlite_sequence WHERE name = 'outbox')
"""

# The next event addressed to an agent.
NEXT_DIRECT = f"SELECT {_EVENT} FROM outbox WHERE target = ? AND id > ? ORDER BY id LIMIT 1"

# The next event of one exact type, from somebody else: one index seek.
NEXT_OF_TYPE = f"""
SELECT {_EVENT} FROM outbox
WHERE event_type = ? AND id > ? AND target IS NULL AND agent <> ? ORDER BY id LIMIT 1
"""

# The next event of several exact types (a JSON array), from somebody else: one seek per type.
NEXT_OF_TYPES = f"""
SELECT {_EVENT} FROM outbox WHERE id = (
  SELECT min((SELECT id FROM outbox
              WHERE event_type = wanted.value AND id > ?2 AND target IS NULL AND agent <> ?3
              ORDER BY id LIMIT 1))
  FROM json_each(?1) AS wanted)
"""

# The distinct types in [first, end): a skip scan, one index seek per type.
TYPES_BETWEEN = """
WITH RECURSIVE types (name) AS (
  SELECT min(event_type) FROM outbox WHERE event_type >= ?1 AND event_type < ?2
  UNION ALL
  SELECT (SELECT min(event_type) FROM outbox WHERE event_type > types.name AND event_type < ?2)
  FROM types WHERE types.name IS NOT NULL)
SELECT name FROM types WHERE name IS NOT NULL
"""

# How many events wait for an agent on its direct lane.
WAITING_DIRECT = "SELECT count(*) FROM outbox WHERE target = ? AND id > ?"

# How many events of some types (a JSON array) wait for an agent.
WAITING_TYPES = """
SELECT count(*) FROM json_each(?1) AS wanted CROSS JOIN outbox
  ON event_type = wanted.value
WHERE outbox.id > ?2 AND target IS NULL AND agent <> ?3
"""

# One event.
EVENT = f"SELECT {_EVENT} FROM outbox WHERE id = ?"

# JSON5 that a person wrote by hand (the CHECK lets it pass), as strict JSON.
STRICT_JSON = "SELECT json(?)"

# Step a lane, if its cursor still stands where it was read.
STEP = "UPDATE cursors SET last_seen_id = ? WHERE consumer = ? AND last_seen_id = ?"

# Where a lane stands.
CURSOR = "SELECT last_seen_id FROM cursors WHERE consumer = ?"

# Create a lane's cursor; an existing one keeps its place.
CREATE_CURSOR = (
    "INSERT INTO cursors (consumer, last_seen_id) VALUES (?, ?) ON CONFLICT (consumer) DO NOTHING"
)


def events(*, agent: bool, exact: bool, prefix: bool, newest: bool) -> str:
    """Select events between two ids for people; the flags say which filters apply.

    Parameters: after, limit, agent, event_type, and end for a prefix.
    """
    where = ["id > :after"]
    if agent:
        where.append("agent = :agent")
    if exact:
        where.append("event_type = :event_type")
    if prefix:
        # The "+" keeps the index out: in id order the scan ends at the limit, with nothing to sort.
        where.append("+event_type >= :event_type AND +event_type < :end")
    order = "DESC" if newest else "ASC"
    return (
        f"SELECT {_EVENT} FROM outbox WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT :limit"
    )


# --- agents

# Accept an agent, or a new version of it; it keeps being paused.
ACCEPT = """
INSERT INTO agents (name, version, subscribe, accepted_at) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, subscribe = excluded.subscribe,
  accepted_at = excluded.accepted_at, removed_at = NULL
"""

# Mark an agent as removed; its row and cursors stay.
REMOVE = "UPDATE agents SET removed_at = ? WHERE name = ? AND removed_at IS NULL"

# Pause an agent or let it go on.
SET_PAUSED = "UPDATE agents SET paused = ? WHERE name = ?"

# Every agent ever accepted.
AGENTS = (
    "SELECT name, version, subscribe, paused, accepted_at, removed_at FROM agents ORDER BY name"
)

# What the present agents subscribe to.
SUBSCRIPTIONS = "SELECT name, subscribe FROM agents WHERE removed_at IS NULL"

# --- facts

# What an agent remembers.
FACTS = "SELECT key, value FROM facts WHERE agent = ?"

# Remember one fact.
REMEMBER = """
INSERT INTO facts (agent, key, value, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (agent, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
"""

# --- schedules

# When a schedule was last due, and whether the direct lane has yet to answer what it published.
SCHEDULE = """
SELECT last_due, coalesce(last_event_id > (SELECT last_seen_id FROM cursors WHERE consumer = ?3), 0)
FROM schedules WHERE agent = ?1 AND schedule = ?2
"""

# Note when a schedule was last due; without a new event the last one stays.
SET_SCHEDULE = """
INSERT INTO schedules (agent, schedule, last_due, last_event_id) VALUES (?, ?, ?, ?)
ON CONFLICT (agent, schedule) DO UPDATE SET last_due = excluded.last_due,
  last_event_id = coalesce(excluded.last_event_id, last_event_id)
"""

# --- dead letters

_LETTER_EVENT = (
    "event_id, producer, event_type, payload, created_at, target, priority, cause_id, depth"
)

# Bury an event.
BURY = f"""
INSERT INTO dead_letters (agent, reason, error, session_id, dead_at, {_LETTER_EVENT})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

# Bury an event that cannot be read, as it lies in the outbox.
BURY_ROW = f"""
INSERT INTO dead_letters (agent, reason, error, session_id, dead_at, {_LETTER_EVENT})
SELECT ?, ?, ?, NULL, ?, id, agent, event_type, payload, created_at, target, priority, cause_id,
  depth FROM outbox WHERE id = ?
"""

# Dead letters, newest first, of one agent or of all.
LETTERS = f"""
SELECT id, agent, reason, error, session_id, dead_at, {_LETTER_EVENT} FROM dead_letters
WHERE ?1 IS NULL OR agent = ?1 ORDER BY id DESC LIMIT ?2
"""

# One dead letter.
LETTER = f"""
SELECT id, agent, reason, error, session_id, dead_at, {_LETTER_EVENT}
FROM dead_letters WHERE id = ?
"""

# Publish a dead letter's event again: through the direct lane of the agent that failed it, or, when
# it was a loop, to whom it was meant for, as the start of a new chain.
RETRY_LETTER = """
INSERT INTO outbox (agent, event_type, payload, created_at, target, priority, cause_id, depth)
SELECT producer, event_type, payload, ?2,
  CASE reason WHEN 'loop' THEN target ELSE agent END, priority, cause_id,
  CASE reason WHEN 'loop' THEN 0 ELSE depth END
FROM dead_letters WHERE id = ?1
"""

# Forget a dead letter.
DROP_LETTER = "DELETE FROM dead_letters WHERE id = ?"

# --- sessions

_SESSION = (
    "id, agent, consumer, event_id, delivered_id, event_type, version, state, attempt, started_at,"
    " ended_at, settled_seq, settled_effect, question, outcome, error, event"
)

# Open a session.
OPEN_SESSION = """
INSERT INTO sessions (agent, consumer, event_id, delivered_id, event_type, version, started_at,
                      event)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""

# The session that a lane's worker was running.
RUNNING_SESSION = f"SELECT {_SESSION} FROM sessions WHERE consumer = ? AND state = 'running'"

# One session.
SESSION = f"SELECT {_SESSION} FROM sessions WHERE id = ?"

# Take a cut or parked session up again: the higher attempt shuts out whoever held it before.
RESUME_SESSION = """
UPDATE sessions SET state = 'running', attempt = attempt + 1, consumer = ?2, delivered_id = ?3,
  ended_at = NULL, question = NULL WHERE id = ?1
"""

# Bring a session to rest, if it is still ours.
CLOSE_SESSION = """
UPDATE sessions SET state = ?, ended_at = ?, settled_seq = ?, settled_effect = ?, question = ?,
  outcome = ?, error = ?, event = coalesce(?, event)
WHERE id = ? AND state IN ('running', 'parked') AND attempt = ?
"""

# Append a step, if the session is still ours.
RECORD_STEP = """
INSERT INTO steps (session_id, seq, kind, type, payload, ts, trusted, idempotent, staged,
                   prompt_tokens, cached_tokens, completion_tokens, duration_ms, raw, active_ms)
SELECT ?1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16
WHERE EXISTS (SELECT 1 FROM sessions WHERE id = ?1 AND state = 'running' AND attempt = ?2)
"""

# A session's steps.
STEPS = """
SELECT seq, kind, type, payload, ts, trusted, idempotent, staged, prompt_tokens, cached_tokens,
  completion_tokens, duration_ms, raw, active_ms
FROM steps WHERE session_id = ? ORDER BY seq
"""

# The start of an agent's n-th newest session. What began in the future did so before the wall clock
# was set back: it must not hold the agent up until then.
NTH_NEWEST_START = """
SELECT started_at FROM sessions WHERE agent = ? AND started_at <= ?
ORDER BY started_at DESC LIMIT 1 OFFSET ?
"""

# Sessions for people, newest first, with their turns and tokens.
SESSIONS = """
SELECT id, agent, event_id, event_type, version, state, attempt, started_at, ended_at, question,
  outcome, error,
  (SELECT count(*) FROM steps WHERE session_id = sessions.id AND kind = 'decision'),
  (SELECT coalesce(sum(prompt_tokens), 0) FROM steps WHERE session_id = sessions.id),
  (SELECT coalesce(sum(completion_tokens), 0) FROM steps WHERE session_id = sessions.id)
FROM sessions
WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR state = ?2) AND (?3 IS NULL OR id = ?3)
ORDER BY id DESC LIMIT ?4
"""

# --- deliveries

# What was tried on a lane's event so far.
DELIVERY = """
SELECT attempts, total_attempts, failures, blocked_s, next_at FROM deliveries
WHERE consumer = ? AND event_id = ?
"""

# Note what was tried on a lane's event.
SET_DELIVERY = """
INSERT OR REPLACE INTO deliveries (consumer, event_id, attempts, total_attempts, failures,
                                   blocked_s, next_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

# An attempt recorded a step: count anew.
RESET_ATTEMPTS = "UPDATE deliveries SET attempts = 0 WHERE consumer = ? AND event_id = ?"

# An orderly stop: the attempt was none.
REFUND_ATTEMPT = """
UPDATE deliveries SET attempts = max(attempts - 1, 0), total_attempts = max(total_attempts - 1, 0)
WHERE consumer = ? AND event_id = ?
"""

# --- status

# An agent's newest session.
LAST_SESSION = """
SELECT id, state, started_at, ended_at FROM sessions WHERE agent = ?
ORDER BY started_at DESC LIMIT 1
"""

# How many dead letters each agent has.
LETTER_COUNTS = "SELECT agent, count(*) FROM dead_letters GROUP BY agent"
