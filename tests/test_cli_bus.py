"""The commands that read and write the database, without a daemon."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from agentd.bus import Bus, sql
from agentd.cli import main
from agentd.commands import home as commands_home
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.paths import discover
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason
from agentd.storage import copies
from tests.commandline import DEADLINE_S, agentd


def test_status_without_a_home(tmp_path: Path) -> None:
    """`status` in a home that does not exist says so, exits 3 and creates nothing."""
    home = tmp_path / "none"
    done = agentd(home, "status")
    assert done.returncode == 3
    assert "not running" in done.stdout
    document = json.loads(agentd(home, "status", "--json").stdout)
    assert document["running"] is False and document["agents"] == []
    assert not home.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("events",),
        ("sessions",),
        ("dead",),
        ("logs",),
        ("send", "note.added", "{}"),
        ("trigger", "x"),
        ("pause", "x"),
        ("resume", "x"),
        ("reload",),
        ("model", "status"),
    ],
)
def test_nothing_to_read_yet(words: tuple[str, ...], tmp_path: Path) -> None:
    """Without a database or a daemon, what needs one says so and how to start it; exit 3."""
    home = tmp_path / "none"
    done = agentd(home, *words)
    assert done.returncode == 3, done.stderr
    assert "agentd run" in done.stderr and "Traceback" not in done.stderr
    assert not home.exists()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """A home's bus that nobody serves, with one agent, `hello`, that subscribes to note.*."""
    bus = Bus(tmp_path / "agentd.db")
    bus.accept("hello", "v1", subscribe=["note.*"])
    yield bus
    bus.close()


def test_send_waits_in_the_database(bus: Bus, tmp_path: Path) -> None:
    """Without a daemon an event is written with a person's priority, and stderr says it waits."""
    done = agentd(tmp_path, "send", "note.added", '{"text": "é"}', "--to", "hello")
    assert done.returncode == 0
    assert "not running" in done.stderr
    (event,) = bus.events.list()
    assert done.stdout == f"event {event.id}\n"
    assert (event.agent, event.event_type, event.target) == ("person", "note.added", "hello")
    assert event.payload == {"text": "é"} and event.priority == "person"
    assert bus.lanes.waiting(Lane("hello", True)) == 1


def test_send_reads_a_payload_from_stdin(bus: Bus, tmp_path: Path) -> None:
    """A - in place of the payload reads it from stdin, as pipes want."""
    assert agentd(tmp_path, "send", "note.added", "-", stdin='{"a": 1}').returncode == 0
    assert bus.events.list()[0].payload == {"a": 1}


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        ("note.added", "[1]", 2),
        ("note.added", "text", 2),
        ("note.added", "[" * 100_000, 2),
        ("note.added", '{"a": NaN}', 1),
        ("Note added", "{}", 1),
        ("agent.trigger", "{}", 1),
        ("note.added", '{"a": "\\ud800"}', 1),
    ],
)
def test_send_refuses(kind: str, payload: str, code: int, bus: Bus, tmp_path: Path) -> None:
    """What is no JSON object or no event is refused with one error, and nothing is written."""
    done = agentd(tmp_path, "send", kind, "-", stdin=payload)
    assert done.returncode == code, done.stderr
    assert "agentd: " in done.stderr and "Traceback" not in done.stderr
    assert bus.events.last_id() == 0


def test_trigger_and_unknown_agents(bus: Bus, tmp_path: Path) -> None:
    """`trigger` addresses one agent, past the ban on system types; an unknown one is named."""
    assert agentd(tmp_path, "trigger", "hello").returncode == 0
    (event,) = bus.events.list()
    assert (event.event_type, event.target, event.priority) == ("agent.trigger", "hello", "person")
    wrong = agentd(tmp_path, "trigger", "hullo")
    assert wrong.returncode == 1
    assert "hullo" in wrong.stderr and "hello" in wrong.stderr


