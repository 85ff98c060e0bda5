"""What grows with the turns of a session."""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from agentd.errors import Stopped
from agentd.events import NewEvent
from agentd.llm.decision import LLM, Ask, Decision
from agentd.replay.replay import Replay
from agentd.testing import ScriptedLLM
from tests.bench.home import Home
from tests.bench.turn import TURNS, WINDOW, Bench, scripted
from tests.recorded import World, done, read, reader

from .in_process import at_home, said
from .scaling import Growth, Measured, least

SIZES = (8, 32, 100, 200)
QUICK = SIZES[:2]
SESSIONS = 5


class Cut(ScriptedLLM):
    """A model whose call is cut off once its log holds so many turns."""

    def __init__(self, turns: int) -> None:
        self._turns, self._of = turns, scripted(turns + TURNS)
        window = self._of.window()
        super().__init__((), names=self._of.names, window=window)

    def decide(self, ask: Ask) -> Decision:
        if ask.log.count('<event type="read_file"') >= self._turns - 1:
            raise Stopped("the bench")
        return self._of.decide(ask)


def measure(quick: bool) -> Iterator[Growth]:
    """Yield each figure with its values."""
    found = Measured("turns")
    for size in QUICK if quick else SIZES:
        with closing(Home()) as home:
            _at(size, home, found)
        with tempfile.TemporaryDirectory(prefix="agentd-growth-") as folder:
            _replayed(size, World(Path(folder)), found)
    yield from found.rows()


def _at(size: int, home: Home, found: Measured) -> None:
    bench, model = Bench(home.paths), scripted(size)
    took = least(lambda: bench.session(model, size), runs=SESSIONS, seconds=0)
    found.add(size, "a turn, its durable writes included", "ms", took * 1000 / size)
    with at_home(home.root):
        shown = least(lambda: said(["sessions", "show", "1"]))
        found.add(size, "the session is shown, turn by turn", "ms", shown * 1000)
        listed = least(lambda: said(["sessions"]))
        found.add(size, "sessions of so many turns are listed", "ms", listed * 1000)
    cut = Cut(size)
    bench.bus.publish("bench", NewEvent("bench.asked", {"folder": "src"}))
    _until_cut(bench, cut, size)
    resumed = least(lambda: _until_cut(bench, cut, size))
    found.add(size, "the session is resumed there", "ms", resumed * 1000)
    bench.bus.close()


def _until_cut(bench: Bench, model: LLM, turns: int) -> None:
    session = bench.begin(turns + TURNS)
    try:
        bench.loop(session, model).run()
    except Stopped:
        bench.sessions.closing.refund(session)
    else:
        raise AssertionError("it was not cut off")


def _replayed(size: int, world: World, found: Measured) -> None:
    try:
        for n in range(size):
            (world.notes / f"{n}.txt").write_text("a line of a note\n" * 20)
        answers = [*(read(f"{n}.txt") for n in range(size - 1)), done()]
        turns, window = min(size + 2, SIZES[-1]), WINDOW * size
        session = reader(world, answers, turns=turns, window=window)
        recording = world.take(session)[0]
        code = world.workshop.current(recording.config.agent, world.paths, "bench")
        took = least(lambda: Replay(recording, code, world.workshop).run(), runs=SESSIONS)
        found.add(size, "it is replayed, its tools included", "ms", took * 1000)
    finally:
        world.close()
