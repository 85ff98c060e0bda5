"""Reads what is left of a damaged database into a new one, and says what is missing.

SQLite's own recovery is not part of the driver, so this goes row by row. A damaged page stops a
scan; the scan from the other end stops at its other side; what lies between is halved, until what
is left are the ids that cannot be read. Indexes say which of these ever existed.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from agentd.bus import schema
from agentd.bus.strict import COUNTED
from agentd.errors import NewerDatabase

ROWID_TABLES = ("outbox", "cursors", "agents", "dead_letters", "sessions", "deliveries")
NAMED = ("facts", "schedules")  # small, and without a number to go by
INDEXES = {"outbox": "event_type", "sessions": "agent"}  # by this column an index knows all ids
ID_MARGIN = 1_000  # above the highest id found, where the count itself cannot be read
ROWID_GUESS = 10_000  # the highest rowid of a small table whose end cannot be read
# The last one: a text that goes on over another page, which is not checked by anybody.
BROKEN = (apsw.CorruptError, apsw.IOError, apsw.NotADBError, UnicodeDecodeError)
SENSELESS = (apsw.ConstraintError, apsw.SQLError, apsw.MismatchError)  # bytes that are no row
Span = tuple[int, int]


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


def unreadable(low: int, high: int, read: Callable[[int, int, bool], int | None]) -> Iterator[Span]:
    """Yield the ids between `low` and `high` that cannot be read, as spans of one or more.

    `read(low, high, down)` takes rows from one end on and returns None when it came to the other
    one; else the last id that it took whole, or the one before its start.
    """
    spans = [(low, high)]
    while spans:
        low, high = spans.pop()
        if low > high or (last := read(low, high, False)) is None:
            continue
        if last >= high or (first := read(last + 1, high, True)) is None:
            continue
        gap = (last + 1, first - 1)
        if gap[0] > gap[1]:
            continue
        if gap != (low, high):
            spans.append(gap)
        elif low == high:
            yield gap
        else:
            middle = (low + high) // 2
            spans += [(middle + 1, high), (low, middle)]


class _Salvage:
    def __init__(self, old: apsw.Connection, new: apsw.Connection) -> None:
        self._old, self._new, self._saved = old, new, Saved()

    def run(self) -> Saved:
        highest = {table: self._highest(table) for table in COUNTED}
        for table in ROWID_TABLES:
            last = highest[table] if table in highest else self._last_rowid(table)
            lost = self._copy(table, "id" if table in COUNTED else "rowid", last)
            self._tell_lost(table, lost)
        spans = self._copy("steps", "session_id", highest["sessions"])
        doubtful = {number for low, high in spans for number in range(low, high + 1)}
        self._saved.doubtful = sorted(doubtful & self._ids("sessions"))
        self._new.execute("DELETE FROM steps WHERE session_id NOT IN (SELECT id FROM sessions)")
        self._saved.rows["steps"] -= self._new.changes()  # of sessions that were lost
        for session_id in self._saved.doubtful:
            self._saved.miss("steps", f"of session {session_id}")
        for table in NAMED:
            self._copy_named(table)
        for table in COUNTED:
            last = max([highest[table], *self._ids(table)])
            self._new.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self._new.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last))
        return self._saved

    def _ids(self, table: str) -> set[int]:
        rows: list[Any] = self._new.execute(f"SELECT id FROM {table}").fetchall()
        return {row[0] for row in rows}

    # --- the highest ids

    def _highest(self, table: str) -> int:
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

    def _last_rowid(self, table: str) -> int:
        return self._number(f"SELECT max(rowid) FROM {table}", ROWID_GUESS)

    def _number(self, query: str, default: int = 0) -> int:
        with contextlib.suppress(*BROKEN):
            return int(self._rows(query)[0][0] or 0)
        return default

    def _rows(self, query: str) -> list[Any]:
        return self._old.execute(query).fetchall()

    # --- rows

    def _copy(self, table: str, key: str, last: int) -> list[Span]:
        """Copy a table by its whole-number key; return the keys whose rows are not all there."""
        names = self._columns(table)
        names = names if key in names else (key, *names)
        index, marks = names.index(key), ", ".join("?" * len(names))
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT DO NOTHING"
        senseless: list[Span] = []
        count = 0

        def read(low: int, high: int, down: bool) -> int | None:
            nonlocal count
            order = "DESC" if down else "ASC"
            query = (
                f"SELECT {', '.join(names)} FROM {table} WHERE {key} BETWEEN ? AND ?"
                f" ORDER BY {key} {order}" + (f", seq {order}" if key == "session_id" else "")
            )
            step = -1 if down else 1
            began = at = high if down else low
            try:
                for row in self._old.execute(query, (low, high)):
                    if (row[index] - at) * step < 0 or not low <= row[index] <= high:
                        break  # a page that is another's: its rows are out of order
                    at = row[index]
                    try:
                        self._new.execute(insert, row)
                        count += self._new.changes()
                    except SENSELESS:
                        senseless.append((at, at))
                else:
                    return None
            except BROKEN:
                pass
            # The last key may have more rows than were read.
            several = key == "session_id" or at == began
            return at - step if several else at

        lost = [*unreadable(1, last, read), *senseless]
        self._saved.rows[table] = count
        return lost

    def _copy_named(self, table: str) -> None:
        """Copy a small table from both its ends."""
        names = self._columns(table)
        marks = ", ".join("?" * len(names))
        insert = f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO NOTHING"
        whole = False
        for order in ("ASC", "DESC"):
            query = f"SELECT {', '.join(names)} FROM {table} ORDER BY 1 {order}, 2 {order}"
            try:
                for row in self._old.execute(query):
                    with contextlib.suppress(*SENSELESS):
                        self._new.execute(insert, row)
            except BROKEN:
                continue
            whole = True
            break
        rows: list[Any] = self._new.execute(f"SELECT count(*) FROM {table}").fetchall()
        self._saved.rows[table] = rows[0][0]
        if not whole:
            self._saved.miss(table, "some")

    def _columns(self, table: str) -> tuple[str, ...]:
        rows = self._new.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        return tuple(str(name) for (name,) in rows)

    def _tell_lost(self, table: str, lost: list[Span]) -> None:
        """Note the ids that are missing; where an index knows them, those that existed."""
        if not lost:
            return
        if table not in COUNTED:
            self._saved.miss(table, "some")
            return
        if table in INDEXES:
            column = INDEXES[table]
            # The index alone holds both columns: the table itself is not read.
            query = f"SELECT id, {column} FROM {table} WHERE {column} > '' ORDER BY {column}"
            with contextlib.suppress(*BROKEN):
                known: dict[Any, Any] = dict(self._rows(query))
                for low, high in sorted(lost):
                    for number in range(low, high + 1):
                        if number in known:
                            self._saved.miss(table, f"{number} ({known[number]})")
                return
        for low, high in _joined(lost):
            self._saved.miss(table, low if low == high else f"{low} to {high}, where they existed")


def _joined(spans: list[Span]) -> list[Span]:
    """Join spans that touch, so that people read a few ranges and not a thousand ids."""
    found: list[Span] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found
