"""How long a connection waits for a lock that another one holds."""

import time

import apsw

WAITS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)  # between two tries; from then on the last


def wait_for_locks(db: apsw.Connection, busy_ms: int) -> None:
    """Let a statement wait for so long where somebody holds a lock.

    In Python, between short waits: SQLite's own timeout would hold a signal back until its end.
    """
    until = 0.0

    def again(tries: int) -> bool:
        nonlocal until
        now = time.monotonic()
        if tries == 0:
            until = now + busy_ms / 1000
        if now < until:
            time.sleep(min(WAITS_S[min(tries, len(WAITS_S) - 1)], until - now))
        return now < until

    db.set_busy_handler(again)
