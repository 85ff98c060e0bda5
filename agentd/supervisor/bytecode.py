"""Python's compiled modules, for workers: in their sandbox they can keep none that they compile.

Where the installation brought none (uv's does not), each worker would compile 60 modules at its
first event: a second of work.
"""

import contextlib
import sys
from importlib.util import cache_from_source
from pathlib import Path

import agentd.worker
from agentd.errors import AgentdError
from agentd.paths import Paths
from agentd.process.child import Child
from agentd.supervisor.children import Reaper
from agentd.supervisor.one_job import run_to_end

NAME = "bytecode"
IMPORTS = """
import compileall, agentd.worker.runner, agentd.worker.schedule
compileall.compile_dir(agentd.__path__[0], quiet=2)
"""
DEADLINE_S = 120.0


async def compile_modules(paths: Paths, reaper: Reaper) -> None:
    """Import once what workers import in their sandbox, in a process that can keep it."""
    source = Path(agentd.worker.__file__).with_name("runner.py")
    compiled = Path(cache_from_source(str(source)))
    with contextlib.suppress(OSError):  # there is none
        if sys.dont_write_bytecode or compiled.stat().st_mtime >= source.stat().st_mtime:
            return
    argv = [sys.executable, "-P", "-c", IMPORTS]
    with contextlib.suppress(OSError, AgentdError):  # workers are slower, and work
        child = Child.spawn(NAME, argv, paths.locks, cwd=paths.data)
        await run_to_end(child, reaper, DEADLINE_S)
        (paths.locks / f"{NAME}.lock").unlink(missing_ok=True)
