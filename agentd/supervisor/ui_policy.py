"""What the page's process may touch: it reads what it shows, and serves one port that it is given.

It writes its log and nothing else, runs nothing, and reaches nobody. What its person wants done it
asks the supervisor for.
"""

import os
from pathlib import Path

from agentd.config.agent_files import EXAMPLES
from agentd.paths import Paths, shipped
from agentd.sandbox.policy import SandboxPolicy, base_read, libraries

NAME = "agentd.ui"  # no agent's name has a point


def ui_policy(paths: Paths) -> SandboxPolicy:
    """Return what it may touch. No secret and no key is among it."""
    database = Path(os.path.realpath(paths.database)).parent
    own = str(paths.log(NAME).parent)
    shown = (
        *(database, paths.logs, paths.versions, paths.lock),
        *(paths.daemon_file, paths.accepted_daemon_file, paths.agents_d, paths.config / EXAMPLES),
        *(paths.agents, paths.baml_src, shipped() / "agents", shipped() / "baml_src"),
    )
    return SandboxPolicy(
        read=(*base_read(), *libraries(paths), *map(str, shown)), write=(own,), sockets="serve"
    )
