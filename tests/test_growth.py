"""What should not grow with the number of events does not: by what SQLite does, and no clock."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agentd.agent import Agent, Kit, Result
from agentd.bus import Bus
from agentd.bus.seen import SeenFile
from agentd.cli import main
from agentd.events import FILE, Lane, NewEvent
from agentd.llm.decision import Choice
from agentd.llm.mcp_tools import described
from agentd.mcp.definitions import McpTool, pinned
from agentd.paths import HOME_VARIABLE, Paths, discover
from agentd.recordings.recording import Root
from agentd.replay.agent_proxy import MappedAgent
from agentd.replay.folder_map import FolderMap
from agentd.sessions.archive import Archive
from tests.bench.growth import of_agents, of_events, of_tools, of_turns, of_window, scaling
from tests.bench.growth.command import AXES
from tests.bench.growth.filled import fill
from tests.bench.growth.scaling import FLAT, LINEAR, Growth, render
from tests.sqlite_work import sqlite_work
from tests.supervised import remove_sockets

FEW, MANY = 10_000, 40_000  # events; each agent has more sessions than are looked through
MORE = 1.05  # times as many steps for MANY


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Paths, Paths]]:
    """Homes with few and with many events, that else hold the same."""
    few = _home(tmp_path_factory.mktemp("few"), FEW)
    many = _home(tmp_path_factory.mktemp("many"), MANY)
    yield few, many
    for paths in (few, many):
        remove_sockets(paths)


def _home(folder: Path, events: int) -> Paths:
    paths = discover({HOME_VARIABLE: str(folder)})
    paths.create()
    paths.create_private()
    fill(paths, events, datetime.now(UTC))
    (paths.agents_d / "nobody.toml").write_text("")
    return paths


@pytest.mark.parametrize(
    "words",
    [
        "status --json",
        "events -n 20",
        "results",
        "results agent3",
        "results nobody",
        "sessions",
        "sessions --agent nobody",
        "sessions --state parked",
        "sessions --state running",
        "sessions --state parked --agent agent3",
        "search needle",
    ],
)
def test_a_command_does_the_same_work_whatever_the_outbox_holds(
    homes: tuple[Paths, Paths], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """status, events, results, sessions and a search for a rare word are flat in events."""

    def said(paths: Paths) -> None:
        monkeypatch.setenv(HOME_VARIABLE, str(paths.user))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert main(words.split()) in (0, 3)

    _flat(homes, said)


READS: dict[str, Callable[[Bus], object]] = {
    "poll": lambda bus: bus.next(Lane("agent0", False, ("thing.seen1", "thing.found2"))),
    "direct": lambda bus: bus.next(Lane("agent0", direct=True)),
    "prefix": lambda bus: bus.next(Lane("agent0", False, ("thing.*",))),
    "file": lambda bus: bus.seen.open_event("agent0", SeenFile("a", "b", "c")),
    "sessions that ran": lambda bus: Archive(bus).model_seconds(datetime.now(UTC)),
    "session of an event": lambda bus: Archive(bus).of_event("agent0", 400),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_an_agent_reads_is_found_without_the_events_before(
    homes: tuple[Paths, Paths], read: Callable[[Bus], object]
) -> None:
    """A poll, a file that was told of, and what labels rest on are flat in events and sessions."""

    def run(paths: Paths) -> None:
        bus = Bus(paths.database)
        read(bus)
        bus.close()

    _flat(homes, run)


def test_a_file_that_is_open_is_found_by_who_is_at_it(bus: Bus) -> None:
    """It is while it is unread, being worked on or waiting for a person."""
    bus.accept("reader", "v")
    file = SeenFile("print", "a.txt", "stamp")
    lane = Lane("reader", direct=True)
    event = NewEvent(FILE, {"path": "a.txt", "fingerprint": "print"}, target="reader")
    told = bus.publish("agentd", event, system=True)
    assert bus.seen.open_event("reader", file) == told
    assert bus.seen.open_event("reader", SeenFile("print", "b.txt", "stamp")) is None
    assert bus.seen.open_event("other", file) is None
    found = bus.next(lane)
    assert found is not None
    bus.step(lane, found)
    assert bus.seen.open_event("reader", file) is None
    for state, open_ in (("running", True), ("parked", True), ("ended", False)):
        bus.db.run("DELETE FROM sessions")
        bus.db.run(
            "INSERT INTO sessions (agent, consumer, event_id, delivered_id, event_type, version,"
            " state, started_at) VALUES ('reader', 'reader/direct', ?, ?, 'x', 'v', ?, '')",
            (told, told, state),
        )
        assert (bus.seen.open_event("reader", file) == told) is open_


LATERS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO later (agent, due, payload, depth) SELECT 'other' || (i % 50), i, '{}', 0 FROM n
"""


def test_what_others_have_set_for_later_is_not_looked_at(tmp_path: Path) -> None:
    """A status asks this for each agent: to look at those of all would grow with their square."""

    def look(bus: Bus) -> None:
        assert bus.later.list("sorter") == []

    _flat_in(tmp_path, LATERS, (50, 1_000), look)


SESSIONS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO sessions (agent, consumer, event_id, delivered_id, event_type, version, state,
                      started_at)
