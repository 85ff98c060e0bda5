"""What macOS keeps programs out of, and what to say when it refused one.

Asked for is a person's consent for the program that launchd started: our Python. A terminal has its
own, so what works in the foreground may not work as a service. A refusal is EPERM, where file modes
and access lists give EACCES (https://developer.apple.com/forums/thread/678819). A consent holds for
one build of a program, as far as it has no signature of an identified developer.
"""

import errno
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

LAUNCHD_VARIABLE = "AGENTD_LAUNCHD"  # set in the plist: so we know who started us
# Below a home: the folders that have a switch of their own, those of iCloud Drive and other clouds,
# and other programs' data. Below /Volumes: removable and network volumes.
HOME_FOLDERS = ("Desktop", "Documents", "Downloads", "Library", ".Trash")
VOLUMES = Path("/Volumes")
OURS = ("Application Support/agentd", "Logs/agentd")  # of Library
SETTINGS = "System Settings, Privacy & Security"
NOT_DOWNLOADED = 0x40000000  # SF_DATALESS of sys/stat.h: the contents are in a cloud only


def guarded(path: Path) -> bool:
    """Whether macOS asks for a person's consent before a program reads there."""
    if sys.platform != "darwin":
        return False
    real, home = Path(os.path.realpath(path)), Path(os.path.realpath(Path.home()))
    if any(real.is_relative_to(home / "Library" / ours) for ours in OURS):
        return False
    folders = (VOLUMES, *(home / name for name in HOME_FOLDERS))
    return any(real.is_relative_to(folder) for folder in folders)


def refusal(path: Path, error: OSError) -> str:
    """Return what to do where it was macOS that refused, else an empty text."""
    if error.errno == errno.EPERM and guarded(path):
        return f"{SETTINGS}, Full Disk Access: allow {program()}; then `agentd restart`"
    return ""


def described(path: Path, error: OSError) -> str:
    """Return an error at a path in words, with what to do where it is macOS that refused."""
    text = error.strerror or str(error)
    if error.errno == errno.EDEADLK and sys.platform == "darwin":
        text += " (not downloaded from its cloud)"  # see launchd.plist(5), MaterializeDatalessFiles
    hint = refusal(path, error)
    return f"{text} by macOS; a person must allow it: {hint}" if hint else text


def network_hint(error: BaseException | None) -> str:
    """Return what to do where macOS kept us out of the local network (TN3179), else an empty text.

    Programs of a terminal are let through, and those that launchd starts at login are not. A host
    that is switched off looks the same.
    """
    unreachable = isinstance(error, OSError) and error.errno == errno.EHOSTUNREACH
    if unreachable and sys.platform == "darwin":
        return f"is it up? Else {SETTINGS}, Local Network: allow {program()}"
    return ""


def program(environ: Mapping[str, str] = os.environ) -> str:
    """Return the program that a person has to allow."""
    if environ.get(LAUNCHD_VARIABLE) != "1":
        return "the program that started agentd, such as Terminal"
    python = Path(os.path.realpath(sys.executable))
    # The `python3` of a framework build only starts this (Mac/Tools/pythonw.c of CPython).
    app = python.parent.parent / "Resources" / "Python.app"
    return str(app if app.is_dir() else python)


def kept_out(folders: Iterable[Path]) -> tuple[Path, str] | None:
    """Return the first of these folders that macOS keeps us out of, with what to do.

    Looking may ask the person, who is at the machine when an agent is added rather than when it
    runs; until the answer it waits.
    """
    for folder in folders:
        if not guarded(folder):
            continue
        try:
            os.scandir(folder).close()
        except OSError as error:
            if hint := refusal(folder, error):
                return folder, hint
    return None


def is_folder(path: Path | str) -> bool:
    """Whether this is a folder; False where macOS keeps us out. pathlib's raises there."""
    return os.path.isdir(path)  # noqa: PTH112


def not_downloaded(status: os.stat_result) -> bool:
    """Whether a file's contents are in a cloud only: reading it fetches them (TN3150)."""
    return bool(getattr(status, "st_flags", 0) & NOT_DOWNLOADED)
