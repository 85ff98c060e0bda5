"""Reads what is left of a damaged database into a new one, and says what is missing.

SQLite's own recovery is not part of the driver. A damaged page stops a scan, so each table is read
from both its ends; what lies between is lost. Indexes say which of these ids ever existed.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from agentd.bus import schema
from agentd.bus.strict import COUNTED
from agentd.errors import NewerDatabase

# The tables, each by the columns of its own order: no index is needed to read it.
TABLES = {
    "outbox": ("id",),
    "cursors": ("rowid",),
    "agents": ("rowid",),
    "dead_letters": ("id",),
    "sessions": ("id",),
    "deliveries": ("rowid",),
    "steps": ("session_id", "seq"),
    "facts": ("agent", "key"),
    "schedules": ("agent", "schedule"),
    "later": ("id",),
    "seen_files": ("agent", "fingerprint"),
}
INDEXES = {"outbox": "event_type", "sessions": "agent"}  # by this column an index knows all ids
ID_MARGIN = 1_000  # above the highest id found, where the count itself cannot be read
# The last one: a text that goes on over another page, which is not checked by anybody.
BROKEN = (apsw.CorruptError, apsw.IOError, apsw.NotADBError, UnicodeDecodeError)
SENSELESS = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError)  # bytes that are no row


@dataclass
class Saved:
    """What became of each table: rows saved, and what is missing of it (ids, or names)."""

    rows: dict[str, int] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was put right, for people
    doubtful: list[int] = field(default_factory=list)  # sessions of which steps may be missing

    def miss(self, table: str, what: object) -> None:
        """Note something of a table that could not be read."""
        self.missing.setdefault(table, []).append(str(what))


@dataclass(frozen=True)
class Lost:
    """Keys of a table whose rows are not all there.

    Those of `senseless` rows, and unless it was read as a `whole` those from the `first` one, the
    last that was read from the start, to the `last` one, read from the end. None: none was read.
    """

    senseless: set[Any]
    whole: bool
    first: Any
    last: Any

    def __contains__(self, key: int) -> bool:
        between = (self.first is None or key >= self.first) and (
            self.last is None or key <= self.last
        )
        return key in self.senseless or (not self.whole and between)


def salvage(old: apsw.Connection, target: Path) -> Saved:
    """Write everything that can be read of `old` into the new file `target`.

    Its tables are those of the old one's version, so that any later migration still applies.

    Raises:
        apsw.Error: not even the list of tables can be read.
        NewerDatabase: a newer agentd wrote it.
    """
    version = old.pragma("user_version")
    if not isinstance(version, int) or version > len(schema.MIGRATIONS):
        raise NewerDatabase(
            "the database was written by a newer agentd", hint="repair it with that one"
        )
    old.execute("SELECT * FROM sqlite_schema").fetchall()  # without it no row of any table is found
    target.touch(mode=0o600)
    with contextlib.closing(apsw.Connection(str(target))) as new:
        new.pragma("auto_vacuum", schema.AUTO_VACUUM_INCREMENTAL)
        with new:
            for migrate in schema.MIGRATIONS[: version or None]:
                migrate(new)
            new.pragma("user_version", version or len(schema.MIGRATIONS))
            saved = _Salvage(old, new).run()
    return saved


class _Salvage:
    def __init__(self, old: apsw.Connection, new: apsw.Connection) -> None:
        self._old, self._new, self._saved = old, new, Saved()
        self._tables = [table for table in TABLES if self._columns(table)]  # of its version
        self._highest = {table: self._highest_of(table) for table in COUNTED}

    def run(self) -> Saved:
        for table in self._tables:
            lost = self._copy(table)
            if lost is not None and table == "steps":
                self._doubt(lost)
            elif lost is not None:
                self._list_lost(table, lost)
        self._new.execute("DELETE FROM steps WHERE session_id NOT IN (SELECT id FROM sessions)")
        for table in self._tables:
            self._saved.rows[table] = self._one(f"SELECT count(*) FROM {table}")
        for table in COUNTED:
            last = max(self._highest[table], *self._ids(table), 0)
            self._new.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self._new.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last))
        return self._saved

    def _ids(self, table: str) -> set[int]:
        rows: list[Any] = self._new.execute(f"SELECT id FROM {table}").fetchall()
        return {row[0] for row in rows}

    def _one(self, query: str) -> int:
        rows: list[Any] = self._new.execute(query).fetchall()
        return int(rows[0][0])

    # --- the highest ids

    def _highest_of(self, table: str) -> int:
        """Return the highest id that the table ever gave, or one that is certainly above it."""
        with contextlib.suppress(*BROKEN):
            query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
            rows: list[Any] = self._old.execute(query, (table,)).fetchall()
            return int(rows[0][0]) if rows else 0
        queries = {
            "outbox": (
                "SELECT max(last_seen_id) FROM cursors",
                "SELECT max(delivered_id) FROM sessions",
            ),
            "sessions": ("SELECT max(session_id) FROM steps",),
            "dead_letters": (),
        }[table]
        highest = max(self._number(query) for query in (f"SELECT max(id) FROM {table}", *queries))
        self._saved.notes.append(
            f"the count of ids in {table} could not be read: the next one is more than"
            f" {ID_MARGIN} above the highest found"
        )
        return highest + ID_MARGIN

    def _number(self, query: str) -> int:
        with contextlib.suppress(*BROKEN):
            return int(self._rows(query)[0][0] or 0)
        return 0

    def _rows(self, query: str) -> list[Any]:
        return self._old.execute(query).fetchall()

    # --- rows

    def _copy(self, table: str) -> Lost | None:
        """Copy a table from both its ends; return which keys are not all there, None for none."""
        senseless: set[Any] = set()
        first, whole = self._scan(table, "ASC", senseless)
        last = None
        if not whole:
            last, _ = self._scan(table, "DESC", senseless)
        return None if whole and not senseless else Lost(senseless, whole, first, last)

    def _scan(self, table: str, order: str, senseless: set[Any]) -> tuple[Any, bool]:
        """Copy rows until one cannot be read; return the last one's key, and if that was all."""
        keys, names = TABLES[table], self._columns(table)
        ordered = ", ".join(f"{key} {order}" for key in keys)
        query = f"SELECT {keys[0]}, {', '.join(names)} FROM {table} ORDER BY {ordered}"
        marks = ", ".join("?" * len(names))
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        at: Any = None
        try:
            for key, *row in self._old.execute(query):
                if at is not None and not _follows(key, at, order):
                    return at, False  # a page that is another's: its rows are out of order
                at = key
                try:
                    self._new.execute(insert, row)
                except SENSELESS:
                    senseless.add(key)
        except BROKEN:
            return at, False
        return at, True

    def _columns(self, table: str) -> tuple[str, ...]:
        rows = self._new.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        return tuple(str(name) for (name,) in rows)

    # --- what is missing

    def _doubt(self, lost: Lost) -> None:
        """Note the sessions of which steps may be missing."""
        self._saved.doubtful = sorted(number for number in self._ids("sessions") if number in lost)
        for session_id in self._saved.doubtful:
            self._saved.miss("steps", f"of session {session_id}")

    def _list_lost(self, table: str, lost: Lost) -> None:
        """Note the ids that are missing; where an index knows them, those that existed."""
        if table not in COUNTED:
            self._saved.miss(table, "some")
            return
        saved = self._ids(table)
        if table in INDEXES:
            column = INDEXES[table]
            # The index alone holds both columns: the table itself is not read.
            query = f"SELECT id, {column} FROM {table} WHERE {column} > '' ORDER BY {column}"
            with contextlib.suppress(*BROKEN):
                known: dict[Any, Any] = dict(self._rows(query))
                for number in sorted(known.keys() - saved):
                    self._saved.miss(table, f"{number} ({known[number]})")
                return
        for number in sorted(lost.senseless - saved):
            self._saved.miss(table, number)
        if not lost.whole:
            low, high = (lost.first or 0) + 1, (lost.last or self._highest[table] + 1) - 1
            if low <= high:
                span = str(low) if low == high else f"{low} to {high}"
                self._saved.miss(table, f"{span}, where they existed")


def _follows(key: Any, before: Any, order: str) -> bool:
    if type(key) is not type(before):
        return False
    return bool(key >= before if order == "ASC" else key <= before)
