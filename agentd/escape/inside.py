"""The process that makes the attempts, in a sandbox that it enters, or was started in, or in none.

Its folder holds one document that says what to try, and gets what became of it, as JSON.
"""

import json
import os
import sys
from pathlib import Path

from agentd.escape import on_files, on_kernel, on_network, on_processes, on_programs
from agentd.escape.attempt import Attempt, make
from agentd.escape.outside import Outside
from agentd.sandbox.enter import enter
from agentd.sandbox.policy import SandboxPolicy

GIVEN, ANSWER = "given.json", "answer.json"  # in its folder
# In a sandbox the package's folder may be read, and not the one around it, in which Python would
# look for it.
START = (
    "import importlib.util as u, sys; p = sys.argv[1]; "
    "s = u.spec_from_file_location('agentd', p + '/__init__.py', submodule_search_locations=[p]); "
    "m = u.module_from_spec(s); sys.modules['agentd'] = m; s.loader.exec_module(m); "
    "from agentd.escape.inside import main; main()"
)
MODULES = (on_files, on_programs, on_processes, on_network, on_kernel)


def argv(own: Path) -> list[str]:
    """Return the command line of this process, which works in the folder `own`."""
    package, real = Path(__file__).parents[1], os.path.realpath(sys.executable)
    return [real, "-I", "-S", "-c", START, str(package), str(own)]


def attempts() -> list[Attempt]:
    """Return all that this system has, group by group."""
    found = [attempt for module in MODULES for attempt in module.attempts()]
    groups = list(dict.fromkeys(attempt.group for attempt in found))
    return sorted(found, key=lambda attempt: (attempt.visible, groups.index(attempt.group)))


def main() -> None:
    """Make all attempts."""
    own = Path(sys.argv[2])
    given = json.loads((own / GIVEN).read_bytes())
    if given["policy"] is not None:
        enter(SandboxPolicy.of(given["policy"]), require=given["require"])
    outside = Outside.of(given["outside"])
    made = [vars(make(tried, outside)) for tried in attempts()]
    (own / ANSWER).write_text(json.dumps(made))
