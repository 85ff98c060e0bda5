"""`python -m agentd.fetcher require|checks`: started by the supervisor, with a control socket.

The word is how whole its sandbox has to be. In this order: a guardian, the sandbox, threads.
"""

import os
import socket
import sys

from agentd.errors import AgentdError
from agentd.fetcher.fetcher import Fetcher
from agentd.fetcher.resolver import fetcher_policy
from agentd.process.child import CONTROL_VARIABLE, child_side, inherited
from agentd.process.heart import STOPPING
from agentd.process.stop import Stop
from agentd.sandbox.enter import enter
from agentd.states import Exit
from agentd.terminal import note

ENDS_S = 5.0  # from its last beat


def main() -> int:
    """Serve until nobody needs it any more; returns the exit code."""
    fd = inherited(os.environ, CONTROL_VARIABLE)
    if fd is None:
        raise SystemExit("python -m agentd.fetcher is started by the supervisor")
    control = socket.socket(fileno=fd)

    def enter_sandbox() -> None:
        if sys.platform == "linux":  # on macOS it was started in it
            enter(fetcher_policy(), require=sys.argv[1:] == ["require"])

    try:
        heart = child_side(before_threads=enter_sandbox)
    except AgentdError as error:
        note(*error.lines())
        return Exit.CONFIG
    Fetcher(control, heart).run(Stop())
    heart.beat(ENDS_S, STOPPING)
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
