"""A second watcher of a child's lifeline, in a process of its own.

The child's own thread cannot act while the child is stopped (SIGSTOP), or once it is killed
together with its supervisor: then what its tools started would live on. A shell of 1 MB in the same
process group waits for the same end of file and kills the group, whatever state the others are in.
"""

import os

SHELL = "/bin/sh"
SCRIPT = "read -r _; kill -9 0"  # nobody ever writes, so `read` ends with the supervisor


def watch(lifeline: int) -> int | None:
    """Start the watcher; return its pid, None where there is no shell.

    Not by `subprocess`: an idle worker does not import it. The watcher ends with its group, which
    the supervisor kills when the child is dead.
    """
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    actions = [(os.POSIX_SPAWN_DUP2, lifeline, 0), *null]
    try:
        return os.posix_spawn(SHELL, [SHELL, "-c", SCRIPT], {}, file_actions=actions)
    except OSError:
        return None  # the child's own thread watches as well