TASK = """agent = "task"
done = "What is there is listed."
subscribe = {subscribe}
watch = {watch}
[params]
first = [{first}]
each = "{tool}"
publish = "x.listed"
[result]
name = {{ from = "name" }}
[permissions]
read = ["/data"]
"""
WATCHED = '["/data/*.pdf"]'
FOLDER = TASK.format(
    subscribe=[], watch=WATCHED, first='{ ListFiles = "/data" }', tool="ListFiles.entries"
)
FILE = TASK.format(
    subscribe=[], watch=WATCHED, first='{ ReadFile = "{path}" }', tool="ReadFile.text"
)
NOTE = TASK.format(
    subscribe=["note.*"], watch=[], first='{ ReadFile = "/data/{year}" }', tool="ReadFile.text"
)
INBOX = f"""agent = "inbox"
done = "The file has its kind."
watch = {WATCHED}
[params]
targets = ["/data"]
[permissions]
read = ["/data"]
write = ["/data"]
"""


@pytest.mark.parametrize(
    ("config", "code", "told"),
    [
        (FOLDER, 0, "event 1"),
        (FILE, 2, "agentd send-file PATH --to worker"),
        (INBOX, 2, "agentd send-file PATH --to worker"),
        (NOTE, 2, """agentd send note.new '{"year": "..."}' --to worker"""),
    ],
)
def test_trigger_says_what_an_agent_wants(
    config: str, code: int, told: str, bus: Bus, tmp_path: Path
) -> None:
    """Who needs a file or a field to work on is sent no empty event, which would be given up."""
    accept(bus, tmp_path, "worker", config)
    done = agentd(tmp_path, "trigger", "worker")
    assert done.returncode == code, done.stderr
    assert told in done.stdout + done.stderr
    assert len(bus.events.list()) == (code == 0)


@pytest.mark.parametrize(
    ("first", "each", "fact"),
    [
        ('{ ReadLog = "/data/a.log" }', "ReadLog.errors", "log:/data/a.log"),
        ('{ ReadFeed = "https://h.invalid/a" }', "ReadFeed.items", "feed:https://h.invalid/a"),
    ],
)
def test_trigger_says_that_nothing_is_new_yet(
    first: str, each: str, fact: str, bus: Bus, tmp_path: Path
) -> None:
    """Of a log or a feed that was never read nothing is told: who waits for it knows why."""
    accept(bus, tmp_path, "worker", TASK.format(subscribe=[], watch=[], first=first, tool=each))
    said = agentd(tmp_path, "trigger", "worker").stderr
    assert f"{fact.partition(':')[2]} is read for the first time" in said
    with bus.db.transaction():
        bus.facts.remember("worker", {fact: {"offset": 0}})
    assert "first time" not in agentd(tmp_path, "trigger", "worker").stderr


def test_send_file_asks_nobody_twice(bus: Bus, tmp_path: Path) -> None:
    """A file whose event waits, or whose session waits for a person, is not sent once more."""
    file = tmp_path / "a.pdf"
    file.write_text("a")
    accept(bus, tmp_path, "filer", FILE.replace("/data", str(tmp_path)))

    def sent() -> bool:
        done = agentd(tmp_path, "send-file", str(file))
        assert done.returncode == 0, done.stderr
        assert ("is not done yet with event" in done.stderr) is ("event" not in done.stdout)
        return "event" in done.stdout

    assert (sent(), sent()) == (True, False)
    sessions, lane = Sessions(bus), Lane("filer", direct=True)
    event = bus.next(lane)
    assert event is not None
    session = sessions.begin(lane, event, "v1", Limits())
    assert isinstance(session, Session) and not sent()
    sessions.journal.record(session, Step(StepKind.OPENING, "file.changed", {}))
    sessions.journal.record(session, Step(StepKind.DECISION, "MoveFile", {}))
    sessions.closing.park(session, "May it?")
    assert not sent()
    file.write_text("another")
    assert sent()  # what is in it now was asked about by nobody
    another = bus.next(lane)
    assert another is not None
    other = sessions.begin(lane, another, "v1", Limits())
    assert isinstance(other, Session)
    sessions.closing.close(other, publish=[], remember={}, outcome={})
    assert sent()


def accept(bus: Bus, home: Path, name: str, config: str) -> None:
    """Let the home have an agent of this configuration."""
    folder = discover({"AGENTD_HOME": str(home)}).versions / name / "v1"
    folder.mkdir(parents=True)
    (folder / "agent.toml").write_text(config)
    bus.accept(name, "v1")


