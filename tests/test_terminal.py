"""What others wrote is shown on the terminal, never obeyed; misspelt words get a hint."""

import ast
import json
import os
import re
import subprocess
import sys
import unicodedata
from datetime import timedelta
from pathlib import Path

import pytest

import agentd
from agentd import terminal
from agentd.agent import Result
from agentd.bus import Bus
from agentd.cli import COMMANDS, PIPE_CLOSED, main
from agentd.commands.agent_text import print_agent
from agentd.commands.output import ProgressLine
from agentd.commands.status_text import print_status
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.logs import view
from agentd.paths import Paths, discover
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import DeadReason
from agentd.testing import ManualClock
from agentd.views.agent_triggers import NO_TRIGGERS
from tests.commandline import HELLO, write_agent
from tests.commandline import agentd as command

# The window's title, C1, direction, a return, NUL, DEL, line and paragraph ends, half a character.
EVIL = "\x1b]0;x\x07\x9b2J\u202e\r\x00\x7f\u2028\u2029\u200b\x85\ue000\x1b[31m"
FORGED = "agentd: all is well"
EVIL += f"\n{FORGED}"
# A prompt and a log are shown line by line, as they are.
PROMPT = [{"role": "system", "content": EVIL.replace("\n", "")}, {"role": "user", "content": ""}]
SOURCES = Path(agentd.__file__).parent
# A worker's child speaks JSON to its parent over a pipe.
NO_TERMINAL = {"admission/admit.py", "mcp/discovery.py", "supervisor/mcp_discovery.py"}


def obeyed(text: str) -> list[str]:
    """Return what a terminal would obey in a text, and the lines that others began in it."""
    wrong = ("Cc", "Cf", "Cs", "Zl", "Zp")
    chars = [char for char in text if char != "\n" and unicodedata.category(char) in wrong]
    return chars + [line for line in text.split("\n") if line.startswith(FORGED)]


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path / "ho\x1b[2J\u202eme"))
    found = discover()
    found.create()
    return found


@pytest.fixture
def bus(paths: Paths) -> Bus:
    """A bus in which everything that can be text is hostile."""
    bus = Bus(paths.database, clock=ManualClock())
    name = "ev\x1b[2Jil"
    bus.accept(name, EVIL, subscribe=("note.*",), start="beginning")
    bus.db.run(
        "INSERT INTO agents (name, version, subscribe, paused, accepted_at)"
        " VALUES (?, 'v', ?, 0, '2026-01-01T00:00:00Z'), (?, 'v', '[]', 0, '2026-01-01T00:00:00Z')",
        (f"../x\n{FORGED}", json.dumps([f"bill.came\n{FORGED}"]), "l" * 1400),
    )
    row = (name, json.dumps({"text": EVIL, EVIL: 1}), f"tar{EVIL}get", EVIL)
    bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload, target, dedup_key)"
        " VALUES (?, 'note.added', ?, ?, ?)",
        row,
    )
    bus.db.run(
        "INSERT INTO outbox (agent, event_type, payload) VALUES ('a', ?, '{}')", (f"note.{EVIL}",)
    )
    event = bus.events.get(1)
    assert event is not None
    bus.dead.add(name, DeadReason.FAILED, f"{EVIL}\nsecond line {EVIL}", event)
    bus.dead.add_row(name, DeadReason.INVALID, EVIL, 2)
    sessions = Sessions(bus)
    for end in ("fail", "park", "close", "ask"):
        bus.publish("other", NewEvent("note.added", {"text": EVIL}))
        lane = Lane(name, False, ("note.added",))
        following = bus.next(lane)
        assert following is not None
        session = sessions.begin(lane, following, EVIL, Limits.model_validate({"attempts": 1}))
        assert isinstance(session, Session)
        session.basis = {
            **{"model": EVIL, "window": 100, "prompt": PROMPT, "agentd": EVIL, "version": EVIL},
            **{"config": {"agent": "task", "done": EVIL}, "fixed_tokens": 1, "facts": [[1, {}]]},
        }
        sessions.journal.record_opening(session, "note.added", {"text": EVIL}, trusted=False)
        sessions.journal.record(
            session, Step(StepKind.DECISION, "ReadFile", {EVIL: EVIL}, raw=EVIL)
        )
        sessions.journal.record_result(
            session, "file.read", Result({"x": EVIL}, trusted=False, remember={EVIL: EVIL})
        )
        if end == "fail":
            sessions.closing.fail(session, f"{EVIL}\n{EVIL}", reason=DeadReason.FAILED)
        elif end == "park":
            sessions.closing.park(session, EVIL)
        elif end == "ask":
            args = {EVIL: EVIL, "text": f"one\n{EVIL}\n      | {FORGED}", "n": 1}
            sessions.journal.record(session, Step(StepKind.DECISION, "WriteFile", args, raw=EVIL))
            sessions.journal.record(session, Step(StepKind.ASKED, EVIL, {"expires": "1d"}))
            sessions.closing.park(session, f"may it? {EVIL}")
        else:
            sessions.closing.close(session, outcome={EVIL: EVIL})
    return bus


