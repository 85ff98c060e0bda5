"""How a process died by its own doing, as the supervisor tells it to the next one.

Only the supervisor can know: a crash or a hang that it saw is evidence against what the process
was working on, a kill from outside is none.
"""

import json
import os
from dataclasses import dataclass

VARIABLE = "AGENTD_CRASHED"  # in a worker's environment: {"pid": ..., "why": ...}
WHY_CHARACTERS_MAX = 1_000


@dataclass(frozen=True)
class Crash:
    """A process that ended by its own doing."""

    pid: int
    why: str  # for people: "killed by SIGSEGV: ..."

    def environment(self) -> dict[str, str]:
        """Return what the next process needs to know of it."""
        why = self.why[:WHY_CHARACTERS_MAX].encode("utf-8", "replace").decode()
        return {VARIABLE: json.dumps({"pid": self.pid, "why": why})}


def of_the_one_before(environ: "os._Environ[str]" = os.environ) -> Crash | None:
    """Return how the process before this one crashed, if it did; our children do not learn it."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    found = json.loads(text)
    return Crash(int(found["pid"]), str(found["why"]))
