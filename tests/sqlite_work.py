"""Counts what SQLite does: the steps of its machine, by statement. No clock is asked."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw


@contextmanager
def sqlite_work() -> Iterator[Counter[str]]:
    """Count the steps that each statement takes on connections that are opened meanwhile."""
    steps: Counter[str] = Counter()

    def watch(db: apsw.Connection) -> None:
        db.trace_v2(apsw.SQLITE_TRACE_PROFILE, count, id=watch)

    def count(event: dict[str, Any]) -> None:
        steps[event["sql"].strip()] += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    apsw.connection_hooks.append(watch)
    try:
        yield steps
    finally:
        apsw.connection_hooks.remove(watch)
