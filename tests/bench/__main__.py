"""Measures everything and prints one table. No network, no model.

uv run python -m tests.bench [--quick] [--only NAME] [--runs N] [--json | --markdown]
uv run python -m tests.bench peers ...   a turn beside other libraries' (installs them for itself)
uv run python -m tests.bench model ...   the model server beside stock mlx_lm.server
uv run python -m tests.bench growth ...  which figures grow with agents, events, turns, tools
"""

import argparse
import compileall
import sys
from collections.abc import Callable, Iterable, Mapping

from . import bus, hands, idle, latency, memory, page, reach, replay, runs, start, turn
from .home import ROOT, Home
from .peers import beside
from .runs import Run
from .table import Figure

Modules = Mapping[str, Callable[[bool, Home], Iterable[Figure]]]

# Last what imports BAML into this process: it must not fork afterwards.
MODULES: Modules = {
    "bus": bus.measure,
    "latency": latency.measure,
    "idle": idle.measure,
    "memory": memory.measure,
    "start": start.measure,
    "hands": hands.measure,
    "reach": reach.measure,
    "page": page.measure,
    "turn": turn.measure,
    "replay": replay.measure,
}
ASKED_FOR: Modules = {"peers": beside.measure}  # measured only where it is named


def main() -> int:
    """Run what was asked for; exit code 0 whatever the figures say."""
    argv = sys.argv[1:]
    if argv[:1] == ["model"]:
        from .model.command import main as measure_model

        return measure_model(argv)
    if argv[:1] == ["growth"]:
        from .growth.command import main as measure_growth

        return measure_growth(argv[1:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=ASKED_FOR, help="this, in the place of all")
    parser.add_argument("--only", choices=MODULES, action="append", help="these figures alone")
    parser.add_argument("--quick", action="store_true", help="rough figures, in 20 s")
    runs.arguments(parser)
    options = parser.parse_args(argv)
    chosen = {name: MODULES[name] for name in options.only or MODULES}
    if options.what:
        chosen = {options.what: ASKED_FOR[options.what]}
    return runs.carry_out(lambda: _measured(chosen, options.quick), argv, options)


def _measured(modules: Modules, quick: bool) -> Run:
    figures: list[Figure] = []
    compileall.compile_dir(ROOT / "agentd", quiet=2)  # as the daemon does, where nothing is kept
    home = Home()
    try:
        for name, measure in modules.items():
            if sys.stderr.isatty():
                print(f"\r\033[Kmeasuring {name} ...", end="", file=sys.stderr, flush=True)
            figures += measure(quick, home)
    finally:
        home.close()
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return Run(figures)


if __name__ == "__main__":
    sys.exit(main())
