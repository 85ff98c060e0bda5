"""The model server's benchmark runs and leaves no figure out. People judge the figures."""

import asyncio
import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.bench.model import decisions
from tests.bench.model.bench import Bench
from tests.bench.model.client import Answer
from tests.bench.model.decisions import _jain
from tests.bench.model.servers import Stock
from tests.bench.model.shape import QUICK
from tests.bench.model.workload import Round, legal, plan
from tests.bench.table import Figure
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
DEADLINE_S = 600  # 40 s on an idle machine
BY_AGENTS = (
    "prefilled per new token",
    *(f"time to first token {share}" for share in ("p50", "p95", "p99")),
    *(f"decision latency {share}" for share in ("p50", "p95", "p99")),
    "generated tokens of a decision",
    "decisions a second",
    "total tokens a second",
    "valid decisions",
)
OTHERS = {
    "3 agents: Jain's fairness index",
    "memory of a cached token",
    "one free stream: tokens",
    "8 free streams together: tokens",
    "a cold prompt of 1,500 tokens: longest decode gap of the others",
    "a cold prompt of 1,500 tokens: its own first token",
    "hang-up in a stream: tokens for nobody",
    "hang-up, not streaming: tokens for nobody",
    "memory of the process at the end",
    "kill -9 to the next answer",
    "1 masked stream: tokens",
    "8 masked streams together: tokens",
    "16 masked streams together: tokens",
    "a masked step, batch 1",
    "a masked step, batch 8",
    "answers that are the same alone and 8 together",
    "one mask, computed and applied",
    "scores of 32 headlines behind 2 heads",
}
ALONE = {
    "one mask, computed and applied",
    "answers that are the same alone and 8 together",
}  # stock has none


@pytest.mark.timeout(DEADLINE_S + 20)
def test_quick_bench_prints_every_figure() -> None:
    """Each figure is there and finite, beside stock's on the same prompts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "model", "--quick", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    document = json.loads(done.stdout)
    figures = document["figures"]
    expected = {f"{n}: {what}" for n in ("1 agent", "3 agents") for what in BY_AGENTS} | OTHERS
    assert {figure["name"] for figure in figures} == expected
    for figure in figures:
        assert math.isfinite(figure["ours"]), figure
        if figure["baseline"] is None:  # stock may hang or die, and then that is said
            assert figure["name"] in ALONE or document["incidents"], figure
        else:
            assert math.isfinite(figure["baseline"]), figure
    valid = next(figure for figure in figures if figure["name"] == "3 agents: valid decisions")
    assert valid["ours"] == 100


# Answers its first requests, then dies in the middle of one, or never answers again.
FRAIL = """
import http.server, json, os, sys, threading
port, good, end = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
count = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(b"{}")

    def do_POST(self):
        global count
        count += 1
        if count > good and end == "dies":
            os._exit(1)
        if count > good:
            threading.Event().wait()
        choice = {"index": 0, "message": {"content": "no"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 1}
        self.reply(json.dumps({"choices": [choice], "usage": usage}).encode())

    def reply(self, data):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Frail(Stock):
    """In stock's place: fails after so many answers."""

    def __init__(self, folder: Path, good: int, end: str) -> None:
        super().__init__(folder)
        self._words = (str(good), end)

    def _spawn(self) -> "subprocess.Popen[bytes]":
        self.port = free_port()
        return self._popen([sys.executable, "-c", FRAIL, str(self.port), *self._words])


def decide_beside(
    frail_end: str, agents: tuple[int, ...], folder: Path
) -> tuple[list[Figure], int]:
    """Measure decisions beside a frail stock; return the figures, and its restarts."""

    async def phases() -> list[Figure]:
        try:
            await bench.start()
            return [figure async for figure in decisions.measure(bench)]
        finally:
            bench.close()

    shape = replace(QUICK, agents=agents, turns=2, deadline_s=15.0)
    # One of the three answers is for its start.
    bench = Bench(shape, shape.folder(folder), lambda model: Frail(model, 3, frail_end))
    figures = asyncio.run(phases())
    return [one for one in figures if one.name.endswith("valid decisions")], bench.other.restarts


def test_stock_that_dies_costs_its_own_figures_only(tmp_path: Path) -> None:
    """The table says so, ours are there, and the next phase has a baseline again."""
    (first, second), restarts = decide_beside("dies", (2, 1), tmp_path / "model")
    assert "stock: died after" in first.note
    assert restarts == 1
    assert (first.ours, second.ours) == (100, 100)
    assert second.baseline is not None and not second.note


def test_stock_that_hangs_ends_with_the_phase(tmp_path: Path) -> None:
    """No phase waits for it beyond its deadline, and the table says what was not answered."""
    (only,), _restarts = decide_beside("hangs", (2,), tmp_path / "model")
    assert "stock: 2 of 4 answered in time" in only.note
    assert only.ours == 100


def answer(text: str = "x", **more: Any) -> Answer:
    return Answer(status=200, text=text, finish="stop", whole=True, **more)


def test_only_decisions_are_legal() -> None:
    """A figure of 100 % means whole decisions, not any JSON."""
    assert legal('{"tool":"done","risk":"low"}')
    assert legal(' {"tool":"read_file","path":"a","line":1}\n')
    assert not legal('{"tool":"done","risk":"none"}')
    assert not legal('{"tool":"done","risk":"low","more":1}')
    assert not legal('{"tool":"read_file","path":"a","line":true}')
    assert not legal('{"tool":"read_file","path":"longer than ten","line":1}')
    assert not legal('["done"]')
    assert not legal("done")


def test_fairness_index_tells_equal_from_starved() -> None:
    """1 where all agents go equally fast; near 1/N where one has it all."""
    plans = [plan(f"agent{number}", 1) for number in range(4)]
    equal = Round(plans, [[answer(sent=0.0, end=2.0)] for _ in plans])
    assert _jain(equal) == pytest.approx(1)
    starved = [[Answer(sent=0.0, end=9.0)] for _ in plans[1:]]
    one = Round(plans, [[answer(sent=0.0, end=0.1)], *starved])
    assert _jain(one) == pytest.approx(0.25)


def test_prompts_are_the_same_again_and_only_grow() -> None:
    """Both servers get the same text, and a turn's log begins with the turn before."""
    first, again = plan("agent1", 4), plan("agent1", 4)
    assert first.prompts == again.prompts
    logs = [prompt[1]["content"] for prompt in first.prompts]
    assert all(after.startswith(before) and after != before for before, after in pairwise(logs))
    assert plan("agent2", 1).prompts != first.prompts[:1]
