"""Attempts to get out of a sandbox: each calls what returns what it reached, or raises."""

import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from agentd.escape.outside import Outside

SEE = "see, and no more"
DEADLINE_S = 10.0  # of one attempt
READ_BYTES = 65_536
REACHED_CHARACTERS = 80

Run = Callable[[Outside], object]
Outcome = Literal["done", "refused", "impossible", "broken"]


class Impossible(Exception):
    """This system lacks what the attempt is about."""


@dataclass(frozen=True)
class Attempt:
    """One way out. `visible`: it may succeed, as it only tells that something is there."""

    group: str
    what: str
    run: Run
    visible: bool = False


@dataclass(frozen=True)
class Made:
    """What became of an attempt. `why`: the error's name, the signal, or what was reached.

    "broken": it failed otherwise, which proves nothing and must not look like a refusal.
    """

    outcome: Outcome
    why: str = ""


def of(group: str, runs: Mapping[str, Run], *, visible: bool = False) -> Iterator[Attempt]:
    """Yield the attempts of a group, by what they are after."""
    for what, run in runs.items():
        yield Attempt(group, what, run, visible)


def make(tried: Attempt, outside: Outside) -> Made:
    """Make an attempt in a process of its own: some of them end it."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        os.write(write, json.dumps(vars(_made(tried, outside))).encode())
        os._exit(0)
    os.close(write)
    data, deadline = b"", time.monotonic() + DEADLINE_S
    while select.select([read], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (chunk := os.read(read, READ_BYTES)):
            break
        data += chunk
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if data:
        return Made(**json.loads(data))
    name = signal.Signals(-code).name if code < 0 else f"exit {code}"
    return Made("refused" if name == "SIGSYS" else "broken", name)


def _made(tried: Attempt, outside: Outside) -> Made:
    try:
        return Made("done", str(tried.run(outside))[:REACHED_CHARACTERS])
    except Impossible as reason:
        return Made("impossible", str(reason))
    except OSError as error:
        return Made("refused", errno.errorcode.get(error.errno or 0, str(error)))
    except Exception as error:
        return Made("broken", f"{type(error).__name__}: {error}")


def refused(why: str) -> OSError:
    """Return the error of an attempt that was refused in another way than by one."""
    return PermissionError(errno.EPERM, why)
