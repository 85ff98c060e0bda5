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
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from agentd.config.agent import Permissions, ServerPermissions
from agentd.errors import ConfigError, PermissionRefused, ToolError
from agentd.hands.orders import Orders
from agentd.macos import developer_tools
from agentd.macos.scripts import OSASCRIPT, SHORTCUTS
from agentd.paths import Paths, expanded
from agentd.process.environment import PROGRAM_PATH
from agentd.sandbox.policy import SandboxPolicy, base_read, executables, on_the_way
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
MODULES = "node_modules"  # around a script of Node.js
GIT_TRANSPORTS = ("git", "git-remote-https", "git-remote-http")
GIT_S = 5.0  # for it to say where these are
HOMEBREW = Path("/opt/homebrew")
Written = Callable[[], Iterable[str]]
OF_HOMEBREW = ("Cellar", "lib", "opt", "share")


def orders_for(
    permissions: Permissions,
    closed: Closed,
    scratch: Path,
    written: Written = tuple,
    *,
    require: bool,
    own: Path | None = None,
) -> Orders:
    """Return the orders of an agent's hands.

    `require`: a sandbox that is whole. `own`: the folder that is the agent's own.

    Raises:
        ConfigError: see `sandbox_for`.
    """
    kept = () if own is None else (os.path.realpath(own),)
    programs = sandbox_for(permissions, closed, scratch, written, own=kept)
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


def sandbox_for(
    permissions: ServerPermissions,
    closed: Closed,
    scratch: Path,
    written: Written = tuple,
    programs: Sequence[str] | None = None,
    own: Sequence[str] = (),
) -> SandboxPolicy:
    """Return what programs may touch that the hands of an agent with these permissions start.

    `written`: the folders that others may write, see `written_in`. `programs`: their files, where
    they are no agent's. `own`: the folder that is the agent's own.

    Raises:
        ConfigError: what is listed leads through a link that one of them, or this one, can change.
    """
    entries = (*permissions.read, *permissions.write)
    _check_links(entries, lambda: (*permissions.write, *written()))
    apps = permissions.apps if isinstance(permissions, Permissions) else ()
    run = list(_programs(permissions, apps)) if programs is None else list(programs)
    # What a server's table lists by itself is open, also where it is agentd's: a person wrote it.
    read, write = (
        listed(entries, closed.marks(writing=writing) if entries and programs is None else None)
        for writing, entries in ((False, permissions.read), (True, permissions.write))
    )
    # Tools may read these, where a listed folder holds them; nobody may write them.
    spared = [str(path) for path in closed.spared if any(path.is_relative_to(top) for top in read)]
    libraries = [path for program in run for path in _libraries(program)]
    obeyed = _obeyed(closed) if write else ()
    return SandboxPolicy(
        read=tuple(dict.fromkeys((*base_read(), *read, *spared, *libraries, str(scratch), *own))),
        write=(*write, str(scratch), *own),
        apps=apps,
        run=tuple(dict.fromkeys(run)),
        closed=tuple(map(str, closed.own)),
        protected=tuple(map(str, (*closed.protected, *obeyed))),
        settled=(*read, *write, *own),
    )


def written_in(paths: Paths) -> Iterator[str]:
    """Give what agents and MCP servers of this home may write, by their files as accepted."""
    for file in (*paths.versions.glob("*/*/*.toml"), paths.accepted_daemon_file):
        with suppress(OSError, ValueError):
            document = tomllib.loads(file.read_text())
            tables = (document, *document.get("mcp", {}).values())
            for permissions in (table.get("permissions", {}) for table in tables):
                yield from permissions.get("write", ())


def _check_links(entries: Iterable[str], written: Callable[[], Iterable[str]]) -> None:
    """Refuse a link in an entry's way that somebody can change who may write where it lies."""
    for entry in entries:
        links = filter(os.path.islink, on_the_way([str(_absolute(entry))]))
        for link in links:
            place = Path(os.path.realpath(Path(link).parent))
            for folder in written():
                if place.is_relative_to(os.path.realpath(_absolute(folder))):
                    raise ConfigError(
                        f"{entry} leads through the link {link}, and who may write {folder} can "
                        "let it lead anywhere",
                        hint=f"list {os.path.realpath(link)} itself",
                    )


def _absolute(entry: str) -> Path:
    with suppress(ConfigError):  # nobody's home: it opens nothing
        return Path("/") / expanded(entry)
    return Path("/")


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


def listed(entries: Sequence[str], marks: Marks | None) -> list[str]:
    """Return the places that are listed, and not in vain."""
    found = []
    for entry in entries:
        with suppress(ToolError, ConfigError):
            found.append(locate(str(expanded(entry)), [entry], marks).path)
    return found


def _programs(permissions: ServerPermissions, apps: Sequence[str]) -> Iterator[str]:
    for listed in permissions.run:
        with suppress(PermissionRefused, ToolError):  # not installed: nothing to be run
            found = find_program(listed, permissions.run)
            yield from executables(found, PROGRAM_PATH)
            if permissions.net and Path(found).name == "git":
                yield from _transports(found)
    tools = {SHORTCUTS if app.startswith("shortcut:") else OSASCRIPT for app in apps}
    yield from (program for program in sorted(tools) if os.access(program, os.X_OK))
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
        yield from (str(up) for up in (folder, *folder.parents) if up.name == MODULES)
        if folder.is_relative_to(HOMEBREW):
            yield from (str(HOMEBREW / name) for name in OF_HOMEBREW)
        if folder.name in ("bin", "sbin"):
            yield from (str(path) for name in LIBRARIES if (path := folder.parent / name).exists())
