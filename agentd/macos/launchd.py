"""The LaunchAgent that starts `agentd run` at login. The only module that imports plistlib.

Keys and their meaning: launchd.plist(5). Nothing secret goes into it: any process of the user can
read it.
"""

import os
import plistlib
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError, AlreadyRunning, ConfigError
from agentd.macos import privacy
from agentd.macos.launchctl import LABEL
from agentd.paths import HOME_VARIABLE, Paths
from agentd.states import Exit

THROTTLE_S = 10  # between two starts; launchd's own default, made explicit
EXIT_TIMEOUT_S = 20  # from SIGTERM to launchd's SIGKILL; above our own 10 s, or orphans stay
OPEN_FILES = 4096  # four descriptors per child; launchd's default is 256
# launchd gives /usr/bin:/bin:/usr/sbin:/sbin: no Homebrew on either kind of Mac.
PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def program() -> list[str]:
    """Return the absolute command line of `agentd run`, by this interpreter."""
    return [sys.executable, "-P", "-m", "agentd", "run"]


def kept_from(paths: Paths) -> tuple[Path, str] | None:
    """Return a folder that macOS keeps services out of and ours needs, with what to do.

    It cannot start without Python, our code and the home; it would not even say so.
    """
    needed = Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent, paths.user, paths.data
    for folder in needed:
        if privacy.guarded(folder):
            program = privacy.program({privacy.LAUNCHD_VARIABLE: "1"})
            return folder, f"move it elsewhere, or {privacy.SETTINGS}: allow {program}"
    return None


def job(program: list[str], *, home: Path | None, user_home: Path) -> dict[str, Any]:
    """Return the LaunchAgent as plain data. `home`: the AGENTD_HOME to run in, if any.

    Raises:
        ValueError: the program's or a folder's path is not absolute.
    """
    if not Path(program[0]).is_absolute() or not user_home.is_absolute():
        raise ValueError("launchd knows no PATH and no working folder: paths must be absolute")
    environment = {"PATH": PATH, privacy.LAUNCHD_VARIABLE: "1"}
    if home is not None:
        environment[HOME_VARIABLE] = str(home)
    return {
        "Label": LABEL,
        "ProgramArguments": program,
        "EnvironmentVariables": environment,
        "WorkingDirectory": str(user_home),
        "RunAtLoad": True,
        # Only after a failure: a stop on request exits 0 and stays stopped. A wrong configuration
        # would fail for ever, so it exits 0 as well: `exit_code`.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": THROTTLE_S,
        "ExitTimeOut": EXIT_TIMEOUT_S,
        "ProcessType": "Interactive",  # unset means throttled CPU and I/O
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "Umask": 0o077,
        # Unset, reading what iCloud Drive has not downloaded fails: EDEADLK.
        "MaterializeDatalessFiles": True,
        # launchd never rotates these files. Our own logs are bounded.
        "StandardOutPath": os.devnull,
        "StandardErrorPath": os.devnull,
    }


def render(paths: Paths, program: list[str], environ: Mapping[str, str] = os.environ) -> str:
    """Return the plist's text for this user: what `agentd plist` prints.

    `AGENTD_HOME` is carried over where it is set, so that the service runs in the same home.

    Raises:
        ConfigError: a path cannot stand in a plist.
    """
    home = paths.user if environ.get(HOME_VARIABLE) else None
    data = job(program, home=home, user_home=Path.home())
    try:
        return plistlib.dumps(data, sort_keys=False).decode()
    except ValueError as error:
        raise ConfigError(
            "a path with control characters, or that is not UTF-8, can stand in no plist",
            where=str(paths.user),
            hint="choose another folder",
        ) from error


def systemd_run(program: list[str]) -> str:
    """Return the command that runs it as a service where there is systemd instead."""
    # 78 is a configuration that only a person can mend.
    options = "--user --unit=agentd -p Restart=on-failure -p RestartPreventExitStatus=78"
    return f"systemd-run {options} {shlex.join(program)}"


def sample() -> str:
    """Return the plist that ships in launchd/: an example to read, with paths to fill in."""
    example = Path("/Users/YOU")
    command = [str(example / ".local/bin/agentd"), "run"]
    return plistlib.dumps(job(command, home=None, user_home=example), sort_keys=False).decode()


def under_launchd(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether our LaunchAgent started this process."""
    return environ.get(privacy.LAUNCHD_VARIABLE) == "1"


def exit_code(error: AgentdError) -> int:
    """Return what to exit with under launchd, which restarts everything but 0.

    Another supervisor running is no failure; a wrong configuration stays wrong until a person
    changes it, and is recorded instead of being tried every ten seconds.
    """
    if isinstance(error, AlreadyRunning) or error.exit_code is Exit.CONFIG:
        return Exit.OK
    return error.exit_code
