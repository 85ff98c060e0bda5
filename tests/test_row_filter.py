"""The options by which all lists pick rows, and the JSON that commands print."""

import json
from argparse import ArgumentTypeError
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus
from agentd.cli import main
from agentd.clock import iso
from agentd.commands.row_filter import PAGE, moment
from agentd.config.agent import Limits
from agentd.events import LATER, Lane, NewEvent
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.states import DeadReason

NOW = datetime.now(UTC)
OLD, NEW = NOW - timedelta(hours=3), NOW - timedelta(minutes=3)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def bus(home: Path) -> Iterator[Bus]:
    """Each list has a row from three hours ago, and one from three minutes ago."""
    bus = Bus(home / "agentd.db")
    bus.accept("hello", "v1", subscribe=["note.*"])
    sessions = Sessions(bus)
    for at, text in ((OLD, "Water the plants"), (NEW, "feed the cat")):
        lane = Lane("hello", direct=False, subscribe=("note.*",))
        event_id = bus.publish("person", NewEvent("note.added", {"title": text}))
        event = bus.next(lane)
        assert event is not None and event.id == event_id
        session = sessions.begin(lane, event, "v1", Limits.model_validate({}))
        assert isinstance(session, Session)
        sessions.closing.close(session, outcome={"title": text})
        bus.dead.add("hello", DeadReason.FAILED, text, event)
        bus.publish("hello", NewEvent(LATER, {"what": text, "due": iso(at)}))
        for change in (
            f"UPDATE outbox SET created_at = '{iso(at)}' WHERE id = {event_id}",
            f"UPDATE sessions SET started_at = '{iso(at)}' WHERE event_id = {event_id}",
            f"UPDATE dead_letters SET dead_at = '{iso(at)}' WHERE error = '{text}'",
        ):
            bus.db.run(change)
        folder = home / "logs" / "hello"
        folder.mkdir(parents=True, exist_ok=True)
        level = "info" if at is OLD else "error"
        line = {"ts": iso(at), "level": level, "event": "a.b", "agent": "hello", "title": text}
        with (folder / "hello.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
    yield bus
    bus.close()


LISTS = (
    *(("logs",), ("events",), ("results",), ("search", "the")),
    *(("sessions",), ("dead",), ("later",)),
)
STREAMS = ("logs", "events", "results", "search")


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    """Return what a list prints as JSON: a stream an object a line, all else one document."""
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    if words[0] in STREAMS:
        return [json.loads(line) for line in out.splitlines()]
    found = json.loads(out)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("words", LISTS, ids=lambda words: words[0])
def test_each_list_is_picked_alike(
    words: tuple[str, ...], bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Since, until, a pattern, and how many: in one way, wherever rows are listed."""

    def found(*options: str) -> list[str]:
        each = [json.dumps(row) for row in rows(capsys, *words, *options)]
        return ["old" if "Water" in row else "new" for row in each]

    assert sorted(found()) == ["new", "old"]
    assert found("--since", "1h") == ["new"] and found("--until", "1h") == ["old"]
    assert found("--since", "1d", "--until", iso(OLD - timedelta(hours=1))) == []
    assert found("--since", iso(OLD), "--until", iso(NEW)) == ["old"], "from, and from before"
    assert found("--grep", "water") == found("--grep", "=Water.*s$") == ["old"], "any case"
    assert found("--grep", "WATER") == found("--grep", "water", "--since", "1h") == []
    first = "old" if words[0] == "later" else "new"  # what comes next, else what came last
    assert found("-n", "1") == found("--limit", "1") == [first]
    assert found("-n", "1", "--grep", "plants") == ["old"], "of those that fit"
    assert found("-n", "0") == [] and sorted(found("-n", "all")) == ["new", "old"]


def test_a_span_is_shown_whole(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    """With --since nothing is cut silently; without, the newest; a pattern is looked for in all."""
    with bus.transaction():
        for number in range(2 * PAGE):
            bus.publish("person", NewEvent("many.made", {"n": number, "last": number == 7}))
    assert len(rows(capsys, "events")) == 20
    many = [row["payload"]["n"] for row in rows(capsys, "events", "--since", "1m")]
    assert many == list(range(2 * PAGE))
    assert [row["payload"]["n"] for row in rows(capsys, "events", "-n", "3")] == [997, 998, 999]
    assert [row["payload"]["n"] for row in rows(capsys, "events", "--grep", "last=true")] == [7]
    assert len(rows(capsys, "events", "-n", "all")) == 2 * PAGE + 2


def test_unreadable_rows_end_no_list(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    """More rows by hand than are read at once: what stands around them comes all the same."""
    with bus.transaction():
        for _ in range(PAGE + 10):
            bus.publish("person", NewEvent("many.made"))
    bus.db.run("UPDATE outbox SET event_type = 'None' WHERE event_type = 'many.made'")
    bus.publish("person", NewEvent("note.added", {"title": "last"}))
    assert [row["id"] for row in rows(capsys, "events")][:2] == [1, 2]
    assert len(rows(capsys, "events", "-n", "all")) == 3


def test_level(bus: Bus, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A level means itself and what is worse; a torn line has none, and no time."""
    with (home / "logs" / "hello" / "hello.jsonl").open("a") as log:
        log.write('{"ts": "torn\n')
    for level, count in (("debug", 2), ("info", 2), ("warning", 1), ("error", 1), ("critical", 0)):
        assert len(rows(capsys, "logs", "--level", level)) == count
    assert main(["logs"]) == 0 and "torn" in capsys.readouterr().out
    assert main(["logs", "--grep", "torn"]) == 0 and "torn" in capsys.readouterr().out
    assert main(["logs", "--since", "1d"]) == 0 and "torn" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1h", "2026-03-01T11:00:00"),
        ("90s", "2026-03-01T11:58:30"),
        ("+2h", "2026-03-01T14:00:00"),
        ("9:05", "2026-03-01T09:05:00"),
        ("23:59:10", "2026-03-01T23:59:10"),
        ("2026-02-27", "2026-02-27T00:00:00"),
        ("2026-02-27 06:30", "2026-02-27T06:30:00"),
        ("2026-02-27T06:30:00.250", "2026-02-27T06:30:00.250000"),
    ],
)
def test_moments(text: str, meant: str) -> None:
    """An age, a time of today or a date is meant in local time, as tables show times."""
    noon = datetime(2026, 3, 1, 12).astimezone()
    assert moment(text, noon.astimezone(UTC)) == datetime.fromisoformat(meant).astimezone()


