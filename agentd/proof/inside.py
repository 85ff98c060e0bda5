"""The process that makes the attempts: in a sandbox, and in a program that it starts.

It reads one document from its input, and writes what became of them, as JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from agentd.proof import on_files, on_kernel, on_network, on_processes, on_programs
from agentd.proof.attempt import Attempt, make
from agentd.proof.outside import Outside
from agentd.sandbox.enter import enter, nested
from agentd.sandbox.policy import SandboxPolicy

PROGRAM_S = 120.0
# In a sandbox the package's folder may be read, and not the one around it, in which Python would
# look for it.
START = (
    "import importlib.util as u, sys; p = sys.argv[1]; "
    "s = u.spec_from_file_location('agentd', p + '/__init__.py', submodule_search_locations=[p]); "
    "m = u.module_from_spec(s); sys.modules['agentd'] = m; s.loader.exec_module(m); "
    "from agentd.proof.inside import main; main()"
)
MODULES = (on_files, on_programs, on_processes, on_network, on_kernel)


def argv() -> list[str]:
    """Return the command line of this process."""
    return [
        os.path.realpath(sys.executable),
        "-I",
        "-S",
        "-c",
        START,
        str(Path(__file__).parents[1]),
    ]


def attempts() -> list[Attempt]:
    """Return all that this system has, group by group."""
    found = [attempt for module in MODULES for attempt in module.attempts()]
    groups = list(dict.fromkeys(attempt.group for attempt in found))
    return sorted(found, key=lambda attempt: (attempt.visible, groups.index(attempt.group)))


def main() -> None:
    """Make all attempts, or have a program of ours make them."""
    given = json.load(sys.stdin)
    if given["policy"] is not None:
        policy = SandboxPolicy.of(given["policy"])
        enter(policy, require=given["require"])
        if given["nested"]:
            sys.stdout.write(_program(policy, json.dumps({**given, "policy": None})))
            return
    outside = Outside.of(given["outside"])
    sys.stdout.write(json.dumps([vars(make(tried, outside)) for tried in attempts()]))


def _program(policy: SandboxPolicy, document: str) -> str:
    done = subprocess.run(
        argv(),
        input=document,
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        preexec_fn=nested(policy),
    )
    return done.stdout or done.stderr
