"""The chaos test in small: each boundary of a session once, the whole for a while, the audit."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.chaos.audit import audit
from tests.chaos.boundaries import OUTPUTS
from tests.chaos.home import Home


def run(program: str, folder: Path) -> None:
    """Run a program of boundaries.py; it asserts what it finds by itself."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos.boundaries", program, str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which a session was killed at every boundary, and everything is answered."""
    folder = tmp_path_factory.mktemp("answered")
    run("every_boundary", folder)
    return Home(folder)


def test_a_kill_at_every_boundary_of_a_session(answered: Home) -> None:
    """Each one once, each with what it leaves; then all is answered once. See boundaries.py."""
    report = audit(answered.paths.database, answered.journal, OUTPUTS)
    assert report.problems == []
    assert report.counts["resumed"] >= 18 and report.counts["side effects"] == 21


def test_a_broken_promise_is_found(tmp_path: Path) -> None:
    """A lane that is stepped before the work, on purpose: the audit says what was lost."""
    run("broken_promise", tmp_path)


def forget_event(db: apsw.Connection) -> None:
    db.execute("DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox WHERE agent = 'intake')")


def repeat_event(db: apsw.Connection) -> None:
    db.execute(
        "INSERT INTO outbox (agent, event_type, payload, cause_id, depth)"
        " SELECT agent, event_type, payload, cause_id, depth FROM outbox"
        " WHERE event_type = 'order.checked' ORDER BY id DESC LIMIT 1"
    )


def swap_answers(db: apsw.Connection) -> None:
    (one,), (other,) = db.execute(
        "SELECT id FROM outbox WHERE event_type = 'order.checked' ORDER BY id LIMIT 2"
    )
    for (trigger,) in db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'outbox'"
    ).fetchall():
        db.execute(f"DROP TRIGGER {trigger}")  # they let nobody change an id
    for old, new in ((one, 2**40), (other, one), (2**40, other)):
        db.execute("UPDATE outbox SET id = ? WHERE id = ?", (new, old))


def forget_session(db: apsw.Connection) -> None:
    db.execute("DELETE FROM sessions WHERE id = 3")


def step_back(db: apsw.Connection) -> None:
    db.execute("UPDATE cursors SET last_seen_id = 1 WHERE consumer = 'intake'")


def leave_running(db: apsw.Connection) -> None:
    db.execute("UPDATE sessions SET state = 'running' WHERE id = 4")


def bury(db: apsw.Connection) -> None:
    db.execute(
        "INSERT INTO dead_letters (agent, reason, error, dead_at, event_id, producer, event_type,"
        " payload, created_at, priority, depth) SELECT 'intake', 'crashed', 'x', created_at, id,"
        " agent, event_type, payload, created_at, priority, depth FROM outbox WHERE id = 1"
    )


def miscount(db: apsw.Connection) -> None:
    db.execute("UPDATE facts SET value = '3' WHERE key = 'count'")


def ask_again(db: apsw.Connection) -> None:
    db.execute("DELETE FROM steps WHERE session_id = 5 AND kind = 'result' AND type = 'check'")


def ask_in_vain(db: apsw.Connection) -> None:
    db.execute(
        "INSERT INTO outbox (agent, event_type, payload)"
        """ VALUES ('intake', 'person.asked', '{"asked": "0123456789"}')"""
    )


def grant_unasked(db: apsw.Connection) -> None:
    db.execute("UPDATE steps SET kind = 'granted' WHERE session_id = 6 AND type = 'check'")


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (forget_event, "lost: intake published order.checked 0 times"),
        (repeat_event, "twice: intake published order.checked 2 times"),
        (swap_answers, "out of order"),
        (forget_session, "lost: event"),
        (step_back, "stuck: event"),
        (leave_running, "stuck: session 4"),
        (bury, "crashed"),
        (miscount, "memory: intake counted 3"),
        (ask_again, "asked again: session 5"),
        (ask_in_vain, "approval 01234567 was answered 0 times"),
        (grant_unasked, "session 6 went to granted after []"),
    ],
)
def test_the_audit_finds(
    answered: Home, tmp_path: Path, fault: Callable[[apsw.Connection], None], word: str
) -> None:
    """One row changed by hand in a good database is one fault by its name."""
    copy = tmp_path / "a.db"
    with contextlib.closing(apsw.Connection(str(answered.paths.database))) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    assert audit(copy, answered.journal, OUTPUTS).problems == []
    with contextlib.closing(apsw.Connection(str(copy))) as db:
        fault(db)
    problems = audit(copy, answered.journal, OUTPUTS).problems
    assert any(word in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ({"what": "effect"}, "twice: ship"),
        ({"what": "effect", "tool": "shelf_send"}, "shelf_send of intake for event"),
        ({"what": "start", "tool": "check"}, "ran again after its result"),
        ({"what": "placed", "n": 99, "event": 5}, "lost: order 99 was acknowledged"),
    ],
)
def test_the_audit_reads_the_tools_journal(
    answered: Home, tmp_path: Path, what: dict[str, object], word: str
) -> None:
    """One more line in it is a side effect too many, or an event that nobody has."""
    journal = tmp_path / "journal.jsonl"
    shutil.copy(answered.journal, journal)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    line = {**next(one for one in lines if one["what"] == "effect"), "pid": 1, "at": 1e12, **what}
    with journal.open("a") as file:
        file.write(json.dumps(line) + "\n")
    problems = audit(answered.paths.database, journal, OUTPUTS).problems
    assert any(word in problem for problem in problems), problems


def test_the_audit_finds_a_damaged_page(answered: Home, tmp_path: Path) -> None:
    """SQLite's own check is part of it."""
    copy = tmp_path / "a.db"
    with contextlib.closing(apsw.Connection(str(answered.paths.database))) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(apsw.Connection(str(copy))) as db:
        ((root,),) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'outbox_type'")
        size = db.pragma("page_size")
        assert isinstance(size, int)
    with copy.open("r+b") as file:
        file.seek(root * size - 64)  # a page is filled from its end
        file.write(b"\xff" * 64)
    assert audit(copy, answered.journal, OUTPUTS).problems[0].startswith("damaged")
