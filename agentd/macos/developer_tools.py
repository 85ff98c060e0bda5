"""Apple's shims for developer tools (/usr/bin/git): they open a dialog without the tools.

An agent that looks every 15 minutes would open it every 15 minutes. Some upgrades of macOS remove
the tools. Where they may be: xcode-select(1), and https://milen.me/writings/xcode-select-symlink.
"""

import shutil
import sys
from pathlib import Path

SHIMS = frozenset({"/usr/bin/git", "/usr/bin/python3"})  # those that agentd itself may run
DEVELOPER_FOLDERS = (
    Path("/var/db/xcode_select_link"),
    Path("/Library/Developer/CommandLineTools"),
    Path("/Applications/Xcode.app/Contents/Developer"),
)
HINT = "`xcode-select --install`"


def which(program: str, path: str) -> str | None:
    """Return where a program is, as `shutil.which`; a shim for nothing is passed over."""
    found = shutil.which(program, path=path)
    if found is None or not empty(found):
        return found
    others = [folder for folder in path.split(":") if folder != str(Path(found).parent)]
    return shutil.which(program, path=":".join(others)) if "/" not in program else None


def behind(program: str) -> list[str]:
    """Return the tools that a shim may run in its place."""
    name = Path(program).name
    tools = [folder / "usr" / "bin" / name for folder in DEVELOPER_FOLDERS]
    return [str(tool) for tool in tools if program in SHIMS and tool.is_file()]


def empty(program: str) -> bool:
    """Whether this is a shim for a tool that is not installed. In doubt it is none."""
    if sys.platform != "darwin" or program not in SHIMS:
        return False
    return not behind(program)
