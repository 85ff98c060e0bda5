"""Prints what of the corpus is accepted and refused, and what is illegal of its answers."""

import argparse
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from agentd.model_server.language.language import ModelLanguage
from agentd.testing.tiny_model import make_tiny
from tests.schemas.corpus import KINDS
from tests.schemas.trial import Trial, attempt

SHOWN = 5  # illegal ones


def main() -> int:
    """Run the trials; 1 if anything was illegal."""
    parser = argparse.ArgumentParser(prog="python -m tests.schemas", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="schemas of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, action="append", help="of this kind alone")
    given = parser.parse_args()
    trials: dict[str, list[Trial]] = {}
    with tempfile.TemporaryDirectory() as folder:
        language = ModelLanguage(make_tiny(Path(folder) / "tiny"))
        for kind in given.kind or KINDS:
            draw = random.Random(f"{kind} {given.seed}")
            trials[kind] = [attempt(language, KINDS[kind](draw), draw) for _ in range(given.count)]
    return report(trials)


def report(trials: dict[str, list[Trial]]) -> int:
    """Print the tables."""
    every = [trial for some in trials.values() for trial in some]
    print(f"{'':14}{'schemas':>8}{'accepted':>9}{'llguidance':>11}{'of these':>9}"
          f"{'answers':>8}{'ends':>8}{'illegal':>8}")  # fmt: skip
    for name, some in [*trials.items(), ("together", every)]:
        taken = [trial for trial in some if trial.alone]
        share = sum(not trial.refused for trial in taken) / max(1, len(taken))
        counts = (
            sum(trial.answers for trial in some),
            sum(trial.ends for trial in some),
            sum(len(trial.illegal) for trial in some),
        )
        print(f"{name:14}{len(some):8}{sum(not trial.refused for trial in some):9}{len(taken):11}"
              f"{share:9.1%}{counts[0]:8}{counts[1]:8}{counts[2]:8}")  # fmt: skip
    print(f"\ncompile: {_times([trial.compile_s for trial in every if not trial.refused])}")
    print(f"mask: {_times([one for trial in every for one in trial.masks_s])}\n")
    reasons = Counter(_reason(trial.refused) for trial in every if trial.refused)
    for reason, count in reasons.most_common(25):
        print(f"{count:6}  {reason}")
    illegal = [one for trial in every for one in trial.illegal]
    for one in illegal[:SHOWN]:
        print(f"\nillegal: {one}", file=sys.stderr)
    return 1 if illegal else 0


def _reason(message: str) -> str:
    """Return a refusal without its place and what is its own."""
    place, _, reason = message.partition(": ")
    last = place.rpartition("/")[2]
    keyword = f"{last}: " if re.fullmatch("[a-zA-Z]+", last) else ""
    return keyword + re.sub(r"'[^']*'|[0-9.]+", "_", reason)[:90]


def _times(seconds: Iterable[float]) -> str:
    every = sorted(seconds) or [0.0]
    found = [every[int(share * (len(every) - 1))] * 1000 for share in (0.5, 0.99, 1)]
    return "p50 {:.2f} ms, p99 {:.2f} ms, most {:.0f} ms".format(*found)


if __name__ == "__main__":
    sys.exit(main())
