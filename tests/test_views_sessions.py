"""What people are shown of a session and of an event: its turns, and the tree that it stands in."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.bus import Bus, sql
from agentd.errors import UsageError
from agentd.events import NewEvent
from agentd.sessions.archive import Archive
from agentd.views import causes as causes_view
from agentd.views.causes import causes
from agentd.views.session_turns import (
    TEXT_CHARACTERS_MAX,
    prompt_of,
    session_document,
    turn_document,
)
from tests.recorded import World

READ = 'agent = "task"\ndone = "It is read."\nsubscribe = ["note.changed"]\n'
PARAMS = """
[params]
instructions = "Read it."
tools = ["ReadFile"]
publish = "note.read"
[permissions]
read = ["{notes}"]
"""
STEP = """
INSERT INTO steps (session_id, seq, kind, type, payload, ts, trusted, idempotent, duration_ms,
                   active_ms, prompt_tokens, basis)
VALUES (?, ?, ?, ?, ?, '2026-01-15T10:30:00.000Z', 1, 1, ?, ?, ?, ?)
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    made = Bus(tmp_path / "a.db")
    yield made
    made.close()


def a_session(bus: Bus, event_id: int = 1, state: str = "ended") -> int:
    return bus.db.insert(
        "INSERT INTO sessions (agent, consumer, event_id, delivered_id, event_type, version, state,"
        " started_at, basis) VALUES ('one', 'one', ?1, ?1, 'a.b', 'v', ?2,"
        ' \'2026-01-15T10:30:00.000Z\', \'{"model": "m", "window": 2000}\')',
        (event_id, state),
    )


def turns(bus: Bus, session: int, number: int, payload: Any = None) -> None:
    """Let a session have been opened, and have taken so many turns of a second each."""
    bus.db.run(STEP, (session, 1, "opening", "a.b", "{}", None, 100, None, None))
    for turn in range(number):
        basis = json.dumps({"context_tokens": 500 + turn, "counts": [1] * 1000})
        at = 100 + 1000 * turn
        decided = ("decision", "Read", '{"n": 1}', 600.0, at + 700, 500, basis)
        bus.db.run(STEP, (session, 2 * turn + 2, *decided))
        text = json.dumps({"text": "x"} if payload is None else payload)
        result = ("result", "read", text, None, at + 1000, None, None)
        bus.db.run(STEP, (session, 2 * turn + 3, *result))


def test_a_session_is_told_turn_by_turn(world: World) -> None:
    """With what each decision cost, how full the window was, and where the time went."""
    (world.notes / "a.txt").write_text("tea")
    world.write("reader", READ + PARAMS.format(notes=world.notes))
    world.publish("note.changed", {"path": "a.txt"})
    read = {"tool": "read_file", "path": str(world.notes / "a.txt"), "start": None}
    session = world.run("reader", [read, {"tool": "done", "result": "Tea."}])
    told = session_document(world.bus, session)
    assert [(step["turn"], step["kind"], step["type"]) for step in told["steps"]] == [
        (0, "opening", "note.changed"),
        (1, "decision", "ReadFile"),
        (1, "result", "read_file"),
        (2, "decision", "Done"),
    ]
    assert (told["agent"], told["state"], told["window"]) == ("reader", "ended", 8192)
    assert 0 < told["steps"][1]["context_tokens"] < told["window"] * told["share"]
    assert told["steps"][1]["completion_tokens"] > 0
    times = [moment for step in told["steps"] for moment in (step["begin_s"], step["end_s"])]
    assert times == sorted(times) and times[-1] <= told["active_s"]
    (effect,) = told["causes"]["event"]["effects"]
    assert effect["event_type"] == "note.read"
    assert told["replay"] == f"agentd replay {session}"


def test_the_prompt_of_a_turn_is_what_the_model_was_asked(world: World) -> None:
    """Byte by byte; the page and `agentd sessions show --turn` have it from the same place."""
    world.write("reader", READ + PARAMS.format(notes=world.notes))
    world.publish("note.changed", {"path": "a.txt"})
    session = world.run("reader", [{"tool": "done", "result": "Tea."}])
    asked = world.requests[-1].body["messages"]
    told = turn_document(world.bus, session, 1)
    assert told["messages"] == asked
    assert json.loads(told["raw"])["result"] == "Tea."
    assert [step["type"] for step in told["steps"]] == ["Done"]
    with pytest.raises(UsageError, match="it has turns 1 to 1"):
        prompt_of(Archive(world.bus).history(session), 2)
    with pytest.raises(UsageError, match="it has turns 1 to 1"):
        turn_document(world.bus, session, 2)


