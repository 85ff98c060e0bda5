"""The soak runs, and its books find what is lost. Ten minutes of it are for people to start."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.model.client import Answer
from tests.bench.soak.ledger import Ledger
from tests.bench.soak.watch import Sample, growth, settled

ROOT = Path(__file__).parents[1]
DEADLINE_S = 400  # 25 s on an idle machine


@pytest.mark.timeout(DEADLINE_S + 20)
def test_short_soak_accounts_for_every_request() -> None:
    """Under churn of every kind no request is lost and no answer illegal, and files are closed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.soak", "--minutes", "0.33", "--seed", "7", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    document = json.loads(done.stdout)
    requests = document["requests"]
    assert document["problems"] == []
    assert requests["answered"] > 0
    assert requests["cancelled"] > 0
    assert sum(requests["refused"].values()) > 0
    assert math.isfinite(document["growth_percent"])
    assert all(size > 0 for size in document["rss_mb"])


def answer(text: str = "x", **more: Any) -> Answer:
    return Answer(status=200, text=text, finish="stop", whole=True, **more)


def test_ledger_finds_what_is_lost() -> None:
    """A wrong answer, a wrong refusal, and silence are each a problem; a reason is none."""
    ledger = Ledger()
    ledger.book("fits", answer("1"), check=lambda value: value == 1)
    ledger.book("does not fit", answer("2"), check=lambda value: value == 1)
    ledger.book("refused as it must", Answer(status=400, error="bad", whole=True), refusals=["bad"])
    ledger.book("full", Answer(status=503, error="queue_full", whole=True))
    ledger.book("left", Answer(status=200, hung_up=True), leaves=True)
    assert (ledger.answered, ledger.cancelled, ledger.open) == (2, 1, 0)
    assert ledger.lost == []
    assert len(ledger.illegal) == 1
    ledger.book("served, not refused", answer(), refusals=["bad"])
    ledger.book("failed", Answer(status=500, error="engine_error", whole=True))
    ledger.book("cut", Answer(status=200, error="the stream ended without [DONE]"))
    ledger.book("silent", Answer())
    assert len(ledger.lost) == 4
    assert ledger.open == 0


def growing(by_mb: float) -> list[Sample]:
    return [Sample(float(n), 100 + n * by_mb, 1.0, 9) for n in range(30)]


def test_growth_is_the_slope_after_the_filling() -> None:
    """A flat process grows by nothing; a leak of 1 MB a sample is found, the filling is not one."""
    assert growth(settled(growing(0))) == pytest.approx(0)
    assert growth(settled(growing(1))) == pytest.approx(100 * 19 / 119.5)
    filled = [Sample(float(n), 20.0 * n, 1.0, 9) for n in range(10)]
    assert growth(settled([*filled, *growing(0)[10:]])) == pytest.approx(0)
