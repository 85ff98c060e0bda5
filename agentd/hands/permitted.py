"""What an agent's permissions come to, as a sandbox: made by the supervisor, for its hands.

* `read` and `write`, as they are listed, but for entries that the tools refuse in any case.
* `run`: the listed programs and what their first lines name, and git where something may be read.
  Beside `net`, what git needs to reach a server.
* Libraries of these, and what agentd, its Python and most programs read of the system.
* Never what others obey: the system, agentd itself, hidden files of homes are not written.
* A scratch folder, and the agent's own one. Nothing else: of agentd's own folders only those that
  tools open as well.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agentd.config.agent import Permissions
from agentd.errors import ConfigError, PermissionRefused, ToolError
from agentd.hands.orders import Orders
from agentd.macos import developer_tools
from agentd.paths import Paths, expanded
from agentd.process.environment import PROGRAM_PATH
from agentd.sandbox.policy import SandboxPolicy, base_read, executables
from agentd.tools.base import Grants
from agentd.tools.closed import Closed, Marks
from agentd.tools.links import Disks
from agentd.tools.obeyed import STARTUP_NAMES
from agentd.tools.place import locate
from agentd.tools.shell import find_program
from agentd.tools.surroundings import machine

IDLE_S = 60.0
AGE_S = 600.0
# Beside a program's folder: what it loads. Not `share`, which in a home is full of a person's data.
LIBRARIES = ("lib", "lib64", "libexec", "pyvenv.cfg")
GIT_TRANSPORTS = ("git", "git-remote-https", "git-remote-http")
GIT_S = 5.0  # for it to say where these are
HOMEBREW = Path("/opt/homebrew")
OF_HOMEBREW = ("Cellar", "lib", "opt", "share")


def orders_for(
    permissions: Permissions,
    closed: Closed,
    scratch: Path,
    *,
    require: bool,
    own: Path | None = None,
) -> Orders:
    """Return the orders of an agent's hands.

    `require`: a sandbox that is whole. `own`: the folder that is the agent's own.
    """
    kept = () if own is None else (os.path.realpath(own),)
    programs = sandbox_for(permissions, closed, scratch, *kept)
    # Before a tool writes, it reads whose files these are, such as a repository's settings.
    sandbox = replace(programs, read=(*programs.read, *programs.write))
    return Orders(
        sandbox=sandbox,
        programs=programs,
        require=require,
        permissions=Grants(**permissions.model_dump(), own="".join(kept)),
        environ={"GIT_CONFIG_NOSYSTEM": "1"},  # what it may not read, git gives up over
        closed=closed,
        scratch=str(scratch),
        idle_s=IDLE_S,
        age_s=AGE_S,
    )


def scratch_of(paths: Paths, agent: str) -> Path:
    """Return the folder for an agent's hands' temporary files."""
    return paths.scratch / agent / "hands"


def sandbox_for(
    permissions: Permissions, closed: Closed, scratch: Path, *own: str
) -> SandboxPolicy:
    """Return what programs may touch that the hands of an agent with these permissions start."""
    programs = list(_programs(permissions))
    read = listed(permissions.read, closed.marks(writing=False))
    write = listed(permissions.write, closed.marks(writing=True)) if permissions.write else []
    # Tools may read these, where a listed folder holds them; nobody may write them.
    spared = [str(path) for path in closed.spared if any(path.is_relative_to(top) for top in read)]
    libraries = [path for program in programs for path in _libraries(program)]
    obeyed = _obeyed(closed) if write else ()
    return SandboxPolicy(
        read=tuple(dict.fromkeys((*base_read(), *read, *spared, *libraries, str(scratch), *own))),
        write=(*write, str(scratch), *own),
        run=tuple(dict.fromkeys(programs)),
        closed=tuple(map(str, closed.own)),
        protected=tuple(map(str, (*closed.protected, *obeyed))),
    )


def _obeyed(closed: Closed) -> Iterator[str]:
    """Give what a program must not write in a listed folder: it would be run outside.

    The system and what agentd is made of, and the hidden files of homes. What is hidden in a folder
    of work, such as `.git`, is for the tools' own checks: programs need it.
    """
    disks = Disks(map(str, closed.own))
    yield from machine(disks)
    for home in disks.homes:
        yield from (f"{home}/{name}" for name in STARTUP_NAMES if name.startswith("."))
        with suppress(OSError), os.scandir(home) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "Library":
                    yield entry.path


def listed(entries: Sequence[str], marks: Marks) -> list[str]:
    """Return the places that are listed, and not in vain."""
    found = []
    for entry in entries:
        with suppress(ToolError, ConfigError):
            found.append(locate(str(expanded(entry)), [entry], marks).path)
    return found


def _programs(permissions: Permissions) -> Iterator[str]:
    for listed in permissions.run:
        with suppress(PermissionRefused, ToolError):  # not installed: nothing to be run
            found = find_program(listed, permissions.run)
            yield from executables(found, PROGRAM_PATH)
            if permissions.net and Path(found).name == "git":
                yield from _transports(found)
    git = developer_tools.which("git", PROGRAM_PATH) if permissions.read else None
    if git is not None:
        yield from (git, *developer_tools.behind(git))


def _transports(git: str) -> Iterator[str]:
    """Give what git runs to reach a server by HTTP."""
    environ = {"PATH": PROGRAM_PATH}
    with suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(
            [git, "--exec-path"], env=environ, capture_output=True, text=True, timeout=GIT_S
        )
        folder = Path(told.stdout.strip())
        yield from (str(path) for name in GIT_TRANSPORTS if (path := folder / name).exists())


def _libraries(program: str) -> Iterator[str]:
    """Give where a program's libraries are, by its name and by its real place."""
    for folder in {Path(program).parent, Path(os.path.realpath(program)).parent}:
        if folder.is_relative_to(HOMEBREW):
            yield from (str(HOMEBREW / name) for name in OF_HOMEBREW)
        if folder.name in ("bin", "sbin"):
            yield from (str(path) for name in LIBRARIES if (path := folder.parent / name).exists())
