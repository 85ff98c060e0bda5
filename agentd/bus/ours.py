"""Tells our database from another program's, before anything in it is changed."""

import json
import re
from pathlib import Path
from typing import Any

import apsw

from agentd.bus import sql
from agentd.errors import DamagedDatabase

# The tables that each migration made, as far as they matter here.
TABLES: tuple[tuple[str, ...], ...] = (
    ("outbox", "cursors", "agents", "facts", "schedules", "dead_letters"),
    ("sessions", "steps", "deliveries"),
    (),
    (),
    ("breakers",),
)
NAMES_TOLD = 5  # of the tables of somebody else's database
# What SQLite says where somebody changed our tables.
LACKS = re.compile(r"no such (table|column)|table \S+ has no column")


def check(db: apsw.Connection, path: Path, newest: int) -> None:
    """Look at the names of its tables; `newest` is the last version that this agentd knows.

    Raises:
        DamagedDatabase: it is another program's.
    """
    rows: list[Any] = db.execute(sql.SCHEMA).fetchall()
    version, names = rows[0][0], set(json.loads(rows[0][1]))
    if version < 0:
        raise foreign(path, f"its version is {version}")
    if version == 0 and names:
        raise foreign(path, f"it holds {', '.join(sorted(names)[:NAMES_TOLD])}")
    made = [name for tables in TABLES[:version] for name in tables]
    missing = [name for name in made if name not in names]
    if missing and (names or version <= newest):
        raise foreign(path, f"it lacks the table {missing[0]}")


def foreign(path: Path, why: str) -> DamagedDatabase:
    """Return the error of a file that is a database, but none of ours."""
    return DamagedDatabase(
        f"is no database of agentd: {why}",
        where=str(path),
        hint="move it away; or `agentd backup --restore FILE`; or set another AGENTD_HOME",
    )
