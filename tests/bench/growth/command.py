"""`python -m tests.bench growth [--quick] [--only AXIS] [--json]`: how figures grow."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from . import of_agents, of_events, of_tools, of_turns, of_window
from .scaling import Growth, render

AXES: dict[str, Callable[[bool], Iterable[Growth]]] = {
    "agents": of_agents.measure,
    "events": of_events.measure,
    "turns": of_turns.measure,
    "tools": of_tools.measure,
    "window": of_window.measure,
}


def main(words: Sequence[str]) -> int:
    """Measure and print; exit code 0 whatever the figures say."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench growth", description=__doc__)
    parser.add_argument("--only", choices=AXES, action="append", help="these axes alone")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    arguments = parser.parse_args(words)
    began = time.monotonic()
    rows: list[Growth] = []
    for axis in arguments.only or AXES:
        rows += AXES[axis](arguments.quick)
    seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps({"seconds": seconds, "rows": [row.document() for row in rows]}))
    else:
        worse = [f"{row.name} ({row.axis})" for row in rows if row.verdict == "worse"]
        print(render(rows))
        print(f"\n{seconds:.0f} s; worse than its aim: {', '.join(worse) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
