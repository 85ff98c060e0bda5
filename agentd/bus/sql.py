"""Every query of the bus and of the sessions. Tables are made in migrations.py."""

EVENT_COLUMNS = (
    "id, agent, event_type, payload, created_at, target, priority, cause_id, depth, dedup_key"
)
_EVENT = EVENT_COLUMNS
ID_END = 2**63 - 1  # above every event's
# Whether a row may be a result; `events.is_result` has the last word. A blank title is none: where
# only that was left to it, a list of results read a page for every 20 of them, for 18 s. The first
# line is that of the indexes of results, to the letter.
_BLANK = ", ".join(str(code) for code in range(0x3001) if chr(code).isspace())
_TITLED = (
    "(json_type(payload, '$.title') = 'text'"
    f" AND trim(payload ->> '$.title', char({_BLANK})) != '')"
)


def undecoded(statement: str, columns: str) -> str:
    """Return a SELECT of these columns that gives its texts as bytes: somebody's may be none."""
    bare = (
        f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END"
        for name in columns.split(", ")
    )
    return f"SELECT {', '.join(bare)} FROM ({statement})"


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

# Whether the payload holds, for each field of the JSON object ?4, one of its values. A truth value
# is no number here, as SQLite has it.
_FITS = """NOT EXISTS (
  SELECT 1 FROM json_each(?4) AS field WHERE NOT EXISTS (
    SELECT 1 FROM json_each(field.value) AS one
    WHERE one.atom = json_extract(outbox.payload, '$."' || field.key || '"')
    AND (one.type IN ('true', 'false'))
      = (json_type(outbox.payload, '$."' || field.key || '"') IN ('true', 'false'))))"""

# The same of which the payload fits.
NEXT_FITTING_OF_TYPE = f"""
SELECT {_EVENT} FROM outbox
WHERE event_type = ?1 AND id > ?2 AND target IS NULL AND agent <> ?3 AND {_FITS}
ORDER BY id LIMIT 1
"""

# The next event of several exact types (a JSON array), from somebody else: one seek per type.
NEXT_OF_TYPES = f"""
SELECT {_EVENT} FROM outbox WHERE id = (
  SELECT min((SELECT id FROM outbox
              WHERE event_type = wanted.value AND id > ?2 AND target IS NULL AND agent <> ?3
              ORDER BY id LIMIT 1))
  FROM json_each(?1) AS wanted)
"""

# The same of which the payload fits.
NEXT_FITTING_OF_TYPES = f"""
SELECT {_EVENT} FROM outbox WHERE id = (
  SELECT min((SELECT id FROM outbox
              WHERE event_type = wanted.value AND id > ?2 AND target IS NULL AND agent <> ?3
              AND {_FITS} ORDER BY id LIMIT 1))
  FROM json_each(?1) AS wanted)
"""

# When the newest event was created.
NEWEST_EVENT = "SELECT created_at FROM outbox ORDER BY id DESC LIMIT 1"

# The distinct types in [first, end): a skip scan, one index seek per type.
TYPES_BETWEEN = """
WITH RECURSIVE types (name) AS (
  SELECT min(event_type) FROM outbox WHERE event_type >= ?1 AND event_type < ?2
  UNION ALL
  SELECT (SELECT min(event_type) FROM outbox WHERE event_type > types.name AND event_type < ?2)
  FROM types WHERE types.name IS NOT NULL)
SELECT name FROM types WHERE name IS NOT NULL
"""

# How many events wait for an agent on its direct lane, up to so many.
WAITING_DIRECT = """
SELECT count(*) FROM (SELECT 1 FROM outbox WHERE target = ? AND id > ? LIMIT ?)
"""

# How many events of some types (a JSON array) wait for an agent, whose payload fits, up
# to ?5.
WAITING_TYPES = f"""
SELECT count(*) FROM (
  SELECT 1 FROM json_each(?1) AS wanted CROSS JOIN outbox ON event_type = wanted.value
  WHERE outbox.id > ?2 AND target IS NULL AND agent <> ?3 AND (?4 = '{{}}' OR {_FITS}) LIMIT ?5)
"""

# One event.
EVENT = f"SELECT {_EVENT} FROM outbox WHERE id = ?"

# The events that answer one, the oldest first.
EFFECTS = f"SELECT {_EVENT} FROM outbox WHERE cause_id = ? ORDER BY id LIMIT ?"

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

# Every lane's cursor, the slowest first.
CURSORS = "SELECT consumer, last_seen_id FROM cursors ORDER BY last_seen_id, consumer"


