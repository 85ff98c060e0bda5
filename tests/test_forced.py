"""A Done that nothing else was left to decide: it looks like what it is, and not like a result."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import apsw
import pytest

from agentd.agent import Result
from agentd.bus import Bus
from agentd.bus.migrations import MIGRATIONS, _forced
from agentd.cli import main
from agentd.config.agent import Limits
from agentd.events import Lane, NewEvent
from agentd.guards import forced
from agentd.loop import Ending
from agentd.paths import discover
from agentd.replay.endings import check_end
from agentd.replay.playback import Playback
from agentd.sessions.session import Session
from agentd.sessions.sessions import Sessions
from agentd.sessions.steps import Step, StepKind
from agentd.states import Priority, SessionState
from agentd.testing import run_agent
from tests.commandline import one_decision

EVENT = NewEvent("note.changed", {"path": "a.txt"})
BEFORE = MIGRATIONS.index(_forced)  # the version before sessions had the column
PARAMS = {"instructions": "Read it.", "tools": ["ReadFile"], "publish": "note.read"}
DONE = ("Done", {"result": "It is about tea."})


def config(folder: Path, params: Mapping[str, Any] = PARAMS, **limits: Any) -> dict[str, Any]:
    (folder / "notes").mkdir(exist_ok=True)
    for name in "abcd":
        (folder / "notes" / f"{name}.txt").write_text(f"{name} " + "word " * 300)
    return {
        "params": dict(params),
        "limits": limits,
        "permissions": {"read": [str(folder / "notes")]},
    }


def read(folder: Path, name: str) -> tuple[str, dict[str, Any]]:
    return "ReadFile", {"path": str(folder / "notes" / f"{name}.txt"), "start": None}


def never_ends(folder: Path, names: str) -> Any:
    """A model that reads on until it must not, and then says the last thing that it saw."""
    turn = -1

    def answer(log: str) -> Any:
        nonlocal turn
        turn += 1
        last = log.rstrip().splitlines()[-2]
        if "decide Done now" in last:
            return "Done", {"result": last[:400]}
        return read(folder, names[min(turn, len(names) - 1)])

    return answer


@pytest.mark.parametrize(
    ("limits", "names", "why"),
    [
        ({"turns": 2}, "ab", "last turn"),
        ({"turns": 20}, "aaaa", "ReadFile again and again"),  # forbidden: Done alone is left
        ({"turns": 20, "context_share": 0.15}, "abcd", "the context is full"),
    ],
)
def test_a_forced_end_says_so_and_publishes_nothing(
    tmp_path: Path, limits: dict[str, Any], names: str, why: str
) -> None:
    """The guard's words are no result, whichever guard left nothing but Done."""
    settings = config(tmp_path, **limits)
    run = run_agent("task", EVENT, never_ends(tmp_path, names), config=settings)
    assert (run.state, run.forced, run.events("note.read")) == ("ended", why, [])
    assert run.outcome is not None and run.outcome["forced"] == why
    said = {**PARAMS, "publish_forced": True}
    settings = config(tmp_path, said, **limits)
    run = run_agent("task", EVENT, never_ends(tmp_path, names), config=settings)
    (event,) = run.events("note.read")
    assert event.keys() == {"result"}, "what is published is as declared"


def test_an_end_that_was_chosen_is_a_result(tmp_path: Path) -> None:
    """Also after a repeat was forbidden for a turn, and where the union is Done alone."""
    answers = [*[read(tmp_path, "a")] * 3, DONE]
    run = run_agent("task", EVENT, answers, config=config(tmp_path))
    assert run.forced is not None, "ReadFile was forbidden at that turn, and nothing else is there"
    two = {**PARAMS, "tools": ["ReadFile", "ListFiles"]}
    run = run_agent("task", EVENT, answers, config=config(tmp_path, two))
    assert run.forced is None and run.outcome == DONE[1]
    assert run.events("note.read") == [DONE[1]]
    alone = {**PARAMS, "tools": []}
    run = run_agent("task", EVENT, [DONE], config={"params": alone, "limits": {"turns": 1}})
    assert run.forced is None and run.events("note.read") == [DONE[1]]