def test_a_long_session_is_given_some_turns_at_a_time(bus: Bus) -> None:
    """Two hundred turns with long results stay a small document, and none is left out."""
    session = a_session(bus)
    turns(bus, session, 200, {"text": "x" * 50_000})
    first = session_document(bus, session)
    assert (first["turns"], first["previous"], first["next"]) == (200, None, 51)
    assert [step["turn"] for step in first["steps"]] == [0, *(n // 2 for n in range(2, 102))]
    assert len(json.dumps(first)) < 101 * (TEXT_CHARACTERS_MAX + 1000)
    assert first["steps"][2]["payload"].endswith("...[cut 46012 characters]")
    last = session_document(bus, session, first=151)
    assert (last["previous"], last["next"]) == (101, None)
    assert [step["turn"] for step in last["steps"]] == [n // 2 for n in range(302, 402)]
    assert last["steps"][0]["begin_s"] == pytest.approx(150.2)
    assert last["steps"][0]["end_s"] == pytest.approx(150.8)
    assert session_document(bus, session, first=999)["steps"] == []
    with pytest.raises(UsageError, match="no such session"):
        session_document(bus, 99)


def test_what_a_person_wrote_into_a_session_by_hand_is_shown_as_it_is(bus: Bus) -> None:
    """A page about a damaged session must still open."""
    session = a_session(bus)
    turns(bus, session, 1)
    bus.db.run("UPDATE sessions SET basis = 'nonsense'")
    bus.db.run("UPDATE steps SET basis = '[1]', payload = 'nonsense'")
    told = session_document(bus, session)
    assert [step["payload"] for step in told["steps"]] == ["nonsense"] * 3
    assert told["window"] is None


def test_a_margin_of_a_label_is_told(bus: Bus) -> None:
    """Whether a label was a close call is what a person looks for."""
    session = a_session(bus)
    about = {"by": "offsets", "margin": 0.08, "unsure": True, "probabilities": {"a": 0.54}}
    basis = json.dumps({"labels": {"kind": {**about, "logprobs": {"a": -1.0}}}})
    bus.db.run(STEP, (session, 1, "decision", "Done", '{"kind": "a"}', 1.0, 1, 1, basis))
    (step,) = session_document(bus, session)["steps"]
    assert step["labels"] == [{"field": "kind", **about}]


# --- causes


def chain(bus: Bus, number: int) -> list[int]:
    """Publish an event, and others that each answer the one before."""
    found: list[int] = []
    for _ in range(number):
        cause = bus.events.get(found[-1]) if found else None
        published = bus.publish("one", NewEvent("a.b"), cause=cause)
        assert published is not None
        found.append(published)
    return found


def test_an_event_stands_between_its_causes_and_its_effects(bus: Bus) -> None:
    """With the sessions that answered each, the oldest first."""
    first, second, third, fourth = chain(bus, 4)
    session = a_session(bus, third)
    told = causes(bus, third)
    assert [node["id"] for node in told["causes"]] == [first, second]
    assert told["event"]["id"] == third
    assert [node["id"] for node in told["event"]["effects"]] == [fourth]
    (answered,) = told["event"]["sessions"]
    assert (answered["id"], answered["agent"], answered["state"]) == (session, "one", "ended")


def test_a_pruned_cause_is_named(bus: Bus) -> None:
    """The tree says that there was more, instead of looking whole."""
    _first, second, third = chain(bus, 3)
    bus.db.run("DELETE FROM outbox WHERE id <= ?", (second,))
    told = causes(bus, third)
    assert [(node["id"], node["gone"]) for node in told["causes"]] == [(second, True)]
    told = causes(bus, second)
    assert told["event"]["gone"]
    assert [node["id"] for node in told["event"]["effects"]] == [third]


def test_a_tree_is_bounded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events answer one, also in a circle that a person's SQL made."""
    monkeypatch.setattr(causes_view, "NODES_MAX", 50)
    (first,) = chain(bus, 1)
    cause = bus.events.get(first)
    with bus.transaction():
        for _ in range(30):
            bus.publish("one", NewEvent("a.b"), cause=cause)
    told = causes(bus, first)
    assert len(told["event"]["effects"]) == causes_view.EFFECTS_MAX and told["event"]["more"]
    with bus.transaction():
        for effect in told["event"]["effects"]:
            for _ in range(5):
                bus.publish("one", NewEvent("a.b"), cause=bus.events.get(effect["id"]))
    told = causes(bus, first)
    assert json.dumps(told).count('"effects"') == 50
    last = told["event"]["effects"][-1]
    assert (last["effects"], last["more"]) == ([], True)
    bus.db.run("UPDATE outbox SET cause_id = id % 5 + 1")
    assert told != causes(bus, first)
    assert json.dumps(causes(bus, first)).count('"effects"') <= 50 + causes_view.CAUSES_MAX


def test_a_tree_of_a_large_outbox_is_found_by_indexes(bus: Bus) -> None:
    """A page about one event must not read a million others."""
    for statement in (sql.EFFECTS, sql.SESSIONS_OF):
        plan = bus.db.run(f"EXPLAIN QUERY PLAN {statement}", (1, 1))
        assert all("SEARCH" in row[3] and "INDEX" in row[3] for row in plan), plan
