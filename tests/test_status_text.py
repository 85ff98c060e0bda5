"""`agentd status` for people: it fits the terminal, colours states, and says what is waited for."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentd import terminal
from agentd.bus import Bus
from agentd.cli import main
from agentd.commands import fitted_table, status
from agentd.commands.agent_text import LOG_LINES
from agentd.commands.fitted_table import FittedColumn, print_fitted
from agentd.commands.output import print_facts
from agentd.commands.status_text import print_status
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.paths import discover
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.trouble import trouble
from agentd.states import DeadReason
from agentd.testing import wait_for
from agentd.views.agent_triggers import NO_TRIGGERS
from agentd.views.overview import UNKNOWN, overview
from agentd.views.waits_for import waits_for
from tests.commandline import agentd

COLUMNS = (
    FittedColumn("AGENT", ["hello", "feed"]),
    FittedColumn("PID", [812, None], leave=2),
    FittedColumn("STATE", ["RUNNING", "STOPPED"], ["32", ""]),
    FittedColumn("NOTHING", [None, None], leave=1),
    FittedColumn("WAITS FOR", ["the model, which is STARTING for the first time", None], least=12),
)


def shown(width: int | None, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_fitted(COLUMNS, width)
    return capsys.readouterr().out.splitlines()


def test_a_table_fits_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What matters least is left out, and long texts are cut visibly; nothing wraps."""
    for width in range(29, 100):
        assert max(map(len, shown(width, capsys))) <= width
    head, first, _ = shown(60, capsys)
    assert head.split() == ["AGENT", "PID", "STATE", "WAITS", "FOR"] and first.endswith("…")
    assert shown(32, capsys)[0].split() == ["AGENT", "STATE", "WAITS", "FOR"]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("sessions",), "ID STATE OUTCOME"),
        (("dead", "list"), "ID AGENT ERROR"),
        (("later",), "DUE AGENT WHAT"),
    ],
)
def test_lists_fit_the_terminal(
    words: tuple[str, ...],
    kept: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `status` does, with the longest names that there may be; a program gets all of it."""
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    name, bus = "n" * 32, Bus(paths.database)
    bus.accept(name, "v")
    bus.publish("person", NewEvent(f"{'long' * 8}.{'type' * 8}", {}, target=name))
    lane = Lane(name, direct=True)
    event = bus.next(lane)
    assert event is not None
    Sessions(bus).begin(lane, event, "v", Limits())
    bus.dead.add(name, DeadReason.FAILED, "it failed " * 20, event)
    bus.later.add(name, json.dumps({"what": "a look " * 20}), bus.clock.now(), None)
    bus.close()
    for width in (60, 80, 100, None):
        monkeypatch.setattr(fitted_table, "terminal_width", lambda width=width: width)
        assert main([*words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 1 and set(kept.split()) <= set(lines[0].split())
        assert width is None or max(map(len, lines)) <= width


def test_a_table_for_a_program_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """`agentd status | grep` finds what a narrow terminal would not show."""
    head, first, second = shown(None, capsys)
    assert "NOTHING" in head and first.endswith("for the first time") and second.endswith("-")


def test_facts_wrap_under_their_values(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long problem is read as a block beside its name."""
    monkeypatch.setattr("agentd.commands.output.terminal_width", lambda: 40)
    print_facts({"what": "word " * 12, "hint": "x"}, indent=2, width=6)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2 and all(len(line) <= 40 for line in lines)
    assert lines[1].startswith(" " * 10 + "word") and lines[-1] == "  hint    x"
    path = "/a/long/path" * 8
    print_facts({"where": path}, indent=2, width=6)
    assert path in capsys.readouterr().out, "it can be copied"


def agent(**more: Any) -> dict[str, Any]:
    return {
        **{"name": "hello", "state": "RUNNING", "reason": "", "problem": None, "held": None},
        **{"asks": 0, "waiting": {"direct": 0, "subscribed": 0}, "last_session": None, **more},
    }


def document(**more: Any) -> dict[str, Any]:
    model = {"state": "RUNNING", "reason": "", "problem": None}
    return {"answers": True, "running": True, "storage": {"problem": None}, "model": model, **more}


LOADING = {"state": "WAITING", "reason": "", "problem": {"what": "smollm2 is not here yet"}}
WORK = {"direct": 1, "subscribed": 0}
HELD = {"reason": "3 events in a row failed alike, the last: HTTP 401", "until": None, "hint": ""}


@pytest.mark.parametrize(
    ("one", "around", "told"),
    [
        ({}, {}, None),
        ({}, {"model": LOADING}, None),  # it has nothing to do
        ({"waiting": WORK}, {"model": LOADING}, "the model, .*not here yet"),
        ({"held": HELD}, {}, "HTTP 401"),
        ({"state": "PAUSED"}, {}, "agentd resume hello"),
        ({"state": "STOPPED", "enabled": False}, {}, "agentd enable hello"),
        ({"asks": 2}, {}, "your answer to 2 questions"),
        ({}, {"storage": {"problem": {"what": "the disk is full"}}}, "the disk is full"),
        ({"state": "BACKOFF", "reason": "exit 1"}, {}, "exit 1"),
        ({"problem": {"what": "its new file is wrong"}}, {}, "its new file is wrong"),
        ({}, {"answers": False, "running": False}, "the daemon, which does not run"),
        ({}, {"answers": False}, "the daemon, which does not answer"),
    ],
)
def test_what_an_agent_waits_for(
    one: dict[str, Any], around: dict[str, Any], told: str | None
) -> None:
    """Whoever wonders why nothing happens reads it in one line."""
    found = waits_for(agent(**one), document(**around))
    assert found is None if told is None else found and re.search(told, found)


def test_the_overview_knows_the_last_result_of_each(tmp_path: Path) -> None:
    """Newest first, and no event of the system's own in its place."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    bus = Bus(paths.database)
    for name in ("hello", "feed", "silent"):
        bus.accept(name, "v1", subscribe=[], start="now")
    bus.publish("hello", NewEvent("hello.said", {"title": "An older one"}))
    bus.publish("hello", NewEvent("hello.said", {"title": "The newest"}))
    bus.publish("hello", NewEvent("hello.said", {"no": "title"}))
    bus.publish("feed", NewEvent("feed.read", {"title": "News"}))
    bus.publish("hello", NewEvent("person.asked", {"title": "A question"}), system=True)
    bus.close()
    agents = {one["name"]: one for one in overview(paths)["agents"]}
    titles = {name: (one["last_result"] or {}).get("title") for name, one in agents.items()}
    assert titles == {"hello": "The newest", "feed": "News", "silent": None}


def test_an_event_that_fails_is_told_with_its_error(tmp_path: Path) -> None:
    """HTTP 401 is read in the status before the event is a dead letter."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    bus = Bus(paths.database)
    bus.accept("hello", "v1", subscribe=["note.*"], start="now")
    bus.publish("person", NewEvent("note.added", {}))
    lane, sessions = Lane("hello", False, ("note.*",)), Sessions(bus)
    event = bus.next(lane)
    assert event is not None
    session = sessions.begin(lane, event, "v1", Limits())
    assert isinstance(session, Session)
    sessions.closing.fail(session, "HTTP 401 from feed.example")
    held = trouble(bus.db, "hello")
    assert held and held.reason.endswith("failed 1 time, the last: HTTP 401 from feed.example")
    bus.close()
    (found,) = overview(paths)["agents"]
    assert found["held"]["reason"] == held.reason and found["held"]["until"]


def test_status_of_an_agent_ends_with_the_last_of_its_log(tmp_path: Path) -> None:
    """Its own lines and the daemon's about it, oldest first."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    paths.create()
    bus = Bus(paths.database)
    bus.accept("hello", "v1", subscribe=[], start="now")
    bus.close()
    own = [{"ts": f"2026-01-01T00:{n:02d}:00Z", "event": f"own{n}"} for n in range(LOG_LINES + 3)]
    about = {"ts": "2026-01-01T00:09:30Z", "event": "about.it", "agent": "hello"}
    other = {"ts": "2027-01-01T00:00:00Z", "event": "not.its", "agent": "feed"}
    for name, entries in {"hello": own, "agentd": [about, other]}.items():
        path = paths.log(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    lines = agentd(tmp_path, "status", "hello").stdout.splitlines()
    told = [line for line in lines if "own" in line or ".it" in line]
    assert len(told) == LOG_LINES and "not.its" not in "".join(lines)
    assert "own10" in told[-1] and "about.it" in told[-2] and "own9" in told[-3]


def test_a_screen_is_drawn_again_in_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing scrolls away, whatever its length, and what others wrote drives nothing."""
    monkeypatch.setenv("LINES", "4")
    with terminal.Captured() as screen:
        for text in ("one", "two \x1b[2J", "three", "four", "five"):
            terminal.say(text)
    terminal.redraw(screen.getvalue())
    out = capsys.readouterr().out
    assert out.startswith("\x1b[H") and out.count("\n") == 3 and "four" not in out
    assert "... and 3 lines more" in out, "what is cut off may be what is wrong"
    assert "two \\x1b[2J\x1b[K\n" in out


def test_watch_goes_on_and_shows_what_changed(tmp_path: Path) -> None:
    """In a pipe each look is one line of JSON; Ctrl-C ends it."""
    environment = {**os.environ, "AGENTD_HOME": str(tmp_path)}
    hurried = f"import {status.__name__} as s\ns.WATCH_S = 0.05\n"
    script = hurried + "import sys\nfrom agentd.cli import main\nsys.exit(main(sys.argv[1:]))"
    argv = [sys.executable, "-c", script, "status", "--watch", "--json"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout
            assert json.loads(watching.stdout.readline())["agents"] == []
            paths = discover({"AGENTD_HOME": str(tmp_path)})
            paths.create()
            Bus(paths.database).accept("hello", "v1", subscribe=[], start="now")
            lines = watching.stdout
            wait_for(lambda: [a["name"] for a in json.loads(lines.readline())["agents"]])
            watching.send_signal(2)
            assert watching.wait(20) == 130
        finally:
            watching.kill()


def test_status_says_no_problem_twice(tmp_path: Path) -> None:
    """A home that nobody has used shows one line of what to do."""
    done = agentd(tmp_path / "home", "status")
    assert "agentd new" in done.stdout


def test_what_is_off_comes_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A small terminal cuts the table off below: what runs, or is wrong, is above."""
    paths = discover({"AGENTD_HOME": str(tmp_path)})
    document = overview(paths)
    known = {**UNKNOWN, "triggers": NO_TRIGGERS, "held": None, "pid": None, "since": None}
    known |= {"restarts": 0, "reason": "", "problem": None, "next_run": None, "waits_for": None}
    known |= {"cpu_percent": None, "memory_bytes": None}
    for name, state in (("a", "STOPPED"), ("b", "INVALID"), ("c", "STOPPED"), ("d", "RUNNING")):
        document["agents"].append({**known, "name": name, "state": state})
    print_status(document)
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines[-4:]] == ["b", "d", "a", "c"]
