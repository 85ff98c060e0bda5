"""What all processes in a sandbox have in common at their start."""

import sys
from collections.abc import Sequence

from agentd.errors import SandboxUnavailable
from agentd.process.jobs import in_thread
from agentd.sandbox import seatbelt
from agentd.sandbox.enter import HINT
from agentd.sandbox.level import reached
from agentd.sandbox.policy import SandboxPolicy


async def demand(*, whole: bool) -> None:
    """Raise SandboxUnavailable where one is to be `whole`, and cannot be here."""
    level = await in_thread(reached)
    if whole and level.name != "full":
        raise SandboxUnavailable(f"no sandbox: {level.why}", hint=HINT)


def put_into(policy: SandboxPolicy, argv: Sequence[str]) -> list[str]:
    """Return the command line of a process that is to have this sandbox, as far as it has one.

    On Linux it enters by itself.
    """
    if sys.platform == "darwin" and reached().name == "full":
        return seatbelt.wrapped(argv, policy)
    return list(argv)