def events(
    *, agent: bool, exact: bool, prefix: bool, since: bool, until: bool, newest: bool
) -> str:
    """Select events between two ids for people; the flags say which filters apply.

    Parameters: after, before, limit, agent, event_type, end for a prefix, since and until.
    """
    where = ["id > :after AND id < :before"]
    if agent:
        where.append("agent = :agent")
    if exact:
        where.append("event_type = :event_type")
    if prefix:
        # The "+" keeps the index out: in id order the scan ends at the limit, with nothing to sort.
        where.append("+event_type >= :event_type AND +event_type < :end")
    where += ["created_at >= :since"] if since else []
    where += ["created_at < :until"] if until else []
    order = "DESC" if newest else "ASC"
    return (
        f"SELECT {_EVENT} FROM outbox WHERE {' AND '.join(where)} ORDER BY id {order} LIMIT :limit"
    )


# --- search

# Whether the index of words lacks an event: it takes them up in order.
LACKS_WORDS = """
SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)
  > coalesce((SELECT max(id) FROM outbox_words_docsize), 0) AND EXISTS (SELECT 1 FROM outbox
  WHERE id > coalesce((SELECT max(id) FROM outbox_words_docsize), 0))
"""

# The next events that it lacks.
WITHOUT_WORDS = """
SELECT id, agent, event_type, payload FROM outbox
WHERE id > coalesce((SELECT max(id) FROM outbox_words_docsize), 0) ORDER BY id LIMIT ?
"""

# Add the words of an event.
ADD_WORDS = "INSERT INTO outbox_words (rowid, words) VALUES (?, ?)"

# Forget the words of events that are gone.
DROP_WORDS = """
DELETE FROM outbox_words WHERE rowid IN (
  SELECT id FROM outbox_words_docsize
  WHERE id < coalesce((SELECT min(id) FROM outbox), 1 << 60) ORDER BY id LIMIT ?)
"""

# The newest events with some words, for people or for one who may read these types (a JSON array,
# each exact or a `prefix.*`: both are patterns of GLOB).
SEARCH = f"""
SELECT {_EVENT} FROM (
  SELECT rowid AS found FROM outbox_words WHERE outbox_words MATCH :words AND rowid < :before
  ORDER BY rowid DESC LIMIT :most
) CROSS JOIN outbox ON id = found
WHERE (:agent IS NULL OR agent = :agent) AND created_at >= :since
AND (:until IS NULL OR created_at < :until) AND (NOT :titled OR {_TITLED})
AND (:reader IS NULL OR agent = :reader OR target = :reader OR (target IS NULL AND EXISTS (
  SELECT 1 FROM json_each(:types) AS wanted WHERE event_type GLOB wanted.value)))
ORDER BY found DESC LIMIT :limit
"""

# The newest events with a word.
WITH_WORD = """
SELECT rowid AS found FROM outbox_words WHERE outbox_words MATCH ? ORDER BY rowid DESC LIMIT ?
"""

# Those of some events (a JSON array of ids) that others published for all or for a reader, of these
# types (a JSON array of patterns of GLOB), without questions.
OTHERS_AMONG = f"""
SELECT {_EVENT} FROM outbox WHERE id IN (SELECT value FROM json_each(:ids))
AND agent != :reader AND event_type != 'question.asked' AND (target IS NULL OR target = :reader)
AND EXISTS (SELECT 1 FROM json_each(:types) AS wanted WHERE event_type GLOB wanted.value)
"""

# --- results, and where they are sent


def results(*, agent: bool, newest: bool) -> str:
    """Select results of a time, of one agent or of all, by an index of each; see `EventRows`.

    Parameters: before where the `newest` are wanted, else after; agent, since, until, limit. By one
    statement for all, with "any agent, or this one", SQLite reads the whole table.
    """
    whose = "agent = :agent AND " if agent else ""
    return f"""
SELECT {_EVENT} FROM outbox
WHERE {whose}{"id < :before" if newest else "id > :after"} AND {_TITLED}
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY id {"DESC" if newest else "ASC"} LIMIT :limit
"""


# The newest result of an agent after an id, without types that begin as one of a JSON array does:
# the system's own.
LAST_RESULT = f"""
SELECT {_EVENT} FROM outbox WHERE agent = ?1 AND id > ?2 AND {_TITLED} AND NOT EXISTS (
  SELECT 1 FROM json_each(?3) AS own WHERE substr(event_type, 1, length(own.value)) = own.value)
ORDER BY id DESC LIMIT 1
"""