SELECT 'sorter', 'sorter', i, i, 'x', 'old', 'ended', '' FROM n
"""


def test_labels_of_a_new_version_are_not_looked_for_in_all_sessions(tmp_path: Path) -> None:
    """An agent's last sessions are looked through, and not all of them for one of its version."""

    def look(bus: Bus) -> None:
        labels = Archive(bus).labels("S.kind", agent="sorter", version="new", model="m", limit=5)
        assert not labels

    _flat_in(tmp_path, SESSIONS, (200, 2_000), look)


def _flat_in(folder: Path, insert: str, counts: Sequence[int], look: Callable[[Bus], None]) -> None:
    """Look at a bus with few rows, and at one with many: SQLite has as much to do."""
    steps = []
    for count in counts:
        with sqlite_work() as work:
            bus = Bus(folder / f"{count}.db")
            bus.db.run(insert, (count,))
            work.clear()
            look(bus)
            bus.close()
        steps.append(sum(work.values()))
    assert 0 < steps[1] <= MORE * steps[0], steps


def _flat(homes: tuple[Paths, Paths], work: Callable[[Paths], None]) -> None:
    few, many = (_steps(paths, work) for paths in homes)
    assert few > 0 and many <= MORE * few, (few, many)


def _steps(paths: Paths, work: Callable[[Paths], None]) -> int:
    with sqlite_work() as steps:
        work(paths)
    return sum(steps.values())


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    made = Bus(tmp_path / "agentd.db")
    yield made
    made.close()


SMALL: dict[ModuleType, tuple[int, ...]] = {
    of_agents: (1,),
    of_events: (400, 800),
    of_turns: (3, 4),
    of_tools: (1, 2),
    of_window: (2_048, 4_096),
}


@pytest.mark.parametrize("axis", SMALL, ids=lambda axis: axis.__name__.rpartition(".")[2])
def test_each_axis_is_measured(axis: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure has a value at every size, in the real daemon, database and grammar."""
    monkeypatch.setattr(axis, "QUICK", SMALL[axis])
    monkeypatch.setattr(scaling, "MOST_RUNS", 3)
    rows = list(axis.measure(True))
    assert rows and all(set(row.values) == set(SMALL[axis]) for row in rows)
    assert all(value > 0 for row in rows for value in row.values.values())
    assert set(AXES) == {axis.__name__.rpartition("_")[2] for axis in SMALL}


def test_the_table_says_how_a_figure_grows() -> None:
    """The exponent is that of a fit, and what grows at its end alone is not hidden by its begin."""
    linear = Growth("events", "a", "ms", {10: 1.0, 100: 10.0, 1000: 100.0})
    assert round(linear.exponent, 6) == round(linear.last, 6) == 1 and linear.verdict == "ok"
    late = Growth("events", "b", "ms", {10: 1.0, 100: 1.0, 1000: 1.0, 10_000: 4.0}, FLAT)
    assert late.last > 0.5 and late.verdict == "worse"
    square = Growth("events", "c", "ms", {10: 1.0, 100: 100.0}, LINEAR)
    assert square.verdict == "worse"
    lines = render([linear, late, square]).splitlines()
    assert lines[0].startswith("| events | 10 | 100 | 1,000 | 10,000 |") and len(lines) == 5


def test_a_replay_maps_each_result_once(tmp_path: Path) -> None:
    """What an agent that plans is given in each turn are the results so far: all of them grow."""
    mapped: list[object] = []

    class Counting(FolderMap):
        def as_here(self, value: Any) -> Any:
            mapped.append(value)
            return super().as_here(value)

    class Planning(Agent[Any]):
        def __init__(self) -> None:
            nothing: Any = None
            super().__init__(nothing, Kit("a", "b", nothing, nothing, nothing))

        def dispatch(self, decision: Choice) -> Result:
            return Result()

        def planned(self, results: Sequence[Mapping[str, Any]]) -> None:
            assert list(results) == [{"path": f"{tmp_path}/0/{n}"} for n in range(len(results))]

    agent = MappedAgent(Planning, Counting([Root(path="/repo")], tmp_path))
    results = [{"path": f"/repo/{n}"} for n in range(50)]
    for turn in range(51):
        assert agent.planned(results[:turn]) is None
    assert len(mapped) == 50
    changed = [results[0], {"path": "/repo/1"}, *results[2:]]
    assert agent.planned(changed[:3]) is None and len(mapped) == 50  # equal is the same


def test_a_tool_is_described_without_a_look_at_the_texts_of_all() -> None:
    """Four times as many tools of MCP servers take four times as many steps of Python."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "of a"}}}

    def tools(count: int) -> list[McpTool]:
        told = [{"description": f"d{n}", "inputSchema": schema} for n in range(count)]
        return [McpTool("s", f"t{n}", pinned(one), 200) for n, one in enumerate(told)]

    found = described(tools(40))
    assert [tool.about for tool in found] == [{"": f"d{n}", "a": "of a"} for n in range(40)]
    few, many = (_lines(lambda n=n: described(tools(n))) for n in (50, 200))  # type: ignore[misc]
    assert many < 4.4 * few, (few, many)


def _lines(work: Callable[[], object]) -> int:
    """Return how many lines of Python run for it."""
    ran = 0

    def trace(_frame: object, event: str, _arg: object) -> Any:
        nonlocal ran
        ran += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return ran
