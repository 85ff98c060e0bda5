"""What this process, its user's shell and the system are made of: places to be closed for writing.

Part of it is fixed, part is where the environment says.
"""

import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from agentd.paths import shipped
from agentd.tools.git_settings import named_in
from agentd.tools.links import Disks, hidden_links

# What the system runs from, or obeys. A folder that is not there closes nothing; folders below
# another one are listed as well, since one that holds somebody's home is left out.
SYSTEM = (
    *("/bin", "/sbin", "/etc", "/boot", "/dev", "/proc", "/sys", "/usr", "/run", "/nix", "/gnu"),
    *("/snap", "/efi"),
    *("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32"),
    *("/usr/libexec", "/usr/share", "/usr/include", "/usr/src", "/usr/games", "/usr/local"),
    *("/opt/homebrew", "/opt/local", "/opt/pkg", "/opt/X11"),
    *("/var/spool/cron", "/var/spool/at", "/var/at", "/var/db", "/var/cron"),
    *("/var/lib/systemd", "/var/lib/dpkg", "/var/lib/apt", "/var/lib/rpm", "/var/lib/pacman"),
    *("/var/lib/snapd", "/var/lib/flatpak", "/var/lib/polkit-1", "/var/lib/AccountsService"),
    *("/var/lib/cloud", "/var/lib/dbus", "/var/lib/dkms", "/var/lib/alternatives"),
    *("/Library", "/System", "/Applications", "/Network", "/cores"),
)
OPEN_IN_SYSTEM = ("/run/media", "/dev/shm")  # sticks that a person put in; a folder like /tmp
# Variables that name what is run, loaded or obeyed, one place or several.
NAMING = (
    *("PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX", "PYTHONSTARTUP"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
    *(
        "DYLD_INSERT_LIBRARIES",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "TZDIR",
        "SHELL",
        "BASH_ENV",
        "ENV",
    ),
    *("XDG_RUNTIME_DIR", "XDG_CONFIG_DIRS", "XDG_DATA_DIRS", "XDG_BIN_HOME", "GNUPGHOME"),
    *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_EXEC_PATH", "GIT_TEMPLATE_DIR", "VIRTUAL_ENV"),
    *("CONDA_PREFIX", "NODE_PATH", "PERL5LIB", "RUBYLIB", "INPUTRC", "KUBECONFIG", "DOCKER_CONFIG"),
)
# Variables that name a folder in the place of one in the home, which is judged as that one.
IN_PLACE_OF = {
    "XDG_CONFIG_HOME": ".config",
    "XDG_DATA_HOME": ".local/share",
    "XDG_STATE_HOME": ".local/state",
    "XDG_CACHE_HOME": ".cache",
    "CARGO_HOME": ".cargo",
}


def machine(disks: Disks) -> list[str]:
    """Return what this process and the system are made of, and what the environment names.

    Not all of sys.path: of a script or a test it holds the folder in which somebody works.
    """
    package = Path(__file__).parents[1]
    places = sysconfig.get_paths()
    kinds = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    python = [*map(places.__getitem__, kinds), *site.getsitepackages(), sys.executable]
    found = [*SYSTEM, *_libraries(), *_named(), *python, str(package.parent)]
    found.append(str(Path(disks.resolved(sys.executable)).parent))
    if sys.prefix != sys.base_prefix:
        found.append(sys.prefix)
    found += [str(shipped() / name) for name in ("agents", "baml_src", "config", "launchd")]
    for home in disks.homes:
        config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        for file in (f"{home}/.gitconfig", f"{config}/git/config"):
            if not disks.wait(disks.resolved(file)):
                found += map(str, named_in(Path(file), Path(home)))
    return [path for path in dict.fromkeys(found) if not disks.holds_home(disks.resolved(path))]


def stand_ins(disks: Disks) -> Iterator[tuple[str, str]]:
    """Give (what it leads to, hidden place of a home): who writes there writes that place.

    A link that leads to all of a home, or of the disk, closes nothing.
    """
    for home in disks.homes:
        links = [(link, link) for link in hidden_links(home, disks)]
        named = [(path, f"{home}/{usual}") for path, usual in _in_place()]
        for path, stands_for in (*links, *named):
            real = disks.resolved(path)
            if not disks.holds_home(real):
                yield real, stands_for


def _libraries() -> list[str]:
    return [entry.path for entry in os.scandir("/") if entry.name.startswith("lib")]


def _named() -> Iterator[str]:
    for name in NAMING:
        for text in os.environ.get(name, "").split(os.pathsep):
            if text:
                yield os.path.abspath(text)  # noqa: PTH100 - links are followed later


def _in_place() -> Iterator[tuple[str, str]]:
    for name, usual in IN_PLACE_OF.items():
        path = os.environ.get(name, "")
        if path.startswith("/"):
            yield path, usual
