"""`agentd answer`, and a person's yes through the whole of it: daemon, supervisor, worker, tool."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentd.approval.kept import USED
from agentd.bus import Bus
from agentd.cli import main
from agentd.config.agent import Limits
from agentd.config.daemon import DaemonConfig
from agentd.events import Lane, NewEvent
from agentd.logs import logger
from agentd.paths import Paths, discover
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.supervisor.housekeeping import TRUST_S, Housekeeping
from agentd.testing import ManualClock, Request
from tests.commandline import agentd, write_agent
from tests.livehome import Home, living

WRITER = """agent = "task"
done = "The note is written down."
subscribe = ["note.*"]
[params]
instructions = "Write the note into a.txt."
tools = ["WriteFile"]
[permissions]
write = ["{folder}"]
"""
TEXT = "buy \x1b[2Jmilk\n    path: /etc/passwd"


class Writing(Home):
    """A home whose one agent, hello, wants to write a file."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.notes = root / "notes"
        self.notes.mkdir()
        self.file = self.notes / "a.txt"

    def _answer(self, request: Request) -> Any:
        if 'type="write_file"' in str(request.body["messages"]):
            return {"tool": "done", "result": "told"}
        return {"tool": "write_file", "path": "a.txt", "text": TEXT}

    def drop(self) -> None:
        write_agent(self.root, "hello", WRITER.format(folder=self.notes))

    def state(self, session: int = 1) -> str:
        rows = self.rows(f"SELECT state FROM sessions WHERE id = {session}")
        return str(rows[0][0]) if rows else ""

    def ask(self) -> None:
        """Let it come to its question."""
        self.send()
        self.until(lambda: self.state() == "parked", "it asks")

    def answer(self, *words: str) -> tuple[int, str]:
        done = agentd(self.root, "answer", *words)
        return done.returncode, done.stdout + done.stderr

    def forge(self, said: str) -> None:
        """Write an answer as anybody with access to the database could."""
        (asked,) = self.rows("SELECT payload FROM outbox WHERE event_type = 'person.asked'")
        payload = {key: json.loads(asked[0])[key] for key in ("session", "asked")}
        with contextlib.closing(apsw.Connection(str(self.paths.database))) as db:
            db.set_busy_timeout(10_000)
            db.execute(
                "INSERT INTO outbox (agent, event_type, payload, target)"
                " VALUES ('person', 'person.answer', ?, 'hello')",
                (json.dumps({**payload, "answer": said, "mac": "00.00"}),),
            )


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Writing]:
    with living(Writing(tmp_path)) as home:
        yield home


def test_a_yes_from_the_question_to_the_file(live: Writing) -> None:
    """Asked, forged by SQL in vain, answered once, carried out; each step is told to a person."""
    live.start()
    live.ask()
    shown = agentd(live.root, "status")
    assert "asks   1 for your answer: `agentd answer`" in shown.stdout
    assert json.loads(agentd(live.root, "status", "hello", "--json").stdout)["asks"] == 1
    live.forge("yes")
    letters = "SELECT reason, error FROM dead_letters"
    ((reason, error),) = live.until(lambda: live.rows(letters), "the forged answer is buried")
    assert reason == "invalid" and "forged or changed" in error
    assert live.state() == "parked" and not live.file.exists()

    assert "wants to do WriteFile" in live.answer()[1]
    code, said = live.answer("1", "yes")
    assert (code, "event" in said) == (0, True), said
    live.until(lambda: live.state() == "ended", "it goes on")
    assert live.file.read_text() == TEXT
    assert len((live.paths.keys / USED).read_text().split()) == 1, "it was used, and noted so"
    code, said = live.answer("1", "no")
    assert code == 1 and "waits for no answer: it is ended" in said
    assert live.answer()[1] == "nothing waits for you\n"
    story = agentd(live.root, "sessions", "show", "1").stdout
    stages = ["turn 1 decision", "asked", "granted", "started", "result"]
    places = [story.index(f"\n{stage}  ") for stage in stages]
    assert places == sorted(places)
    live.stop()