# The newest results of others, of these types, that an agent may read; and how many there are.
_OTHERS_RESULTS = f"""
FROM outbox WHERE id > :after AND id <= :until AND agent != :reader AND created_at >= :since
  AND (target IS NULL OR target = :reader) AND {_TITLED}
  AND EXISTS (SELECT 1 FROM json_each(:types) AS wanted WHERE event_type GLOB wanted.value)
"""
OTHERS_RESULTS = f"SELECT {_EVENT} {_OTHERS_RESULTS} ORDER BY id DESC LIMIT :limit"
COUNT_OTHERS_RESULTS = f"SELECT count(*) {_OTHERS_RESULTS}"

# What of the events between two ids a person may want to hear of; and how much.
_TOLD = "event_type IN ('person.asked', 'agent.parked', 'agent.refused', 'agentd.deliver')"
_NEWS = f"""
FROM outbox WHERE id > ?1 AND id <= ?2 AND ({_TITLED} OR {_TOLD})
"""
NEWS = f"SELECT {_EVENT} {_NEWS} ORDER BY id LIMIT ?3"
NEWS_COUNT = f"SELECT count(*) {_NEWS}"
# Before the first of them that is no result, or the last of all.
NEWS_UNTIL = f"SELECT coalesce(min(id) - 1, ?2) FROM outbox WHERE id > ?1 AND id <= ?2 AND {_TOLD}"

# The dead letters between two ids, counted by agent, each with the error of the last one.
NEWS_OF_LETTERS = """
SELECT max(id), agent, count(*) AS letters, error, dead_at FROM dead_letters
WHERE id > ?1 AND id <= ?2 GROUP BY agent ORDER BY max(id)
"""

# The highest ids ever given to events and to dead letters.
LAST_IDS = """
SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'outbox'),
       (SELECT seq FROM sqlite_sequence WHERE name = 'dead_letters')
"""

# Whether the same was said of an agent before an event and not before a moment.
SAID_BEFORE = """
SELECT 1 FROM outbox WHERE event_type = ?1 AND id < ?2 AND created_at >= ?3
  AND json_extract(payload, '$.agent') = ?4 LIMIT 1
"""

# Whether a session still waits for what it asked.
STILL_ASKED = "SELECT 1 FROM sessions WHERE id = ? AND state = 'parked' AND question IS ?"

# Forget ways that results do not go any more: their cursors, and what was noted of them.
DROP_WAYS = """
DELETE FROM cursors WHERE consumer GLOB 'agentd.deliver/*'
  AND substr(consumer, 16) NOT IN (SELECT value FROM json_each(?))
"""
DROP_WAY_FACTS = """
DELETE FROM facts WHERE agent = 'agentd.deliver' AND key GLOB 'way:*'
  AND substr(key, 5) NOT IN (SELECT value FROM json_each(?))
"""

# --- agents

# Accept an agent, or a new version of it; it keeps being paused.
ACCEPT = """
INSERT INTO agents (name, version, subscribe, fits, accepted_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, subscribe = excluded.subscribe,
  fits = excluded.fits, accepted_at = excluded.accepted_at, removed_at = NULL
"""

# Mark an agent as removed; its row and cursors stay.
REMOVE = "UPDATE agents SET removed_at = ? WHERE name = ? AND removed_at IS NULL"

# Pause an agent or let it go on.
SET_PAUSED = "UPDATE agents SET paused = ? WHERE name = ?"

# Every agent ever accepted.
AGENT_COLUMNS = "name, version, subscribe, fits, paused, accepted_at, removed_at"
AGENTS = f"SELECT {AGENT_COLUMNS} FROM agents ORDER BY name"

# What an agent's last labelled decisions of a class rest on, by its version and model: a session
# may go on with another one. Only a few sessions are looked through: where the last ones labelled
# nothing, it begins anew.
LABELS = """
SELECT labels FROM (
  SELECT t.session_id, t.seq, json_extract(t.basis, '$.labels.' || ?) AS labels FROM (
    SELECT id, version FROM sessions WHERE agent = ? ORDER BY id DESC LIMIT 100
  ) s JOIN steps t ON t.session_id = s.id AND s.version = ?
  WHERE t.kind = 'decision' AND t.type = ? AND json_valid(t.basis)
) WHERE json_extract(labels, '$.model') = ? ORDER BY session_id DESC, seq DESC LIMIT ?
"""