def test_events_filters(bus: Bus, tmp_path: Path) -> None:
    """`events` shows the newest in id order, filtered by producer, type and id; --json is lines."""
    for number in range(5):
        bus.publish("fetch", NewEvent("repo.changed", {"n": number}))
    bus.publish("other", NewEvent("note.added", {"text": "\x1b[2J"}))

    def ids(*words: str) -> list[int]:
        lines = agentd(tmp_path, "events", "--json", *words).stdout.splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert ids("--limit", "2") == [5, 6]
    assert ids("--type", "repo.*", "--limit", "2") == [4, 5]
    assert ids("--agent", "other") == [6]
    assert ids("--since-id", "1", "--limit", "2") == [2, 3]
    assert ids("--limit", "0") == []
    shown = agentd(tmp_path, "events").stdout
    assert "fetch  repo.changed" in shown
    assert "\x1b" not in shown, "payloads cannot drive the terminal, and no colour without one"


def test_events_json_keys_are_stable(bus: Bus, tmp_path: Path) -> None:
    """The keys are the outbox's columns and the time is UTC: scripts rely on it."""
    bus.publish("fetch", NewEvent("repo.changed", {"n": 1}, target="hello", dedup_key="k"))
    event = json.loads(agentd(tmp_path, "events", "--json").stdout)
    assert event.pop("created_at").endswith("Z")
    assert event == {
        "id": 1,
        "agent": "fetch",
        "event_type": "repo.changed",
        "payload": {"n": 1},
        "target": "hello",
        "priority": "event",
        "cause_id": None,
        "depth": 0,
        "dedup_key": "k",
    }