def test_an_answer_waits_for_the_daemon(live: Writing) -> None:
    """Given while nothing runs: it is signed, kept and obeyed; the reason of a no is read."""
    live.start()
    live.ask()
    live.stop()
    code, said = live.answer("1", "no", "ask", "me", "first")
    assert code == 0 and "the daemon is not running" in said
    code, said = live.answer("1", "yes")
    assert code == 1 and "was answered already: no" in said
    assert "answered: no; hello has yet to read that" in live.answer()[1]
    live.launch()
    live.until(lambda: live.state() == "ended", "it goes on")
    assert not live.file.exists()
    assert any("a person said no: ask me first" in str(r.body) for r in live.model.requests)
    live.stop()


# --- the command alone


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    paths = discover()
    paths.create()
    return paths


def park(paths: Paths, args: dict[str, Any], *, asks: bool = True, clock: Any = None) -> Bus:
    """Leave a session that waits for a person."""
    bus = Bus(paths.database, clock=clock)
    bus.accept("hello", "v", subscribe=("note.*",))
    bus.publish("person", NewEvent("note.added"))
    lane = Lane("hello", False, ("note.*",))
    event = bus.next(lane)
    assert event is not None
    sessions = Sessions(bus)
    session = sessions.begin(lane, event, "v", Limits())
    assert isinstance(session, Session)
    name = "WriteFile" if asks else "AskPerson"
    sessions.journal.record(session, Step(StepKind.DECISION, name, args, asks=asks))
    if asks:
        sessions.journal.record(session, Step(StepKind.ASKED, name, {"expires": "1d"}))
    sessions.closing.park(session, "may it?" if asks else str(args["question"]))
    return bus