# How the newest label was taken that the model chose, of all agents or of one. By two statements:
# with "any agent, or this one" SQLite reads the whole table for each agent.
_NEWEST_LABELS = """
SELECT json_extract(label.value, '$.by') FROM steps,
  json_each(CASE WHEN json_valid(basis) THEN basis END, '$.labels') AS label
WHERE session_id IN (
  SELECT id FROM sessions {whose} ORDER BY id DESC LIMIT 20
) AND kind = 'decision' AND json_extract(label.value, '$.by') <> 'closed'
ORDER BY session_id DESC, seq DESC LIMIT 1
"""
NEWEST_LABELS = _NEWEST_LABELS.format(whose="")
NEWEST_LABELS_OF = _NEWEST_LABELS.format(whose="WHERE agent = ?")

# --- facts

# What an agent remembers.
FACTS = "SELECT key, value FROM facts WHERE agent = ?"

# Remember one fact.
REMEMBER = """
INSERT INTO facts (agent, key, value, updated_at) VALUES (?, ?, ?, ?)
ON CONFLICT (agent, key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
"""

# Forget one fact.
FORGET = "DELETE FROM facts WHERE agent = ? AND key = ?"

# --- schedules

# When a schedule was last due, and whether the direct lane has yet to answer what it published.
SCHEDULE = """
SELECT last_due, coalesce(last_event_id > (SELECT last_seen_id FROM cursors WHERE consumer = ?3), 0)
FROM schedules WHERE agent = ?1 AND schedule = ?2
"""

# The keys of a schedule's last runs.
FIRED = "SELECT fired FROM schedules WHERE agent = ? AND schedule = ?"

# Note when a schedule was last due; without a new event the last one and all keys stay.
SET_SCHEDULE = """
INSERT INTO schedules (agent, schedule, last_due, last_event_id, fired) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (agent, schedule) DO UPDATE SET last_due = excluded.last_due,
  last_event_id = coalesce(excluded.last_event_id, last_event_id),
  fired = coalesce(excluded.fired, fired)
"""

# Let a schedule count from a moment on, unless it does already.
BEGIN_SCHEDULE = """
INSERT INTO schedules (agent, schedule, last_due) VALUES (?, ?, ?)
ON CONFLICT (agent, schedule) DO NOTHING
"""

# Forget an agent's schedules, all but some (a JSON array).
DROP_OTHER_SCHEDULES = """
DELETE FROM schedules WHERE agent = ? AND schedule NOT IN (SELECT value FROM json_each(?))
"""

# Whether an agent was removed or disabled, and has not come back.
WAS_REMOVED = "SELECT 1 FROM agents WHERE name = ? AND removed_at IS NOT NULL"

# --- events of an agent's own to come

# Note one.
ADD_LATER = "INSERT INTO later (agent, due, payload, cause_id, depth) VALUES (?, ?, ?, ?, ?)"

# Those of one agent or of all, the next one first. By two statements: with "all, or this one" the
# status of each agent reads those of all.
LATER_COLUMNS = "id, agent, due, payload, cause_id, depth"
LATERS = f"SELECT {LATER_COLUMNS} FROM later ORDER BY due, id LIMIT ?"
LATERS_OF = f"SELECT {LATER_COLUMNS} FROM later WHERE agent = ? ORDER BY due, id LIMIT ?"

# How many an agent has.
COUNT_LATERS = "SELECT count(*) FROM later WHERE agent = ?"

# Forget one; all of an agent.
DROP_LATER = "DELETE FROM later WHERE id = ?"
DELETE_LATERS = "DELETE FROM later WHERE agent = ?"

# --- files that were seen

# What an agent has seen of its watched folders.
SEEN_COLUMNS = "fingerprint, path, stamp"
SEEN = f"SELECT {SEEN_COLUMNS} FROM seen_files WHERE agent = ?"

# Whether it has seen this content.
WAS_SEEN = "SELECT 1 FROM seen_files WHERE agent = ? AND fingerprint = ?"

# The newest event that told an agent of this content at this path, if it is not done with it: it
# has yet to read it, is at it, or waits for a person. By these and not by all of its events: the
# "+" keeps the index over agents out, by which all of its sessions would be looked at.
OPEN_FILE = """
SELECT max(id) FROM outbox WHERE id IN (
  SELECT id FROM outbox
  WHERE target = ?1 AND id > (SELECT last_seen_id FROM cursors WHERE consumer = ?5)
  UNION ALL SELECT event_id FROM sessions WHERE state = 'running' AND +agent = ?1
  UNION ALL SELECT event_id FROM sessions WHERE state = 'parked' AND +agent = ?1)
AND +target = ?1 AND +event_type = ?2
AND json_extract(payload, '$.path') = ?3 AND json_extract(payload, '$.fingerprint') = ?4
"""

