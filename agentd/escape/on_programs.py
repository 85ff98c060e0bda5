"""Ways to run what the policy does not list, and with more rights."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agentd.escape.attempt import Attempt, Impossible, Run, of, refused
from agentd.escape.outside import Outside
from agentd.sandbox.landlock import LOADERS
from agentd.sandbox.system_calls import call, prctl

SCRIPT = f"#!{os.path.realpath(sys.executable)}\nprint('it ran')\n".encode()
GET_NO_NEW_PRIVS = 39
TIMEOUT_S = 5.0


def attempts() -> Iterator[Attempt]:
    """Yield those that this system has."""
    running: dict[str, Run] = {
        "a program of the system": lambda o: _run(o.unlisted),
        "a program outside": lambda o: _run(o.program),
        "a script that it wrote": _run_own,
    }
    if sys.platform == "linux":
        running |= {
            "a program outside by its descriptor": lambda o: _run_open(o.program),
            "a program without a file, in memory": _run_in_memory,
            "a program of the system by the loader": _run_by_loader,
            "a program with more rights than this user (set-uid)": _gain_rights,
            "what only root may": lambda o: os.setgroups([]),
        }
    yield from of("run what is not listed", running)


def _run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise refused(done.stderr.decode("utf-8", "replace"))
    return "it ran"


def _run_own(outside: Outside) -> str:
    path = Path(outside.own, "script")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    os.write(descriptor, SCRIPT)
    os.close(descriptor)
    return _run(path)


def _run_in_memory(outside: Outside) -> str:
    descriptor = call("memfd_create", b"script\0", 0)
    os.write(descriptor, SCRIPT)
    return _run_open(f"/proc/self/fd/{descriptor}")


def _run_open(path: str) -> str:
    """Execute a file by a descriptor of it, which stays open for a script's interpreter."""
    descriptor = os.open(path, os.O_RDONLY if path.startswith("/proc") else os.O_PATH)
    os.set_inheritable(descriptor, True)
    if (pid := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            os.execv(f"/proc/self/fd/{descriptor}", ["script"])
        finally:
            os._exit(126)
    if os.waitpid(pid, 0)[1]:
        raise refused("it did not run")
    return "it ran"


def _run_by_loader(outside: Outside) -> str:
    loaders = [path for path in LOADERS if Path(path).exists()]
    if not loaders:
        raise Impossible("there is no loader in its known places")
    return _run(loaders[0], outside.unlisted)


def _gain_rights(outside: Outside) -> str:
    if prctl(GET_NO_NEW_PRIVS) == 1:
        raise refused("no new privileges")
    return "it would get them"
