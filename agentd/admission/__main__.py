"""`python -m agentd.admission NAME`: admit one agent in a process of its own."""

import sys

from agentd.admission.admit import main
from agentd.process.child import child_side

if __name__ == "__main__":
    # A module that never returns from its import must not outlive the supervisor.
    sys.exit(main(sys.argv[1:], child_side()))
