"""What the daemon's processes take, for `status`. A page's sandbox does not let it look itself."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from agentd.process.usage import UsageMeter


def measured(
    document: Mapping[str, Any], hands: Mapping[str, int], usage: UsageMeter
) -> dict[str, Any]:
    """Return the supervisor's document with what each process in it takes.

    As `processes`: {at, of: {pid: ...}}, where `at` is a time on the monotonic clock, and `hands`:
    those of each agent. In a thread: on a Mac a program tells.
    """
    kept = [document[name] for name in ("model", "deliver", "watcher", "ui", "workers")]
    children = (*kept, *document["agents"])
    pids = {child["pid"] for child in children if child} | {*hands.values()}
    found = usage.of(pids - {None} | {document["pid"]})
    processes = {"at": time.monotonic(), "of": {p: asdict(used) for p, used in found.items()}}
    return {**document, "hands": hands, "processes": processes}
