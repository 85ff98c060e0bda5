"""One question to the person at the terminal, which nobody has to answer."""

import os
import select
import sys

from agentd.commands.output import say
from agentd.terminal import rewrite

PROMPT = "  A line about what you care for, such as old maps, or Enter: "
DEADLINE_S = 20.0  # the model is being loaded meanwhile
BYTES_MAX = 4096  # a terminal gives no longer line


def own_line(deadline_s: float = DEADLINE_S) -> str:
    """Return what the person writes within `deadline_s`; "" for nothing, or without a terminal."""
    if not _somebody_there():
        return ""
    rewrite(PROMPT, sys.stdout)
    if not select.select([sys.stdin], [], [], deadline_s)[0]:
        say()
        return ""
    line = os.read(sys.stdin.fileno(), BYTES_MAX)
    if not line.endswith(b"\n"):  # the end of the input, by Ctrl-D
        say()
    return " ".join(line.decode(errors="replace").split())


def _somebody_there() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    # A job in the background would be stopped for reading.
    return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