# Note a content, and where it lies now.
SEE = """
INSERT INTO seen_files (agent, fingerprint, path, stamp, seen_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (agent, fingerprint) DO UPDATE SET path = excluded.path, stamp = excluded.stamp
"""

# Forget the contents that were first seen longest ago, beyond so many, of which the path is none of
# those that are there (a JSON array).
FORGET_SEEN = """
DELETE FROM seen_files WHERE agent = ?1 AND fingerprint IN (
  SELECT fingerprint FROM seen_files WHERE agent = ?1
  AND path NOT IN (SELECT value FROM json_each(?2)) ORDER BY seen_at
  LIMIT max(0, (SELECT count(*) FROM seen_files WHERE agent = ?1) - ?3))
"""

# Forget all that a removed agent has seen, some of it at a time.
DELETE_SEEN = """
DELETE FROM seen_files WHERE agent = ?1
AND fingerprint IN (SELECT fingerprint FROM seen_files WHERE agent = ?1 LIMIT ?2)
"""

# --- dead letters

_LETTER_EVENT = (
    "event_id, producer, event_type, payload, created_at, target, priority, cause_id, depth"
)

LETTER_COLUMNS = f"id, agent, reason, error, session_id, dead_at, {_LETTER_EVENT}"

# Bury an event.
BURY = f"""
INSERT INTO dead_letters (agent, reason, error, session_id, dead_at, {_LETTER_EVENT})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

# Bury an event as it lies in the outbox, unread.
BURY_ROW = f"""
INSERT INTO dead_letters (agent, reason, error, session_id, dead_at, {_LETTER_EVENT})
SELECT ?, ?, ?, ?, ?, id, agent, event_type, payload, created_at, target, priority, cause_id,
  depth FROM outbox WHERE id = ?
"""

# Dead letters, newest first, of one agent or of all.
LETTERS = f"""
SELECT {LETTER_COLUMNS} FROM dead_letters
WHERE (:agent IS NULL OR agent = :agent) AND id < :before
  AND (:since IS NULL OR dead_at >= :since) AND (:until IS NULL OR dead_at < :until)
ORDER BY id DESC LIMIT :limit
"""

# One dead letter.
LETTER = f"SELECT {LETTER_COLUMNS} FROM dead_letters WHERE id = ?"

# An agent's dead letter of an event.
LETTER_OF_EVENT = f"""
SELECT {LETTER_COLUMNS} FROM dead_letters WHERE agent = ? AND event_id = ? ORDER BY id DESC LIMIT 1
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
    " ended_at, settled_seq, settled_effect, question, outcome, error, event, basis"
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
  outcome = ?, forced = ?, error = ?, event = coalesce(?, event)
WHERE id = ? AND state IN ('running', 'parked') AND attempt = ?
"""

# Note what a session depended on.
SET_BASIS = "UPDATE sessions SET basis = ? WHERE id = ?"

# Append a step, if the session is still ours.
RECORD_STEP = """
INSERT INTO steps (session_id, seq, kind, type, payload, ts, trusted, idempotent, staged,
                   prompt_tokens, cached_tokens, completion_tokens, duration_ms, raw, active_ms,
                   basis)
SELECT ?1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17
WHERE EXISTS (SELECT 1 FROM sessions WHERE id = ?1 AND state = 'running' AND attempt = ?2)
"""

_STEP = (
    "seq, kind, type, payload, ts, trusted, idempotent, staged, prompt_tokens, cached_tokens,"
    " completion_tokens, duration_ms, raw, active_ms, basis"
)

# A session's steps.
STEPS = f"SELECT {_STEP} FROM steps WHERE session_id = ? ORDER BY seq"

# Those from its last decision on.
LAST_STEPS = f"""
SELECT {_STEP} FROM steps WHERE session_id = ?1 AND seq >= (
  SELECT max(seq) FROM steps WHERE session_id = ?1 AND kind = 'decision') ORDER BY seq
"""

# Where a session's n-th decision stands, from 0 on.
NTH_DECISION = """
SELECT seq FROM steps WHERE session_id = ? AND kind = 'decision' ORDER BY seq LIMIT 1 OFFSET ?
"""

# Steps between two of a session, as people look at them: of long texts the beginning and how long
# they are, and without what only a replay reads.
TIMELINE = """
SELECT seq, kind, type, substr(payload, 1, :most), length(payload), ts, trusted,
  substr(staged, 1, :most), length(staged), prompt_tokens, cached_tokens, completion_tokens,
  duration_ms, active_ms,
  CASE WHEN json_valid(basis)
  THEN json_remove(basis, '$.counts', '$.scored', '$.candidates', '$.whole') END
