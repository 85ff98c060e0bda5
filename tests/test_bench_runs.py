"""Figures of several runs: what a page may say of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.runs import head, short
from tests.bench.table import Figure, Row, markdown, render, rows

ROOT = Path(__file__).parents[1]


def run(ours: float, baseline: float | None = 10.0, name: str = "turn", note: str = "") -> Figure:
    return Figure(name, ours, "ms", baseline, "a bare loop", at_most=5, note=note)


def row(*figures: Figure) -> Row:
    (only,) = rows([[figure] for figure in figures])
    return only


def test_a_figure_of_several_runs_is_the_median_with_what_it_lies_between() -> None:
    """The ratio is the median of each run's own, not that of two medians from different runs."""
    found = row(run(2, 10), run(4, 40), run(9, 9))
    assert (found.ours.median, found.ours.low, found.ours.high) == (4, 2, 9)
    assert found.baseline is not None and found.baseline.median == 10
    assert found.ratio is not None and found.ratio.median == 0.2
    assert (found.ratio.low, found.ratio.high) == (0.1, 1)
    assert found.verdict == "ok"
    assert short([found]) == "short: none"
    assert short([row(run(2), run(6), run(9))]) == "short: turn"


def test_a_run_that_lacks_a_figure_is_told() -> None:
    """A baseline that one run lacks takes nothing from the others; a whole figure is counted."""
    found = rows([[run(1), run(3, name="idle")], [run(2, None), run(3, name="idle")], [run(3)]])
    assert [(one.figure.name, one.ours.median, one.note) for one in found] == [
        ("turn", 2, ""),
        ("idle", 3, "2 of 3 runs have it"),
    ]
    assert found[0].ratio is not None and found[0].ratio.high == 0.3
    assert row(run(1, None)).ratio is None


def test_a_row_for_a_page_is_the_row_of_the_terminal() -> None:
    """The page is made by the run: each row whole, spread and notes included."""
    table = rows([[run(1, note="a|b")], [run(2, note="a|b")], [run(4, note="late")]])
    assert markdown(table).splitlines()[2] == (
        "| turn | 2 ms (1 to 4) | 10 ms | 0.2 (0.1 to 0.4) | <= 5 ms | ok "
        r"| a bare loop; a\|b; late |"
    )
    words = render(table).splitlines()[2].split()
    assert words[:7] == ["turn", "2", "ms", "(1", "to", "4)", "10"]


def test_the_same_name_beside_two_baselines_is_two_rows() -> None:
    """As one free stream is, which stands beside stock and beside mlx_lm alone."""
    stock = Figure("stream", 5, "/s", 4, "stock")
    bare = Figure("stream", 5, "/s", 6, "bare")
    assert [one.figure.against for one in rows([[stock, bare], [stock, bare]])] == ["stock", "bare"]


def test_figures_say_how_and_when_they_came_to_be() -> None:
    """Whoever doubts a figure knows the command, the day and what else the machine did."""
    document = {"command": "x --runs 5", "date": "2026-11-30", "runs": 5, "seconds": 61, "cores": 2}
    said = head({**document, "load": [0.5, 2.25]})
    assert said == (
        "`x --runs 5`, 2026-11-30: medians of 5 runs, the lowest and highest in brackets; "
        "61 s on 2 cores, load 0.5 before and 2.2 after"
    )


@pytest.mark.parametrize("form", ["--json", "--markdown"])
def test_a_command_repeats_all_that_it_was_asked_for(form: str) -> None:
    """Each run is a process that measures anew, and one document or page comes of them."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--only", "bus", "--runs", "2", form],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    command = "uv run python -m tests.bench --quick --only bus --runs 2"
    if form == "--markdown":
        assert done.stdout.startswith(f"`{command}`, 20")
        assert "medians of 2 runs" in done.stdout
        assert done.stdout.count("\n| bus: ") == 5
        return
    document = json.loads(done.stdout)
    assert (document["command"], document["runs"]) == (command, 2)
    assert len(document["figures"]) == 5
    for figure in document["figures"]:
        low, high = figure["spread"]["ours"]
        assert 0 < low <= figure["ours"] <= high
        assert low < high, "two runs never agree to the last digit"
