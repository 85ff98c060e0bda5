"""`python -m agentd.mcp.launch COMMAND [ARGUMENT ...]`: becomes an MCP server's program.

What guards a child of ours (its group, its guardian, its lock) is set up, then the sandbox, then
the program takes over. Little is imported: this runs before each start of a server.
"""

import json
import os
import sys

from agentd.errors import AgentdError
from agentd.process import guardian
from agentd.process.child import LIFELINE_VARIABLE, LOCK_VARIABLE, VARIABLES
from agentd.sandbox.enter import enter
from agentd.sandbox.policy import SandboxPolicy
from agentd.terminal import plain, say

SANDBOX_VARIABLE = "AGENTD_SANDBOX"  # the policy; the program does not see it


def main(argv: list[str]) -> int:
    """Replace this process by the program; returns only where that fails."""
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    if lifeline is not None:
        guardian.watch(int(lifeline))
    for name in VARIABLES:
        if (number := os.environ.pop(name, None)) is not None:
            os.set_inheritable(int(number), name == LOCK_VARIABLE)
    told = json.loads(os.environ.pop(SANDBOX_VARIABLE))
    try:
        enter(SandboxPolicy.of(told["policy"]), require=told["require"], program=True)
        os.execvp(argv[0], argv)
    except AgentdError as error:
        say(plain(str(error)), file=sys.stderr)
    except OSError as error:
        say(plain(f"{argv[0]} cannot be started: {error.strerror}"), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