def test_a_moment_with_a_zone_is_in_that_zone() -> None:
    """What --json prints can be given back."""
    assert moment("2026-02-27T06:30:00.250Z") == datetime(2026, 2, 27, 6, 30, 0, 250_000, UTC)


@pytest.mark.parametrize(
    "text", ["", "soon", "3", "25:00", "2026-13-01", "0001-01-01", "9999-12-31", "-1h", "+"]
)
def test_what_is_no_moment(text: str) -> None:
    """One clear error, also for what no zone can show."""
    with pytest.raises(ArgumentTypeError, match="write an age"):
        moment(text)


@pytest.mark.parametrize(
    "options", [("--grep", "("), ("--since", "soon"), ("-n", "-1"), ("-n", "x")]
)
def test_a_wrong_option_is_an_error_of_use(
    options: tuple[str, str], bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits 2 and says what is wrong, without a traceback."""
    assert main(["events", *options]) == 2
    assert f"argument {options[0]}" in capsys.readouterr().err


def test_a_span_that_ends_before_it_begins_is_told(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever wrote the two ages the wrong way round is not told that nothing happened."""
    assert main(["events", "--since", "1h", "--until", "2h"]) == 2
    assert "--until is before --since" in capsys.readouterr().err


def document(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_what_acts_says_what_was_done(
    bus: Bus, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One object: `done`, and what it was done to; what people read stays as it is."""
    sent = document(capsys, "send", "note.added", '{"text": "a"}')
    assert sent == {"done": "sent", "event": bus.events.last_id()}
    assert document(capsys, "trigger", "hello") == {"done": "sent", "event": sent["event"] + 1}
    assert document(capsys, "later", "drop", "2") == {"done": "dropped", "ids": [2]}
    retried = document(capsys, "dead", "retry", "1")
    letter = {"id": 1, "event": sent["event"] + 2}
    assert retried == {"done": "retried", "letters": [letter]}
    backup = document(capsys, "backup", str(home / "copy.db"))
    assert backup["done"] == "copied" and backup["path"] == str(home / "copy.db")
    assert document(capsys, "prune")["done"] == "pruned"
    assert document(capsys, "prune", "--dry-run")["done"] is None
    token = document(capsys, "token", "--renew")
    assert token == {"done": "renewed", "file": str(home / "keys" / "token")} or "token" in str(
        token
    )
    made = document(capsys, "new", "reader", "--read", str(home))
    assert made["done"] == "written" and Path(made["files"][0]).is_file()


def test_what_was_done_before_a_failure_is_said(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several ids one may be wrong: those before it are dropped, and that is not lost."""
    assert main(["dead", "drop", "1", "99", "2", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out) == {"done": "dropped", "letters": [{"id": 1}]}
    assert "99: no such dead letter" in err
    assert main(["later", "drop", "99", "1", "--json"]) == 2
    assert capsys.readouterr().out == "" and len(bus.later.list()) == 2


def test_several_shown_are_one_document(bus: Bus, capsys: pytest.CaptureFixture[str]) -> None:
    """One is an object, several are a list."""
    assert document(capsys, "dead", "show", "1")["id"] == 1
    assert [letter["id"] for letter in document(capsys, "dead", "show", "1", "2")] == [1, 2]
