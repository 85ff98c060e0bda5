"""The baselines of the bus: the standard library's sqlite3, one commit an event, nothing else."""

import json
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentd.bus import sql
from agentd.bus.schema import JOURNAL_SIZE_LIMIT_BYTES, WAL_AUTOCHECKPOINT_PAGES

TABLES = """
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL,
                     event_type TEXT NOT NULL, payload TEXT NOT NULL, created_at TEXT NOT NULL);
CREATE TABLE cursors (consumer TEXT PRIMARY KEY, last_seen_id INTEGER NOT NULL);
INSERT INTO cursors VALUES ('reader', 0);
"""
NOW = "2026-01-15T10:30:00.000Z"


def connect(path: Path) -> sqlite3.Connection:
    """Open a database with the bus's pragmas; its tables too, where the bus made the file."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT_BYTES}")
    db.execute(f"PRAGMA wal_autocheckpoint = {WAL_AUTOCHECKPOINT_PAGES}")
    return db


class Least:
    """The least tables that hold an event and a cursor: no index, no check, no second lane."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        db.executescript(TABLES)

    def publish(self, payload: str) -> None:
        """Append one row."""
        self.db.execute(
            "INSERT INTO outbox (agent, event_type, payload, created_at) VALUES (?, ?, ?, ?)",
            ("writer", "bench.asked", payload, NOW),
        )

    def consume(self) -> None:
        """Read the next row after the cursor and move it."""
        cursor = self.db.execute(sql.CURSOR, ("reader",)).fetchone()[0]
        row = self.db.execute(
            "SELECT id, agent, event_type, payload, created_at FROM outbox WHERE id > ?"
            " ORDER BY id LIMIT 1",
            (cursor,),
        ).fetchone()
        self.db.execute(sql.STEP, (row[0], "reader", cursor))


class Same:
    """The same job by hand: the bus's own tables and statements, the payload as JSON, the time."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def publish(self, payload: Mapping[str, Any]) -> None:
        """Append one row."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps(payload)
        row = ("writer", "bench.asked", text, now, None, "event", None, 0, None)
        self.db.execute(sql.PUBLISH, row)

    def consume(self) -> None:
        """Read the next row after the cursor and move it."""
        cursor = self.db.execute(sql.CURSOR, ("reader",)).fetchone()[0]
        row = self.db.execute(sql.NEXT_OF_TYPE, ("bench.asked", cursor, "reader")).fetchone()
        json.loads(row[3])
        self.db.execute(sql.STEP, (row[0], "reader", cursor))
