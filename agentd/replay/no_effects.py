"""No effects: what confined code would change outside of its folder is an error, where it tries.

Recording and replaying run an agent's own code once more. Its tools refuse what changes something;
this is for the code that does it by itself, in `finish` as in a handler. By an audit hook, which
sees what Python code opens, moves and starts; it is no sandbox against code that wants out.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError
from agentd.replay.offline import Scope, add_hook

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events, and which of their arguments are paths that change.
CHANGES = {
    "open": (0,),
    "os.chmod": (0,),
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
}
PROGRAMS = frozenset(
    {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
)
HINT = "when it is recorded and replayed, only a handler that is not in `reads` may have effects"


class Confined(AgentdError):
    """Code that is only run again wanted to change something."""


class _Cell(Scope):
    def __init__(self, folder: Path, closed: Sequence[str]) -> None:
        super().__init__()
        self.folder = folder
        self.closed = closed
        self.scratch = os.path.realpath(tempfile.gettempdir())

    def refuses(self, path: str) -> bool:
        """Whether nothing may be changed here."""
        parts = Path(path).parts
        if path == self.scratch or _below(path, str(self.folder)) or "__pycache__" in parts:
            return False
        if any(_below(path, root) for root in self.closed):
            return True
        return not (_below(path, self.scratch) or path.startswith("/dev/"))


_cells: list[_Cell] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _cells or not (event in CHANGES or event in PROGRAMS):
        return
    cells = [cell for cell in _cells if cell.holds()]
    if cells and event in PROGRAMS:
        _check_program(event, args)
    if not cells or (event == "open" and not args[2] & WRITING):
        return
    for number in CHANGES.get(event, ()):
        path = _path(event, args, args[number])
        if path is not None and any(cell.refuses(path) for cell in cells):
            raise Confined(f"{path} may not be changed here ({event})", hint=HINT)


def _check_program(event: str, args: tuple[Any, ...]) -> None:
    """Let git pass as `agentd.tools.git` calls it: it reaches nothing and runs nothing."""
    if event == "subprocess.Popen":
        _executable, argv, _cwd, env = args
        quiet = env is not None and env.get("GIT_ALLOW_PROTOCOL") == "none"
        if quiet and not isinstance(argv, str | bytes) and argv[0] == "git":
            return
    raise Confined(f"no program may be started here ({event})", hint=HINT)


def _path(event: str, args: tuple[Any, ...], value: Any) -> str | None:
    """Return a resolved path; None for an open file, and for a name within an open folder.

    Who opened the folder is not told; WriteFile and rmtree do so, which are seen by themselves.
    """
    if isinstance(value, int):
        return None
    path = Path(os.fsdecode(value))
    within = args[1] is None if event == "open" else isinstance(args[-1], int) and args[-1] >= 0
    if within and not path.is_absolute():
        return None
    # What a link leads to changes when it is opened, else the link itself.
    return (
        os.path.realpath(path)
        if event == "open"
        else f"{os.path.realpath(path.parent)}/{path.name}"
    )


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


@contextmanager
def confined(folder: Path, closed: Sequence[str] = ()) -> Iterator[None]:
    """Refuse changes outside of `folder`, and programs, in this thread and those that it starts.

    Scratch files may be written, but nothing below one of the folders `closed`. What is refused
    raises `Confined`.
    """
    add_hook(_hook)
    cell = _Cell(folder, closed)
    _cells.append(cell)
    try:
        yield
    finally:
        _cells.remove(cell)
