"""`python -m agentd.worker.forks`: forks the workers of all agents, from what they have in common.

Started by the supervisor. Imports what an idle worker has, and no more: see `fork_rules`.
"""

import sys

from agentd.process.deferred import uncollected

with uncollected():
    from agentd.worker.__main__ import main as worker

# isort: split
from agentd.process.child import python
from agentd.process.fork_server import serve_forks
from agentd.states import Exit


def main() -> int:
    """Fork workers until a stop, or be one of them; returns the exit code."""
    argv = serve_forks()
    return Exit.OK if argv is None else worker(argv[len(python("agentd.worker")) :])


if __name__ == "__main__":
    sys.exit(main())
