"""What the tables take from a person's SQL: in each column the type that it is declared with.

SQLite stores any value in any column, so each rule is a CHECK, named by what a person reads when it
refuses a row. What no CHECK can tell (UTF-8, a real date, how deep JSON nests) the readers find.
"""

import apsw

ID_MAX = 2**53  # of an id given by hand. At 2^63-1 AUTOINCREMENT has none left and writing ends
COUNTED = ("outbox", "dead_letters", "sessions")  # tables with AUTOINCREMENT
TIME_BYTES_MAX = 40
DEPTH_MAX = 1000  # far above what `agentd.events.DEPTH_MAX` lets be published

# Plain functions only: older SQLite tools must be able to read this schema.
_BYTES = "length(CAST({0} AS BLOB))"
_TEXT = "typeof({0}) = 'text'"
_NAME = f"{_TEXT} AND {_BYTES} BETWEEN 1 AND 1600"  # 400 characters
_WHOLE = "typeof({0}) = 'integer'"
# ASCII alone, so that it can always be decoded and compared. GLOB and length() end at a NUL.
_TIME = (
    f"{_TEXT} AND {{0}} NOT GLOB '*[^ -~]*' AND {_BYTES} BETWEEN 1 AND {TIME_BYTES_MAX}"
    f" AND length({{0}}) = {_BYTES}"
)
_KINDS = {
    "text": (_TEXT, "text"),
    "name": (_NAME, "text of 1 to 1600 bytes"),
    "whole": (_WHOLE, "a whole number"),
    "time": (_TIME, "text such as 2026-01-31T12:00:00.000Z"),
    "json": (f"{_TEXT} AND {_BYTES} <= 1000000", "JSON as text of at most 1000000 bytes"),
    "flag": ("{0} IN (0, 1)", "0 or 1"),
    "place": (f"{_WHOLE} AND {{0}} >= 0", "a whole number from 0 on"),
    "id": (f"{{0}} BETWEEN 1 AND {ID_MAX}", "given by the database: leave it out"),
    "depth": (f"{_WHOLE} AND {{0}} BETWEEN 0 AND {DEPTH_MAX}", "a whole number from 0 on"),
}

# By table and column the kind of value; "?" after it: or NULL. The event in a dead letter is kept
# as it came.
_RULES = {
    "outbox": {
        **{"id": "id", "agent": "name", "event_type": "name", "payload": "json"},
        **{"created_at": "time", "target": "name?", "cause_id": "whole?", "depth": "depth"},
        "dedup_key": "name?",
    },
    "cursors": {"consumer": "name", "last_seen_id": "place"},
    "agents": {
        **{"name": "name", "version": "text", "subscribe": "text", "paused": "flag"},
        **{"accepted_at": "time", "removed_at": "time?"},
    },
    "facts": {"agent": "name", "key": "text", "value": "text", "updated_at": "time"},
    "schedules": {
        **{"agent": "name", "schedule": "text", "last_due": "time"},
        **{"last_event_id": "whole?", "fired": "text?"},
    },
    "dead_letters": {
        **{"id": "id", "agent": "name", "reason": "text", "error": "text", "session_id": "whole?"},
        **{"dead_at": "time", "event_id": "whole?"},
    },
}

_ISO = "strftime('%Y-%m-%dT%H:%M:%fZ', {0}, 'auto')"  # of seconds since 1970, or a Julian day
_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


def strict(db: apsw.Connection) -> None:
    """Give the tables their rules. What lies there against them is set right or kept elsewhere.

    A number of seconds becomes a time, a cursor a whole number. An event that still does not fit
    becomes a dead letter, "invalid"; a row of another table goes into the table `odd_rows`.
    """
    for table, columns in _RULES.items():
        rules = {column: _rule(column, kind) for column, kind in columns.items()}
        for column, kind in columns.items():
            if kind.startswith("time"):
                db.execute(
                    f"UPDATE {table} SET {column} = {_ISO.format(column)}"
                    f" WHERE typeof({column}) IN ('integer', 'real')"
                    f" AND {_ISO.format(column)} IS NOT NULL"
                )
        if table == "cursors":
            db.execute(
                "UPDATE cursors SET last_seen_id = max(0, CAST(last_seen_id AS INTEGER))"
                f" WHERE NOT ({rules['last_seen_id'][1]})"
            )
        _set_aside(db, table, rules)
        for column, (name, check) in rules.items():
            if column == "id":  # a CHECK would also end what the database itself counts on
                check = "id > 0"
            db.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" CHECK ({check})')
    name, _ = _rule("id", "id")
    for table in COUNTED:
        db.execute(f"""
CREATE TRIGGER {table}_id BEFORE INSERT ON {table} WHEN NEW.id > {ID_MAX}
BEGIN SELECT RAISE(ABORT, '{name}'); END;
CREATE TRIGGER {table}_id_stays BEFORE UPDATE OF id ON {table}
BEGIN SELECT RAISE(ABORT, '{name}'); END;
UPDATE sqlite_sequence SET seq = max(
  (SELECT coalesce(max(id), 0) FROM {table}),
  (SELECT coalesce(max(last_seen_id), 0) FROM cursors WHERE last_seen_id <= {ID_MAX}))
WHERE name = '{table}' AND NOT (typeof(seq) = 'integer' AND seq BETWEEN 0 AND {ID_MAX});
""")


def _rule(column: str, kind: str) -> tuple[str, str]:
    """Return a rule's name, as a person reads it, and its condition."""
    check, words = _KINDS[kind.removesuffix("?")]
    check = check.format(column)
    if kind.endswith("?"):
        return f"{column} is {words}, or NULL", f"{column} IS NULL OR ({check})"
    # A primary key that is no rowid may be NULL in SQLite.
    return f"{column} is {words}", f"{column} IS NOT NULL AND {check}"


def _set_aside(db: apsw.Connection, table: str, rules: dict[str, tuple[str, str]]) -> None:
    """Take out of a table what does not fit it, and keep it."""
    odd = " OR ".join(f"NOT ({check})" for _, check in rules.values())
    if not db.execute(f"SELECT 1 FROM {table} WHERE {odd} LIMIT 1").fetchall():
        return
    if table == "outbox":
        why = " ".join(f"WHEN NOT ({check}) THEN '{name}'" for name, check in rules.values())
        db.execute(f"""
INSERT INTO dead_letters (agent, reason, error, dead_at, event_id, producer, event_type, payload,
                          created_at, target, priority, cause_id, depth)
SELECT CASE WHEN {_rule("target", "name")[1]} THEN target WHEN {rules["agent"][1]} THEN agent
       ELSE 'agentd' END, 'invalid', CASE {why} END, {_NOW}, id, agent, event_type, payload,
       created_at, target, priority, cause_id, depth
FROM outbox WHERE {odd} ORDER BY id""")
    else:
        columns = db.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        values = ", ".join(f"'{name}', quote({name})" for (name,) in columns)
        db.execute(f"""
CREATE TABLE IF NOT EXISTS odd_rows (table_name TEXT, set_aside_at TIMESTAMP, row JSON);
INSERT INTO odd_rows SELECT '{table}', {_NOW}, json_object({values}) FROM {table} WHERE {odd}""")
    db.execute(f"DELETE FROM {table} WHERE {odd}")