def test_arguments_are_shown_exactly_and_safely(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them, one a line; a text of several lines cannot look like another argument."""
    args = {"path": "/a\u202e/b", "n": 1, "text": 'one\n    path: "/x"\n\\ \x1b[2J "'}
    park(paths, args).close()
    assert main(["answer"]) == 0
    out = capsys.readouterr().out
    assert r'    path: "/a\u202e/b"' in out and "    n: 1" in out
    block = [
        "    text: 3 lines",
        "      | one",
        '      |     path: "/x"',
        r'      | \\ \u001b[2J "',
    ]
    assert "\n".join(block) in out
    assert len(re.findall("^    path:", out, re.M)) == 1
    assert re.search(r"^1  hello, since .*, a no after 20..-", out)
    assert main(["answer", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["args"] == args and shown["kind"] == "approval" and shown["answer"] is None
    assert main(["answer", "1", "YES", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"done": "answered", "session": 1, "event": 3}
    assert main(["answer", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["answer"] == "yes"


def test_a_long_text_makes_no_line_of_its_own(
    paths: Paths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal breaks lines where it ends: blanks would put a false argument below."""
    monkeypatch.setenv("COLUMNS", "40")
    false = "yes" + 31 * " " + "path: 1"
    park(paths, {"n": false, "text": 60 * "\u6c34" + "\nb"}).close()
    assert main(["answer"]) == 0
    lines = [s for s in capsys.readouterr().out.splitlines() if s.startswith("    ")]
    assert all(len(line) + line.count("\u6c34") <= 40 for line in lines)
    heads = ["    n: ", "      > ", "    text", *["      | ", "      > ", "      > ", "      > "]]
    assert [line[: len(head)] for line, head in zip(lines, heads, strict=False)] == heads
    assert lines[0].removeprefix(heads[0]) + lines[1].removeprefix(heads[1]) == f'"{false}"'
    assert "".join(line[8:] for line in lines[3:7]) == 60 * "\u6c34"
    assert lines[7] == "      | b"


def test_a_question_takes_any_words(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Also words that look like options, behind two dashes."""
    bus = park(paths, {"question": "milk or tea?"}, asks=False)
    assert main(["answer"]) == 0
    assert "  asks: milk or tea?\n  agentd answer 1 TEXT\n" in capsys.readouterr().out
    assert main(["answer", "1", "--", "-5", "no", "tea"]) == 0
    (event,) = bus.events.list(event_type="person.answer")
    assert event.payload["answer"] == "-5 no tea" and "mac" in event.payload


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("1", "perhaps"), 2, "is neither yes nor no, and WriteFile waits for one of them"),
        (("2", "yes"), 2, "session 2: there is no such session"),
        (("1",), 2, "what is the answer?"),
        (("one", "yes"), 2, "not a whole number"),
    ],
)
def test_what_is_no_answer_is_told(
    paths: Paths,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    """With what to do instead, and nothing is written."""
    bus = park(paths, {"path": "a"})
    assert main(["answer", *words]) == code
    assert said in capsys.readouterr().err
    assert bus.events.list(event_type="person.answer") == []


def test_too_late_is_told(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody allowed in time is denied, also before the supervisor says so."""
    park(paths, {"path": "a"}, clock=ManualClock()).close()  # long ago
    assert main(["answer", "1", "yes"]) == 1
    assert "it is too late" in capsys.readouterr().err


def test_a_yes_is_to_what_was_seen(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Not to what a session asks by now, nor to what somebody wrote there meanwhile."""
    bus = park(paths, {"path": "a"})
    unseen = "you have not seen what it asks now"
    for change in (None, 'UPDATE steps SET payload = \'{"path":"/etc/passwd"}\' WHERE seq = 1'):
        if change:
            bus.db.run(change)
        assert main(["answer", "1", "yes"]) == 1
        assert unseen in capsys.readouterr().err
        assert main(["answer", "--json"]) == 0
        assert main(["answer", "1", "yes"]) == 1, "a program that asks shows nobody anything"
        assert bus.events.list(event_type="person.answer") == []
        capsys.readouterr()
        assert main(["answer"]) == 0
        capsys.readouterr()
    assert main(["answer", "1", "yes"]) == 0


def test_a_no_needs_no_look(paths: Paths) -> None:
    """It does nothing."""
    park(paths, {"path": "a"})
    assert main(["answer", "1", "no"]) == 0


def test_a_program_answers_by_digest(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """What it showed, and nothing that came after."""
    bus = park(paths, {"path": "a"})
    assert main(["answer", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    for asked, code in (("0" * 64, 1), (shown["asked"], 0)):
        answer = json.dumps({"session": 1, "asked": asked, "answer": "yes"})
        assert main(["send", "person.answer", answer, "--to", "hello"]) == code
    assert len(bus.events.list(event_type="person.answer")) == 1


def test_send_signs_an_answer_too(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The longer way is held to the same: what is asked now, once. Also a person's other events."""
    bus = park(paths, {"path": "a"})
    answer = json.dumps({"session": 1, "answer": "no it is mine"})
    assert main(["send", "person.answer", answer, "--to", "hello"]) == 0
    (event,) = bus.events.list(event_type="person.answer")
    assert event.payload["answer"] == "no" and event.payload["why"] == "it is mine"
    assert main(["send", "person.answer", answer, "--to", "hello"]) == 1
    assert "answered already" in capsys.readouterr().err
    assert main(["send", "person.note", "{}", "--to", "hello"]) == 0
    (note,) = bus.events.list(event_type="person.note")
    assert "mac" in note.payload


# --- nobody answers


def test_the_supervisor_denies_what_nobody_allowed_in_time(paths: Paths) -> None:
    """Once its clock can be trusted: a clock that jumps denies nothing."""
    clock = ManualClock()
    bus = park(paths, {"path": "a"}, clock=clock)
    log = logger.get_logger()

    async def look(house: Housekeeping) -> int:
        await house._round()
        return len(bus.events.list(event_type="person.answer"))

    async def days() -> None:
        house = Housekeeping(paths, DaemonConfig(), lambda *_: None, log=log, clock=clock)
        clock.set(clock.now() + timedelta(days=2))
        assert await look(house) == 0, "the clock jumped, and may jump back"
        clock.advance(TRUST_S / 2)
        assert await look(house) == 0
        clock.advance(TRUST_S)
        assert await look(house) == 1
        assert await look(house) == 1, "once"
        await house.closed()

    asyncio.run(days())
    (no,) = bus.events.list(event_type="person.answer")
    assert (no.agent, no.target, no.payload["expired"]) == ("agentd", "hello", True)