FROM steps WHERE session_id = :session AND seq >= :first AND seq < :end ORDER BY seq
"""

# The model that a session asked, its window, the share of it that may be used, and the time that it
# worked so far, in milliseconds.
SESSION_WINDOW = """
SELECT basis ->> '$.model', basis ->> '$.window', basis ->> '$.config.limits.context_share',
  coalesce((SELECT active_ms FROM steps WHERE session_id = id ORDER BY seq DESC LIMIT 1), 0)
FROM (SELECT id, CASE WHEN json_valid(basis) THEN basis END AS basis FROM sessions WHERE id = ?)
"""

# The sessions that answer an event, the oldest first.
SESSIONS_OF = """
SELECT id, agent, state, started_at, ended_at FROM sessions WHERE event_id = ? ORDER BY id LIMIT ?
"""

# What waits for a person, the oldest first; all of it or one session.
PARKED = """
SELECT id, agent, question FROM sessions WHERE state = 'parked' AND (?1 IS NULL OR id = ?1)
ORDER BY ended_at, id
"""

# For how many milliseconds a model worked for each agent's decisions since a moment (?2), in
# sessions that began after another one (?1): one seek for each agent.
MODEL_MS = """
SELECT agent, sum(duration_ms) FROM agents
CROSS JOIN sessions ON agent = name AND started_at >= ?1
CROSS JOIN steps ON session_id = id AND kind = 'decision' AND ts >= ?2
WHERE duration_ms IS NOT NULL GROUP BY name
"""

# How much waits for a person, by agent.
# The "+" keeps the index over agents out, by which all sessions would be looked at.
PARKED_COUNTS = "SELECT agent, count(*) FROM sessions WHERE state = 'parked' GROUP BY +agent"

# The answers that an agent has yet to read.
ANSWERS = f"""
SELECT {_EVENT} FROM outbox WHERE event_type = ? AND target = ?
AND id > coalesce((SELECT last_seen_id FROM cursors WHERE consumer = ?), 0) ORDER BY id
"""

# The start of an agent's n-th newest session. What began in the future did so before the wall clock
# was set back: it must not hold the agent up until then.
NTH_NEWEST_START = """
SELECT started_at FROM sessions WHERE agent = ? AND started_at <= ?
ORDER BY started_at DESC LIMIT 1 OFFSET ?
"""


def sessions(*, agent: bool, state: str | None, one: bool) -> str:
    """Select sessions for people, newest first, with their turns and tokens; the flags say which.

    Parameters: agent, id, before, since, until, limit. What runs or waits is found by its own small
    index: its state stands in the statement, and the "+" keeps the other indexes out.
    """
    out = "+" if state in ("running", "parked") else ""
    where = ["id = :id"] if one else [f"{out}id < :before"]
    where += [f"{out}agent = :agent"] if agent else []
    where += [f"state = '{state}'"] if state else []
    return f"""
SELECT id, agent, event_id, event_type, version, state, attempt, started_at, ended_at, question,
  outcome, error,
  (SELECT count(*) FROM steps WHERE session_id = sessions.id AND kind = 'decision'),
  (SELECT coalesce(sum(prompt_tokens), 0) FROM steps WHERE session_id = sessions.id),
  (SELECT coalesce(sum(completion_tokens), 0) FROM steps WHERE session_id = sessions.id),
  forced
FROM sessions WHERE {" AND ".join(where)}
  AND (:since IS NULL OR started_at >= :since) AND (:until IS NULL OR started_at < :until)
ORDER BY {out}id DESC LIMIT :limit
"""


# An agent's last session over an event.
SESSION_OF_EVENT = (
    "SELECT id FROM sessions WHERE agent = ? AND event_id = ? ORDER BY id DESC LIMIT 1"
)

# Put an event under its own id into a replay's outbox.
SEED_EVENT = f"INSERT INTO outbox ({_EVENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# Let a replay's next session have the id after this one.
SEED_SESSION = "INSERT INTO sqlite_sequence (name, seq) VALUES ('sessions', ?)"

# --- deliveries

# What was tried on a lane's event so far.
DELIVERY = """
SELECT attempts, total_attempts, failures, blocked_s, next_at, crashes, total_crashes, last_crash
FROM deliveries WHERE consumer = ? AND event_id = ?
"""

# Note what was tried on a lane's event.
SET_DELIVERY = """
INSERT OR REPLACE INTO deliveries (consumer, event_id, attempts, total_attempts, failures,
                                   blocked_s, next_at, crashes, total_crashes, last_crash, pid)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

