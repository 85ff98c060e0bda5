"""A command that measures: once or `--runs` times, and its table for a terminal, a page or `jq`.

Each run is a process of its own, as some of what is measured may not be done twice in one.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .home import ROOT
from .table import Figure, Row, markdown, render, rows


@dataclass
class Run:
    """What one run found."""

    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the figures are of
    incidents: list[str] = field(default_factory=list)  # what went wrong on the way
    failed: bool = False  # so much that the exit code says so


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all measuring commands have."""
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="repeat it all: medians")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--markdown", action="store_true", help="as README.md here has it")


def carry_out(measure: Callable[[], Run], argv: Sequence[str], options: argparse.Namespace) -> int:
    """Measure as often as asked for and print; return the exit code.

    `argv` are the words after `python -m tests.bench`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no process behind either
    began, load = time.monotonic(), os.getloadavg()[0]
    date = time.strftime("%Y-%m-%d")
    many = options.runs > 1
    found = [_in_a_process(argv) for _ in range(options.runs)] if many else [measure()]
    table = rows([run.figures for run in found])
    notes = list(dict.fromkeys(note for run in found for note in run.notes))
    incidents = [text for run in found for text in run.incidents]
    document: dict[str, Any] = {
        "command": shlex.join(["uv", "run", "python", "-m", "tests.bench", *_plain(argv)]),
        "date": date,
        "cores": os.cpu_count(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "runs": len(found),
        "seconds": round(time.monotonic() - began),
        "figures": [row.document() for row in table],
        "notes": notes,
        "incidents": incidents,
        "failed": any(run.failed for run in found),
    }
    if options.json:
        print(json.dumps(document))
    elif options.markdown:
        print(head(document), "", markdown(table), sep="\n")
        if notes or incidents:
            print("", *(f"* {text}" for text in (*notes, *incidents)), sep="\n")
    else:
        print(render(table), "", head(document), *notes, *incidents, short(table), sep="\n")
    return int(document["failed"])


def head(document: dict[str, Any]) -> str:
    """Say how and when figures came to be."""
    before, after = document["load"]
    many = f"medians of {document['runs']} runs, the lowest and highest in brackets; "
    return (
        f"`{document['command']}`, {document['date']}: {many if document['runs'] > 1 else ''}"
        f"{document['seconds']} s on {document['cores']} cores, "
        f"load {before:.1f} before and {after:.1f} after"
    )


def short(table: Iterable[Row]) -> str:
    """Name what misses its aim."""
    names = [row.figure.name for row in table if row.verdict == "short"]
    return f"short: {', '.join(names) or 'none'}"


def _plain(argv: Sequence[str]) -> list[str]:
    """Return the words without those that only say how to print."""
    return [word for word in argv if word not in ("--json", "--markdown")]


def _in_a_process(argv: Sequence[str]) -> Run:
    """Run the same command once. Raises RuntimeError: it gave no figures."""
    words = [sys.executable, "-m", "tests.bench", *_plain(argv), "--json", "--runs", "1"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            printed, _ = child.communicate()
        except BaseException:
            child.terminate()  # it ends what it started
            raise
    try:
        document = json.loads(printed)
    except ValueError:
        raise RuntimeError(f"{shlex.join(words)} gave no figures; see its error above") from None
    figures = [Figure.of(one) for one in document["figures"]]
    return Run(figures, document["notes"], document["incidents"], document["failed"])