def test_an_agents_own_end_is_not_forced(tmp_path: Path) -> None:
    """Where the agent itself bars all but Done, as a review does after the last finding."""
    file = {"path": "a.py", "status": "changed", "added": 1, "deleted": 0, "size": 1, "line": 1}
    event = NewEvent(
        "repo.changed",
        {"repo": str(tmp_path), "head": "h", "files": [{**file, "old_path": None, "markers": 0}]},
    )
    finding = ("Finding", {"note": "Adds some more words."})
    settings: dict[str, Any] = {"permissions": {"read": [str(tmp_path)]}, "limits": {"turns": 2}}
    settings["params"] = {"words": True}
    run = run_agent("repo_review", event, [finding, ("Done", {})], config=settings)
    assert (run.state, run.forced, run.error) == ("ended", None, None)
    settings["limits"] = {"turns": 1}
    run = run_agent("repo_review", event, [("Done", {})], config=settings)
    assert run.forced == "last turn"
    (done,) = run.events("review.done")
    assert done["files"] == 1, "its facts are right whoever ended it"


def test_the_agent_is_told_before_it_finishes(tmp_path: Path) -> None:
    """An agent in code decides by `self.forced`; without a look at it, it publishes as ever."""
    home = tmp_path / "home"
    (home / "agents").mkdir(parents=True)
    (home / "baml_src").mkdir()
    (home / "agents" / "teller.py").write_text(TELLER)
    (home / "baml_src" / "teller.baml").write_text(BAML)
    settings = {"limits": {"turns": 2}}
    run = run_agent("teller", EVENT, [("Look", {}), ("Done", {})], config=settings, home=home)
    assert run.events("look.told") == [{"forced": "last turn"}]
    run = run_agent("teller", EVENT, [("Done", {})], config=settings, home=home)
    assert run.events("look.told") == [{"forced": None}] and run.outcome == {}


TELLER = """
from pydantic import BaseModel
from agentd.agent import Agent, Result
from agentd.events import NewEvent

class Told(BaseModel):
    forced: str | None

class Teller(Agent):
    function = "Teller"
    publishes = {"look.told": Told}
    reads = frozenset({"Look"})

    def dispatch(self, decision):
        return Result({"seen": 1})

    def finish(self, done, event, results):
        return Result({}, publish=[NewEvent("look.told", {"forced": self.forced})])
"""
BAML = one_decision("Teller", "Look")