@pytest.fixture
def files(paths: Paths) -> Paths:
    """Files and logs whose names and contents are hostile."""
    (paths.agents_d / "a\x1b[2J\u202eb.toml").write_text(HELLO)
    (paths.agents_d / "wrong.toml").write_text(f'agent = "task"\n"{EVIL[11:13]}\u202e\x9b" = 1\n')
    (paths.agents_d / "code.toml").write_text(f'agent = "code"\ndone = "\\u001b[2J{"x" * 20}"\n')
    (paths.agents / "code.py").write_text("raise ValueError('\\x1b[2J\\u202e\\ud800')\n")
    (paths.baml_src / "code.baml").write_text('class Done { tool "done" }\n')
    paths.daemon_file.write_text('[model]\nname = "\\u001b[2J\\u202e"\n"k\u202e" = 1\n')
    entry = {"ts": EVIL, "level": f"error{EVIL}", "event": EVIL, "agent": EVIL, EVIL: EVIL}
    lines = [
        json.dumps(entry, ensure_ascii=False),
        json.dumps({**entry, "level": "error", "exception": f"{EVIL}\n{EVIL}"}),
        json.dumps({"event": "x", "ts": "0001-01-01T00:00:00+14:00", "deep": {EVIL: [EVIL]}}),
        '{"event": "\\ud800", "n": 1e999}',
        f"torn {EVIL}".replace("\r", "").replace("\n", ""),
        "[" * 100_000,
    ]
    for name, text in RECORDINGS.items():
        (paths.user / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    paths.logs.mkdir(exist_ok=True)
    (paths.logs / "e\x1bvil.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


# A format, a section and a head that are hostile; bytes that are no text.
_TITLE = "agentd recording, format "
RECORDINGS = {
    "format\x1b[2J.recording": f"{_TITLE}{EVIL}\n",
    "section.recording": f"{_TITLE}1\n=== {EVIL.replace(chr(13), '')}\n{EVIL}\n",
    "head.recording": f"{_TITLE}1\n=== head\n" + json.dumps({EVIL: EVIL}) + "\n=== end\n",
    "cut.recording": f"{_TITLE}1\n\udcff\x9b",
    "other.recording": EVIL,
}

LINES = f"hellp\n{FORGED}"
READS = (
    *((command, LINES) for command in ("trigger", "status", "logs", "check", "eval", "replay")),
    *((command, LINES) for command in ("pause", "new", "paths", "sessions", "backup", "doctor")),
    *(("events", "--agent", LINES), ("events", "--type", LINES), ("events", f"--{LINES}")),
    *(("send", LINES, "{}"), ("send", "bill.cam", "{}"), ("send", "a.b", "{}", "--to", LINES)),
    *(("dead", "--agent", LINES), ("dead", LINES), (LINES,), ("model", "pull", LINES)),
    *(("model", LINES), ("record", "1", "-o", f"/no/{LINES}/x"), ("demo", "--repo", LINES)),
    *(("replay", "--all", "--agent", LINES), ("sessions", "show", LINES), ("trigger", "evl")),
    ("backup", "--restore", LINES),
    *(("replay", name) for name in RECORDINGS),
    ("replay", *RECORDINGS),
    ("replay", "--json", *RECORDINGS),
    *(("events",), ("events", "--json"), ("dead",), ("dead", "show", "1", "2"), ("sessions",)),
    *(("dead", "show", "1", "--json"), ("sessions", "--json"), ("status",), ("status", "--json")),
    *(("sessions", "show", "1"), ("sessions", "show", "2"), ("sessions", "show", "3")),
    *(("sessions", "show", "3", "--json"), ("sessions", "show", "1", "--turn", "1")),
    *(("answer",), ("answer", "--json"), ("answer", LINES), ("answer", "2", f"no\x1b[2J{EVIL}")),
    *(("answer",), ("answer", "--json"), ("answer", "4", EVIL), ("answer", "4", f"no {EVIL}")),
    *(("answer", "4", "yes"), ("answer",), ("answer", "no\x1b"), ("answer", "1", "yes")),
    *(("logs",), ("logs", "--json"), ("check",), ("check", "--json"), ("paths",), ("plist",)),
    *(("paths", "--json"), ("paths", "config"), ("model", "list"), ("model", "status")),
    *(("replay", "--all"), ("replay", f"no{EVIL[1:9]}.recording"), ("prune", "--dry-run")),
    *(("status", f"no{EVIL[:9]}"), ("logs", f"no{EVIL[:9]}"), ("events", "--agent", "no\x1b[2J")),
    *(("events", "--type", "no\x1b[2J"), ("check", "no\x1b[2J"), ("eval", "no\x1b[2J")),
    *(("sessions", "--agent", "no\x1b"), ("dead", "--agent", "no\x9b"), ("no\x1b\u202e",)),
    *(("send", "a.b", "{\x1b"), ("send", "a\x1b.b", "{}"), ("send", "a.b", "{}", "--to", "\x9b")),
    *(("trigger", "ev\x1b"), ("trigger", "a\x1b[2J\u202eb"), ("pause", "\x1b"), ("new", "\x1b")),
    *(("record", "1"), ("record", "1", "-o", "/no\x1b/where"), ("backup", "/no\x1b/where")),
    *(("backup",), ("model", "pull", "no\x1b[2J"), ("events", "--no\x1b"), ("send", "a.bc", "{}")),
    *(("demo", "--repo", "/no\x1b[2J"), ("sessions", "no\x1b"), ("paths", "no\x1b"), ("run",)),
    *(
        ("events", "--limit", "\x1b"),
        ("replay", "--all", "--agent", "\x1b"),
        ("doctor", "--json"),
        ("doctor",),
    ),
    *(("prove-private", LINES), ("prove-private",), ("token",)),
    *(("results",), ("results", "--json"), ("results", "1"), ("results", "no\x1b"), ("deliver",)),
    *(
        ("deliver", "test"),
        ("later",),
        ("later", "drop", "1"),
        ("search", "no\x1b[2J"),
        ("search", "a"),
    ),
    *(("completion", "bash"), ("completion", "words", "no\x1b"), ("completion", LINES)),
    *(("events", "--full"), ("events", "--grep", "\x1b"), ("events", "--since", LINES)),
    *(("enable", LINES), ("disable", "no\x1b"), ("remove", LINES), ("remove", "no\x1b", "--yes")),
    *(("model", "rm", LINES), ("model", "rm", "no\x1b[2J"), ("enable", EVIL)),
    *(("ask", LINES), ("ask", LINES, EVIL), ("ask", "--show", "1"), ("ask", EVIL, "--wait", LINES)),
    *(("ui", LINES), ("ui", "--print")),
    *(("correct", "1", "no\x1b", "a\x1b[2J"), ("send-file", "/no\x1b[2J"), ("send-file", LINES)),
)


def test_no_command_lets_text_of_others_drive_the_terminal(
    bus: Bus, files: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in rows, file names, files, logs and arguments; and no traceback."""
    monkeypatch.chdir(files.user)
    shown = set()
    for words in READS:
        if words == ("run",):
            continue  # it would run
        main(words)
        out, err = capsys.readouterr()
        assert not obeyed(out), (words, out)
        assert not obeyed(err), (words, err)
        assert "Traceback" not in out + err, words
        shown.add(words[0])
        assert not re.search(r"l{100}", err), "a name is cut"
    quiet = {"run", "install", "uninstall", "start", "stop", "restart", "resume", "reload", "mcp"}
    assert {c.name for c in COMMANDS} - shown <= quiet, "a new command: try it here, too"


def test_the_pytest_plugin_shows_hostile_titles(tmp_path: Path) -> None:
    """A recording may come from somebody else, with its name."""
    for name, text in RECORDINGS.items():
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", "--color=no", "."],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    text = (done.stdout + done.stderr).decode()
    assert "4 failed" in text and not obeyed(text), text


def test_status_shows_what_the_daemon_says_of_hostile_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """File names, reasons and problems come from others."""
    agent = {
        **{"name": EVIL, "state": EVIL, "pid": 1, "since": EVIL, "restarts": 0, "reason": EVIL},
        **{"problem": {"what": EVIL, "where": "\udcff", "hint": EVIL}, "subscribe": [EVIL]},
        **{
            "waiting": {"direct": 0, "subscribed": 0},
            "dead_letters": 0,
            "paused": False,
            "asks": 1,
        },
        "last_session": {"id": 1, "state": EVIL, "started_at": EVIL, "ended_at": None},
        **{"labels": EVIL, "held": {"reason": EVIL, "until": EVIL, "hint": EVIL}},
        **{"waits_for": EVIL, "next_run": EVIL, "model_s": 1.0, "cpu_percent": 1.0},
        **{"memory_bytes": 1, "last_result": {"id": 1, "title": EVIL, "created_at": EVIL}},
        "beat": {"state": EVIL, EVIL: EVIL},
        "triggers": {
            **NO_TRIGGERS,
            **{"schedule": EVIL, "watch": [EVIL], "watch_problem": EVIL, "where": {EVIL: EVIL}},
        },
    }
    document = {
        **{"answers": True, "running": True, "version": EVIL, "pid": 1, "since": EVIL},
        **{"home": EVIL, "failure": agent["problem"], "problem": agent["problem"]},
        **{"refused_folder": agent["problem"], "model": {"name": EVIL, "state": EVIL}},
        **{"storage": {"problem": agent["problem"]}, "agents": [agent], "refused_unshown": 2},
        **{"last_event_id": 1, "dead_letters": 0, "asks": 1},
        "sandbox": {"level": EVIL, "why": EVIL, "wanted": EVIL},
        "overlooked": [agent["problem"]],
        "deliver": {"state": EVIL, "reason": EVIL, "problem": agent["problem"], "beat": {}},
        "watcher": {"state": EVIL, "reason": EVIL, "problem": EVIL, "agents": [EVIL], "beat": {}},
        "ui": {"url": EVIL, "kept": True, "state": EVIL, "pid": 1, "problem": agent["problem"]},
        "workers": {"problem": agent["problem"]},
    }
    print_status(document)
    print_agent(agent)
    assert not obeyed(capsys.readouterr().out)


def test_only_our_own_colours_are_real(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal as well; and a line break in a value makes no second line."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    terminal.say(terminal.colour("red \x1b[32m\n", terminal.RED) + " \x1b[1mx")
    assert capsys.readouterr().out == "\x1b[31mred \\x1b[32m\\n\x1b[0m \\x1b[1mx\n"
    terminal.say_lines(view.render(json.dumps({"level": "error", "event": "\x1b[2J"})))
    out = capsys.readouterr().out
    assert out.startswith("\x1b[31m") and out.endswith("\x1b[0m\n") and "[2J" in out
    assert not obeyed(re.sub(r"\x1b\[(31|0)m", "", out))
    line = ProgressLine(sys.stdout)
    line(1, 4, f"label {EVIL}")
    out = capsys.readouterr().out
    assert out.startswith("\r\x1b[K") and not obeyed(out.removeprefix("\r\x1b[K"))


def test_a_terminal_without_the_characters_gets_escapes(paths: Paths) -> None:
    """No traceback where the locale knows ASCII alone, nor for half a character."""
    bus = Bus(paths.database)
    bus.publish("person", NewEvent("note.added", {"text": "Köln 🎉"}))
    done = command(paths.user, "events", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0 and r"K\xf6ln" in done.stdout and "Traceback" not in done.stderr


def test_nothing_prints_past_the_one_place() -> None:
    """A bare `print` in a command would let text of others through."""
    found = []
    for path in SOURCES.rglob("*.py"):
        place = str(path.relative_to(SOURCES))
        if place == "terminal.py" or place in NO_TERMINAL:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("print", "argparse.ArgumentParser") or re.fullmatch(
                r"sys\.(stdout|stderr)(\.buffer)?\.write(lines)?", called
            ):
                found.append(f"{place}:{node.lineno} {called}")
    assert found == [] or found == [f for f in found if f.startswith("model_server/__main__")]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("evnts",), "events"),
        (("Status",), "status"),
        (("events", "--limt", "3"), "--limit"),
        (("events", "--since-i", "3"), "--since-id"),
        (("sessions", "--stat", "parked"), "--state"),
        (("sessions", "--state", "parkd"), "parked"),
        (("dead", "lst"), "list"),
        (("paths", "databse"), "database"),
        (("status", "helo"), "hello"),
        (("trigger", "helo"), "hello"),
        (("send", "note.added", "{}", "--to", "Hello"), "hello"),
        (("send", "note.aded", "{}"), "note.added"),
        (("events", "--agent", "helo"), "hello"),
        (("events", "--type", "note.aded"), "note.added"),
        (("sessions", "--agent", "helo"), "hello"),
        (("logs", "helo"), "hello"),
        (("dead", "list", "--agent", "helo"), "hello"),
        (("check",), "subscribe"),
    ],
)
def test_a_misspelt_word_gets_a_hint(
    words: tuple[str, ...], meant: str, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, options, their values, agents, event types, keys."""
    bus = Bus(paths.database)
    bus.accept("hello", "v", subscribe=("note.added",))
    write_agent(paths.user, "other", HELLO.replace("subscribe", "subscirbe"))
    paths.logs.mkdir(exist_ok=True)
    code = main(words)
    out, err = capsys.readouterr()
    assert f'did you mean "{meant}"?' in out + err
    assert code in ((0,) if words[:2] in (("send", "note.aded"), ("events", "--type")) else (1, 2))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("events", "--level", "x"), "unrecognized arguments: --level x"),
        (("dead", "--reason", "xx"), "unrecognized arguments: --reason"),
        (("dead", "-r", "xx"), "unrecognized arguments: -r"),
        (("events", "--j"), "unrecognized arguments: --j"),
        (("dead", "--reazn=xx", "--", "--jsn"), "unrecognized arguments: --reazn"),
        (("evnts", "--x"), "invalid choice: 'evnts'"),
        (("sessions", "--state", "x", "--nope"), "invalid choice: 'x'"),
        (("events", "--limit", "-3"), "must not be negative"),
    ],
)
def test_a_word_that_is_like_nothing_sends_nobody_astray(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dashes make no two options alike, and an unknown option is told before its value."""
    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "did you mean" not in err or words[0] == "evnts"


def test_options_are_not_abbreviated(paths: Paths) -> None:
    """What is short today would be another option's tomorrow."""
    Bus(paths.database)
    assert main(["events", "--lim", "3"]) == 2
    assert main(["events", "--limit", "3"]) == 0


def test_an_agent_of_which_there_is_nothing_yet_is_no_error(paths: Paths) -> None:
    """It has a file, or was here once."""
    bus = Bus(paths.database)
    bus.accept("gone", "v")
    bus.agents.remove("gone")
    write_agent(paths.user, "fresh")
    paths.logs.mkdir(exist_ok=True)
    for name in ("gone", "fresh"):
        for words in (("sessions", "--agent", name), ("events", "--agent", name), ("logs", name)):
            assert main(words) == 0, words
    for name in ("person", "agentd"):
        assert main(["events", "--agent", name]) == 0
    assert main(["logs", "model"]) == 0
    for json_too in ((), ("--json",)):
        assert main(["sessions", "--agent", "nobody", *json_too]) == 1


def test_trigger_says_what_is_wrong_with_an_agents_file(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not that there is no such agent."""
    Bus(paths.database)
    file = write_agent(paths.user, "hello", HELLO.replace("subscribe", "subscirbe"))
    assert main(["trigger", "hello"]) == 1
    err = capsys.readouterr().err
    assert "subscirbe: unknown key" in err and str(file.name) in err
    write_agent(paths.user, "hello", "enabled = false\n" + HELLO)
    assert main(["trigger", "hello"]) == 1
    assert "is disabled" in capsys.readouterr().err
    write_agent(paths.user, "hello")
    assert main(["trigger", "hello"]) == 1
    assert "not accepted yet" in capsys.readouterr().err


def test_send_says_what_becomes_nothing(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The event is written all the same; a person may know better."""
    bus = Bus(paths.database)
    bus.accept("hello", "v", subscribe=("note.*",), start="beginning")

    def said(*words: str) -> str:
        assert main(["send", *words]) == 0
        return capsys.readouterr().err

    assert "no agent reads bill.came: they read note.*" in said("bill.came", "{}")
    assert "reads" not in said("note.added", "{}")
    assert "reads" not in said("bill.came", "{}", "--to", "hello")
    lane = Lane("hello", False, ("note.*",))
    event = bus.next(lane)
    assert event is not None
    sessions = Sessions(bus)
    session = sessions.begin(lane, event, "v", Limits.model_validate({}))
    assert isinstance(session, Session)
    answer = json.dumps({"session": session.id, "answer": "yes"})
    assert "asks nothing: it is running" in said("person.answer", answer, "--to", "hello")
    sessions.journal.record(session, Step(StepKind.DECISION, "AskPerson", {"question": "shall I?"}))
    sessions.closing.park(session, "shall I?")
    assert "answers no question" not in said("person.answer", answer, "--to", "hello")
    assert "send it --to hello" in said("person.answer", answer)
    assert "has no `answer`" in said("person.answer", '{"session": 1}', "--to", "hello")
    for session_id in (99, '"1"', 9**99, "null"):
        wrong = f'{{"session": {session_id}, "answer": 1}}'
        assert "the session that asked" in said("person.answer", wrong, "--to", "hello")


def test_status_shows_the_session_that_began_last(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after a clock that ran ahead: its session stands in the future for long."""
    clock = ManualClock()
    bus = Bus(paths.database, clock=clock)
    bus.accept("hello", "v", subscribe=("note.*",))
    sessions, lane = Sessions(bus), Lane("hello", False, ("note.*",))
    for moment in (clock.now() + timedelta(days=1), clock.now()):
        clock.set(moment)
        bus.publish("person", NewEvent("note.added"))
        event = bus.next(lane)
        assert event is not None
        session = sessions.begin(lane, event, "v", Limits.model_validate({}))
        assert isinstance(session, Session)
        sessions.closing.close(session)
    main(["status", "hello", "--json"])
    assert json.loads(capsys.readouterr().out)["last_session"]["id"] == 2


def test_dead_show_prints_an_errors_lines(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """As lines, and not with a backslash and an n."""
    bus = Bus(paths.database)
    event = bus.events.get(bus.publish("person", NewEvent("note.added")) or 0)
    assert event is not None
    bus.dead.add("hello", DeadReason.FAILED, "what happened\n  hint: do this", event)
    assert main(["dead", "show", "1"]) == 0
    out = capsys.readouterr().out
    assert r"\n" not in out and re.search(r"^error +what happened\n +hint: do this$", out, re.M)


@pytest.mark.parametrize("words", [("events", "-f"), ("results", "-f"), ("logs", "-f")])
def test_following_ends_when_nobody_reads_any_more(words: tuple[str, ...], paths: Paths) -> None:
    """`agentd events -f | grep -m1 x` goes on at once, and not at the event after it."""
    bus = Bus(paths.database)
    bus.publish("person", NewEvent("note.added", {"title": "one"}))
    paths.log("agentd").parent.mkdir(parents=True)
    paths.log("agentd").write_text('{"event": "one"}\n')
    argv = [sys.executable, "-m", "agentd", *words]
    environment = {**os.environ, "AGENTD_HOME": str(paths.user)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and b"one" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == PIPE_CLOSED


def test_an_empty_no_color_forbids_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """As no-color.org has it."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = []
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        shown.append(terminal.colour("x", terminal.RED))
    assert shown[0] != "x" and shown[1] == "x"


def test_an_agent_that_has_only_a_file_is_named_among_those_there_are(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever mistypes one that is off is not told that there is none."""
    Bus(paths.database)
    write_agent(paths.user, "hello", f"enabled = false\n{HELLO}")
    assert main(["trigger", "helo"]) == 1
    assert 'there are: hello; did you mean "hello"?' in capsys.readouterr().err


def test_a_model_that_was_not_pulled_is_no_folder_of_yours(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name is told, and a look for it writes nothing."""
    assert main(["model", "rm", "smollm2-135n"]) == 2
    assert "the model smollm2-135n is not here" in capsys.readouterr().err
    assert main(["model", "rm", "smollm2-135m"]) == 2
    assert not any(paths.models.glob(".*"))
    assert main(["model", "rm", str(paths.user)]) == 2
    assert "yours to remove" in capsys.readouterr().err
