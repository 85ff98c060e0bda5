"""What a replay costs beyond its tools: a session of ten turns, a hundred recordings, a command."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentd.recordings import recording_file as text
from agentd.recordings.recording import Recording
from agentd.replay.agent_proxy import MappedAgent
from agentd.replay.replay import Replay
from tests.recorded import World, done, fetch, read, reader, review

from .home import Home
from .table import Figure

TURNS = 10
ROUNDS, ROUNDS_QUICK = 20, 3
MANY, MANY_QUICK = 100, 12
STARTS, STARTS_QUICK = 3, 1  # of the command; the quickest counts


def measure(quick: bool, home: Home) -> Iterator[Figure]:
    """Yield the replay of ten turns, that of a hundred recordings, and the command's own start."""
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder:
        world = World(Path(folder))
        try:
            ten = world.take(_ten_turns(world))[0]
            mixed = [world.take(session)[0] for session in (fetch(world), review(world))]
            yield _one(world, ten, ROUNDS_QUICK if quick else ROUNDS)
            yield _many(world, [ten, *mixed], MANY_QUICK if quick else MANY)
            file = Path(folder) / "ten.recording"
            yield _command(home, ten, file, STARTS_QUICK if quick else STARTS)
        finally:
            world.close()


def _ten_turns(world: World) -> int:
    for n in range(TURNS - 1):
        (world.notes / f"{n}.txt").write_text("a line of a note\n" * 20)
    return reader(world, [*(read(f"{n}.txt") for n in range(TURNS - 1)), done()], turns=TURNS + 2)


def _one(world: World, recording: Recording, rounds: int) -> Figure:
    _replay(world, recording)  # the agent's prompts are compiled, BAML is imported
    spent = [_replay(world, recording) for _ in range(rounds)]
    return Figure(
        f"replay: {TURNS} turns",
        statistics.median(whole for whole, _ in spent) * 1000,
        "ms",
        statistics.median(tools for _, tools in spent) * 1000,
        "its tools alone",
        at_most=200,
        note="in one process, after its imports",
    )


def _many(world: World, recordings: list[Recording], count: int) -> Figure:
    spent = [_replay(world, recordings[n % len(recordings)]) for n in range(count)]
    scale = MANY / count
    return Figure(
        f"replay: {MANY} recordings",
        sum(whole for whole, _ in spent) * scale,
        "s",
        sum(tools for _, tools in spent) * scale,
        "their tools alone, git among them",
        at_most=10,
    )


def _command(home: Home, recording: Recording, file: Path, starts: int) -> Figure:
    text.save(recording, file)
    return Figure(
        "replay: the command",
        _process(home, starts, "replay", str(file)),
        "s",
        _process(home, starts, "paths"),
        "`agentd paths`, which imports next to nothing",
        note="start of Python and BAML, and the prompt's compiler",
    )


def _process(home: Home, starts: int, *words: str) -> float:
    times = []
    for _ in range(starts):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "agentd", *words],
            env=home.environment,
            check=True,
            capture_output=True,
            timeout=60,
        )
        times.append(time.perf_counter() - began)
    return min(times)


def _replay(world: World, recording: Recording) -> tuple[float, float]:
    """Replay once; return the seconds of all of it, and of the agent's tools in it."""
    code = world.workshop.current(recording.config.agent, world.paths, "bench")
    tools = 0.0
    of_agent = MappedAgent._result

    def timed(agent: MappedAgent, call: Any) -> Any:
        nonlocal tools
        began = time.perf_counter()
        try:
            return of_agent(agent, call)
        finally:
            tools += time.perf_counter() - began

    MappedAgent._result = timed  # type: ignore[method-assign, assignment]
    try:
        began = time.perf_counter()
        outcome = Replay(recording, code, world.workshop).run()
        whole = time.perf_counter() - began
    finally:
        MappedAgent._result = of_agent  # type: ignore[method-assign]
    assert outcome.identical, outcome.difference
    return whole, tools