# The process that made an attempt crashed: once, however often that is told.
CRASHED_ATTEMPT = """
UPDATE deliveries SET crashes = crashes + 1, total_crashes = total_crashes + 1, last_crash = ?1,
  pid = NULL
WHERE pid = ?2 AND consumer IN (?3, ?4)
"""

# Events that wait although they were begun several times: never a step was recorded.
CUT_OFF = """
SELECT event_id, attempts, next_at FROM deliveries JOIN cursors USING (consumer)
WHERE consumer IN (?, ?) AND attempts >= ? AND event_id > last_seen_id
"""

# The event at the head of an agent's lanes (?1, ?2) of which sessions failed: how many, when it is
# tried again, and the error of the agent's (?3) last one.
FAILING = """
SELECT event_id, failures, next_at,
  (SELECT error FROM sessions WHERE agent = ?3 AND state = 'failed' ORDER BY id DESC LIMIT 1)
FROM deliveries JOIN cursors USING (consumer)
WHERE consumer IN (?1, ?2) AND failures > 0 AND event_id > last_seen_id
"""

# An attempt recorded a step: count anew.
RESET_ATTEMPTS = """
UPDATE deliveries SET attempts = 0, crashes = 0, next_at = NULL WHERE consumer = ? AND event_id = ?
"""

# An orderly stop: the attempt was none.
REFUND_ATTEMPT = """
UPDATE deliveries SET attempts = max(attempts - 1, 0), total_attempts = max(total_attempts - 1, 0),
  next_at = NULL, pid = NULL
WHERE consumer = ? AND event_id = ?
"""

# --- breakers

# An agent's failures in a row.
BREAKER = (
    "SELECT last_event_id, failure, error, events, pauses, until FROM breakers WHERE agent = ?"
)

# Note a failure.
SET_BREAKER = """
INSERT OR REPLACE INTO breakers (agent, last_event_id, failure, error, events, pauses, until)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

# Something ended well, or a person wants another try.
DROP_BREAKER = "DELETE FROM breakers WHERE agent = ?"

# Another version of an agent starts with a clean sheet.
DROP_BREAKER_OF_OTHER = """
DELETE FROM breakers WHERE agent = ?1
AND NOT EXISTS (SELECT 1 FROM agents WHERE name = ?1 AND version = ?2)
"""

# --- status

# An agent's newest session: the one begun last, and not the one whose clock was furthest ahead.
LAST_SESSION = """
SELECT id, state, started_at, ended_at FROM sessions WHERE id = (
  SELECT max(id) FROM sessions WHERE agent = ?)
"""

# How many dead letters each agent has.
LETTER_COUNTS = "SELECT agent, count(*) AS letters FROM dead_letters GROUP BY agent"

# --- retention

# The schema's version, and the names of all tables and views, in one snapshot.
SCHEMA = """
SELECT user_version, (SELECT json_group_array(name) FROM sqlite_schema
                      WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite|_%' ESCAPE '|')
FROM pragma_user_version
"""

# Pages in the file, those of them that are free, and the bytes of one.
SIZE = "SELECT page_count, freelist_count, page_size FROM " + ", ".join(
    f"pragma_{name}" for name in ("page_count", "freelist_count", "page_size")
)

# When the events after an id were created, in id order.
CREATED = "SELECT id, created_at FROM outbox WHERE id > ? ORDER BY id LIMIT ?"

# The oldest events between two ids, with their size.
OLDEST_EVENTS = """
SELECT id, created_at, octet_length(payload) FROM outbox WHERE id > ? AND id <= ?
ORDER BY id LIMIT ?
"""

# Delete the oldest events up to an id.
DELETE_EVENTS = """
DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE id <= ? ORDER BY id LIMIT ?)
"""

# Sessions that rest for good since before a moment, the oldest first.
SESSIONS_BEFORE = """
SELECT id, ended_at FROM sessions WHERE state IN ('ended', 'failed') AND ended_at < ?
ORDER BY ended_at LIMIT ?
"""

# Those that rest since after a moment, up to an id.
SESSIONS_AFTER = """
SELECT id, ended_at FROM sessions WHERE state IN ('ended', 'failed') AND ended_at > ? AND id <= ?
ORDER BY ended_at LIMIT ?
"""

# The oldest sessions that wait for a person.
OLDEST_PARKED = """
SELECT id, agent, attempt, event, delivered_id, question, ended_at FROM sessions
WHERE state = 'parked'
ORDER BY ended_at LIMIT ?
"""

# When the session that holds a lane last recorded something.
HELD_SINCE = """
SELECT id, agent, attempt, event, delivered_id, coalesce(
  (SELECT ts FROM steps WHERE session_id = sessions.id ORDER BY seq DESC LIMIT 1), started_at)