def test_sessions_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the list, for one session, and as JSON; an agent's other outcomes are left alone."""
    monkeypatch.setenv("AGENTD_HOME", str(tmp_path))
    paths = discover()
    paths.create()
    ends: Sequence[tuple[dict[str, Any], str | None]] = (
        ({"result": "x", "forced": "last turn"}, "last turn"),
        ({"result": "y", "forced": "yes"}, None),  # the agent's own field
    )
    with contextlib.closing(Bus(paths.database)) as bus:
        sessions, lane = Sessions(bus), Lane("reader", False, ("note.changed",))
        bus.accept("reader", "v", subscribe=["note.changed"])
        for outcome, why in ends:
            bus.publish("person", EVENT, priority=Priority.PERSON)
            session = sessions.begin(lane, bus.next(lane) or pytest.fail(), "v", Limits())
            assert isinstance(session, Session)
            sessions.journal.record_opening(session, "note.changed", {}, trusted=False)
            sessions.closing.close(session, outcome=outcome, forced=why)
    assert main(["sessions"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("ended, forced") == 1
    assert listed.count("ended, forced (last turn)") == 1
    assert main(["sessions", "show", "1"]) == 0
    assert capsys.readouterr().out.count("ended, forced (last turn)") == 2
    assert main(["sessions", "--json"]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert [(d["state"], d["forced"], d["outcome"]["forced"]) for d in documents] == [
        ("ended", None, "yes"),
        ("ended", "last turn", "last turn"),
    ]


def test_an_agents_own_field_is_left_alone(tmp_path: Path) -> None:
    """A `forced` of the agent is no reason, and no reason is written over it."""
    home = tmp_path / "home"
    (home / "agents").mkdir(parents=True)
    (home / "baml_src").mkdir()
    own = TELLER.replace("Result({}, ", 'Result({"forced": "yes"}, ')
    (home / "agents" / "teller.py").write_text(own)
    (home / "baml_src" / "teller.baml").write_text(BAML)
    run = run_agent("teller", EVENT, [("Done", {})], home=home)
    assert (run.forced, run.outcome) == (None, {"forced": "yes"})
    settings = {"limits": {"turns": 2}}
    run = run_agent("teller", EVENT, [("Look", {}), ("Done", {})], config=settings, home=home)
    assert (run.forced, run.outcome) == ("last turn", {"forced": "yes"})


@pytest.mark.parametrize(
    ("recorded", "own", "why", "same"),
    [
        ({"a": 1, "forced": "last turn"}, {"a": 1}, "last turn", True),
        ({"a": 1}, {"a": 1}, "last turn", True),  # before it was said at all
        ({"forced": "last turn"}, {"forced": "yes"}, "last turn", True),  # when it was overwritten
        ({"forced": "yes"}, {"forced": "yes"}, "last turn", True),
        ({"forced": "yes"}, {"forced": "yes"}, None, True),
        ({"forced": "yes"}, {"forced": "no"}, None, False),
        ({"forced": "last turn"}, {"forced": "no"}, None, False),
        ({"forced": "last turn"}, {}, "time is up", False),
    ],
)
def test_recordings_of_every_age_replay(
    recorded: dict[str, Any], own: dict[str, Any], why: str | None, same: bool
) -> None:
    """Whatever the agentd that recorded them made of `forced`."""
    session = SimpleNamespace(error=None, state=SessionState.ENDED, outcome=recorded)
    recording = SimpleNamespace(head=SimpleNamespace(session=session))
    playback = SimpleNamespace(
        recording=recording, next_step=None, diverged=lambda *_: ValueError()
    )
    with contextlib.nullcontext() if same else pytest.raises(ValueError):
        check_end(cast(Playback, playback), Ending(Result(own), forced=why))


def test_sessions_of_an_older_agentd_keep_their_reason(tmp_path: Path) -> None:
    """It stood in their outcome alone; what a person wrote there by SQL is left as it is."""
    path = tmp_path / "agentd.db"
    db = apsw.Connection(str(path))
    for migrate in MIGRATIONS[:BEFORE]:
        migrate(db)
    db.pragma("user_version", BEFORE)
    for outcome in ('{"a":1,"forced":"last turn"}', '{"a":1}', '{"forced":1}', '"forced" {', None):
        db.execute(
            "INSERT INTO sessions (agent, consumer, event_id, delivered_id, event_type, version,"
            " state, started_at, outcome) VALUES ('a', 'a', 1, 1, 'b.c', 'v', 'ended', '2026', ?)",
            (outcome,),
        )
    db.close()
    with contextlib.closing(Bus(path)) as bus:
        rows = Sessions(bus).archive.list()
    assert [row.forced for row in rows] == [None, None, None, None, "last turn"]
    assert rows[-1].outcome == {"a": 1, "forced": "last turn"}


def test_an_older_session_that_resumes_has_a_reason() -> None:
    """Its note does not say why; that it was forced is told by what the turn allowed."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    note = Step(StepKind.NOTE, "note", {"text": "last turn: decide Done now"}, seq=1, ts=now)
    done = Step(StepKind.DECISION, "Done", {}, seq=2, ts=now, allowed=("Done",))
    both = frozenset({"Done", "Look"})
    assert forced([note, done], both) == "last turn"
    told = {"text": "Look was decided again; decide otherwise"}
    old = Step(StepKind.NOTE, "note", told, seq=1, ts=now)
    assert forced([old, done], both) == forced([done], both) == "only Done was allowed"
    assert forced([note, done], frozenset({"Done"})) is None
