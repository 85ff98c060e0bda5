"""`python -m agentd.mcp.launch COMMAND [ARGUMENT ...]`: becomes an MCP server's program.

Nothing of ours but the standard library is imported: this runs before each start of a server. What
guards a child of ours (its group, its guardian, its lock) is set up, then the program takes over.
"""

import os
import sys

from agentd.process import guardian
from agentd.process.child import LIFELINE_VARIABLE, VARIABLES

LOCK_VARIABLE = "AGENTD_LOCK_FD"


def main(argv: list[str]) -> int:
    """Replace this process by the program; returns only where that fails."""
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    if lifeline is not None:
        guardian.watch(int(lifeline))
    for name in VARIABLES:
        if (number := os.environ.pop(name, None)) is not None:
            os.set_inheritable(int(number), name == LOCK_VARIABLE)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]} cannot be started: {error.strerror}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
