"""Environments with other people's libraries: made where asked for, never a dependency of ours."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs

AS_OF = "2026-11-29"  # what the pinned packages need themselves is of this day
INSTALL_S = 900.0


class NotHere(Exception):
    """It cannot be installed on this machine; says why."""


def python_with(*requirements: str) -> Path:
    """Return a Python that has these packages, in the tests' cache; the first time makes it.

    Raises:
        NotHere: there is no uv, or it cannot install them; with the last line that it said.
    """
    if not requirements:
        return Path(sys.executable)
    default = platformdirs.user_cache_dir("agentd-tests", appauthor=False)
    text = "\n".join((sys.version, AS_OF, *requirements))
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = Path(os.environ.get("AGENTD_TEST_CACHE", default)) / "environments" / name
    python, whole = folder / "bin" / "python", folder / "whole"
    if whole.exists():
        return python
    if shutil.which("uv") is None:
        raise NotHere("there is no uv to install it with")
    install = ["pip", "install", "--exclude-newer", AS_OF, "--python", str(python), *requirements]
    for words in (["venv", "--clear", "--python", sys.executable, str(folder)], install):
        done = subprocess.run(
            ["uv", *words], capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
        if done.returncode != 0:
            raise NotHere(" ".join(done.stderr.split())[-300:])
    whole.touch()
    return python
