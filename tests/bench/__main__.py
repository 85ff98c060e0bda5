"""Measures everything and prints one table. No network, no model.

uv run python -m tests.bench [--quick] [--only NAME] [--json]
uv run python -m tests.bench model ...   the model server beside stock mlx_lm.server
uv run python -m tests.bench growth ...  which figures grow with agents, events, turns, tools
"""

import argparse
import compileall
import json
import sys
import time
from collections.abc import Callable, Iterable

from . import bus, hands, idle, latency, memory, page, reach, replay, start, turn
from .home import ROOT, Home
from .table import Figure, render

# Last what imports BAML into this process: it must not fork afterwards.
MODULES: dict[str, Callable[[bool, Home], Iterable[Figure]]] = {
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


def main() -> int:
    """Run what was asked for; exit code 0 whatever the figures say."""
    if sys.argv[1:2] == ["model"]:
        from .model.command import main as measure_model

        return measure_model(sys.argv[2:])
    if sys.argv[1:2] == ["growth"]:
        from .growth.command import main as measure_growth

        return measure_growth(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", choices=MODULES, action="append", help="these figures alone")
    parser.add_argument("--quick", action="store_true", help="rough figures, in 20 s")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args()
    began = time.monotonic()
    figures: list[Figure] = []
    compileall.compile_dir(ROOT / "agentd", quiet=2)  # as the daemon does, where nothing is kept
    home = Home()
    try:
        for name in arguments.only or MODULES:
            if sys.stderr.isatty():
                print(f"\r\033[Kmeasuring {name} ...", end="", file=sys.stderr, flush=True)
            figures += MODULES[name](arguments.quick, home)
    finally:
        home.close()
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps({"seconds": seconds, "figures": [f.document() for f in figures]}))
    else:
        short = [figure.name for figure in figures if figure.verdict == "short"]
        print(render(figures))
        print(f"\n{seconds:.0f} s; short: {', '.join(short) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