FROM sessions WHERE consumer = ? AND state = 'running'
"""

# Fail a session whose event is given up, if nobody took it up meanwhile.
GIVE_UP_SESSION = """
UPDATE sessions SET state = 'failed', ended_at = ?, error = ?
WHERE id = ? AND attempt = ? AND state IN ('running', 'parked')
"""

# Delete some of a session's steps.
DELETE_STEPS = """
DELETE FROM steps WHERE session_id = ?1
AND seq IN (SELECT seq FROM steps WHERE session_id = ?1 LIMIT ?2)
"""

# Delete a session without steps.
DELETE_SESSION = "DELETE FROM sessions WHERE id = ?"

_LETTER_SIZE = "id, dead_at, octet_length(payload) + octet_length(error)"

# The oldest dead letters.
OLDEST_LETTERS = f"SELECT {_LETTER_SIZE} FROM dead_letters ORDER BY id LIMIT ?"

# Dead letters from before a moment, the oldest first.
LETTERS_BEFORE = f"""
SELECT {_LETTER_SIZE} FROM dead_letters WHERE dead_at < ? ORDER BY dead_at LIMIT ?
"""

# Those from after a moment, up to an id.
LETTERS_AFTER = f"""
SELECT {_LETTER_SIZE} FROM dead_letters WHERE dead_at > ? AND id <= ? ORDER BY dead_at LIMIT ?
"""

# Bytes of the dead letters after an id, and the last one's id; reads no overflow page.
LETTER_BYTES = """
SELECT coalesce(sum(octet_length(payload) + octet_length(error)), 0), coalesce(max(id), ?1)
FROM dead_letters WHERE id > ?1
"""

# Forget how far a removed agent's lane had come, and what was tried there.
DELETE_CURSOR = "DELETE FROM cursors WHERE consumer = ?"
DELETE_DELIVERY = "DELETE FROM deliveries WHERE consumer = ?"

# Forget what a removed agent remembered, some of it at a time.
DELETE_FACTS = """
DELETE FROM facts WHERE agent = ?1
AND key IN (SELECT key FROM facts WHERE agent = ?1 LIMIT ?2)
"""

# Forget a removed agent's schedules, and the agent itself.
DELETE_SCHEDULES = "DELETE FROM schedules WHERE agent = ?"
DELETE_AGENT = "DELETE FROM agents WHERE name = ? AND removed_at IS NOT NULL"


def incremental_vacuum(pages: int) -> str:
    """Give some free pages back to the disk."""
    return f"PRAGMA incremental_vacuum({int(pages)})"


# --- copies and repairs

# The names of all tables.
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"

# Whether the file is sound: one row "ok", or one row for each thing that is wrong.
QUICK_CHECK = "PRAGMA quick_check"
INTEGRITY_CHECK = "PRAGMA integrity_check(20)"

# The last event that a lane is known to be done with, by its sessions and its agent's letters. One
# that failed may be tried again: a letter says that it is not.
LAST_SETTLED = """
SELECT max(
  coalesce((SELECT max(delivered_id) FROM sessions
            WHERE consumer = ?1 AND (state IN ('ended', 'parked') OR (state = 'failed'
              AND id IN (SELECT session_id FROM dead_letters)))), 0),
  coalesce((SELECT max(delivered_id) - 1 FROM sessions
            WHERE consumer = ?1 AND state = 'running'), 0),
  coalesce((SELECT max(event_id) FROM dead_letters
            WHERE agent = ?2 AND reason <> 'loop' AND (target IS ?2) = (?1 <> ?2)), 0))
"""

# The last session that failed over an event after the one that a lane is done with.
UNSETTLED_SESSION = f"""
SELECT {_SESSION} FROM sessions WHERE consumer = ?1 AND state = 'failed' AND delivered_id > ?2
AND NOT EXISTS (SELECT 1 FROM sessions WHERE consumer = ?1 AND state = 'running')
ORDER BY id DESC LIMIT 1
"""

# Write what is there now to another file, whole.
COPY = "VACUUM INTO ?"

# The highest id that each table ever gave, and a way to raise it.
COUNTS = "SELECT name, seq FROM sqlite_sequence"
START_COUNT = """
INSERT INTO sqlite_sequence (name, seq)
SELECT ?, 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?)
"""
RAISE_COUNT = "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?"
