"""How much of a sandbox this system can give, and why not all of it."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Literal

from agentd.errors import SandboxUnavailable
from agentd.sandbox import landlock, seatbelt
from agentd.sandbox.system_calls import MACHINES, machine

LevelName = Literal["full", "partial", "checks"]


@dataclass(frozen=True)
class Reached:
    """`name`: "full"; "partial": an older kernel; "checks": none but the tools' own checks.

    `why` says what is missing, "" at "full". `abi` is Landlock's.
    """

    name: LevelName
    why: str = ""
    abi: int = 0


HINT = '[sandbox] level = "checks" in agentd.toml goes on with what there is'


def demand(whole: bool) -> Reached:
    """Return what this system can do.

    Raises:
        SandboxUnavailable: a `whole` sandbox is wanted, and that is not it.
    """
    level = reached()
    if whole and level.name != "full":
        raise SandboxUnavailable(f"no sandbox: {level.why}", hint=HINT)
    return level


@cache
def reached() -> Reached:
    """Return what this system can do. On macOS a program is started to find out."""
    if sys.platform == "darwin":
        why = seatbelt.unavailable()
        return Reached("checks", why) if why else Reached("full")
    if not machine():
        return Reached("checks", f"known are {' and '.join(MACHINES)} on Linux, and macOS")
    abi = landlock.abi()
    if not abi:
        why = "this kernel has no Landlock, or it is switched off (Linux 5.13 has it)"
        return Reached("checks", why)
    missing = [what for since, what in landlock.BROUGHT.items() if abi < since]
    if missing:
        why = f"Linux {os.uname().release} is too old (6.12 has it all): {'; '.join(missing)}"
        return Reached("partial", why, abi)
    return Reached("full", abi=abi)