def test_a_closed_pipe_is_no_error(bus: Bus, tmp_path: Path) -> None:
    """`agentd events | head -1` ends quietly, however much is left to print."""
    bus.outbox.publish_many("fetch", [NewEvent("repo.changed", {"n": n}) for n in range(3000)])
    done = subprocess.run(
        f"set -o pipefail; {sys.executable} -m agentd events --limit 3000 | head -1",
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode == 141


def test_following_events_ends_quietly_on_ctrl_c(bus: Bus, tmp_path: Path) -> None:
    """`events -f` prints each event as it comes; Ctrl-C ends it with 130 and no traceback."""
    bus.publish("fetch", NewEvent("repo.changed", {"n": 1}))
    with subprocess.Popen(
        [sys.executable, "-m", "agentd", "events", "-f", "--json"],
        env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        assert json.loads(process.stdout.readline())["id"] == 1
        bus.publish("fetch", NewEvent("repo.changed", {"n": 2}))
        assert json.loads(process.stdout.readline())["id"] == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
        assert process.stderr.read() == ""


LONG_MS = 600_000  # far beyond a test's timeout
WAITING = (
    ("send", "note.added", "{}"),
    ("trigger", "hello"),
    ("dead", "retry", "1"),
    ("dead", "drop", "1"),
    ("prune",),
    ("backup", "--restore", "copy.db"),
)


@pytest.mark.parametrize("words", WAITING, ids=" ".join)
def test_ctrl_c_is_heeded_while_a_command_waits_for_the_lock(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A person who is tired of waiting is not made to wait for the end of it."""
    event = bus.events.get(bus.publish("fetch", NewEvent("note.added", {})) or 0)
    assert event is not None
    bus.dead.add("hello", DeadReason.FAILED, "first", event)
    copies.backup(bus.db.path, tmp_path / "copy.db")
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands_home, "BUSY_MS", LONG_MS)
    monkeypatch.setattr(copies, "EXCLUSIVE_MS", LONG_MS)
    asked, before = bus.events.last_id(), signal.signal(signal.SIGALRM, signal.default_int_handler)
    bus.db.run(sql.BEGIN)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        assert main(words) == 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        bus.db.run(sql.ROLLBACK)
    assert bus.events.last_id() == asked and len(bus.dead.list()) == 1, "nothing was done"


def test_dead_letters(bus: Bus, tmp_path: Path) -> None:
    """Dead letters are listed with their reason, shown, retried as a new event, and dropped."""
    event = bus.events.get(bus.publish("fetch", NewEvent("note.added", {"n": 1})) or 0)
    assert event is not None
    for error in ("first", "second"):
        bus.dead.add("hello", DeadReason.FAILED, error, event)
    listing = agentd(tmp_path, "dead", "list").stdout
    assert "failed" in listing and "second" in listing
    shown = json.loads(agentd(tmp_path, "dead", "show", "1", "--json").stdout)
    assert (shown["reason"], shown["error"], shown["payload"]) == ("failed", "first", {"n": 1})
    assert "event 2" in agentd(tmp_path, "dead", "retry", "1").stdout
    assert bus.events.list()[-1].target == "hello"
    assert agentd(tmp_path, "dead", "drop", "2").returncode == 0
    assert json.loads(agentd(tmp_path, "dead", "--json").stdout) == []
    missing = agentd(tmp_path, "dead", "drop", "2")
    assert missing.returncode == 2 and "Traceback" not in missing.stderr
    assert agentd(tmp_path, "dead", "drop").returncode == 2


def test_sessions(bus: Bus, tmp_path: Path) -> None:
    """`sessions` lists each run with turns and tokens; `show` prints it turn by turn."""
    bus.publish("fetch", NewEvent("note.added", {"text": "hi"}))
    lane = Lane("hello", False, ("note.*",))
    event = bus.next(lane)
    assert event is not None
    sessions = Sessions(bus)
    session = sessions.begin(lane, event, "v1", Limits.model_validate({}))
    assert isinstance(session, Session)
    sessions.journal.record_opening(session, "note.added", {"text": "hi"}, trusted=False)
    sessions.journal.record(
        session,
        Step(
            StepKind.DECISION,
            "Done",
            {"result": "\x1b[2J"},
            idempotent=True,
            prompt_tokens=30,
            cached_tokens=10,
        ),
    )
    sessions.closing.close(session, outcome={"result": "fine"})
    (row,) = json.loads(agentd(tmp_path, "sessions", "--json").stdout)
    assert (row["agent"], row["state"], row["turns"]) == ("hello", "ended", 1)
    assert row["prompt_tokens"] == 30 and row["outcome"] == {"result": "fine"}
    assert "fine" in agentd(tmp_path, "sessions", "--agent", "hello").stdout
    assert agentd(tmp_path, "sessions", "--state", "failed").stdout == "no sessions\n"
    shown = agentd(tmp_path, "sessions", "show", "1").stdout
    assert "30 prompt tokens, 10 of them cached" in shown and "\x1b" not in shown
    steps = json.loads(agentd(tmp_path, "sessions", "show", "1", "--json").stdout)["steps"]
    assert [step["kind"] for step in steps] == ["opening", "decision"]
    assert agentd(tmp_path, "sessions", "show", "9").returncode == 2


def test_status_from_the_database_alone(bus: Bus, tmp_path: Path) -> None:
    """When the daemon is down, `status` still tells what waits for whom, and exits 3."""
    bus.publish("fetch", NewEvent("note.added"))
    bus.publish("fetch", NewEvent("note.added", target="hello"))
    done = agentd(tmp_path, "status", "--json")
    assert done.returncode == 3
    (agent,) = json.loads(done.stdout)["agents"]
    assert agent["name"] == "hello" and agent["state"] == "STOPPED"
    assert agent["waiting"] == {"direct": 1, "subscribed": 1}
    shown = agentd(tmp_path, "status").stdout
    assert "1+1" in shown and "last event 2, 0 dead letters" in shown
    assert agentd(tmp_path, "status", "nobody").returncode == 1


def test_a_damaged_database_is_one_error(tmp_path: Path) -> None:
    """A file that is no database, or a newer agentd's, is named with the next step; exit 1."""
    (tmp_path / "agentd.db").write_bytes(b"no database at all, but long enough" * 100)
    done = agentd(tmp_path, "events")
    assert done.returncode == 1
    assert "agentd.db" in done.stderr and "hint" in done.stderr and "Traceback" not in done.stderr
    newer = tmp_path / "newer"
    newer.mkdir()
    connection = apsw.Connection(str(newer / "agentd.db"))
    connection.pragma("user_version", 999)
    connection.close()
    done = agentd(newer, "events")
    assert done.returncode == 1 and "newer" in done.stderr


def test_status_loads_nothing_heavy(bus: Bus, tmp_path: Path) -> None:
    """It is asked for often, and the heavy libraries cost seconds together."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "agentd", "status"],
        env={**os.environ, "AGENTD_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    heavy = {"pydantic", "baml_py", "mlx", "mlx_lm", "apscheduler", "structlog", "uvicorn", "numpy"}
    assert "apsw" in loaded and not loaded & heavy
