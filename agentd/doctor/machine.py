"""What is around us: other tools on the same file, limits, permissions, libraries."""

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agentd.config.daemon import DaemonConfig
from agentd.doctor.finding import Finding, ok, problem, warning
from agentd.macos import developer_tools
from agentd.paths import HOME_VARIABLE, SOCKET_PATH_MAX, Paths, longest_socket
from agentd.sandbox.level import HINT, reached
from agentd.storage.health import sqlite_version

# Several connections that write and checkpoint can damage a database in WAL mode. Fixed in 3.51.3.
AFFECTED_FROM, FIXED_IN = (3, 7, 0), (3, 51, 3)
DESCRIPTORS_BASE, DESCRIPTORS_EACH = 64, 4  # that a supervisor needs: itself, and for each agent
CALL_S = 20.0  # for a tool to say its version
BLAS = "from agentd.model_server.engine.blas import speed_up; print(speed_up())"


def sqlite() -> Iterator[Finding]:
    """Look at the SQLite in us, and in tools that a person may use on the same file."""
    own = sqlite_version()
    if affected(own):
        yield problem("sqlite", f"agentd runs on SQLite {own}", "`uv sync`, or update apsw")
    else:
        yield ok("sqlite", f"agentd runs on SQLite {own}")
    python = developer_tools.which("python3", os.environ.get("PATH", os.defpath)) or sys.executable
    tools = {
        "the `sqlite3` command": ["sqlite3", "--version"],
        f"Python's own sqlite3 ({python})": [
            python,
            "-c",
            "import sqlite3; print(sqlite3.sqlite_version)",
        ],
    }
    for tool, command in tools.items():
        version = _first_word(command)
        if not version:
            continue
        if affected(version):
            # Nothing is wrong here, and a system's own tools cannot be updated: no warning.
            what = f"{tool} is SQLite {version}: read the database with it, but write nothing"
            yield ok("sqlite-tools", f"{what} while agentd runs (it has a bug fixed in 3.51.3)")
        else:
            yield ok("sqlite-tools", f"{tool} is SQLite {version}")


def affected(version: str) -> bool:
    """Whether this SQLite has the bug."""
    parts = version.split(".")
    if not all(part.isdigit() for part in parts[:3]):
        return False
    return AFFECTED_FROM <= tuple(int(part) for part in parts[:3]) < FIXED_IN


def _first_word(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=CALL_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.split()
    return words[0] if done.returncode == 0 and words else ""


def permissions(paths: Paths) -> Iterator[Finding]:
    """Look whether others can read what is private, or we cannot write what is ours."""
    wrong = list(unsafe(paths))
    for path, mode in wrong:
        yield problem(
            "permissions",
            f"other users can reach {path}",
            f"`chmod {mode:o} {path}`, or `agentd doctor --repair`",
        )
    for folder in (paths.data, paths.database.parent, paths.logs, paths.run, paths.sockets):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            yield problem("permissions", f"{folder} is not writable", "make it writable")
            wrong.append((folder, 0))
    for path in (paths.database, paths.data, paths.run, paths.sockets):
        if path.exists() and path.stat().st_uid != os.getuid():
            hint = f"`chown -R $USER {path}`; was it once started with sudo?"
            yield problem("permissions", f"{path} belongs to another user", hint)
            wrong.append((path, 0))
    if not wrong:
        yield ok("permissions", "database, token and run folder are private")


def unsafe(paths: Paths) -> Iterator[tuple[Path, int]]:
    """Yield what others can reach and should not, with the mode that it should have."""
    files = [paths.token, paths.database, paths.prompt_caches, *paths.backups.glob("*.db")]
    files += paths.keys.glob("*")
    files += [paths.database.with_name(f"{paths.database.name}{end}") for end in ("-wal", "-shm")]
    private = [(folder, 0o700) for folder in {paths.run, paths.sockets, paths.keys}]
    for path, mode in [*((file, 0o600) for file in files), *private]:
        try:
            status = path.stat()
        except OSError:
            continue
        if stat.S_IMODE(status.st_mode) & 0o077:
            yield path, mode


def sandbox(config: DaemonConfig) -> Iterator[Finding]:
    """Look how much of a sandbox this system can give."""
    level = reached()
    if level.name == "full":
        yield ok("sandbox", "full", "`agentd prove-private` tries to get out of it")
    elif config.sandbox.level == "checks":
        hint = "`agentd prove-private` shows what gets out"
        yield warning("sandbox", f"{level.name}: {level.why}", hint)
    else:
        yield problem("sandbox", f"{level.name}: {level.why}", HINT)


def limits(paths: Paths, agents: int) -> Iterator[Finding]:
    """Look at the descriptors and the socket paths that this many agents need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = DESCRIPTORS_BASE + DESCRIPTORS_EACH * agents
    if soft != resource.RLIM_INFINITY and soft < need:
        hint = "`ulimit -n 4096` before `agentd run`; the LaunchAgent sets it by itself"
        yield warning("descriptors", f"{soft} may be open here, {need} may be needed", hint)
    else:
        yield ok("descriptors", f"{soft} may be open here, {need} are enough")
    longest = longest_socket(paths.sockets)
    if longest >= SOCKET_PATH_MAX:
        hint = f"set {HOME_VARIABLE} to a shorter path"
        yield problem("sockets", f"{paths.sockets} is too long for a socket's path", hint)
    else:
        yield ok("sockets", f"paths of up to {longest} of {SOCKET_PATH_MAX} bytes")


def blas() -> Iterator[Finding]:
    """Look for a fast BLAS, in a process of its own: it loads libraries."""
    if sys.platform != "linux":
        return
    found = _first_word([sys.executable, "-P", "-c", BLAS])
    if found in ("system", "numpy"):
        yield ok("blas", f"the model server finds OpenBLAS ({found})")
    else:
        hint = "`apt-get install libopenblas0-pthread`, or your system's OpenBLAS"
        yield warning("blas", "no OpenBLAS: a model on the CPU is about 25 times slower", hint)
