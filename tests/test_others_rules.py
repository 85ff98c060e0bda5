"""Triggers, views and rules that somebody adds to our tables: they stop nothing but their rows."""

import contextlib
import os
import signal
from pathlib import Path

import apsw
import pytest

from agentd.bus import Bus
from agentd.errors import AgentdError, EventRefused
from agentd.events import NewEvent
from agentd.states import DeadReason
from tests.commandline import agentd
from tests.livehome import a_home
from tests.supervised import Daemon, daemon, wait_for

NOTICES = "CREATE TRIGGER mine AFTER INSERT ON outbox WHEN NEW.agent = 'agentd'"
UNDO = "DROP TRIGGER mine"
# By name: what a person does, how it is undone, and what the daemon logs meanwhile.
RULES = {
    "notices are refused": (
        f"{NOTICES} BEGIN SELECT RAISE(ABORT, 'no'); END",
        UNDO,
        "event.refused",
    ),
    "notices are left out": (
        f"{NOTICES.replace('AFTER', 'BEFORE')} BEGIN SELECT RAISE(IGNORE); END",
        UNDO,
        "event.refused",
    ),
    "notices are rolled back": (
        f"{NOTICES} BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        UNDO,
        "events.delayed",
    ),
    "commands cannot be stepped over": (
        "CREATE TRIGGER mine BEFORE UPDATE ON cursors WHEN NEW.consumer LIKE 'agentd%'"
        " BEGIN SELECT RAISE(IGNORE); END",
        UNDO,
        "commands.delayed",
    ),
    "agents are a view": (
        "ALTER TABLE agents RENAME TO theirs; CREATE VIEW agents AS SELECT * FROM theirs",
        "DROP VIEW agents; ALTER TABLE theirs RENAME TO agents",
        "agent.not_recorded",
    ),
}


def execute(path: Path, statements: str) -> None:
    with contextlib.closing(apsw.Connection(str(path))) as db:
        db.set_busy_timeout(10_000)
        db.execute(statements)


def command(one: Daemon) -> None:
    """A command for the daemon, written as by a person."""
    execute(
        one.paths.database,
        "INSERT INTO outbox (agent, event_type, payload, target)"
        " VALUES ('person', 'agentd.reload', '{}', 'agentd')",
    )


@pytest.mark.parametrize("what", RULES)
def test_the_daemon_goes_on(tmp_path: Path, what: str) -> None:
    """What it cannot write is logged or waits; agents come and go, and all is well afterwards."""
    rule, undo, logged = RULES[what]
    with daemon(tmp_path) as one:
        one.drop("one")
        one.configure()
        one.start()
        pid = one.wait_state("one", "RUNNING")["pid"]
        execute(one.paths.database, rule)
        os.kill(pid, signal.SIGKILL)
        one.drop("two")
        command(one)
        wait_for(lambda: one.log(logged), f"{logged} is logged")
        wait_for(lambda: one.agent("one").get("pid") not in (None, pid), "a worker runs again")
        execute(one.paths.database, undo)
        one.wait_state("two", "RUNNING")
        assert one.stop() == 0


@pytest.mark.parametrize("how", ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'", "IGNORE"])
def test_who_publishes_is_told(tmp_path: Path, how: str) -> None:
    """An id of an event that is not there would be a promise that is not kept."""
    path = tmp_path / "agentd.db"
    bus = Bus(path)
    assert bus.publish("person", NewEvent("note.added", {})) == 1
    execute(path, f"CREATE TRIGGER mine BEFORE INSERT ON outbox BEGIN SELECT RAISE({how}); END")
    with pytest.raises(EventRefused, match="the database refused the row"):
        bus.publish("person", NewEvent("note.added", {}))
    assert bus.events.last_id() == 1 and not bus.db.connection.in_transaction
    bus.close()


@pytest.mark.parametrize("how", ["ABORT, 'no'", "IGNORE"])
def test_a_dead_letter_stays_where_its_event_is_refused(tmp_path: Path, how: str) -> None:
    """Dropped for a row that was not written, it would be lost."""
    bus = Bus(tmp_path / "agentd.db")
    event = bus.events.get(bus.publish("person", NewEvent("note.added", {})) or 0)
    assert event is not None
    letter = bus.dead.add("hello", DeadReason.FAILED, "broken", event)
    rule = f"CREATE TRIGGER mine BEFORE INSERT ON outbox BEGIN SELECT RAISE({how}); END"
    execute(tmp_path / "agentd.db", rule)
    with pytest.raises(AgentdError, match="the database refused the row"):
        bus.dead.retry(letter)
    assert [one.id for one in bus.dead.list()] == [letter]
    bus.close()


def test_a_session_that_cannot_be_written_is_a_dead_letter(tmp_path: Path) -> None:
    """With the database's own reason, and its worker goes on."""
    with a_home(tmp_path / "home") as home:
        home.start()
        pid = home.agent()["pid"]
        rule = "CREATE TRIGGER mine BEFORE INSERT ON steps BEGIN SELECT RAISE(ABORT, 'no'); END"
        execute(home.paths.database, rule)
        home.send()
        found = "SELECT error FROM dead_letters"
        ((error,),) = home.until(lambda: home.rows(found), "it is given up")
        assert "the database refused the row: no" in error and "Traceback" not in error
        execute(home.paths.database, UNDO)
        sent = int(home.send().stdout.split()[1])
        home.until(lambda: home.answered() == [sent], "the next one is answered")
        assert home.agent()["pid"] == pid
        refused = "CREATE TRIGGER mine BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'no'); END"
        execute(home.paths.database, refused)
        done = agentd(home.root, "send", "note.added", "{}")
        assert done.returncode == 1 and "the database refused the row: no" in done.stderr
        home.stop()
