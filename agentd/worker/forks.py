"""`python -m agentd.worker.forks`: forks workers and checks of agents, which have much in common.

Started by the supervisor. It imports what they need except BAML and agents' modules, which have
threads, or may: see `fork_rules`.
"""

import sys
from contextlib import suppress

from agentd.worker.__main__ import main as worker

# isort: split
import agentd.worker.runner  # what an event needs, too: 5 MB that all share
import agentd.worker.schedule  # noqa: F401
from agentd.admission.admit import main as admission
from agentd.config.agent import load_agent
from agentd.config.last_good import effective_config
from agentd.errors import AgentdError
from agentd.paths import discover, shipped
from agentd.process.child import child_side
from agentd.process.fork_server import serve_forks
from agentd.sandbox.level import reached
from agentd.states import Exit
from agentd.worker.head import policy_for

ROUNDS = 10  # after eight calls Python rewrites a function for the types that it has met


def main() -> int:
    """Fork until a stop, or be one that was forked; returns the exit code."""
    rehearse()
    argv = serve_forks()
    if argv is None:
        return Exit.OK
    module, *arguments = argv[argv.index("-m") + 1 :]
    if module == "agentd.admission":
        return admission(arguments, child_side())
    return worker(arguments, forked=True)


def rehearse() -> None:
    """Do what each worker does first, for no agent: what Python writes to its code is shared then.

    That saves 0.7 MB in each.
    """
    reached()
    with suppress(AgentdError):  # workers tell what is wrong
        paths = discover()
        example = shipped() / "config" / "agents.d" / "repo_review.toml"
        for _ in range(ROUNDS):
            effective_config(paths)
            config = load_agent(example)
            policy_for(paths.versions / example.stem / "none", config, paths)


if __name__ == "__main__":
    sys.exit(main())
