"""`python -m tests.chaos --kills N --seed S`: kill any process at any instant, then audit."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.audit import audit, delivered
from tests.chaos.havoc import Havoc, Stuck
from tests.chaos.home import PIPELINE, TICKER, Home

OUTPUTS = {name: publishes for name, (_, publishes) in PIPELINE.items()} | {TICKER: "tick.counted"}


def main() -> int:
    """Run once; 0 if the promise was kept, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--home", type=Path, help="keep everything in this (new) folder")
    parser.add_argument("--no-edits", action="store_true", help="change no configuration meanwhile")
    parser.add_argument("--hang", action="store_true", help="leave some stopped processes stopped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        root = options.home or Path(temporary)
        root.mkdir(exist_ok=True)
        return run(root, options)


def run(root: Path, options: argparse.Namespace) -> int:
    """Kill, drain, audit and report."""
    home = Home(root)
    home.serve()
    home.create()
    began = time.monotonic()
    havoc = Havoc(
        home,
        options.seed,
        edits=not options.no_edits,
        hang=options.hang,
        tell=lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True),
    )
    stuck = ""
    try:
        havoc.run(options.kills)
    except Stuck as error:
        stuck = str(error)
    report = audit(home.paths.database, home.journal, OUTPUTS)
    report.problems += delivered(home.paths.database, home.days)
    for what, number in sorted(havoc.done.items()):
        print(f"  {number:5} {what}")
    print(f"seed {options.seed}: {options.kills} kills in {time.monotonic() - began:.0f} s")
    print(f"{report}")
    for problem in [*havoc.problems, *filter(None, [stuck])]:
        print(problem)
    return int(bool(report.problems or havoc.problems or stuck))


if __name__ == "__main__":
    sys.exit(main())
